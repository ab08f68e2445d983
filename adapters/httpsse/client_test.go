package httpsse_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/adapters/httpsse"
	"github.com/execcast/execcast/core"
)

// watched ranges over seq and returns its events as "type data @ID" and its
// error.
func watched(seq iter.Seq2[httpsse.Event, error]) (events []string, err error) {
	for e, failed := range seq {
		if failed != nil {
			err = failed // any event after it would be seen
			continue
		}
		events = append(events, show(e))
	}
	return events, err
}

func show(e httpsse.Event) string { return fmt.Sprintf("%s %s @%s", e.Type, e.Data, e.LastEventID) }

// bounded is a context that ends when the test hangs.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	t.Cleanup(cancel)
	return ctx
}

func TestWatchToTheEnd(t *testing.T) {
	for _, proto := range []int{1, 2} {
		for path, keep := range paths {
			t.Run(fmt.Sprintf("HTTP%d/%s", proto, path), func(t *testing.T) {
				r := core.New(nil)
				s := serve(t, httpsse.NewHandler(r, &httpsse.Options{KeepHandler: keep}), func(s *httptest.Server) {
					s.EnableHTTP2 = proto == 2
				})
				var connected []int
				id, err := r.Publish(t.Context(), "x", core.Event{Type: "early", Data: []byte("a\nb")})
				require.NoError(t, err)
				var want []string
				want = append(want, fmt.Sprintf("early a\nb @%d", id))
				var got []string
				for e, err := range httpsse.Watch(bounded(t), s.URL+"/x", &httpsse.WatchOptions{
					Client:    s.Client(),
					Connected: func(res *http.Response) { connected = append(connected, res.ProtoMajor) },
				}) {
					require.NoError(t, err)
					got = append(got, show(e))
					if e.Type == "early" { // live from here on
						id, err := r.Publish(t.Context(), "x", core.Event{Data: []byte("late")})
						require.NoError(t, err)
						want = append(want, fmt.Sprintf("message late @%d", id), fmt.Sprintf("stream-end {} @%d", id))
						go r.Close(context.Background(), "x")
					}
				}
				require.Equal(t, want, got)
				require.Equal(t, []int{proto}, connected)
			})
		}
	}
}

// An event brings the trace it was published in, and leaves none to the next.
func TestWatchTraceparent(t *testing.T) {
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	r := core.New(nil)
	s := serve(t, httpsse.NewHandler(r, nil), nil)
	for _, traceparent := range []string{trace, ""} {
		_, err := r.Publish(t.Context(), "x", core.Event{Traceparent: traceparent})
		require.NoError(t, err)
	}
	go r.Close(context.Background(), "x")
	var got []string
	for e, err := range httpsse.Watch(bounded(t), s.URL+"/x", nil) {
		require.NoError(t, err)
		got = append(got, e.Traceparent)
	}
	require.Equal(t, []string{trace, "", ""}, got)
}

// cutter is a listener whose connections break off in the middle of what the
// server writes, wherever that is.
type cutter struct {
	net.Listener
	after int
	cuts  atomic.Int32
}

func (c *cutter) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	return &cutConn{Conn: conn, cutter: c, left: c.after}, err
}

type cutConn struct {
	net.Conn
	cutter *cutter
	left   int // for one writer at a time, as net/http and the pump promise
}

func (c *cutConn) Write(p []byte) (int, error) {
	if len(p) <= c.left {
		c.left -= len(p)
		return c.Conn.Write(p)
	}
	c.Conn.Write(p[:c.left])
	c.left = 0
	c.cutter.cuts.Add(1)
	c.Conn.Close()
	return 0, net.ErrClosed
}

