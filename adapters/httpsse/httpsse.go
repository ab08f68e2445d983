// Package httpsse serves executions as Server-Sent Events over net/http, and so
// over every framework that speaks its interfaces: the standard mux, chi, gin,
// echo. Watch is the other end: it follows such a stream from a Go program.
package httpsse

import (
	"net/http"
	"time"

	"github.com/execcast/execcast/adapters/internal/endpoint"
	"github.com/execcast/execcast/core"
)

// Options configures a Handler. Nil works; a zero field means its documented
// default, a negative one off.
type Options struct {
	// ExecutionID returns the execution a request wants to see, and decides
	// whether it may: core.ErrUnauthorized, core.ErrForbidden and
	// core.ErrNotFound, wrapped or not, are answered with 401, 403 and 404,
	// any other error with 500. Default: the path value "executionId".
	ExecutionID func(*http.Request) (string, error)
	// ExecutionIDs returns the executions a request wants to see in one stream,
	// in which each event names its execution, and decides about each whether
	// it may; errors are as those of ExecutionID, which is not asked if this is
	// set. See core.Registry.RegisterAll. None, or more than 1,000, is answered
	// with 400.
	ExecutionIDs func(*http.Request) ([]string, error)
	// AllowedOrigins lists the origins, as in "https://app.example.com", whose
	// pages may watch besides those of the server's own host; "*" means any.
	// Pages that send headers of their own have their browser ask for it, with
	// an OPTIONS request and before anybody is authorised: route that method
	// here, too.
	AllowedOrigins []string
	// WriteTimeout is how long a viewer's connection may take to accept what
	// is written to it. Default 10 s.
	WriteTimeout time.Duration
	// Heartbeat is the interval of heartbeats. Default: the registry's.
	Heartbeat time.Duration
	// Retry is how long a viewer waits before it reconnects. Default 2 s.
	Retry time.Duration
	// KeepHandler keeps the handler running for as long as its viewer is
	// connected. By default, where it can, it takes the connection over and
	// returns at once, so that an idle viewer costs no goroutine: plain
	// HTTP/1.1 over TCP, without a Content-Encoding or Transfer-Encoding set
	// by a middleware. Headers that middlewares set before the handler go out;
	// those they add in WriteHeader do not, they see nothing of the stream,
	// and the request's context ends when the handler returns.
	KeepHandler bool
}

// Handler is an http.Handler that streams executions.
type Handler struct {
	registry *core.Registry
	opts     Options
}

// NewHandler returns a handler that streams the executions of r.
func NewHandler(r *core.Registry, opts *Options) *Handler {
	h := &Handler{registry: r}
	if opts != nil {
		h.opts = *opts
	}
	if h.opts.ExecutionID == nil {
		h.opts.ExecutionID = func(r *http.Request) (string, error) { return r.PathValue("executionId"), nil }
	}
	h.opts.WriteTimeout = endpoint.Period(h.opts.WriteTimeout, endpoint.DefaultWriteTimeout)
	h.opts.Retry = endpoint.Period(h.opts.Retry, endpoint.DefaultRetry)
	if h.opts.Heartbeat == 0 {
		h.opts.Heartbeat = r.Heartbeat()
	}
	return h
}

// ServeHTTP streams the execution that Options.ExecutionID names, or those of
// Options.ExecutionIDs.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !h.admit(w, r) {
		return
	}
	target, err := endpoint.TargetOf(r, h.opts.ExecutionID, h.opts.ExecutionIDs)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	h.stream(w, r, target)
}

// ServeExecution streams the execution of that ID, for frameworks that keep
// path parameters where net/http does not look. Options.ExecutionID is not
// asked: the caller has authorised the request.
func (h *Handler) ServeExecution(w http.ResponseWriter, r *http.Request, executionID string) {
	if h.admit(w, r) {
		h.stream(w, r, endpoint.One(executionID))
	}
}

// ServeExecutions streams several executions at once, as Options.ExecutionIDs
// has ServeHTTP do. The caller has authorised the request for each.
func (h *Handler) ServeExecutions(w http.ResponseWriter, r *http.Request, executionIDs []string) {
	if h.admit(w, r) {
		h.stream(w, r, endpoint.Several(executionIDs))
	}
}

// admit answers requests that could not be served whatever their execution.
func (h *Handler) admit(w http.ResponseWriter, r *http.Request) bool {
	if endpoint.Preflight(r.Method, r.Header.Get, h.opts.AllowedOrigins, w.Header().Set) {
		w.WriteHeader(http.StatusNoContent)
		return false
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return false
	}
	origin := r.Header.Get("Origin")
	if !endpoint.OriginAllowed(origin, r.Host, h.opts.AllowedOrigins) {
		http.Error(w, "origin not allowed", http.StatusForbidden)
		return false
	}
	endpoint.CORS(origin, h.opts.AllowedOrigins, w.Header().Set)
	return true
}

// refuse answers a request that err, of Options.ExecutionID or Register, has
// refused. EventSource reconnects after nothing but a 200, so that is what a
// viewer gets that shall come again.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if code, ok := endpoint.Status(err); ok {
		http.Error(w, http.StatusText(code), code)
		return
	}
	if endpoint.Done(err) {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	endpoint.SSEHeaders(w.Header().Set)
	if r.Method != http.MethodHead {
		w.Write(endpoint.SSEPreamble(h.opts.Retry, err))
	}
}

func (h *Handler) stream(w http.ResponseWriter, r *http.Request, target endpoint.Target) {
	if r.Method == http.MethodHead {
		endpoint.SSEHeaders(w.Header().Set)
		return
	}
	if !canFlush(w) {
		http.Error(w, "streaming not supported", http.StatusInternalServerError)
		return
	}
	c, err := target.Register(h.registry, &core.ClientOptions{
		Encoder:     core.SSE,
		LastEventID: endpoint.LastEventID(r.Header.Get("Last-Event-ID"), r.URL.Query().Get("lastEventId")),
		Heartbeat:   h.opts.Heartbeat,
	})
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	endpoint.SSEHeaders(w.Header().Set)
	if !h.opts.KeepHandler && h.takeOver(w, r, c) {
		return
	}
	s := &stream{rc: http.NewResponseController(w), w: w, r: r, timeout: h.opts.WriteTimeout}
	if err := s.begin(endpoint.SSEPreamble(h.opts.Retry, nil)); err != nil {
		c.Unregister()
		return
	}
	c.Serve(r.Context(), s)
}

// canFlush reports whether what is written to w can be flushed, without
// writing anything: http.ResponseController finds out only by doing it.
func canFlush(w http.ResponseWriter) bool {
	for {
		switch t := w.(type) {
		case interface{ FlushError() error }, http.Flusher:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return false
		}
	}
}
