package httpsse

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/execcast/execcast/core"
)

// Event is an event of a stream, as Watch gives it.
type Event struct {
	// Execution is the event's execution in a stream of several: see
	// WatchOptions.Several. "" if the event names none.
	Execution string
	// Type is the event's type, "message" if the stream names none.
	Type string
	// Data is the caller's.
	Data []byte
	// LastEventID is where to resume after this event: its own ID or, if it
	// has none, that of the nearest event before it that has one. "" means
	// that there is none.
	LastEventID string
	// Traceparent is the trace the event was published in, as the stream says:
	// text of W3C Trace Context, for a propagator to read. "" means none.
	Traceparent string
}

// WatchOptions configures Watch. Nil works; a zero field means its documented
// default, a negative one off.
type WatchOptions struct {
	// Client sends the requests. Its Timeout would end every stream, however
	// lively; Idle is the one that does not. Default http.DefaultClient.
	Client *http.Client
	// Method is the requests' method. Default GET.
	Method string
	// Body is sent with each request. Default none.
	Body []byte
	// Header is added to each request. It replaces the defaults of Accept and
	// Cache-Control; Last-Event-ID is for LastEventID to set.
	Header http.Header
	// LastEventID is where to resume. Default: from the beginning.
	LastEventID string
	// Retry is how long to wait before reconnecting, until the stream sets
	// another time. Default 2 s.
	Retry time.Duration
	// MaxBackoff bounds how long to wait: the time doubles with each
	// connection that has brought no event, unless it lasted as long as
	// MaxBackoff, and starts again from Retry with one that has. Up to half as
	// much is added at random, so that viewers that left together do not come
	// back together. A server that asks for more gets it. Default 30 s; off
	// means that the time does not grow.
	MaxBackoff time.Duration
	// Idle is how long a connection may bring nothing, not even a heartbeat,
	// before it is given up for lost and made anew. Default 45 s, which is
	// three heartbeats of a registry.
	Idle time.Duration
	// MaxFrameBytes bounds one event with its comments, and with that the
	// memory a stream can take. Default core.DefaultMaxFrameBytes.
	MaxFrameBytes int
	// PastEnd makes core.TypeEnd an event like any other, for streams of other
	// servers in which it means something else. By default the sequence ends
	// with it.
	PastEnd bool

	// Several is for streams of several executions, as a Handler serves them
	// (Options.ExecutionIDs): Event.Execution is set, and Data is what the
	// event's own was, as JSON; text that was none is a JSON string. The
	// sequence ends with the core.TypeEnd that names no execution. Data that
	// is not of that form stays as it is.
	Several bool

	// Connected is called when a stream has been accepted, the first time and
	// after each reconnection. The body is not for the caller to read. This
	// and the other functions are called by the goroutine that ranges over the
	// sequence, in the order of what they report and of the events.
	Connected func(*http.Response)
	// Disconnected is called before each wait: why there is no stream, io.EOF
	// if the server has ended it, and how long until the next request.
	Disconnected func(err error, wait time.Duration)
	// Comment is called for each comment line, as soon as it has ended.
	Comment func(text string)
}

// Errors with which Watch ends or reconnects, besides StatusError,
// core.ErrFrameTooLarge and those of package net.
var (
	// ErrWatchOptions: no request can be made of the URL and the options.
	ErrWatchOptions = errors.New("execcast: invalid request for an event stream")
	// ErrContentType: the answer is not text/event-stream.
	ErrContentType = errors.New("execcast: not an event stream")
	// ErrRedirect: the answer redirects too often, or to what is not HTTP.
	ErrRedirect = errors.New("execcast: event stream redirected in vain")
	// ErrIdle: the server has sent nothing for as long as WatchOptions.Idle.
	ErrIdle = errors.New("execcast: event stream idle")
)

// StatusError is a status that is not that of a stream. It matches
// core.ErrUnauthorized, core.ErrForbidden and core.ErrNotFound.
type StatusError struct {
	Code int
	// After is how long the server asks to wait (Retry-After), zero if it does
	// not.
	After time.Duration
}

func (e *StatusError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("execcast: no event stream: status %d %s", e.Code, http.StatusText(e.Code)))
}

// Unwrap returns the error of core that a Handler answers with this status.
func (e *StatusError) Unwrap() error {
	switch e.Code {
	case http.StatusUnauthorized:
		return core.ErrUnauthorized
	case http.StatusForbidden:
		return core.ErrForbidden
	case http.StatusNotFound:
		return core.ErrNotFound
	}
	return nil
}

