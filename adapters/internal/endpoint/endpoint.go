// Package endpoint is what the adapters decide alike, whatever their transport:
// who may connect, and what is answered to whom.
package endpoint

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/execcast/execcast/core"
)

// Defaults of the options the adapters share.
const (
	DefaultWriteTimeout = 10 * time.Second
	DefaultRetry        = 2 * time.Second
)

// Period resolves a duration of an adapter's options: zero means the default,
// negative off, which is zero.
func Period(d, byDefault time.Duration) time.Duration {
	switch {
	case d == 0:
		return byDefault
	case d < 0:
		return 0
	}
	return d
}

// OriginAllowed reports whether a page of that origin (the Origin header, ""
// if there is none) may read what host serves: by default only host's own
// pages; else those whose origin, as in "https://app.example.com", is listed,
// and any if "*" is. A request without an Origin is not a page's of another
// origin.
func OriginAllowed(origin, host string, allowed []string) bool {
	if origin == "" {
		return true
	}
	if u, err := url.Parse(origin); err == nil && u.Host != "" && strings.EqualFold(u.Host, host) {
		return true
	}
	return listed(origin, allowed)
}

func listed(origin string, allowed []string) bool {
	for _, a := range allowed {
		if a == "*" || strings.EqualFold(a, origin) {
			return true
		}
	}
	return false
}

// CORS calls set with the headers that let a page of another, allowed origin
// read the answer (Fetch standard, section 3.2).
func CORS(origin string, allowed []string, set func(name, value string)) {
	if len(allowed) == 0 {
		return
	}
	set("Vary", "Origin")
	if origin == "" || !listed(origin, allowed) {
		return
	}
	set("Access-Control-Allow-Origin", origin)
	for _, a := range allowed {
		if strings.EqualFold(a, origin) {
			// Not for "*": any page could then read with the viewer's cookies.
			set("Access-Control-Allow-Credentials", "true")
		}
	}
}

// Preflight calls set with the headers of the answer, a 204, to a browser that
// asks whether a page of an allowed origin may send a request with headers of
// its own, as Authorization or Last-Event-ID (Fetch standard, section 4.8). It
// may send any: who may watch is decided by what they say. It returns false if
// the request asks no such thing, or for a page that may not: then OPTIONS is a
// method like others.
func Preflight(method string, header func(name string) string, allowed []string, set func(name, value string)) bool {
	origin := header("Origin")
	if method != http.MethodOptions || header("Access-Control-Request-Method") == "" || origin == "" || !listed(origin, allowed) {
		return false
	}
	CORS(origin, allowed, set)
	set("Vary", "Origin, Access-Control-Request-Headers")
	set("Access-Control-Allow-Methods", "GET, HEAD")
	if names := header("Access-Control-Request-Headers"); names != "" && len(names) <= 1024 && strings.Trim(names, fieldNames) == "" {
		set("Access-Control-Allow-Headers", names)
	}
	set("Access-Control-Max-Age", "7200") // seconds: the most that every browser takes
	return true
}

// fieldNames is what a list of field names consists of (RFC 9110, section
// 5.6.2).
const fieldNames = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~, \t"

// Target is what a request wants to see: one execution, or several in one
// stream.
type Target struct {
	id      string
	ids     []string
	several bool
}

// One is the target of a stream of one execution.
func One(executionID string) Target { return Target{id: executionID} }

// Several is the target of a stream in which each event names its execution,
// however many there are.
func Several(executionIDs []string) Target { return Target{ids: executionIDs, several: true} }

// TargetOf asks an adapter's options, of which several counts if it is set, what
// a request may see.
func TargetOf[R any](request R, one func(R) (string, error), several func(R) ([]string, error)) (Target, error) {
	if several != nil {
		ids, err := several(request)
		return Several(ids), err
	}
	id, err := one(request)
	return One(id), err
}

// Register registers a client for t.
func (t Target) Register(r *core.Registry, opts *core.ClientOptions) (*core.Client, error) {
	if t.several {
		return r.RegisterAll(t.ids, opts)
	}
	return r.Register(t.id, opts)
}

// Status returns the status that answers a request refused for err, which came
// from Options.ExecutionID or Register; ok is false if the answer is for the
// transport to give: see Done and Retry.
func Status(err error) (code int, ok bool) {
	switch {
	case errors.Is(err, core.ErrUnauthorized):
		return http.StatusUnauthorized, true
	case errors.Is(err, core.ErrForbidden):
		return http.StatusForbidden, true
	case errors.Is(err, core.ErrNotFound):
		return http.StatusNotFound, true
	case errors.Is(err, core.ErrExecutionID), errors.Is(err, core.ErrExecutionIDs):
		return http.StatusBadRequest, true
	case errors.Is(err, errors.ErrUnsupported):
		return http.StatusNotImplemented, true
	case Done(err), Retry(err):
		return 0, false
	}
	return http.StatusInternalServerError, true
}

// Done reports whether err means that the viewer should not come again: there
// is nothing more to see.
func Done(err error) bool {
	return errors.Is(err, core.ErrFinished) || errors.Is(err, core.ErrUnknown)
}

// Retry reports whether err means that the viewer should come again later.
func Retry(err error) bool {
	return errors.Is(err, core.ErrShutdown) || errors.Is(err, core.ErrTooManyClients) ||
		errors.Is(err, core.ErrTooManyExecutionClients) || errors.Is(err, core.ErrTooManyExecutions) ||
		errors.Is(err, core.ErrUnavailable)
}

// LastEventID returns the ID a viewer resumes from: the Last-Event-ID header,
// which EventSource sends by itself when it reconnects, before the query
// parameter lastEventId, which is all that a page can set.
func LastEventID(header, query string) string {
	if header != "" {
		return header
	}
	return query
}

// SSEHeaders calls set with the headers of an event stream.
func SSEHeaders(set func(name, value string)) {
	set("Content-Type", "text/event-stream")
	// no-transform: a proxy that compresses also buffers.
	set("Cache-Control", "no-store, no-transform")
	set("X-Accel-Buffering", "no")
	set("X-Content-Type-Options", "nosniff")
}

// SSEPreamble is what an event stream begins with: the reconnection time, and,
// for a viewer that is turned away for now, the reason.
func SSEPreamble(retry time.Duration, reason error) []byte {
	f := core.Frame{Retry: retry.Round(time.Millisecond), HasRetry: true}
	if reason != nil {
		f.Comment = reason.Error()
	}
	p, err := core.AppendFrame(nil, f)
	if err != nil {
		return []byte(":\n\n") // an error text that is not UTF-8
	}
	return p
}
