package httpsse_test

import (
	"net/http"
	"testing"

	"github.com/execcast/execcast/adapters/httpsse"
	"github.com/execcast/execcast/core"
	"github.com/execcast/execcast/core/coretest"
)

func TestConformance(t *testing.T) {
	for path, keep := range paths {
		t.Run(path, func(t *testing.T) {
			coretest.Run(t, coretest.Adapter{
				Transport: coretest.SSE,
				SeesLeave: true,
				Serve: func(t testing.TB, r *core.Registry, o coretest.Options) coretest.Server {
					opts := &httpsse.Options{
						AllowedOrigins: o.AllowedOrigins,
						WriteTimeout:   o.WriteTimeout,
						Heartbeat:      o.Heartbeat,
						KeepHandler:    keep,
					}
					if o.Authorize != nil {
						opts.ExecutionID = func(r *http.Request) (string, error) {
							id := r.PathValue("executionId")
							return id, o.Authorize(id)
						}
					}
					if o.Several {
						opts.ExecutionIDs = func(r *http.Request) ([]string, error) { return o.ExecutionIDs(r.URL.Query()) }
					}
					mux := http.NewServeMux()
					mux.Handle(coretest.Pattern, httpsse.NewHandler(r, opts))
					s := &http.Server{Handler: mux}
					l := coretest.Listen(t, o)
					go s.Serve(l)
					t.Cleanup(func() { s.Close() })
					return coretest.Server{Addr: l.Addr().String(), Shutdown: s.Shutdown}
				},
			})
		})
	}
}
