package main

import (
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/execcast/execcast/adapters/httpsse"
)

func newChi(o *orchestrator) server {
	r := chi.NewRouter()
	r.Use(middleware.Recoverer)
	r.Post("/api/executions", o.startHTTP)
	// chi sets net/http's path values: the default Options.ExecutionID finds it.
	r.Method(http.MethodGet, "/api/executions/{executionId}/events", httpsse.NewHandler(o.registry, nil))
	return &http.Server{Handler: r}
}