// However often and wherever the connection breaks, every event arrives once
// and in order.
func TestWatchResumesExactly(t *testing.T) {
	for path, keep := range paths {
		t.Run(path, func(t *testing.T) {
			const events = 300
			r := core.New(nil)
			var cut *cutter
			s := serve(t, httpsse.NewHandler(r, &httpsse.Options{KeepHandler: keep, Retry: -1}), func(s *httptest.Server) {
				cut = &cutter{Listener: s.Listener, after: 1499}
				s.Listener = cut
			})
			go func() {
				for i := range events {
					r.Publish(context.Background(), "x", core.Event{Type: "n", Data: fmt.Append(nil, i)})
				}
				r.Close(context.Background(), "x")
			}()
			var lost []error
			next := 0
			for e, err := range httpsse.Watch(bounded(t), s.URL+"/x", &httpsse.WatchOptions{
				Disconnected: func(err error, _ time.Duration) { lost = append(lost, err) },
			}) {
				require.NoError(t, err)
				if e.Type == core.TypeEnd {
					break
				}
				require.Equal(t, fmt.Sprint(next), string(e.Data))
				next++
			}
			require.Equal(t, events, next)
			require.GreaterOrEqual(t, len(lost), 5)
			require.EqualValues(t, len(lost), cut.cuts.Load())
			for _, err := range lost {
				require.Error(t, err)
			}
		})
	}
}

func TestWatchSeesGap(t *testing.T) {
	r := core.New(&core.Options{MaxEvents: 2})
	s := serve(t, httpsse.NewHandler(r, nil), nil)
	for i := range 5 {
		publish(t, r, fmt.Sprint(i))
	}
	require.NoError(t, r.Close(t.Context(), "x"))
	var types []string
	for e, err := range httpsse.Watch(bounded(t), s.URL+"/x", &httpsse.WatchOptions{LastEventID: "7"}) {
		require.NoError(t, err)
		types = append(types, e.Type)
		if e.Type == core.TypeGap {
			var gap struct{ From, To string }
			require.NoError(t, json.Unmarshal(e.Data, &gap))
			require.Equal(t, "7", gap.From)
			require.Equal(t, "7", e.LastEventID)
		}
	}
	require.Equal(t, []string{core.TypeGap, "message", "message", core.TypeEnd}, types)
}

const frameA = "event: a\ndata: b\n\n"

// What ends a sequence, at the first answer, and what does not.
func TestWatchAnswers(t *testing.T) {
	stream := func(contentType string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = []string{contentType}
			io.WriteString(w, frameA+"event: stream-end\ndata\n\n")
		}
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(code)
		}
	}
	redirect := func(code int, to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", to)
			w.WriteHeader(code)
		}
	}
	all := []string{"a b @", "stream-end  @"}
	for name, test := range map[string]struct {
		handler  http.HandlerFunc
		events   []string
		err      error
		status   int // of a StatusError
		requests int
	}{
		"204":                   {handler: status(204), requests: 1},
		"201":                   {handler: status(201), requests: 1, status: 201},
		"205":                   {handler: status(205), requests: 1, status: 205},
		"401":                   {handler: status(401), requests: 1, status: 401, err: core.ErrUnauthorized},
		"403":                   {handler: status(403), requests: 1, status: 403, err: core.ErrForbidden},
		"404":                   {handler: status(404), requests: 1, status: 404, err: core.ErrNotFound},
		"410":                   {handler: status(410), requests: 1, status: 410},
		"501":                   {handler: status(501), requests: 1, status: 501},
		"wrong content type":    {handler: stream("text/html"), requests: 1, err: httpsse.ErrContentType},
		"similar content type":  {handler: stream("text/event-stream2"), requests: 1, err: httpsse.ErrContentType},
		"no content type":       {handler: stream(""), requests: 1, err: httpsse.ErrContentType},
		"content type":          {handler: stream("Text/Event-Stream;charset=utf-8"), requests: 1, events: all},
		"odd content type":      {handler: stream("text/event-stream; ="), requests: 1, events: all},
		"doubled charset":       {handler: stream("text/event-stream ;charset=utf-8;charset=UTF-8"), requests: 1, events: all},
		"redirect loop":         {handler: redirect(302, "/"), requests: 10, err: httpsse.ErrRedirect},
		"redirect elsewhere":    {handler: redirect(307, "ftp://127.0.0.1/"), requests: 1, err: httpsse.ErrRedirect},
		"redirect to no host":   {handler: redirect(307, "http:///x"), requests: 1, err: httpsse.ErrRedirect},
		"redirect to nowhere":   {handler: redirect(301, ""), requests: 1, status: 301},
		"permanent redirect":    {handler: redirect(301, "/stream"), requests: 1, events: all},
		"temporary redirect":    {handler: redirect(307, "/stream"), requests: 1, events: all},
		"multiple choices, too": {handler: status(300), requests: 1, status: 300},
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int32
			mux := http.NewServeMux()
			mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				test.handler(w, r)
			})
			mux.HandleFunc("/stream", stream("text/event-stream"))
			s := httptest.NewServer(mux)
			defer s.Close()
			events, err := watched(httpsse.Watch(bounded(t), s.URL+"/", &httpsse.WatchOptions{
				Disconnected: func(err error, _ time.Duration) { t.Errorf("wants to reconnect: %v", err) },
			}))
			require.Equal(t, test.events, events)
			switch refused := (*httpsse.StatusError)(nil); {
			case test.status != 0:
				require.ErrorAs(t, err, &refused)
				require.Equal(t, test.status, refused.Code)
				require.Contains(t, err.Error(), fmt.Sprint(test.status))
				fallthrough
			case test.err != nil:
				if test.err != nil {
					require.ErrorIs(t, err, test.err)
				}
			default:
				require.NoError(t, err)
			}
			require.EqualValues(t, test.requests, requests.Load())
		})
	}
}

