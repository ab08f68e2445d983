// Package fasthttpsse serves executions as Server-Sent Events over fasthttp,
// and so over Fiber.
package fasthttpsse

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/execcast/execcast/adapters/internal/endpoint"
	"github.com/execcast/execcast/adapters/internal/socket"
	"github.com/execcast/execcast/core"
)

// Options configures a Handler. Nil works; a zero field means its documented
// default, a negative one off.
type Options struct {
	// ExecutionID returns the execution a request wants to see, and decides
	// whether it may: core.ErrUnauthorized, core.ErrForbidden and
	// core.ErrNotFound, wrapped or not, are answered with 401, 403 and 404,
	// any other error with 500. It must keep nothing of its argument.
	// Default: the user value "executionId", where fasthttp's routers put
	// path parameters.
	ExecutionID func(*fasthttp.RequestCtx) (string, error)
	// ExecutionIDs returns the executions a request wants to see in one stream,
	// in which each event names its execution, and decides about each whether
	// it may; errors are as those of ExecutionID, which is not asked if this is
	// set. See core.Registry.RegisterAll. None, or more than 1,000, is answered
	// with 400. A URL that names many may need a larger
	// fasthttp.Server.ReadBufferSize. It, too, must keep nothing of its
	// argument.
	ExecutionIDs func(*fasthttp.RequestCtx) ([]string, error)
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
	// KeepHandler gives each viewer a goroutine. By default, on plain TCP, an
	// idle one costs none. Either way the request handler returns at once,
	// and headers that middlewares set before or behind it go out.
	KeepHandler bool
}

// Handler streams executions.
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
		h.opts.ExecutionID = func(ctx *fasthttp.RequestCtx) (string, error) {
			id, _ := ctx.UserValue("executionId").(string)
			return strings.Clone(id), nil // a router's may lie in the request's buffer
		}
	}
	h.opts.WriteTimeout = endpoint.Period(h.opts.WriteTimeout, endpoint.DefaultWriteTimeout)
	h.opts.Retry = endpoint.Period(h.opts.Retry, endpoint.DefaultRetry)
	if h.opts.Heartbeat == 0 {
		h.opts.Heartbeat = r.Heartbeat()
	}
	return h
}

// ServeFastHTTP is the fasthttp.RequestHandler that streams the execution that
// Options.ExecutionID names, or those of Options.ExecutionIDs.
func (h *Handler) ServeFastHTTP(ctx *fasthttp.RequestCtx) {
	if !h.admit(ctx) {
		return
	}
	target, err := endpoint.TargetOf(ctx, h.opts.ExecutionID, h.opts.ExecutionIDs)
	if err != nil {
		h.refuse(ctx, err)
		return
	}
	h.stream(ctx, target)
}

// ServeExecution streams the execution of that ID, for frameworks that keep
// path parameters elsewhere. Options.ExecutionID is not asked: the caller has
// authorised the request. It keeps executionID: where a framework hands out
// strings that it will overwrite, pass a copy.
func (h *Handler) ServeExecution(ctx *fasthttp.RequestCtx, executionID string) {
	if h.admit(ctx) {
		h.stream(ctx, endpoint.One(executionID))
	}
}

// ServeExecutions streams several executions at once, as Options.ExecutionIDs
// has ServeFastHTTP do. The caller has authorised the request for each, and
// passes copies of strings that the framework will overwrite.
func (h *Handler) ServeExecutions(ctx *fasthttp.RequestCtx, executionIDs []string) {
	if h.admit(ctx) {
		h.stream(ctx, endpoint.Several(executionIDs))
	}
}

