// Command server is the net/http adapter, for eventStreamResponse to be
// compared with. It prints its address and serves until its input ends.
//
//	     /executions/{executionId}  the adapter
//	     /listed/{executionId}      the same, with other options: see below
//	     /any/{executionId}
//	     /both/{executionId}
//	     /guarded/{executionId}
//	POST /publish/{executionId}     publishes the body as an event, answers its ID
//	POST /close/{executionId}
//	POST /clients/{executionId}     answers how many it has
//	POST /shutdown
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/execcast/execcast/adapters/httpsse"
	"github.com/execcast/execcast/core"
)

var refusals = map[string]error{
	"ErrUnauthorized":            core.ErrUnauthorized,
	"ErrForbidden":               core.ErrForbidden,
	"ErrNotFound":                core.ErrNotFound,
	"ErrExecutionID":             core.ErrExecutionID,
	"ErrUnknown":                 core.ErrUnknown,
	"ErrFinished":                core.ErrFinished,
	"ErrShutdown":                core.ErrShutdown,
	"ErrTooManyClients":          core.ErrTooManyClients,
	"ErrTooManyExecutionClients": core.ErrTooManyExecutionClients,
	"ErrTooManyExecutions":       core.ErrTooManyExecutions,
	"ErrEventType":               core.ErrEventType,
	"other":                      errors.New("something else"),
}

func main() {
	r := core.New(&core.Options{MaxExecutionClients: 2})
	mux := http.NewServeMux()
	mux.Handle("/executions/{executionId}", httpsse.NewHandler(r, nil))
	// As in response.test.mjs.
	const app, other = "https://app.example.com", "https://Other.example.com:8443"
	for path, origins := range map[string][]string{"listed": {app, other}, "any": {"*"}, "both": {"*", app}} {
		mux.Handle("/"+path+"/{executionId}", httpsse.NewHandler(r, &httpsse.Options{AllowedOrigins: origins}))
	}
	mux.Handle("/guarded/{executionId}", httpsse.NewHandler(r, &httpsse.Options{
		AllowedOrigins: []string{app},
		Retry:          1500 * time.Microsecond,
		ExecutionID: func(req *http.Request) (string, error) {
			id := req.PathValue("executionId")
			if err, refused := refusals[id]; refused {
				return "", err
			}
			return id, nil
		},
	}))
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
	mux.HandleFunc("POST /clients/{executionId}", func(w http.ResponseWriter, req *http.Request) {
		fmt.Fprint(w, r.ClientCount(req.PathValue("executionId")))
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
