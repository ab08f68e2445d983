// Command clientserver is what the JavaScript client is tested against. It
// prints its address and serves until its input ends.
//
//	     /sse/{executionId}         the net/http adapter
//	GET  /ws/{executionId}          the WebSocket adapter
//	GET  /sse/, /ws/                several executions, the parameters executionId
//	POST /publish/{executionId}     publishes each line of the body as an event of type step
//	POST /close/{executionId}
//	POST /shutdown
//	GET  /requests                  counts the requests for streams
//	GET  /                          an empty page; /client.js is the client
//
// The name of an execution decides about requests for it: "forbidden" is
// refused with 403, "secret" with 401 unless they have the header
// "Authorization: Bearer token", "busy" with 503.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"

	"github.com/execcast/execcast/adapters/gorillaws"
	"github.com/execcast/execcast/adapters/httpsse"
	"github.com/execcast/execcast/core"
	"github.com/execcast/execcast/wasm/client"
)

func executionID(r *http.Request) (string, error) {
	id := r.PathValue("executionId")
	return id, authorize(r, id)
}

func executionIDs(r *http.Request) ([]string, error) {
	ids := r.URL.Query()["executionId"]
	for _, id := range ids {
		if err := authorize(r, id); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

func authorize(r *http.Request, id string) error {
	switch {
	case id == "forbidden":
		return core.ErrForbidden
	case id == "secret" && r.Header.Get("Authorization") != "Bearer token":
		return core.ErrUnauthorized
	}
	return nil
}

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "`address` to listen on")
	maxEvents := flag.Int("max-events", 0, "events an execution's log holds")
	await := flag.Bool("await", false, "viewers of unknown executions wait")
	flag.Parse()
	r := core.New(&core.Options{MaxEvents: *maxEvents, AwaitUnknown: *await, ShutdownSpread: -1})
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	// The page is of another origin where it asks for the server by another name.
	origins := []string{"http://" + l.Addr().String()}
	mux := http.NewServeMux()
	var requests atomic.Int64
	counted := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			requests.Add(1)
			if req.PathValue("executionId") == "busy" {
				w.Header().Set("Retry-After", "1")
				http.Error(w, "busy", http.StatusServiceUnavailable)
				return
			}
			h.ServeHTTP(w, req)
		})
	}
	mux.Handle("/sse/{executionId}", counted(httpsse.NewHandler(r, &httpsse.Options{ExecutionID: executionID, AllowedOrigins: origins, Retry: 50e6})))
	mux.Handle("GET /ws/{executionId}", counted(gorillaws.NewHandler(r, &gorillaws.Options{ExecutionID: executionID})))
	mux.Handle("GET /sse/{$}", counted(httpsse.NewHandler(r, &httpsse.Options{ExecutionIDs: executionIDs, Retry: 50e6})))
	mux.Handle("GET /ws/{$}", counted(gorillaws.NewHandler(r, &gorillaws.Options{ExecutionIDs: executionIDs})))
	mux.HandleFunc("POST /publish/{executionId}", func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for line := range strings.Lines(string(body)) {
			e := core.Event{Type: "step", Data: []byte(strings.TrimSuffix(line, "\n"))}
			if _, err := r.Publish(req.Context(), req.PathValue("executionId"), e); err != nil {
				http.Error(w, err.Error(), http.StatusConflict)
				return
			}
		}
	})
	mux.HandleFunc("POST /close/{executionId}", func(w http.ResponseWriter, req *http.Request) {
		r.Close(req.Context(), req.PathValue("executionId"))
	})
	mux.HandleFunc("POST /shutdown", func(http.ResponseWriter, *http.Request) {
		r.Shutdown(context.Background())
	})
	mux.HandleFunc("GET /requests", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, requests.Load())
	})
	mux.Handle("GET /client.js", client.Handler())
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `<!doctype html><title>test</title><link rel="icon" href="data:,">`)
	})
	fmt.Printf("http://%s\n", l.Addr())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	if err := http.Serve(l, mux); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}
