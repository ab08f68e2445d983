package fasthttpsse_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/execcast/execcast/adapters/fasthttpsse"
	"github.com/execcast/execcast/core"
	"github.com/execcast/execcast/core/coretest"
)

func TestConformance(t *testing.T) {
	before, after, _ := strings.Cut(coretest.Pattern, "{executionId}")
	for path, keep := range paths {
		t.Run(path, func(t *testing.T) {
			coretest.Run(t, coretest.Adapter{
				Transport: coretest.SSE,
				SeesLeave: true,
				Serve: func(t testing.TB, r *core.Registry, o coretest.Options) coretest.Server {
					opts := &fasthttpsse.Options{
						AllowedOrigins: o.AllowedOrigins,
						WriteTimeout:   o.WriteTimeout,
						Heartbeat:      o.Heartbeat,
						KeepHandler:    keep,
					}
					if o.Authorize != nil {
						opts.ExecutionID = func(ctx *fasthttp.RequestCtx) (string, error) {
							id := ctx.UserValue("executionId").(string)
							return id, o.Authorize(id)
						}
					}
					if o.Several {
						opts.ExecutionIDs = func(ctx *fasthttp.RequestCtx) ([]string, error) {
							query, err := url.ParseQuery(string(ctx.QueryArgs().QueryString()))
							if err != nil {
								return nil, err
							}
							return o.ExecutionIDs(query)
						}
					}
					h := fasthttpsse.NewHandler(r, opts)
					s := &fasthttp.Server{CloseOnShutdown: true, ReadBufferSize: 64 << 10, Handler: func(ctx *fasthttp.RequestCtx) {
						id := strings.TrimSuffix(strings.TrimPrefix(string(ctx.Path()), before), after)
						ctx.SetUserValue("executionId", id)
						h.ServeFastHTTP(ctx)
					}}
					l := coretest.Listen(t, o)
					go s.Serve(l)
					t.Cleanup(func() { l.Close() })
					return coretest.Server{Addr: l.Addr().String(), Shutdown: s.ShutdownWithContext}
				},
			})
		})
	}
}
