package httpsse_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/adapters/httpsse"
	"github.com/execcast/execcast/core"
)

// hang bounds what must happen; only a failing test reaches it.
const hang = 20 * time.Second

// paths are the two ways of serving a viewer.
var paths = map[string]bool{"takeover": false, "handler": true}

type middleware = func(http.Handler) http.Handler

// serve starts a server whose handler h stands behind the middlewares.
func serve(t *testing.T, h http.Handler, configure func(*httptest.Server), ms ...middleware) *httptest.Server {
	t.Helper()
	for _, m := range ms {
		h = m(h)
	}
	mux := http.NewServeMux()
	mux.Handle("/{executionId}", h)
	s := httptest.NewUnstartedServer(mux)
	if configure != nil {
		configure(s)
	}
	if s.EnableHTTP2 {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func get(t *testing.T, s *httptest.Server, path string, header ...string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, nil)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := s.Client().Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { res.Body.Close() })
	return res
}

// until reads lines until one has the wanted prefix, and returns it.
func until(t *testing.T, r *bufio.Reader, prefix string) string {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		require.NoError(t, err, "waiting for %q", prefix)
		if strings.HasPrefix(line, prefix) {
			return strings.TrimSuffix(line, "\n")
		}
	}
}

func publish(t *testing.T, r *core.Registry, data string) {
	t.Helper()
	_, err := r.Publish(t.Context(), "x", core.Event{Data: []byte(data)})
	require.NoError(t, err)
}

// Idle for longer than every timeout, and still there: a deadline a write has
// left behind would have ended the stream, on HTTP/2 for good, and so would
// the server's own WriteTimeout, which counts from the request.
func TestOutlivesTimeouts(t *testing.T) {
	for _, proto := range []int{1, 2} {
		for path, keep := range paths {
			t.Run(fmt.Sprintf("HTTP%d/%s", proto, path), func(t *testing.T) {
				r := core.New(&core.Options{Heartbeat: 300 * time.Millisecond})
				h := httpsse.NewHandler(r, &httpsse.Options{WriteTimeout: 200 * time.Millisecond, KeepHandler: keep})
				s := serve(t, h, func(s *httptest.Server) {
					s.EnableHTTP2 = proto == 2
					s.Config.WriteTimeout = 250 * time.Millisecond
				})
				res := get(t, s, "/x")
				require.Equal(t, proto, res.ProtoMajor)
				body := bufio.NewReader(res.Body)
				for range 3 {
					until(t, body, ":")
				}
				publish(t, r, "late")
				require.Equal(t, "data: late", until(t, body, "data:"))
				require.NoError(t, r.Close(t.Context(), "x"))
				until(t, body, "event: stream-end")
				_, err := io.ReadAll(body)
				require.NoError(t, err)
			})
		}
	}
}

// wrapped is a ResponseWriter as middlewares make them.
type wrapped struct{ http.ResponseWriter }

func (w wrapped) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestBehindWrappingMiddleware(t *testing.T) {
	for path, keep := range paths {
		t.Run(path, func(t *testing.T) {
			r := core.New(nil)
			publish(t, r, "a")
			require.NoError(t, r.Close(t.Context(), "x"))
			s := serve(t, httpsse.NewHandler(r, &httpsse.Options{KeepHandler: keep}), nil, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("X-Request-Id", "7")
					w.Header().Add("Set-Cookie", "a=1")
					w.Header().Add("Set-Cookie", "b=2")
					w.Header()["X-Forged"] = []string{"a\r\nX-Injected: yes"}
					next.ServeHTTP(wrapped{wrapped{w}}, r)
				})
			})
			res := get(t, s, "/x")
			require.Equal(t, "7", res.Header.Get("X-Request-Id"))
			require.Equal(t, []string{"a=1", "b=2"}, res.Header.Values("Set-Cookie"))
			require.Empty(t, res.Header.Get("X-Injected"))
			require.NotEmpty(t, res.Header.Get("Date"))
			require.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
			require.Equal(t, "no-store, no-transform", res.Header.Get("Cache-Control"))
			require.Equal(t, "no", res.Header.Get("X-Accel-Buffering"))
			require.Equal(t, "nosniff", res.Header.Get("X-Content-Type-Options"))
			body, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.Contains(t, string(body), "retry: 2000\n\n")
			require.Contains(t, string(body), "data: a\n\nevent: stream-end\ndata: {}\n\n")
		})
	}
}

