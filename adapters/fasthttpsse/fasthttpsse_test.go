package fasthttpsse_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"github.com/execcast/execcast/adapters/fasthttpsse"
	"github.com/execcast/execcast/core"
)

// hang bounds what must happen; only a failing test reaches it.
const hang = 20 * time.Second

// paths are the two ways of serving a viewer.
var paths = map[string]bool{"pumps": false, "goroutine": true}

// serve starts a server and returns its address.
func serve(t *testing.T, s *fasthttp.Server) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.CloseOnShutdown = true
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), hang)
		defer cancel()
		require.NoError(t, s.ShutdownWithContext(ctx))
		require.NoError(t, <-done)
	})
	return ln.Addr().String()
}

// request sends a request as it stands and returns what comes back.
func request(t *testing.T, addr, text string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(hang)))
	_, err = io.WriteString(conn, strings.ReplaceAll(text, "\n", "\r\n"))
	require.NoError(t, err)
	return conn, bufio.NewReader(conn)
}

func publish(t *testing.T, r *core.Registry, data string) {
	t.Helper()
	_, err := r.Publish(t.Context(), "x", core.Event{Data: []byte(data)})
	require.NoError(t, err)
}

// handler streams the execution that the path names.
func handler(r *core.Registry, opts *fasthttpsse.Options) fasthttp.RequestHandler {
	h := fasthttpsse.NewHandler(r, opts)
	return func(ctx *fasthttp.RequestCtx) {
		ctx.SetUserValue("executionId", strings.TrimPrefix(string(ctx.Path()), "/"))
		h.ServeFastHTTP(ctx)
	}
}

// A request that closes the connection, as every one of HTTP/1.0 does, and
// with it nginx in its default configuration: fasthttp hijacks no such
// connection once it has written the response.
func TestConnectionClose(t *testing.T) {
	for path, keep := range paths {
		for _, req := range []string{"GET /x HTTP/1.0\n\n", "GET /x HTTP/1.1\nHost: a\nConnection: close\n\n"} {
			t.Run(path+"/"+req[7:15], func(t *testing.T) {
				r := core.New(nil)
				addr := serve(t, &fasthttp.Server{Handler: handler(r, &fasthttpsse.Options{KeepHandler: keep})})
				publish(t, r, "a")
				_, body := request(t, addr, req)
				res, err := http.ReadResponse(body, nil)
				require.NoError(t, err)
				closed := make(chan error, 1)
				go func() { closed <- r.Close(context.Background(), "x") }()
				all, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				require.Contains(t, string(all), "data: a\n\nevent: stream-end\n")
				res.Body.Close()
			})
		}
	}
}

// Headers that middlewares set go out, whether they do so before the handler
// or behind it, and with any setting of who closes hijacked connections.
func TestMiddlewareHeaders(t *testing.T) {
	for path, keep := range paths {
		for _, keepConns := range []bool{false, true} {
			t.Run(fmt.Sprint(path, keepConns), func(t *testing.T) {
				r := core.New(nil)
				publish(t, r, "a")
				require.NoError(t, r.Close(t.Context(), "x"))
				next := handler(r, &fasthttpsse.Options{KeepHandler: keep})
				addr := serve(t, &fasthttp.Server{
					KeepHijackedConns: keepConns,
					WriteTimeout:      time.Minute,
					Handler: fasthttp.CompressHandler(func(ctx *fasthttp.RequestCtx) {
						ctx.Response.Header.Set("X-Before", "1")
						next(ctx)
						ctx.Response.Header.Set("X-After", "a\r\nX-Injected: yes")
					}),
				})
				_, body := request(t, addr, "GET /x HTTP/1.1\nHost: a\nAccept-Encoding: gzip\n\n")
				res, err := http.ReadResponse(body, nil)
				require.NoError(t, err)
				require.Equal(t, "1", res.Header.Get("X-Before"))
				require.NotEmpty(t, res.Header.Get("X-After"))
				require.Empty(t, res.Header.Get("X-Injected"))
				require.Empty(t, res.Header.Get("Content-Encoding"))
				require.EqualValues(t, -1, res.ContentLength)
				require.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
				require.Equal(t, "no-store, no-transform", res.Header.Get("Cache-Control"))
				all, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				require.Equal(t, "retry: 2000\n\n", string(all[:13]))
				require.True(t, strings.HasSuffix(string(all), "data: a\n\nevent: stream-end\ndata: {}\n\n"))
			})
		}
	}
}

