package main

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/execcast/execcast/core"
	"github.com/execcast/execcast/wasm/client"
)

const (
	maxRunning   = 4               // runs at a time
	maxFinished  = 10              // finished runs that can still be looked at
	drainTimeout = 5 * time.Second // for viewers to be written the end of a run
)

//go:embed page
var pageFiles embed.FS

var (
	errBusy         = errors.New("too many runs at a time: try again when one has finished")
	errShuttingDown = errors.New("shutting down")
)

// A server starts runs, remembers them and answers the HTTP API. It publishes
// to a registry; how viewers read from that is for the events handler, which
// differs by transport.
type server struct {
	plan      *Plan
	registry  *core.Registry
	transport string

	mu     sync.Mutex
	closed bool
	runs   []*serverRun // oldest first
}

type serverRun struct {
	*run
	cancel context.CancelFunc
	done   chan struct{} // closed when the run is over and its commands are dead
	closed chan struct{} // closed when its viewers have been told
}

// start begins a run of the plan.
func (s *server) start() (*serverRun, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errShuttingDown
	}
	running := 0
	for _, r := range s.runs {
		if !r.over() {
			running++
		}
	}
	if running >= maxRunning {
		return nil, errBusy
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &serverRun{newRun(rand.Text(), s.plan, s.registry), cancel, make(chan struct{}), make(chan struct{})}
	s.runs = append(s.runs, r)
	go func() {
		defer close(r.closed)
		r.execute(ctx)
		cancel()
		close(r.done)
		s.forgetOld()
		drain, stop := context.WithTimeout(context.Background(), drainTimeout)
		defer stop()
		_ = s.registry.Close(drain, r.id) // viewers it had to cut off can come back: the run is remembered
	}()
	return r, nil
}

func (r *serverRun) over() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// forgetOld drops the runs that finished longest ago, so that memory stays
// bounded.
func (s *server) forgetOld() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var over []*serverRun
	for _, r := range s.runs {
		if r.over() {
			over = append(over, r)
		}
	}
	slices.SortFunc(over, func(a, b *serverRun) int { return a.ended().Compare(b.ended()) })
	for _, r := range over[:max(0, len(over)-maxFinished)] {
		s.registry.Forget(r.id)
		s.runs = slices.DeleteFunc(s.runs, func(other *serverRun) bool { return other == r })
	}
}

// find returns nil for an unknown ID.
func (s *server) find(id string) *serverRun {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.runs {
		if r.id == id {
			return r
		}
	}
	return nil
}

// shutdown cancels every run, then ends the streams. Viewers get the end of
// their run before the end of their stream.
func (s *server) shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	runs := slices.Clone(s.runs)
	s.mu.Unlock()
	for _, r := range runs {
		r.cancel()
	}
	for _, r := range runs {
		select {
		case <-r.closed:
		case <-ctx.Done():
		}
	}
	return s.registry.Shutdown(ctx)
}

// api is everything except the streams: the page, and what it does. It needs
// guard in front of it.
func (s *server) api() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/config", s.getConfig)
	mux.HandleFunc("GET /api/executions", s.getExecutions)
	mux.HandleFunc("POST /api/executions", s.postExecution)
	mux.HandleFunc("DELETE /api/executions/{executionId}", s.deleteExecution)
	page, err := fs.Sub(pageFiles, "page")
	if err != nil {
		panic(err) // the directory is part of the binary
	}
	files := http.FileServerFS(page)
	mux.Handle("GET /execcast.js", client.Handler())
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy",
			"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "+
				"base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		files.ServeHTTP(w, r)
	})
	return mux
}

func (s *server) getConfig(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{
		"transport": s.transport,
		"title":     s.plan.Title,
		"tasks":     s.plan.Tasks,
	})
}

type executionSummary struct {
	ExecutionID string         `json:"executionId"`
	Title       string         `json:"title"`
	Status      string         `json:"status"`
	StartedAt   time.Time      `json:"startedAt"`
	Duration    int64          `json:"duration"` // milliseconds, until now while it is running
	Viewers     int            `json:"viewers"`
	Total       int            `json:"total"`
	Counts      map[string]int `json:"counts"` // complete tasks by status
}

// getExecutions lists the runs, newest first.
func (s *server) getExecutions(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	runs := slices.Clone(s.runs)
	s.mu.Unlock()
	slices.Reverse(runs)
	list := make([]executionSummary, len(runs))
	for i, r := range runs {
		status, counts, duration := r.state()
		list[i] = executionSummary{
			ExecutionID: r.id,
			Title:       r.plan.Title,
			Status:      status,
			StartedAt:   r.startedAt,
			Duration:    duration.Milliseconds(),
			Viewers:     s.registry.ClientCount(r.id),
			Total:       len(r.plan.Tasks),
			Counts:      counts,
		}
	}
	writeJSON(w, http.StatusOK, list)
}

func (s *server) postExecution(w http.ResponseWriter, _ *http.Request) {
	r, err := s.start()
	switch {
	case errors.Is(err, errBusy):
		http.Error(w, err.Error(), http.StatusTooManyRequests)
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	default:
		w.Header().Set("Location", "/api/executions/"+r.id+"/events")
		writeJSON(w, http.StatusCreated, map[string]string{"executionId": r.id})
	}
}

// deleteExecution cancels a run. It answers once the run's processes are dead;
// cancelling a run that is over does nothing.
func (s *server) deleteExecution(w http.ResponseWriter, req *http.Request) {
	r := s.find(req.PathValue("executionId"))
	if r == nil {
		http.Error(w, "no such execution", http.StatusNotFound)
		return
	}
	r.cancel()
	select {
	case <-r.done:
	case <-req.Context().Done():
	}
	w.WriteHeader(http.StatusNoContent)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the peer may have gone
}

// hostCheck returns whether requests may name host, given the address the
// server listens on. Against DNS rebinding, where a foreign site's name leads
// here, a name has to be known; an address cannot be rebound.
func hostCheck(addr string) func(host string) bool {
	own, _, _ := net.SplitHostPort(addr)
	ownIP, err := netip.ParseAddr(own)
	everywhere := own == "" || err == nil && ownIP.IsUnspecified()
	return func(host string) bool {
		name := host
		if h, _, err := net.SplitHostPort(host); err == nil {
			name = h
		}
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		if ip, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
			return ip.Unmap().IsLoopback() || ip == ownIP || everywhere
		}
		return name == "localhost" || strings.HasSuffix(name, ".localhost") || name != "" && name == strings.ToLower(own)
	}
}

// guard refuses what a foreign site makes a browser send.
func guard(addr string, next http.Handler) http.Handler {
	allowed := hostCheck(addr)
	protected := http.NewCrossOriginProtection().Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !allowed(r.Host) {
			http.Error(w, "unknown host", http.StatusForbidden)
			return
		}
		protected.ServeHTTP(w, r)
	})
}
