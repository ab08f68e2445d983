package main

import (
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttpadaptor"

	"github.com/execcast/execcast/adapters/fasthttpsse"
	"github.com/execcast/execcast/adapters/gorillaws"
	"github.com/execcast/execcast/adapters/httpsse"
	"github.com/execcast/execcast/core"
)

// registryOptions make the history of a run hold at least 10,000 lines of
// output, for as long as the server lists the run.
var registryOptions = core.Options{
	MaxEvents:      1 << 17,
	MaxBytes:       (1 << 30) / (maxRunning + maxFinished + 1),
	Retention:      10 * 365 * 24 * time.Hour, // until server.forgetOld
	Idle:           -1,
	ShutdownSpread: -1, // who presses Ctrl-C does not want to wait
}

// A front is a listening server. Shutdown waits until ctx ends for requests
// that are being answered, but not for streams.
type front interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
}

// transports are what -transport chooses from. Each serves the same API, with
// the events at the same path.
var transports = map[string]func(s *server, addr string) front{
	"http": func(s *server, addr string) front {
		return netHTTP(s, addr, httpsse.NewHandler(s.registry, &httpsse.Options{ExecutionID: s.executionID}))
	},
	"websocket": func(s *server, addr string) front {
		return netHTTP(s, addr, gorillaws.NewHandler(s.registry, &gorillaws.Options{ExecutionID: s.executionID}))
	},
	"fasthttp": fastHTTP,
}

// executionID returns the execution a request wants to see.
func (s *server) executionID(r *http.Request) (string, error) {
	id := r.PathValue("executionId")
	if s.find(id) == nil {
		return "", core.ErrNotFound
	}
	return id, nil
}

func netHTTP(s *server, addr string, events http.Handler) front {
	mux := s.api()
	mux.Handle("GET /api/executions/{executionId}/events", events)
	return &http.Server{
		Handler:           guard(addr, mux),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		// No WriteTimeout: it would end the streams, which have limits of
		// their own.
	}
}

func fastHTTP(s *server, addr string) front {
	allowed := hostCheck(addr)
	api := fasthttpadaptor.NewFastHTTPHandler(guard(addr, s.api()))
	events := fasthttpsse.NewHandler(s.registry, nil)
	return fastHTTPServer{&fasthttp.Server{
		Handler: func(ctx *fasthttp.RequestCtx) {
			id, found := strings.CutPrefix(string(ctx.Path()), "/api/executions/")
			id, isEvents := strings.CutSuffix(id, "/events")
			switch {
			case !found || !isEvents:
				api(ctx)
			case !allowed(string(ctx.Host())):
				ctx.Error("unknown host", fasthttp.StatusForbidden)
			case s.find(id) == nil:
				ctx.Error("no such execution", fasthttp.StatusNotFound)
			default:
				events.ServeExecution(ctx, id)
			}
		},
		NoDefaultServerHeader: true,
		ReadTimeout:           10 * time.Second,
		IdleTimeout:           2 * time.Minute,
		MaxRequestBodySize:    64 << 10,
		CloseOnShutdown:       true,
	}}
}

type fastHTTPServer struct{ *fasthttp.Server }

func (s fastHTTPServer) Shutdown(ctx context.Context) error { return s.ShutdownWithContext(ctx) }