// A caller's own limits on redirects hold too.
func TestWatchKeepsCheckRedirect(t *testing.T) {
	s := httptest.NewServer(http.RedirectHandler("/", http.StatusFound))
	defer s.Close()
	for want, check := range map[string]error{"not there": errors.New("not there"), "302": http.ErrUseLastResponse} {
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return check }}
		_, err := watched(httpsse.Watch(bounded(t), s.URL, &httpsse.WatchOptions{Client: client}))
		require.ErrorContains(t, err, want)
	}
}

func TestWatchBadOptions(t *testing.T) {
	for name, test := range map[string]struct {
		url  string
		opts *httpsse.WatchOptions
	}{
		"no URL":        {url: ""},
		"broken URL":    {url: "http://a b/"},
		"no host":       {url: "http:///x"},
		"other scheme":  {url: "file:///etc/passwd"},
		"method":        {url: "http://127.0.0.1:1", opts: &httpsse.WatchOptions{Method: "GET /"}},
		"header":        {url: "http://127.0.0.1:1", opts: &httpsse.WatchOptions{Header: http.Header{"A": {"b\nc"}}}},
		"header's name": {url: "http://127.0.0.1:1", opts: &httpsse.WatchOptions{Header: http.Header{"A b": {"c"}}}},
		"no name":       {url: "http://127.0.0.1:1", opts: &httpsse.WatchOptions{Header: http.Header{"": {"c"}}}},
		"foreign name":  {url: "http://127.0.0.1:1", opts: &httpsse.WatchOptions{Header: http.Header{"\xff": {"c"}}}},
		"last event ID": {url: "http://127.0.0.1:1", opts: &httpsse.WatchOptions{LastEventID: "a\r\nb"}},
	} {
		t.Run(name, func(t *testing.T) {
			events, err := watched(httpsse.Watch(bounded(t), test.url, test.opts))
			require.ErrorIs(t, err, httpsse.ErrWatchOptions)
			require.Empty(t, events)
		})
	}
}

// An event that does not end costs no more than the bound, and is not asked
// for again.
func TestWatchTooLarge(t *testing.T) {
	for name, prefix := range map[string]string{"data": "data: ", "comment": ":"} {
		t.Run(name, func(t *testing.T) {
			var written atomic.Int64
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				io.WriteString(w, frameA+prefix)
				for endless := bytes.Repeat([]byte("x"), 1<<16); ; {
					n, err := w.Write(endless)
					written.Add(int64(n))
					if err != nil {
						return
					}
				}
			}))
			events, err := watched(httpsse.Watch(bounded(t), s.URL, &httpsse.WatchOptions{
				MaxFrameBytes: 1 << 20,
				Comment:       func(string) {},
			}))
			s.Close() // waits for the handler: the connection has been closed
			require.Equal(t, []string{"a b @"}, events)
			require.ErrorIs(t, err, core.ErrFrameTooLarge)
			require.Greater(t, written.Load(), int64(1<<20))
		})
	}
}

// pipe is a server that h answers and a client to it, over connections in
// memory, so that a bubble can hold all of it.
type pipe struct {
	client *http.Client
	conns  chan net.Conn
	closed chan struct{}
	down   atomic.Bool // connections are refused
	dials  atomic.Int32
}

