// Command orchestrator runs a plan of commands and shows it to any number of
// browsers, live, over Server-Sent Events from net/http or fasthttp, or over
// WebSocket. Without flags it checks the repository it is started in.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/execcast/execcast/core"
)

// shutdownTimeout bounds how long viewers can delay the end of the program.
const shutdownTimeout = 10 * time.Second

//go:embed default-plan.json
var defaultPlan []byte

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(command(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// command serves until ctx ends and returns the exit code: 0, 1 if serving
// failed, 2 if the flags or the plan are wrong.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("orchestrator", flag.ContinueOnError)
	flags.SetOutput(stderr)
	addr := flags.String("addr", "127.0.0.1:8080", "`address` to listen on")
	transport := flags.String("transport", "http", "what carries the events: http, fasthttp or websocket")
	planFile := flags.String("plan", "", "JSON `file` with the plan to run (default: check this repository)")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "orchestrator: unexpected argument %q\n", flags.Arg(0))
		return 2
	case transports[*transport] == nil:
		fmt.Fprintf(stderr, "orchestrator: -transport %q: want http, fasthttp or websocket\n", *transport)
		return 2
	}
	plan, err := loadPlan(*planFile)
	if err != nil {
		fmt.Fprintln(stderr, "orchestrator:", err)
		return 2
	}
	if err := serve(ctx, *addr, *transport, plan, stdout); err != nil {
		fmt.Fprintln(stderr, "orchestrator:", err)
		return 1
	}
	return 0
}

// loadPlan reads a plan file, or the default plan if file is empty.
func loadPlan(file string) (*Plan, error) {
	if file == "" {
		return parsePlan("default-plan.json", defaultPlan)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parsePlan(file, data)
}

// serve answers on addr until ctx ends and every stream and command has.
func serve(ctx context.Context, addr, transport string, plan *Plan, stdout io.Writer) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s := &server{plan: plan, transport: transport, registry: core.New(&registryOptions)}
	front := transports[transport](s, addr)
	fmt.Fprintf(stdout, "orchestrator: %q at http://%s/ over %s\n", plan.Title, listener.Addr(), transport)

	failed := make(chan error, 1)
	go func() { failed <- front.Serve(listener) }()
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	bound, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	// A viewer that cannot be written its last events in time is no failure of
	// ours.
	_ = s.shutdown(bound)
	_ = front.Shutdown(bound)
	return err
}
