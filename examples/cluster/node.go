package main

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/execcast/execcast/adapters/httpsse"
	"github.com/execcast/execcast/core"
)

const (
	startSubject = "cluster.start"
	steps        = 300
	stepTime     = 100 * time.Millisecond
)

//go:embed page
var pageFiles embed.FS

// work is an execution: steps that each say a line, and how far it is.
func work(ctx context.Context, registry *core.Registry, id string) error {
	tick := time.NewTicker(stepTime)
	defer tick.Stop()
	for i := 1; i <= steps; i++ {
		line, err := json.Marshal(map[string]any{"step": i, "of": steps, "line": fmt.Sprintf("step %d of %d done", i, steps)})
		if err != nil {
			return err
		}
		if _, err := registry.Publish(ctx, id, core.Event{Type: "step", Data: line}); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return registry.Close(ctx, id)
}

// node answers viewers.
type node struct {
	*http.ServeMux
	registry *core.Registry
	nc       *nats.Conn
}

// serve is one node, until ctx ends.
func (c *config) serve(ctx context.Context, i int, stderr io.Writer) error {
	if len(c.client) > 0 {
		engine, err := c.engine(i)
		if err != nil {
			return err
		}
		engine.Start()
		defer engine.WaitForShutdown()
		defer engine.Shutdown()
	}
	listener, err := net.Listen("tcp", c.http[i])
	if err != nil {
		return err
	}
	defer listener.Close()
	nc, backplane, err := c.connect(ctx, fmt.Sprintf("node %d", i+1))
	if err != nil {
		return err
	}
	defer nc.Close()
	defer backplane.Close()
	n := &node{http.NewServeMux(), core.New(&core.Options{Backplane: backplane}), nc}
	page, err := fs.Sub(pageFiles, "page")
	if err != nil {
		return err
	}
	n.Handle("GET /", http.FileServerFS(page))
	n.HandleFunc("GET /api/nodes", func(w http.ResponseWriter, r *http.Request) {
		answer(w, map[string]any{"node": i, "nodes": c.origins()})
	})
	n.HandleFunc("POST /api/executions", n.start)
	n.HandleFunc("GET /api/executions/{executionId}/viewers", n.viewers)
	n.Handle("GET /api/executions/{executionId}/events", httpsse.NewHandler(n.registry, &httpsse.Options{
		AllowedOrigins: c.origins(),
		Heartbeat:      2 * time.Second, // a page finds out within seconds that its node is gone
		Retry:          500 * time.Millisecond,
	}))
	front := &http.Server{Handler: guard(n, c.origins()), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- front.Serve(listener) }()
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	bound, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- front.Shutdown(bound) }()
	return errors.Join(err, n.registry.Shutdown(bound), <-stopped)
}

// guard lets the pages of all nodes, and no others, use the API.
func guard(h http.Handler, origins []string) http.Handler {
	protection := http.NewCrossOriginProtection()
	for _, o := range origins {
		_ = protection.AddTrustedOrigin(o) // it is one: see origins
	}
	return protection.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if origin := r.Header.Get("Origin"); slices.Contains(origins, origin) {
			w.Header().Set("Access-Control-Allow-Origin", origin)
		}
		h.ServeHTTP(w, r)
	}))
}

// engine makes the node's NATS server.
func (c *config) engine(i int) (*server.Server, error) {
	port := func(s string) int {
		n, _ := strconv.Atoi(s) // as freePorts has written it
		return n
	}
	o := &server.Options{
		ServerName: fmt.Sprintf("node-%d", i+1), Host: loopback, Port: port(c.client[i]),
		JetStream: true, StoreDir: filepath.Join(c.store, fmt.Sprint(i+1)), NoLog: true, NoSigs: true,
	}
	if c.nodes > 1 {
		o.Cluster = server.ClusterOpts{Name: "execcast", Host: loopback, Port: port(c.route[i])}
		for _, p := range c.route {
			o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: net.JoinHostPort(loopback, p)})
		}
	}
	return server.NewServer(o)
}

// start asks an orchestrator for an execution.
func (n *node) start(w http.ResponseWriter, r *http.Request) {
	id := rand.Text()
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if _, err := n.nc.RequestWithContext(ctx, startSubject, []byte(id)); err != nil {
		http.Error(w, "no orchestrator answers: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	answer(w, map[string]any{"id": id})
}

func (n *node) viewers(w http.ResponseWriter, r *http.Request) {
	count, err := n.registry.ClusterClientCount(r.Context(), r.PathValue("executionId"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answer(w, map[string]any{"viewers": count})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // or the peer has gone
}