func TestRefusals(t *testing.T) {
	r := core.New(nil)
	fail := map[string]error{
		"401": core.ErrUnauthorized,
		"403": fmt.Errorf("not yours: %w", core.ErrForbidden),
		"404": core.ErrNotFound,
		"500": errors.New("secret detail"),
	}
	addr := serve(t, &fasthttp.Server{Handler: fasthttpsse.NewHandler(r, &fasthttpsse.Options{
		AllowedOrigins: []string{"https://app.example"},
		ExecutionID: func(ctx *fasthttp.RequestCtx) (string, error) {
			id := strings.TrimPrefix(string(ctx.Path()), "/")
			return id, fail[id]
		},
	}).ServeFastHTTP})
	status := func(path, header string) *http.Response {
		_, body := request(t, addr, "GET "+path+" HTTP/1.1\nHost: a.example\n"+header+"\n")
		res, err := http.ReadResponse(body, nil)
		require.NoError(t, err)
		return res
	}
	for want := range fail {
		res := status("/"+want, "")
		require.Equal(t, want, res.Status[:3])
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NotContains(t, string(body), "secret")
	}
	require.Equal(t, http.StatusBadRequest, status("/a%0Ab", "").StatusCode)
	require.Equal(t, http.StatusForbidden, status("/x", "Origin: https://evil.example\n").StatusCode)
	require.Equal(t, http.StatusNoContent, status("/x", "Last-Event-ID: 5\n").StatusCode)
	require.Zero(t, r.Stats().Executions)

	res := status("/x", "Origin: https://app.example\n")
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "https://app.example", res.Header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, http.StatusOK, status("/x", "Origin: http://a.example\n").StatusCode)

	_, body := request(t, addr, "POST /x HTTP/1.1\nHost: a\nContent-Length: 0\n\n")
	res, err := http.ReadResponse(body, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusMethodNotAllowed, res.StatusCode)
	require.Equal(t, "GET, HEAD", res.Header.Get("Allow"))
	_, body = request(t, addr, "HEAD /x HTTP/1.1\nHost: a\n\n")
	res, err = http.ReadResponse(body, &http.Request{Method: http.MethodHead})
	require.NoError(t, err)
	require.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
}

// fasthttp's Shutdown ignores connections that were hijacked; with
// Registry.Shutdown beside it, they get their backlog and end.
func TestShutdownTogether(t *testing.T) {
	for path, keep := range paths {
		t.Run(path, func(t *testing.T) {
			r := core.New(nil)
			s := &fasthttp.Server{Handler: handler(r, &fasthttpsse.Options{KeepHandler: keep})}
			_, body := request(t, serve(t, s), "GET /x HTTP/1.1\nHost: a\n\n")
			res, err := http.ReadResponse(body, nil)
			require.NoError(t, err)
			publish(t, r, "a")
			ctx, cancel := context.WithTimeout(t.Context(), hang)
			defer cancel()
			down := make(chan error, 2)
			go func() { down <- s.ShutdownWithContext(ctx) }()
			go func() { down <- r.Shutdown(ctx) }()
			all, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.Contains(t, string(all), "data: a\n\n")
			require.NotContains(t, string(all), "stream-end")
			require.NoError(t, res.Body.Close())
			require.NoError(t, <-down)
			require.NoError(t, <-down)
		})
	}
}

// A viewer that leaves is noticed at once, also if it has sent bytes.
func TestLeavingIsNoticed(t *testing.T) {
	for path, keep := range paths {
		t.Run(path, func(t *testing.T) {
			left := make(chan error, 1)
			r := core.New(&core.Options{Heartbeat: -1, Hooks: core.Hooks{Left: func(_ string, err error) { left <- err }}})
			addr := serve(t, &fasthttp.Server{Handler: handler(r, &fasthttpsse.Options{KeepHandler: keep})})
			conn, body := request(t, addr, "GET /x HTTP/1.1\nHost: a\n\nunasked for")
			_, err := http.ReadResponse(body, nil)
			require.NoError(t, err)
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

// What a framework's own handler has found out, it passes on.
func TestServeExecutions(t *testing.T) {
	r := core.New(nil)
	h := fasthttpsse.NewHandler(r, nil)
	addr := serve(t, &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) { h.ServeExecutions(ctx, []string{"x", "y"}) }})
	publish(t, r, "1")
	require.NoError(t, r.Close(t.Context(), "x"))
	_, in := request(t, addr, "GET / HTTP/1.1\nHost: h\n\n")
	for line := ""; line != `data: {"execution":"x","data":{}}`; {
		s, err := in.ReadString('\n')
		require.NoError(t, err)
		line = strings.TrimSpace(s)
	}
	require.Equal(t, 1, r.ClientCount("y"))
	r.Forget("y")
	_, err := io.ReadAll(in)
	require.NoError(t, err)
}

// An Origin that "*" allows goes into the answer, where it must not begin a
// header of its own.
func TestHostileOrigins(t *testing.T) {
	h := fasthttpsse.NewHandler(core.New(nil), &fasthttpsse.Options{AllowedOrigins: []string{"*"}})
	addr := serve(t, &fasthttp.Server{
		Handler:        func(ctx *fasthttp.RequestCtx) { h.ServeExecution(ctx, "x") },
		ReadBufferSize: 1 << 19,
		Logger:         log.New(io.Discard, "", 0),
	})
	for _, value := range []string{"a\n\tSet-Cookie: b=c", "a\rSet-Cookie: b=c", "a\x00", strings.Repeat("a", 100_000), "null"} {
		for _, lines := range []string{"GET /x HTTP/1.1\n", "OPTIONS /x HTTP/1.1\nAccess-Control-Request-Method: GET\nAccess-Control-Request-Headers: " + value + "\n"} {
			_, body := request(t, addr, lines+"Host: a\nOrigin: "+value+"\n\n")
			res, err := http.ReadResponse(body, nil)
			require.NoError(t, err)
			require.Empty(t, res.Header["Set-Cookie"], "%.20q", value)
			require.Contains(t, []int{200, 204, 400}, res.StatusCode, "%.20q", value)
			if value == "null" {
				require.Equal(t, value, res.Header.Get("Access-Control-Allow-Origin"))
				require.Empty(t, res.Header["Access-Control-Allow-Credentials"])
			}
		}
	}
}