func newPipe(t *testing.T, h http.HandlerFunc) *pipe {
	p := &pipe{conns: make(chan net.Conn), closed: make(chan struct{})}
	transport := &http.Transport{DialContext: p.dial, DisableKeepAlives: true}
	p.client = &http.Client{Transport: transport}
	s := &http.Server{Handler: h}
	go s.Serve(p)
	t.Cleanup(func() {
		s.Close()
		transport.CloseIdleConnections()
	})
	return p
}

func (p *pipe) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	p.dials.Add(1)
	if p.down.Load() {
		return nil, errors.New("refused")
	}
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipe) Close() error {
	close(p.closed)
	return nil
}

func (p *pipe) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// streaming begins an event stream and returns how to go on with it.
func streaming(w http.ResponseWriter) (send func(string)) {
	w.Header().Set("Content-Type", "text/event-stream")
	flusher := http.NewResponseController(w)
	flusher.Flush()
	return func(s string) {
		io.WriteString(w, s)
		flusher.Flush()
	}
}

const pipeURL = "http://pipe.example/x"

// requireWait checks that a wait is as long as d, and up to half as much more.
func requireWait(t *testing.T, d, wait time.Duration) {
	t.Helper()
	require.GreaterOrEqual(t, wait, d)
	require.LessOrEqual(t, wait, d+d/2)
}

// The wait doubles while the server cannot be reached, up to the bound, and
// starts anew after a connection that has brought an event.
func TestWatchBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(t, func(w http.ResponseWriter, r *http.Request) {
			streaming(w)("retry: 3000\n\ndata: x\n\n") // and ends
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		var waits []time.Duration
		var reasons []error
		var lost time.Time
		p.down.Store(true)
		events, err := watched(httpsse.Watch(ctx, pipeURL, &httpsse.WatchOptions{
			Client:     p.client,
			Retry:      time.Second,
			MaxBackoff: 10 * time.Second,
			Connected:  func(*http.Response) { p.down.Store(true) },
			Disconnected: func(err error, wait time.Duration) {
				if !lost.IsZero() {
					require.Equal(t, waits[len(waits)-1], time.Since(lost), "it waits as long as it says")
				}
				lost = time.Now()
				waits, reasons = append(waits, wait), append(reasons, err)
				switch len(waits) {
				case 6:
					p.down.Store(false)
				case 9:
					cancel(enough)
				}
			},
		}))
		require.ErrorIs(t, err, enough)
		require.Equal(t, []string{"message x @"}, events)
		require.Len(t, waits, 9)
		for i, d := range []int{1, 2, 4, 8, 10, 10, 3, 6, 10} {
			requireWait(t, time.Duration(d)*time.Second, waits[i])
		}
		require.NotEqual(t, waits[4]-waits[5], time.Duration(0), "no jitter")
		require.ErrorContains(t, reasons[0], "refused")
		require.Equal(t, io.EOF, reasons[6])
	})
}

func TestWatchBackoffOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(t, nil)
		p.down.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := watched(httpsse.Watch(ctx, pipeURL, &httpsse.WatchOptions{
			Client:       p.client,
			Retry:        time.Second,
			MaxBackoff:   -1,
			Disconnected: func(_ error, wait time.Duration) { requireWait(t, time.Second, wait) },
		}))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.GreaterOrEqual(t, p.dials.Load(), int32(40))
	})
}

// A server that wants its viewers back at once, but has nothing for them, is
// not asked without end.
func TestWatchRetryZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := 0
		p := newPipe(t, func(w http.ResponseWriter, r *http.Request) {
			requests++
			streaming(w)("retry: 0\n\n")
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := watched(httpsse.Watch(ctx, pipeURL, &httpsse.WatchOptions{Client: p.client}))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Greater(t, requests, 5)
		require.Less(t, requests, 20)
	})
}

// A connection that only heartbeats have kept for long was none that failed.
func TestWatchQuietIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(t, func(w http.ResponseWriter, r *http.Request) {
			send := streaming(w)
			for range 5 {
				time.Sleep(15 * time.Second)
				send(":\n\n")
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := 0
		watched(httpsse.Watch(ctx, pipeURL, &httpsse.WatchOptions{
			Client: p.client,
			Disconnected: func(err error, wait time.Duration) {
				require.Equal(t, io.EOF, err)
				requireWait(t, 2*time.Second, wait)
				if n++; n == 4 {
					cancel()
				}
			},
		}))
		require.Equal(t, 4, n)
	})
}

