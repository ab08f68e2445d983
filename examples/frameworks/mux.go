package main

import (
	"io"
	"net/http"

	"github.com/execcast/execcast/adapters/httpsse"
)

func newMux(o *orchestrator) server {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/executions", o.startHTTP)
	mux.Handle("GET /api/executions/{executionId}/events", httpsse.NewHandler(o.registry, nil))
	return &http.Server{Handler: mux}
}

// startHTTP is for all frameworks that take net/http's handlers.
func (o *orchestrator) startHTTP(w http.ResponseWriter, _ *http.Request) {
	id, err := o.start()
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusAccepted)
	io.WriteString(w, id)
}
