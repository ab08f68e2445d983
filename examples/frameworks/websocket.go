package main

import (
	"net/http"

	"github.com/execcast/execcast/adapters/gorillaws"
)

// newWebSocket is newMux with another handler; the frameworks that take
// httpsse's take gorillaws' in the same way.
func newWebSocket(o *orchestrator) server {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/executions", o.startHTTP)
	mux.Handle("GET /api/executions/{executionId}/events", gorillaws.NewHandler(o.registry, nil))
	return &http.Server{Handler: mux}
}