// Overloaded servers, and those behind proxies, are asked again, when they say.
func TestWatchTemporaryStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := []struct {
			code       int
			retryAfter string
			wait       int // seconds
		}{
			{503, "", 2},
			{503, "7", 7},
			{429, "1", 8},
			{408, "", 16},
			{425, "", 30},
			{500, "", 30},
			{502, "nonsense", 30},
			{504, "99999999999999", 24 * 60 * 60},
			{503, "100000000000000000000", 24 * 60 * 60},
			{503, "date", 120},
		}
		requests := 0
		p := newPipe(t, func(w http.ResponseWriter, r *http.Request) {
			if requests++; requests > len(answers) {
				streaming(w)("event: stream-end\ndata: {}\n\n")
				return
			}
			a := answers[requests-1]
			if a.retryAfter == "date" {
				a.retryAfter = time.Now().Add(2 * time.Minute).UTC().Format(http.TimeFormat)
			}
			w.Header().Set("Retry-After", a.retryAfter)
			w.WriteHeader(a.code)
		})
		var codes []int
		events, err := watched(httpsse.Watch(t.Context(), pipeURL, &httpsse.WatchOptions{
			Client: p.client,
			Disconnected: func(err error, wait time.Duration) {
				var refused *httpsse.StatusError
				require.ErrorAs(t, err, &refused)
				codes = append(codes, refused.Code)
				requireWait(t, time.Duration(answers[len(codes)-1].wait)*time.Second, wait)
			},
		}))
		require.NoError(t, err)
		require.Equal(t, []string{"stream-end {} @"}, events)
		require.Equal(t, []int{503, 503, 429, 408, 425, 500, 502, 504, 503, 503}, codes)
	})
}

// A server that is silent, before its answer or in the middle of a stream, is
// left for another try; one that sends anything at all is not, and neither is
// one whose events wait for the caller.
func TestWatchIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var requests atomic.Int32
		p := newPipe(t, func(w http.ResponseWriter, r *http.Request) {
			switch requests.Add(1) {
			case 1: // no answer
			case 2:
				send := streaming(w)
				for range 3 { // bytes that are no frame count too
					time.Sleep(44 * time.Second)
					send(":")
				}
			case 3:
				send := streaming(w)
				send("data: slow\n\ndata: slow\n\n")
				send("event: stream-end\ndata\n\n") // is not read before the caller is done with what came before
			}
			<-r.Context().Done()
		})
		var waited []time.Duration
		began := time.Now()
		events, err := watched(func(yield func(httpsse.Event, error) bool) {
			for e, err := range httpsse.Watch(t.Context(), pipeURL, &httpsse.WatchOptions{
				Client: p.client,
				Retry:  -1,
				Disconnected: func(err error, _ time.Duration) {
					require.ErrorIs(t, err, httpsse.ErrIdle)
					waited = append(waited, time.Since(began))
					began = time.Now()
				},
			}) {
				time.Sleep(time.Hour)
				yield(e, err)
			}
		})
		require.NoError(t, err)
		require.Equal(t, []string{"message slow @", "message slow @", "stream-end  @"}, events)
		require.Equal(t, []time.Duration{45 * time.Second, (3*44 + 45) * time.Second}, waited)
	})
}

func TestWatchIdleOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(t, func(w http.ResponseWriter, r *http.Request) {
			send := streaming(w)
			time.Sleep(24 * time.Hour)
			send("event: stream-end\ndata\n\n")
		})
		_, err := watched(httpsse.Watch(t.Context(), pipeURL, &httpsse.WatchOptions{Client: p.client, Idle: -1}))
		require.NoError(t, err)
		require.EqualValues(t, 1, p.dials.Load())
	})
}