// Temporary reports whether Watch asks again after such an answer: 408, 425,
// 429, 500, 502, 503, 504.
func (e *StatusError) Temporary() bool {
	switch e.Code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// Watch reads the event stream at url, of an execution or of any other source,
// and yields its events in order. Whenever the connection is lost, it
// reconnects and goes on after the last event: the server is told its ID. An
// execution's stream may contain core.TypeGap where it could not.
//
// The sequence ends without an error once there is nothing more to come: behind
// the event core.TypeEnd, which a finished execution ends with, or when the
// server answers 204. Anything else that ends it is yielded last, with a zero
// Event:
//
//   - a StatusError that is not temporary, which is any but those listed
//     there, such as 401 or 404; unlike an EventSource, Watch asks again after
//     the others, at the time the server gives, if it does
//   - ErrContentType, ErrRedirect: what is there is not a stream
//   - core.ErrFrameTooLarge: asking again would bring the same event again
//   - ErrWatchOptions: bad options, before any request
//   - the cause of ctx, once that has ended; no event is yielded after that
//
// Everything else leads to a reconnection, among it that the server cannot be
// reached: ctx bounds how long that may go on.
//
// Redirects are followed, anew with each request, as http.Client does, but
// without a Referer: another host is told neither Authorization nor Cookie, but
// all other headers. While the loop's body runs, nothing is read, and the
// server may find its viewer slow. Leaving the loop closes the connection.
// Every range over the sequence is a stream of its own, with opts as they are
// when it begins.
func Watch(ctx context.Context, url string, opts *WatchOptions) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		w, err := newWatcher(ctx, url, opts)
		if err != nil {
			yield(Event{}, err)
			return
		}
		w.run(yield)
	}
}

const (
	defaultIdle       = 45 * time.Second
	defaultMaxBackoff = 30 * time.Second
	maxRedirects      = 10
	// minBackoff is what the wait grows from if the server asks for less.
	minBackoff = 100 * time.Millisecond
)

// watcher is one range over Watch's sequence.
type watcher struct {
	ctx         context.Context
	opts        WatchOptions // resolved: off is zero, or for MaxFrameBytes the maximum
	client      http.Client
	request     *http.Request // to be cloned
	lastEventID string
	retry       time.Duration
	fruitful    bool // the connection has brought an event
}

