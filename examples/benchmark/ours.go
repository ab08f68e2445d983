//go:build linux

package main

import (
	"context"
	"net"
	"net/http"

	"github.com/valyala/fasthttp"

	"github.com/execcast/execcast/adapters/fasthttpsse"
	"github.com/execcast/execcast/adapters/gorillaws"
	"github.com/execcast/execcast/adapters/httpsse"
	"github.com/execcast/execcast/core"
)

// ours is a registry with all defaults behind one of the adapters.
type ours struct {
	registry *core.Registry
	run      func(net.Listener) error
}

func (c *ours) serve(ln net.Listener) error { return c.run(ln) }

func (c *ours) publish(execution string, _ uint64, data []byte) {
	if _, err := c.registry.Publish(context.Background(), execution, core.Event{Type: eventType, Data: data}); err != nil {
		panic(err)
	}
}

func overHTTP(keep bool) func([]string) candidate {
	return func([]string) candidate {
		r := core.New(nil)
		h := httpsse.NewHandler(r, &httpsse.Options{KeepHandler: keep})
		return &ours{r, func(ln net.Listener) error { return http.Serve(ln, routed(h)) }}
	}
}

func overWebSocket(keep bool) func([]string) candidate {
	return func([]string) candidate {
		r := core.New(nil)
		h := gorillaws.NewHandler(r, &gorillaws.Options{KeepHandler: keep})
		return &ours{r, func(ln net.Listener) error { return http.Serve(ln, routed(h)) }}
	}
}

func overFastHTTP(keep bool) func([]string) candidate {
	return func([]string) candidate {
		r := core.New(nil)
		h := fasthttpsse.NewHandler(r, &fasthttpsse.Options{
			KeepHandler: keep,
			ExecutionID: func(ctx *fasthttp.RequestCtx) (string, error) { return executionOf(string(ctx.Path())), nil },
		})
		return &ours{r, func(ln net.Listener) error { return fasthttp.Serve(ln, h.ServeFastHTTP) }}
	}
}

func routed(h http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /executions/{executionId}/events", h)
	return mux
}