// The end of the context ends the sequence at once, with its cause, wherever it
// is: before the answer, in the stream, while waiting, between two events that
// have already arrived.
func TestWatchContext(t *testing.T) {
	stop := errors.New("stop")
	for name, test := range map[string]struct {
		handler func(send func(string))
		down    bool
		events  []string
	}{
		"before the answer": {handler: nil},
		"in the stream":     {handler: func(send func(string)) { send("data: 1\n\n") }, events: []string{"message 1 @"}},
		"while waiting":     {down: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				left := false
				p := newPipe(t, func(w http.ResponseWriter, r *http.Request) {
					if test.handler != nil {
						test.handler(streaming(w))
					}
					<-r.Context().Done()
					left = true
				})
				p.down.Store(test.down)
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Second, func() { cancel(stop) })
				began := time.Now()
				events, err := watched(httpsse.Watch(ctx, pipeURL, &httpsse.WatchOptions{
					Client:       p.client,
					Retry:        time.Hour,
					Disconnected: func(err error, _ time.Duration) { require.ErrorContains(t, err, "refused") },
				}))
				require.Equal(t, stop, err)
				require.Equal(t, test.events, events)
				require.Equal(t, time.Second, time.Since(began))
				synctest.Wait()
				require.Equal(t, !test.down, left, "the connection is closed")
			})
		})
	}
	t.Run("between events", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPipe(t, func(w http.ResponseWriter, r *http.Request) {
				streaming(w)("data: 1\n\ndata: 2\n\n")
			})
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			var events []string
			var err error
			for e, failed := range httpsse.Watch(ctx, pipeURL, &httpsse.WatchOptions{Client: p.client}) {
				if err = failed; err == nil {
					events = append(events, show(e))
				}
				cancel(stop)
			}
			require.Equal(t, stop, err)
			require.Equal(t, []string{"message 1 @"}, events)
		})
	})
}

// Who leaves the loop has left the server, without another request.
func TestWatchLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := false
		p := newPipe(t, func(w http.ResponseWriter, r *http.Request) {
			streaming(w)("data: 1\n\ndata: 2\n\n")
			<-r.Context().Done()
			left = true
		})
		seq := httpsse.Watch(t.Context(), pipeURL, &httpsse.WatchOptions{Client: p.client})
		for range 2 { // each range is a stream of its own
			left = false
			for e, err := range seq {
				require.NoError(t, err)
				require.Equal(t, "1", string(e.Data))
				break
			}
			synctest.Wait()
			require.True(t, left)
		}
		require.EqualValues(t, 2, p.dials.Load())
	})
}

// What each request asks for.
func TestWatchRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var requests []string
		streams := []string{
			"id: 5\ndata: 1\n\nid: 6\ndata: lost",
			"data: 2\n\nid: 7\n\nid: \x01\ndata: 3\n\n", // an ID without data counts, one that no header can carry does not
			"id\ndata: 4\n\n",
			"event: stream-end\ndata: 5\n\nid: ü\ndata: 6\n\n",
			"",
		}
		p := newPipe(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			id := "none"
			if values, ok := r.Header["Last-Event-Id"]; ok {
				id = strings.Join(values, ",")
			}
			requests = append(requests, fmt.Sprintf("%s %s %s %s %s %s",
				r.Method, r.Header.Get("Accept"), r.Header.Get("Cache-Control"), r.Header.Get("X-Token"), id, body))
			if len(requests) > len(streams) {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			streaming(w)(streams[len(requests)-1])
		})
		events, err := watched(httpsse.Watch(t.Context(), pipeURL, &httpsse.WatchOptions{
			Client:      p.client,
			Method:      "REPORT",
			Body:        []byte("what"),
			Header:      http.Header{"x-token": {"t"}, "Last-Event-ID": {"no"}},
			LastEventID: "4",
			PastEnd:     true,
		}))
		require.NoError(t, err)
		require.Equal(t, []string{
			"message 1 @5", "message 2 @5", "message 3 @7", "message 4 @", "stream-end 5 @", "message 6 @ü",
		}, events)
		const prefix = "REPORT text/event-stream no-cache t "
		require.Equal(t, []string{
			prefix + "4 what", prefix + "5 what", prefix + "7 what", prefix + "none what", prefix + "ü what", prefix + "ü what",
		}, requests)
	})
}

