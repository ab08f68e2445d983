package coretest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/execcast/execcast/adapters/httpsse"
	"github.com/execcast/execcast/core"
	"github.com/execcast/execcast/core/coretest"
)

// A viewer shows what has arrived, and how the stream ended.
func ExampleConnect() {
	mux := http.NewServeMux()
	mux.HandleFunc(coretest.Pattern, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "id: 7\nevent: greeting\ndata: \"hello, "+r.PathValue("executionId")+"\"\n\n")
	})
	server := httptest.NewServer(mux)
	defer server.Close()

	v, err := coretest.Connect(coretest.ViewerOptions{
		Transport:   coretest.SSE,
		Addr:        server.Listener.Addr().String(),
		ExecutionID: "x",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer v.Close()
	e, err := v.Next()
	fmt.Println(e.ID, e.Type, e.Value(), err)
	_, err = v.Next()
	fmt.Println(err, v.LastEventID)
	// Output:
	// 7 greeting hello, x <nil>
	// EOF 7
}

// Two nodes share a backplane: what one publishes, viewers of the other see.
func ExampleMemory() {
	ctx := context.Background()
	shared := coretest.NewMemory()
	a := core.New(&core.Options{Backplane: shared})
	b := core.New(&core.Options{Backplane: shared})

	if _, err := a.Publish(ctx, "job-1", core.Event{Data: []byte("hello from a")}); err != nil {
		fmt.Println(err)
		return
	}
	viewer, err := b.Register("job-1", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	n, err := a.ClusterClientCount(ctx, "job-1")
	fmt.Println(n, err)
	closed := make(chan error)
	go func() { closed <- a.Close(ctx, "job-1") }()
	err = viewer.Serve(ctx, data{})
	fmt.Println(err, <-closed)
	// Output:
	// 1 <nil>
	// data: hello from a
	// data: {}
	// <nil> <nil>
}

// The test of a backplane is one call. Here the backplane is Memory.
func ExampleRunBackplane() {
	_ = func(t *testing.T) { // TestBackplane
		engine := coretest.NewMemory()
		coretest.RunBackplane(t, coretest.Engine{
			// One node each; a real one connects to its engine here.
			Open: func(t testing.TB) core.Backplane { return engine },
			Break: func(t testing.TB) func() {
				engine.Break(errors.New("unavailable"))
				return func() { engine.Break(nil) }
			},
			Drop: func(t testing.TB, executionID string, n int) { engine.Drop(executionID, n) },
		})
	}
}

// The test of an adapter is one call, too. Here the adapter is httpsse; its own
// test passes on more of the options.
func ExampleRun() {
	_ = func(t *testing.T) { // TestConformance
		coretest.Run(t, coretest.Adapter{
			Transport: coretest.SSE,
			SeesLeave: true,
			Serve: func(t testing.TB, r *core.Registry, o coretest.Options) coretest.Server {
				mux := http.NewServeMux()
				mux.Handle(coretest.Pattern, httpsse.NewHandler(r, &httpsse.Options{
					AllowedOrigins: o.AllowedOrigins,
					WriteTimeout:   o.WriteTimeout,
					Heartbeat:      o.Heartbeat,
				}))
				s := &http.Server{Handler: mux}
				l := coretest.Listen(t, o)
				go s.Serve(l)
				t.Cleanup(func() { s.Close() })
				return coretest.Server{Addr: l.Addr().String(), Shutdown: s.Shutdown}
			},
		})
	}
}

// data is a connection that prints what the events carry.
type data struct{}

func (data) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if strings.HasPrefix(line, "data: ") {
			fmt.Print(line)
		}
	}
	return len(p), nil
}