func newWatcher(ctx context.Context, rawURL string, opts *WatchOptions) (*watcher, error) {
	w := &watcher{ctx: ctx}
	if opts != nil {
		w.opts = *opts
	}
	o := &w.opts
	o.Idle = orDefault(o.Idle, defaultIdle)
	o.MaxBackoff = orDefault(o.MaxBackoff, defaultMaxBackoff)
	w.retry = orDefault(o.Retry, 2*time.Second)
	switch {
	case o.MaxFrameBytes == 0:
		o.MaxFrameBytes = core.DefaultMaxFrameBytes
	case o.MaxFrameBytes < 0:
		o.MaxFrameBytes = math.MaxInt
	}
	if o.Client == nil {
		o.Client = http.DefaultClient
	}
	w.client = *o.Client
	w.client.CheckRedirect = w.checkRedirect

	req, err := http.NewRequestWithContext(ctx, o.Method, rawURL, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWatchOptions, err)
	}
	if !isHTTP(req.URL) {
		return nil, fmt.Errorf("%w: %q is not an HTTP URL", ErrWatchOptions, req.URL.Redacted())
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Cache-Control", "no-cache")
	for name, values := range o.Header {
		if !isToken(name) {
			return nil, fmt.Errorf("%w: %q is no name of a header", ErrWatchOptions, name)
		}
		for _, v := range values {
			if !isFieldValue(v) {
				return nil, fmt.Errorf("%w: header %q has control characters", ErrWatchOptions, name)
			}
		}
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	if !isFieldValue(o.LastEventID) {
		return nil, fmt.Errorf("%w: last event ID %q has control characters", ErrWatchOptions, o.LastEventID)
	}
	w.request, w.lastEventID = req, o.LastEventID
	return w, nil
}

// orDefault resolves a duration of the options: zero means the default,
// negative off, which is zero; a year is as good as more.
func orDefault(d, byDefault time.Duration) time.Duration {
	if d == 0 {
		return byDefault
	}
	return min(max(d, 0), 365*24*time.Hour)
}

func isHTTP(u *url.URL) bool { return (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" }

// isToken reports whether net/http accepts s as a header's name (RFC 9110,
// section 5.6.2).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// isFieldValue reports whether net/http accepts s as a header's value.
func isFieldValue(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

func (w *watcher) run(yield func(Event, error) bool) {
	for failures := 0; ; failures++ {
		w.fruitful = false
		began := time.Now()
		again, err := w.connect(yield)
		if again && w.ctx.Err() != nil {
			again, err = false, context.Cause(w.ctx)
		}
		if !again {
			if err != nil {
				yield(Event{}, err)
			}
			return
		}
		if w.fruitful || time.Since(began) >= w.opts.MaxBackoff {
			failures = 0
		}
		wait := w.wait(failures, err)
		if w.opts.Disconnected != nil {
			w.opts.Disconnected(err, wait)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-w.ctx.Done():
			timer.Stop()
			yield(Event{}, context.Cause(w.ctx))
			return
		}
	}
}

// wait is how long to wait after err, with so many failed connections in a row
// before.
func (w *watcher) wait(failures int, err error) time.Duration {
	d := w.retry
	if limit := w.opts.MaxBackoff; failures > 0 && limit > 0 {
		grown := max(d, minBackoff)
		for ; failures > 0 && grown < limit; failures-- {
			grown *= 2
		}
		d = max(d, min(grown, limit))
	}
	if status := (*StatusError)(nil); errors.As(err, &status) {
		d = max(d, status.After)
	}
	return d + rand.N(d/2+1)
}

// connect makes one request and yields the events it brings. If again is
// false, the sequence is over: with err, or without an error because nothing
// more is to come, or to be yielded. Otherwise err says why to reconnect.
func (w *watcher) connect(yield func(Event, error) bool) (again bool, err error) {
	ctx, cancel := context.WithCancelCause(w.ctx)
	defer cancel(nil)
	idle := newIdleTimer(w.opts.Idle, func() { cancel(fmt.Errorf("%w for %v", ErrIdle, w.opts.Idle)) })
	defer idle.stop()

	idle.start()
	res, err := w.client.Do(w.nextRequest(ctx))
	idle.stop()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return !errors.Is(err, ErrRedirect), err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNoContent {
		return false, nil
	}
	if res.StatusCode != http.StatusOK {
		err := &StatusError{Code: res.StatusCode, After: retryAfter(res.Header.Get("Retry-After"))}
		return err.Temporary(), err
	}
	contentType := res.Header.Get("Content-Type")
	if media, _, _ := strings.Cut(contentType, ";"); !strings.EqualFold(strings.TrimSpace(media), "text/event-stream") {
		return false, fmt.Errorf("%w: content type %q", ErrContentType, contentType)
	}
	if w.opts.Connected != nil {
		w.opts.Connected(res)
	}

	b := &body{ctx: ctx, r: res.Body, idle: idle}
	stream := io.Reader(b)
	if w.opts.Comment != nil {
		stream = &commentReader{r: b, report: w.opts.Comment}
	}
	for f, err := range core.Decode(stream, w.opts.MaxFrameBytes) {
		switch {
		case err != nil:
			return false, err
		case w.ctx.Err() != nil:
			return true, nil // for run to find
		}
		if f.HasRetry {
			w.retry = f.Retry
		}
		// An ID that no header can carry is ignored as one with a NUL is: the
		// server would be asked in vain.
		if f.HasID && isFieldValue(f.ID) {
			w.lastEventID = f.ID
		}
		if f.Data == nil {
			continue
		}
		w.fruitful = true
		e := Event{Type: f.Type, Data: f.Data, LastEventID: w.lastEventID, Traceparent: f.Traceparent}
		if e.Type == "" {
			e.Type = "message"
		}
		if w.opts.Several {
			e.unwrap()
		}
		if !yield(e, nil) || e.Type == core.TypeEnd && e.Execution == "" && !w.opts.PastEnd {
			return false, nil
		}
	}
	return true, b.err
}

// unwrap takes an event out of the object that names its execution.
func (e *Event) unwrap() {
	var m map[string]json.RawMessage // a struct would take "Data" for "data"
	if json.Unmarshal(e.Data, &m) != nil || m["data"] == nil {
		return
	}
	execution, named := m["execution"]
	switch {
	case len(m) == 1:
	case len(m) > 2 || !named || execution[0] != '"':
		return
	default:
		json.Unmarshal(execution, &e.Execution) // is a string
	}
	e.Data = m["data"]
}

func (w *watcher) nextRequest(ctx context.Context) *http.Request {
	req := w.request.Clone(ctx)
	if w.opts.Body != nil {
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(w.opts.Body)), nil }
		req.Body, _ = req.GetBody()
		req.ContentLength = int64(len(w.opts.Body))
	}
	req.Header.Del("Last-Event-ID")
	if w.lastEventID != "" {
		req.Header.Set("Last-Event-ID", w.lastEventID)
	}
	return req
}

func (w *watcher) checkRedirect(req *http.Request, via []*http.Request) error {
	// net/http would send the address redirected from, and what its query holds.
	req.Header["Referer"] = via[0].Header["Referer"]
	var err error
	switch check := w.opts.Client.CheckRedirect; {
	case !isHTTP(req.URL):
		err = fmt.Errorf("to %q, which is not an HTTP URL", req.URL.Redacted())
	case check != nil:
		err = check(req, via)
	case len(via) >= maxRedirects:
		err = fmt.Errorf("%d times", len(via))
	}
	if err == nil || err == http.ErrUseLastResponse {
		return err
	}
	return fmt.Errorf("%w: %w", ErrRedirect, err)
}

// retryAfter reads a Retry-After header: seconds or a date (RFC 9110, section
// 10.2.3). What it cannot read is zero; more than a day is a day.
func retryAfter(s string) time.Duration {
	const most = 24 * time.Hour
	if seconds, err := strconv.ParseUint(s, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) { // then the largest
		return time.Duration(min(seconds, uint64(most/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return min(max(time.Until(at), 0), most)
	}
	return 0
}

// body is a response's body for the decoder, to which every end of it is the
// same: what it was is in err.
type body struct {
	ctx  context.Context
	r    io.Reader
	idle *idleTimer
	err  error
}

func (b *body) Read(p []byte) (int, error) {
	b.idle.start()
	n, err := b.r.Read(p)
	b.idle.stop()
	if err == nil {
		return n, nil
	}
	b.err = err
	if cause := context.Cause(b.ctx); cause != nil {
		b.err = cause
	}
	return n, io.EOF
}

// idleTimer measures how long the server keeps us waiting, not how long the
// caller does. Nil is one that is off.
type idleTimer struct {
	timer  *time.Timer
	period time.Duration
}

func newIdleTimer(period time.Duration, f func()) *idleTimer {
	if period == 0 {
		return nil
	}
	t := &idleTimer{time.AfterFunc(period, f), period}
	t.stop()
	return t
}

func (t *idleTimer) start() {
	if t != nil {
		t.timer.Reset(t.period)
	}
}

func (t *idleTimer) stop() {
	if t != nil {
		t.timer.Stop()
	}
}

// commentReader passes a stream on to a decoder and reports its comment lines
// when they end, while the decoder keeps them until the frame does. A comment
// is reported after what stands before it has been decoded: at the read that
// follows. What it keeps of a line is bounded by the decoder's bound on a
// frame.
type commentReader struct {
	r      io.Reader
	report func(string)
	buf    []byte
	rest   []byte // read, but not passed on
	err    error
	bom    int  // bytes of a byte order mark that the stream began with; len(bom) if it can no longer come
	inLine bool // not at the beginning of a line
	inside bool // in a comment line, of which text is the part so far, with its colon
	ended  bool // the comment in text has ended
	text   []byte
}

const bom = "\ufeff"

func (c *commentReader) Read(p []byte) (int, error) {
	if c.ended {
		c.ended = false
		c.text = append(c.text, "\n\n"...)
		for f := range core.Decode(bytes.NewReader(c.text), math.MaxInt) {
			c.report(f.Comment)
		}
	}
	if len(c.rest) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		if c.buf == nil {
			c.buf = make([]byte, 4096)
		}
		var n int
		n, c.err = c.r.Read(c.buf)
		c.rest = c.buf[:n]
	}
	n := c.scan(c.rest[:min(len(c.rest), len(p))])
	copy(p, c.rest[:n])
	c.rest = c.rest[n:]
	return n, nil
}

// scan returns the length of p up to the end of a comment line.
func (c *commentReader) scan(p []byte) int {
	for i, b := range p {
		if c.bom < len(bom) {
			if b == bom[c.bom] {
				c.bom++
				c.inLine = c.bom < len(bom)
				continue
			}
			c.bom = len(bom)
		}
		switch {
		case b == '\r' || b == '\n':
			c.ended, c.inside, c.inLine = c.inside, false, false
			if c.ended {
				return i + 1
			}
		case c.inside:
			c.text = append(c.text, b)
		case !c.inLine && b == ':':
			c.inside, c.inLine, c.text = true, true, append(c.text[:0], b)
		default:
			c.inLine = true
		}
	}
	return len(p)
}