// Comments come as soon as their line ends, in order with the events, however
// the bytes are cut.
func TestWatchComments(t *testing.T) {
	for stream, want := range map[string][]string{
		"\ufeff: first\r\n" +
			"data: \ufeff1\r:in an event\rdata: 2: no comment\r\r" +
			":\n\n" +
			": \xff\xbb\n" +
			"id: 1\ndata: :3\n\n" +
			":  last\n": {
			":first", ":in an event", "message \ufeff1\n2: no comment @", ":", ":\ufffd\ufffd", "message :3 @1", ": last",
		},
		"\xef\xbb: half a byte order mark\n:a\n":  {":a"},
		":b\n\ufeff:too late for one\ndata:1\n\n": {":b", "message 1 @"},
	} {
		for _, size := range []int{1, 2, 3, 7, len(stream)} {
			synctest.Test(t, func(t *testing.T) {
				p := newPipe(t, func(w http.ResponseWriter, r *http.Request) {
					send := streaming(w)
					for rest := stream; rest != ""; {
						n := min(size, len(rest))
						send(rest[:n])
						rest = rest[n:]
					}
					<-r.Context().Done()
				})
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				var got []string
				for e, err := range httpsse.Watch(ctx, pipeURL, &httpsse.WatchOptions{
					Client:  p.client,
					Comment: func(text string) { got = append(got, ":"+text) },
				}) {
					if err == nil {
						got = append(got, show(e))
					}
				}
				require.Equal(t, want, got, "in pieces of %d", size)
			})
		}
	}
}

// A reconnection time counts even if the connection breaks before its block
// ends.
func TestWatchRetryOfBrokenBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(t, func(w http.ResponseWriter, r *http.Request) {
			streaming(w)("retry: 9000\ndata: x\n")
			panic(http.ErrAbortHandler)
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		watched(httpsse.Watch(ctx, pipeURL, &httpsse.WatchOptions{
			Client: p.client,
			Disconnected: func(err error, wait time.Duration) {
				require.Equal(t, io.ErrUnexpectedEOF, err)
				requireWait(t, 9*time.Second, wait)
				cancel()
			},
		}))
	})
}

// A stream of several executions is followed over its breaks to the end of the
// last one.
func TestWatchSeveral(t *testing.T) {
	r := core.New(nil)
	s := serve(t, httpsse.NewHandler(r, &httpsse.Options{
		ExecutionIDs: func(*http.Request) ([]string, error) { return []string{"x", "y"}, nil },
		Retry:        time.Millisecond,
	}), nil)
	var want, got []string
	publish := func(id, data, json string) {
		_, err := r.Publish(t.Context(), id, core.Event{Data: []byte(data)})
		require.NoError(t, err)
		want = append(want, id+" message "+json)
	}
	publish("x", "1", "1")
	publish("y", "a\nb", `"a\nb"`)
	broken := 0
	for e, err := range httpsse.Watch(bounded(t), s.URL+"/x", &httpsse.WatchOptions{
		Several:      true,
		Disconnected: func(error, time.Duration) { broken++ },
	}) {
		require.NoError(t, err)
		got = append(got, e.Execution+" "+e.Type+" "+string(e.Data))
		if len(got) == 2 {
			r.Forget("y") // which ends the connection, and is an end of y
			publish("x", `{"execution": "no", "n":2}`, `{"execution": "no", "n":2}`)
			go r.Close(context.Background(), "x")
		}
	}
	require.Equal(t, 1, broken)
	ends := []string{"y stream-end {}", "x stream-end {}"}
	require.Contains(t, got[2], "y stream-gap")
	require.Equal(t, append(append(append(want[:2:2], got[2], ends[0]), want[2], ends[1]), " stream-end {}"), got)

	// What is not of the form is left alone.
	const foreign = `{"data":1,"more":2}|{"data":1}{}|{"data":1}}|{"Data":1}|{"execution":null,"data":1}|{"execution":"x"}|no`
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: "+strings.ReplaceAll(foreign, "|", "\n\ndata: ")+"\n\nevent: stream-end\ndata: {}\n\n")
	}))
	defer other.Close()
	got = nil
	for e, err := range httpsse.Watch(bounded(t), other.URL, &httpsse.WatchOptions{Several: true}) {
		require.NoError(t, err)
		require.Empty(t, e.Execution)
		got = append(got, string(e.Data))
	}
	require.Equal(t, append(strings.Split(foreign, "|"), "{}"), got)
}

