// Command server is the net/http adapter, for eventStreamResponse to be
// compared with. It prints its address and serves until its input ends.
//
//	GET  /executions/{executionId}  the adapter
//	POST /publish/{executionId}     publishes the body as an event, answers its ID
//	POST /close/{executionId}
//	POST /shutdown
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"

	"github.com/execcast/execcast/adapters/httpsse"
	"github.com/execcast/execcast/core"
)

func main() {
	r := core.New(&core.Options{MaxExecutionClients: 2})
	mux := http.NewServeMux()
	mux.Handle("/executions/{executionId}", httpsse.NewHandler(r, nil))
	mux.HandleFunc("POST /publish/{executionId}", func(w http.ResponseWriter, req *http.Request) {
		data, err := io.ReadAll(req.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		id, err := r.Publish(req.Context(), req.PathValue("executionId"), core.Event{Type: "step", Data: data})
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		io.WriteString(w, strconv.FormatUint(id, 10))
	})
	mux.HandleFunc("POST /close/{executionId}", func(w http.ResponseWriter, req *http.Request) {
		r.Close(req.Context(), req.PathValue("executionId"))
	})
	mux.HandleFunc("POST /shutdown", func(w http.ResponseWriter, req *http.Request) {
		r.Shutdown(context.Background())
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("http://%s\n", l.Addr())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	log.Fatal(http.Serve(l, mux))
}
