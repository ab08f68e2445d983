// Command frameworks shows executions through a web framework: the same
// orchestration (orchestration.go) behind net/http's mux, chi, gin, echo, Fiber,
// or over WebSocket. What differs is one short file each.
//
//	go run . -framework chi
//	id=$(curl -s -X POST http://127.0.0.1:8080/api/executions)
//	curl -N http://127.0.0.1:8080/api/executions/$id/events
//
// With -framework websocket a WebSocket client takes the place of curl -N.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"maps"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/execcast/execcast/core"
)

// A server is what a framework makes of the two routes, POST /api/executions
// and GET /api/executions/{executionId}/events. *http.Server is one.
type server interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
}

var frameworks = map[string]func(*orchestrator) server{
	"mux":       newMux,
	"chi":       newChi,
	"gin":       newGin,
	"echo":      newEcho,
	"fiber":     newFiber,
	"websocket": newWebSocket,
}

func main() {
	names := strings.Join(slices.Sorted(maps.Keys(frameworks)), ", ")
	framework := flag.String("framework", "mux", "what serves: "+names)
	addr := flag.String("addr", "127.0.0.1:8080", "`address` to listen on")
	flag.Parse()
	newServer := frameworks[*framework]
	if newServer == nil || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: frameworks [-addr address] [-framework name], a name of:", names)
		os.Exit(2)
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("http://%s through %s\n", listener.Addr(), *framework)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o := &orchestrator{registry: core.New(nil), work: pause}
	s := newServer(o)
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(listener) }()
	select {
	case err := <-failed:
		log.Fatal(err)
	case <-ctx.Done():
	}
	bound, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	// Both at once: the server waits for streams that the registry ends.
	go s.Shutdown(bound)
	if err := o.registry.Shutdown(bound); err != nil {
		log.Fatal(err)
	}
}

// pause stands in for the work of a task.
func pause(context.Context, string) { time.Sleep(time.Second) }