// Where a redirect leads to another host, it is told neither the credentials
// nor the address that was asked for.
func TestWatchRedirectTellsNothing(t *testing.T) {
	var got http.Header
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		w.WriteHeader(http.StatusNoContent)
	}))
	defer other.Close()
	s := httptest.NewServer(http.RedirectHandler(strings.Replace(other.URL, "127.0.0.1", "localhost", 1), http.StatusTemporaryRedirect))
	defer s.Close()
	for _, referer := range [][]string{nil, {"http://page.example/"}} {
		_, err := watched(httpsse.Watch(bounded(t), s.URL+"/?token=secret", &httpsse.WatchOptions{
			Header:      http.Header{"Authorization": {"secret"}, "Cookie": {"a=secret"}, "Referer": referer},
			LastEventID: "5",
		}))
		require.NoError(t, err)
		require.Equal(t, "5", got.Get("Last-Event-Id"))
		require.Equal(t, referer, got["Referer"])
		require.NotContains(t, fmt.Sprint(got), "secret")
	}
}

// A server that breaks HTTP, or only drips, is left for another try, and
// nothing of it stays behind.
func TestWatchHostileServer(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
	drip := func(s string) func(net.Conn) {
		return func(conn net.Conn) {
			for {
				if _, err := io.WriteString(conn, s); err != nil {
					return
				}
				time.Sleep(time.Second) // of synctest's time, which costs none
			}
		}
	}
	write := func(s string) func(net.Conn) { return func(conn net.Conn) { io.WriteString(conn, s) } }
	for name, test := range map[string]struct {
		raw    func(net.Conn)
		events []string
		err    string // why it reconnects
	}{
		"never-ending status":     {raw: func(conn net.Conn) { write("HTTP/1.1 200 O")(conn); drip("K")(conn) }, err: "idle"},
		"never-ending headers":    {raw: func(conn net.Conn) { write(head)(conn); drip("A: b\r\n")(conn) }, err: "idle"},
		"endless early responses": {raw: drip("HTTP/1.1 103 Early Hints\r\n\r\n"), err: "idle"},
		"headers without bound": {raw: func(conn net.Conn) {
			write(head)(conn)
			for s := "A: " + strings.Repeat("b", 1<<20) + "\r\n"; ; {
				if _, err := io.WriteString(conn, s); err != nil {
					return
				}
			}
		}, err: "exceeded"},
		"not gzip":           {raw: write(head + "Content-Encoding: gzip\r\n\r\ndata: 1 and more\n\n"), err: "gzip"},
		"not chunked":        {raw: write(head + "Transfer-Encoding: chunked\r\n\r\ndata: 1\n\n"), err: "chunk"},
		"cut within a chunk": {raw: write(head + "Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\nff\r\ndata: 2"), events: []string{"message 1 @"}, err: "unexpected EOF"},
		"cut within CRLF":    {raw: write(head + "\r\nid: 1\r\ndata: 1\r\n\r"), events: []string{"message 1 @1"}, err: "EOF"},
		"cut before the end": {raw: write(head + "\r\nid: 1\r\ndata: 1\r\n"), err: "EOF"},
		"mixed line ends":    {raw: write(head + "\r\ndata: 1\r\n\ndata: 2\n\rdata: 3\r\rdata: 4\n\r\n"), events: []string{"message 1 @", "message 2 @", "message 3 @", "message 4 @"}, err: "EOF"},
		"NUL in an ID":       {raw: write(head + "\r\nid: 1\ndata: 1\n\nid: 2\x00\ndata: \x00\xff\n\n"), events: []string{"message 1 @1", "message \x00\ufffd @1"}, err: "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // which waits for every goroutine
				p := newPipe(t, func(w http.ResponseWriter, r *http.Request) {
					conn, _, err := http.NewResponseController(w).Hijack()
					if err == nil {
						test.raw(conn)
						conn.Close()
					}
				})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				began := time.Now()
				var lost error
				events, err := watched(httpsse.Watch(ctx, pipeURL, &httpsse.WatchOptions{
					Client: p.client,
					Disconnected: func(err error, wait time.Duration) {
						lost = err
						cancel()
					},
				}))
				require.Equal(t, context.Canceled, err)
				require.ErrorContains(t, lost, test.err)
				require.Equal(t, test.events, events)
				require.LessOrEqual(t, time.Since(began), 45*time.Second)
				time.Sleep(time.Second) // synctest's: dripping ends with the next write, and time stops when the test returns
			})
		})
	}
}
