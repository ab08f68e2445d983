package main

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/execcast/execcast/adapters/fasthttpsse"
	"github.com/execcast/execcast/adapters/gorillaws"
	"github.com/execcast/execcast/adapters/httpsse"
	"github.com/execcast/execcast/core"
	"github.com/execcast/execcast/core/coretest"
)

// A variant is an adapter on one of its two paths: shared pumps, or, with
// KeepHandler, a goroutine for each viewer.
type variant struct {
	name      string
	transport coretest.Transport
	keep      bool
	serve     func(r *core.Registry, o serverOptions, keep bool, l net.Listener) *server
}

var variants = []variant{
	{"httpsse", coretest.SSE, false, serveHTTPSSE},
	{"httpsse KeepHandler", coretest.SSE, true, serveHTTPSSE},
	{"fasthttpsse", coretest.SSE, false, serveFastHTTPSSE},
	{"fasthttpsse KeepHandler", coretest.SSE, true, serveFastHTTPSSE},
	{"gorillaws", coretest.WebSocket, false, serveGorillaWS},
	{"gorillaws KeepHandler", coretest.WebSocket, true, serveGorillaWS},
}

// serverOptions are the defaults of the adapters where they are zero.
type serverOptions struct {
	host                    string // to listen on; default 127.0.0.1
	writeTimeout, heartbeat time.Duration
	sendBuffer              int                             // the kernel's, per connection; 0 for what it wants
	wrap                    func(net.Conn) net.Conn         // what accepted connections become; nil for no change
	middleware              func(http.Handler) http.Handler // net/http only; nil for none
}

// server is a running server. shutdown is the framework's own.
type server struct {
	shutdown func(context.Context) error
	close    func() error
	target
}

// target is where viewers find an execution.
type target struct {
	Addr      string
	Transport coretest.Transport
}

func (v variant) start(r *core.Registry, o serverOptions) (*server, error) {
	if o.host == "" {
		o.host = "127.0.0.1"
	}
	l, err := net.Listen("tcp", net.JoinHostPort(o.host, "0"))
	if err != nil {
		return nil, err
	}
	s := v.serve(r, o, v.keep, &listener{l, o})
	s.target = target{l.Addr().String(), v.transport}
	return s, nil
}

// startAll serves r over several variants side by side.
func startAll(variants []variant, r *core.Registry, o serverOptions) (all []*server, targets []target, err error) {
	for _, v := range variants {
		s, err := v.start(r, o)
		if err != nil {
			closeAll(all)
			return nil, nil, err
		}
		all, targets = append(all, s), append(targets, s.target)
	}
	return all, targets, nil
}

func closeAll(all []*server) {
	for _, s := range all {
		s.close()
	}
}

type listener struct {
	net.Listener
	o serverOptions
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if l.o.sendBuffer > 0 {
		conn.(*net.TCPConn).SetWriteBuffer(l.o.sendBuffer)
	}
	if l.o.wrap != nil {
		conn = l.o.wrap(conn)
	}
	return conn, nil
}

func serveHTTPSSE(r *core.Registry, o serverOptions, keep bool, l net.Listener) *server {
	return serveHTTP(o, l, httpsse.NewHandler(r, &httpsse.Options{
		WriteTimeout: o.writeTimeout, Heartbeat: o.heartbeat, KeepHandler: keep,
	}))
}

func serveGorillaWS(r *core.Registry, o serverOptions, keep bool, l net.Listener) *server {
	return serveHTTP(o, l, gorillaws.NewHandler(r, &gorillaws.Options{
		WriteTimeout: o.writeTimeout, Heartbeat: o.heartbeat, KeepHandler: keep,
	}))
}

func serveHTTP(o serverOptions, l net.Listener, h http.Handler) *server {
	if o.middleware != nil {
		h = o.middleware(h)
	}
	mux := http.NewServeMux()
	mux.Handle(coretest.Pattern, h)
	s := &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)}
	go s.Serve(l)
	return &server{shutdown: s.Shutdown, close: s.Close}
}

func serveFastHTTPSSE(r *core.Registry, o serverOptions, keep bool, l net.Listener) *server {
	h := fasthttpsse.NewHandler(r, &fasthttpsse.Options{
		WriteTimeout: o.writeTimeout, Heartbeat: o.heartbeat, KeepHandler: keep,
	})
	before, after, _ := strings.Cut(coretest.Pattern, "{executionId}")
	s := &fasthttp.Server{
		Handler: func(ctx *fasthttp.RequestCtx) {
			id, found := strings.CutPrefix(string(ctx.Path()), before)
			id, ok := strings.CutSuffix(id, after)
			if !found || !ok {
				ctx.NotFound()
				return
			}
			h.ServeExecution(ctx, id)
		},
		Logger: log.New(io.Discard, "", 0),
	}
	go s.Serve(l)
	return &server{shutdown: s.ShutdownWithContext, close: func() error {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		return s.ShutdownWithContext(ctx)
	}}
}