// A ResponseWriter that cannot flush is found out before anything is written
// or registered.
func TestCannotFlush(t *testing.T) {
	r := core.New(nil)
	var w struct {
		http.ResponseWriter
	}
	rec := httptest.NewRecorder()
	w.ResponseWriter = rec
	httpsse.NewHandler(r, nil).ServeExecution(w, httptest.NewRequest(http.MethodGet, "/", nil), "x")
	require.Equal(t, http.StatusInternalServerError, rec.Code)
	require.Zero(t, r.Stats().Executions)
}

// upper changes what is written: if it saw nothing of the stream, the viewer
// would get bytes that are not what Content-Encoding says.
type upper struct{ http.ResponseWriter }

func (w upper) Write(p []byte) (int, error) { return w.ResponseWriter.Write(bytes.ToUpper(p)) }
func (w upper) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestEncodedResponseIsNotTakenOver(t *testing.T) {
	r := core.New(nil)
	publish(t, r, "a")
	require.NoError(t, r.Close(t.Context(), "x"))
	s := serve(t, httpsse.NewHandler(r, nil), nil, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "upper")
			next.ServeHTTP(upper{w}, r)
		})
	})
	body, err := io.ReadAll(get(t, s, "/x").Body)
	require.NoError(t, err)
	require.Contains(t, string(body), "DATA: A\n\n")
}

func TestRefusals(t *testing.T) {
	r := core.New(nil)
	fail := map[string]error{
		"401": core.ErrUnauthorized,
		"403": fmt.Errorf("not yours: %w", core.ErrForbidden),
		"404": core.ErrNotFound,
		"500": errors.New("secret detail"),
	}
	s := serve(t, httpsse.NewHandler(r, &httpsse.Options{
		AllowedOrigins: []string{"https://app.example"},
		ExecutionID: func(r *http.Request) (string, error) {
			id := r.PathValue("executionId")
			return id, fail[id]
		},
	}), nil)
	for want := range fail {
		res := get(t, s, "/"+want)
		require.Equal(t, want, res.Status[:3])
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NotContains(t, string(body), "secret")
	}
	require.Equal(t, http.StatusBadRequest, get(t, s, "/a%0Ab").StatusCode)
	require.Equal(t, http.StatusBadRequest, get(t, s, "/"+strings.Repeat("a", 257)).StatusCode)
	require.Equal(t, http.StatusForbidden, get(t, s, "/x", "Origin", "https://evil.example").StatusCode)
	require.Equal(t, http.StatusForbidden, get(t, s, "/x", "Origin", "null").StatusCode)
	require.Equal(t, http.StatusNoContent, get(t, s, "/x", "Last-Event-ID", "5").StatusCode)
	require.Zero(t, r.Stats().Executions)

	res := get(t, s, "/x", "Origin", "https://app.example")
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "https://app.example", res.Header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, "true", res.Header.Get("Access-Control-Allow-Credentials"))
	require.Equal(t, "Origin", res.Header.Get("Vary"))
	require.Equal(t, http.StatusOK, get(t, s, "/x", "Origin", s.URL).StatusCode)

	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
		req, err := http.NewRequest(method, s.URL+"/x", nil)
		require.NoError(t, err)
		res, err := s.Client().Do(req)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, http.StatusMethodNotAllowed, res.StatusCode)
		require.Equal(t, "GET, HEAD", res.Header.Get("Allow"))
	}
	head, err := s.Client().Head(s.URL + "/x")
	require.NoError(t, err)
	head.Body.Close()
	require.Equal(t, "text/event-stream", head.Header.Get("Content-Type"))
}