// admit answers requests that could not be served whatever their execution.
func (h *Handler) admit(ctx *fasthttp.RequestCtx) bool {
	peek := func(name string) string { return string(ctx.Request.Header.Peek(name)) }
	if endpoint.Preflight(string(ctx.Method()), peek, h.opts.AllowedOrigins, ctx.Response.Header.Set) {
		ctx.SetStatusCode(fasthttp.StatusNoContent)
		return false
	}
	if !ctx.IsGet() && !ctx.IsHead() {
		ctx.Error("method not allowed", fasthttp.StatusMethodNotAllowed) // resets the headers
		ctx.Response.Header.Set("Allow", "GET, HEAD")
		return false
	}
	origin := peek("Origin")
	if !endpoint.OriginAllowed(origin, string(ctx.Host()), h.opts.AllowedOrigins) {
		ctx.Error("origin not allowed", fasthttp.StatusForbidden)
		return false
	}
	endpoint.CORS(origin, h.opts.AllowedOrigins, ctx.Response.Header.Set)
	return true
}

// refuse answers a request that err, of Options.ExecutionID or Register, has
// refused. EventSource reconnects after nothing but a 200, so that is what a
// viewer gets that shall come again.
func (h *Handler) refuse(ctx *fasthttp.RequestCtx, err error) {
	if code, ok := endpoint.Status(err); ok {
		ctx.SetStatusCode(code)
		ctx.SetContentType("text/plain; charset=utf-8")
		ctx.SetBodyString(fasthttp.StatusMessage(code) + "\n")
		return
	}
	if endpoint.Done(err) {
		ctx.SetStatusCode(fasthttp.StatusNoContent)
		return
	}
	endpoint.SSEHeaders(ctx.Response.Header.Set)
	ctx.SetBody(endpoint.SSEPreamble(h.opts.Retry, err))
}

func (h *Handler) stream(ctx *fasthttp.RequestCtx, target endpoint.Target) {
	if ctx.IsHead() {
		endpoint.SSEHeaders(ctx.Response.Header.Set)
		return
	}
	c, err := target.Register(h.registry, &core.ClientOptions{
		Encoder:     core.SSE,
		LastEventID: endpoint.LastEventID(string(ctx.Request.Header.Peek("Last-Event-ID")), string(ctx.QueryArgs().Peek("lastEventId"))),
		Heartbeat:   h.opts.Heartbeat,
	})
	if err != nil {
		h.refuse(ctx, err)
		return
	}
	endpoint.SSEHeaders(ctx.Response.Header.Set)
	// fasthttp forgets a hijack when the connection breaks first, or when the
	// request or the response says Connection: close and it is to write the
	// response. So we write that, and a client that nobody came for goes.
	guard := time.AfterFunc(10*time.Second, c.Unregister)
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(conn net.Conn) {
		guard.Stop()
		h.serve(c, conn, &ctx.Response.Header) // ctx is released after this returns
	})
}

// serve serves c on a hijacked connection. It is all of the goroutine it runs
// in.
func (h *Handler) serve(c *core.Client, conn net.Conn, header *fasthttp.ResponseHeader) {
	if hijacked, ok := conn.(interface{ UnsafeConn() net.Conn }); ok {
		conn = hijacked.UnsafeConn() // closes, which the wrapper leaves to the server
	}
	header.SetConnectionClose() // the body ends with the connection (RFC 9112, section 6.3)
	header.Del("Content-Encoding")
	head := append(header.Header(), endpoint.SSEPreamble(h.opts.Retry, nil)...)
	if own, err := h.duplicate(conn); err == nil {
		conn.Close()
		conn = own
	}
	s := socket.Own(conn, h.opts.WriteTimeout, h.opts.Heartbeat)
	if _, err := s.Write(head); err != nil {
		c.Unregister()
		s.Abort()
		return
	}
	s.OnLeave(c.Unregister)
	if s.CanTry() && !h.opts.KeepHandler {
		c.Start(s)
		return
	}
	c.Serve(context.Background(), s)
}

// duplicate returns a connection of our own on conn's socket: fasthttp closes
// its one when the hijack handler returns.
func (h *Handler) duplicate(conn net.Conn) (net.Conn, error) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok || !socket.Supported || h.opts.KeepHandler {
		return nil, errors.ErrUnsupported
	}
	f, err := tcp.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FileConn(f)
}