// http.Server.Shutdown waits for handlers for ever, and ignores connections
// that were taken over: with Registry.Shutdown beside it, both end.
func TestShutdownTogether(t *testing.T) {
	for path, keep := range paths {
		t.Run(path, func(t *testing.T) {
			r := core.New(nil)
			h := httpsse.NewHandler(r, &httpsse.Options{KeepHandler: keep})
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { h.ServeExecution(w, req, "x") })}
			go srv.Serve(ln)
			res, err := http.Get("http://" + ln.Addr().String())
			require.NoError(t, err)
			defer res.Body.Close()
			publish(t, r, "a")

			ctx, cancel := context.WithTimeout(t.Context(), hang)
			defer cancel()
			down := make(chan error, 1)
			go func() { down <- srv.Shutdown(ctx) }()
			require.NoError(t, r.Shutdown(ctx))
			require.NoError(t, <-down)
			body, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.Contains(t, string(body), "data: a\n\n")
			require.NotContains(t, string(body), "stream-end")
		})
	}
}

// A viewer that leaves is noticed at once, also if it has sent bytes.
func TestLeavingIsNoticed(t *testing.T) {
	for path, keep := range paths {
		t.Run(path, func(t *testing.T) {
			left := make(chan error, 1)
			r := core.New(&core.Options{Heartbeat: -1, Hooks: core.Hooks{Left: func(_ string, err error) { left <- err }}})
			s := serve(t, httpsse.NewHandler(r, &httpsse.Options{KeepHandler: keep}), nil)
			conn, err := net.Dial("tcp", s.Listener.Addr().String())
			require.NoError(t, err)
			_, err = io.WriteString(conn, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
			require.NoError(t, err)
			until(t, bufio.NewReader(conn), "retry:")
			require.Equal(t, 1, r.ClientCount("x"))
			if !keep { // net/http stops looking once it has seen a byte
				_, err = io.WriteString(conn, "unasked for")
				require.NoError(t, err)
			}
			require.NoError(t, conn.Close())
			select {
			case err := <-left:
				require.Error(t, err)
			case <-time.After(hang):
				require.Fail(t, "not noticed")
			}
			require.Zero(t, r.ClientCount("x"))
		})
	}
}

// An Origin that "*" allows goes into the answer, where it must not begin a
// header of its own.
func TestHostileOrigins(t *testing.T) {
	for path, keep := range paths {
		t.Run(path, func(t *testing.T) {
			s := serve(t, httpsse.NewHandler(core.New(nil), &httpsse.Options{AllowedOrigins: []string{"*"}, KeepHandler: keep}), nil)
			for _, value := range []string{"a\r\n\tSet-Cookie: b=c", "a\rSet-Cookie: b=c", "a\nSet-Cookie: b=c", "a\x00", strings.Repeat("a", 100_000), "null"} {
				for _, lines := range []string{"GET /x HTTP/1.1\r\n", "OPTIONS /x HTTP/1.1\r\nAccess-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: " + value + "\r\n"} {
					conn, err := net.Dial("tcp", s.Listener.Addr().String())
					require.NoError(t, err)
					defer conn.Close()
					require.NoError(t, conn.SetDeadline(time.Now().Add(hang)))
					_, err = io.WriteString(conn, lines+"Host: a\r\nOrigin: "+value+"\r\n\r\n")
					require.NoError(t, err)
					res, err := http.ReadResponse(bufio.NewReader(conn), nil)
					require.NoError(t, err)
					require.Empty(t, res.Header["Set-Cookie"], "%.20q", value)
					require.Contains(t, []int{200, 204, 400}, res.StatusCode, "%.20q", value)
					if value == "null" {
						require.Equal(t, value, res.Header.Get("Access-Control-Allow-Origin"))
						require.Empty(t, res.Header["Access-Control-Allow-Credentials"])
					}
				}
			}
		})
	}
}
