// Command cluster shows executions on three nodes: processes that a viewer may
// connect to in turn, while what it watches is published by a fourth. Each node
// has a NATS server inside, unless -nats names an existing cluster.
//
//	go run .        # then open the address it prints, and kill a node by its PID
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/execcast/execcast/adapters/jetstream"
	"github.com/execcast/execcast/core"
)

const (
	restartAfter = 3 * time.Second // how long a node that was killed stays away
	loopback     = "127.0.0.1"     // where the nodes' NATS servers listen
)

// config is what all processes of the cluster know of it.
type config struct {
	nodes  int
	http   []string // of each node, host:port
	client []string // ports of the nodes' NATS servers; empty with an existing one
	route  []string // ports these reach each other on
	nats   string   // URLs, of an existing one or of the nodes'
	store  string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(command(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("cluster", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var c config
	node := flags.Int("node", -1, "internal: be this node")
	flags.StringVar(&c.nats, "nats", "", "`URLs` of an existing NATS cluster with JetStream (default: one server inside each node)")
	addrs := flags.String("http", "127.0.0.1:8081,127.0.0.1:8082,127.0.0.1:8083", "`addresses` of the nodes, as many as there shall be")
	flags.StringVar(&c.store, "store", "", "`directory` of the servers' streams (default: a temporary one)")
	ports := flags.String("ports", "", "internal: of all servers")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	c.http = strings.Split(*addrs, ",")
	c.nodes = len(c.http)
	if flags.NArg() > 0 || c.nodes > 9 || *node >= c.nodes || slices.Contains(c.http, "") {
		fmt.Fprintln(stderr, "cluster: from 1 to 9 addresses, and no arguments")
		return 2
	}
	var err error
	if *node >= 0 {
		c.servers(strings.Split(*ports, ","))
		err = c.serve(ctx, *node, stderr)
	} else {
		err = c.run(ctx, args, strings.Split(*ports, ","), stdout, stderr)
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(stderr, "cluster:", err)
		return 1
	}
	return 0
}

// servers tells c the addresses of the nodes' own NATS servers.
func (c *config) servers(ports []string) {
	if c.nats != "" {
		return
	}
	var urls []string
	for i := range c.nodes {
		c.client = append(c.client, ports[2*i])
		c.route = append(c.route, ports[2*i+1])
		urls = append(urls, "nats://"+net.JoinHostPort(loopback, ports[2*i]))
	}
	c.nats = strings.Join(urls, ",")
}

// run starts the nodes, starts those again that end, and publishes what viewers
// ask for, until ctx ends.
func (c *config) run(ctx context.Context, args, ports []string, stdout, stderr io.Writer) error {
	if c.store == "" {
		dir, err := os.MkdirTemp("", "execcast-cluster-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		c.store = dir
	}
	embedded := c.nats == ""
	if len(ports) != 2*c.nodes {
		var err error
		if ports, err = freePorts(2 * c.nodes); err != nil {
			return err
		}
	}
	c.servers(ports)
	program, err := os.Executable()
	if err != nil {
		return err
	}
	args = append(args, "-store", c.store, "-ports", strings.Join(ports, ","))
	ctx, cancel := context.WithCancel(ctx)
	var nodes sync.WaitGroup
	defer nodes.Wait()
	defer cancel()
	var printing sync.Mutex
	for i := range c.nodes {
		nodes.Go(func() {
			for ctx.Err() == nil {
				cmd := exec.CommandContext(ctx, program, append(args, "-node", fmt.Sprint(i))...)
				cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
				cmd.WaitDelay = 10 * time.Second
				cmd.Stderr = stderr
				err := cmd.Start()
				if err == nil {
					printing.Lock()
					fmt.Fprintf(stdout, "node %d: http://%s/ (stop it with: kill -9 %d)\n", i+1, c.http[i], cmd.Process.Pid)
					printing.Unlock()
					err = cmd.Wait()
				}
				if ctx.Err() == nil {
					fmt.Fprintf(stderr, "cluster: node %d has ended: %v\n", i+1, err)
				}
				select {
				case <-time.After(restartAfter):
				case <-ctx.Done():
				}
			}
		})
	}
	if embedded {
		fmt.Fprintln(stdout, "cluster: streams are in "+c.store)
	}
	return c.orchestrate(ctx, stderr)
}

// connect makes the backplane, as soon as the engine is there.
func (c *config) connect(ctx context.Context, name string) (*nats.Conn, *jetstream.Backplane, error) {
	nc, err := nats.Connect(c.nats, nats.Name(name), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(200*time.Millisecond), nats.Timeout(time.Second), nats.PingInterval(2*time.Second))
	if err != nil {
		return nil, nil, err
	}
	replicas := 3
	if len(c.client) > 0 && c.nodes < 3 {
		replicas = 1
	}
	bound, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	b, err := jetstream.New(bound, nc, &jetstream.Options{Replicas: replicas})
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return nc, b, nil
}

// orchestrate runs an execution for each request that a node passes on.
func (c *config) orchestrate(ctx context.Context, stderr io.Writer) error {
	nc, backplane, err := c.connect(ctx, "orchestrator")
	if err != nil {
		return err
	}
	defer nc.Close()
	defer backplane.Close()
	registry := core.New(&core.Options{Backplane: backplane})
	var running sync.WaitGroup
	defer running.Wait()
	sub, err := nc.QueueSubscribe(startSubject, "orchestrators", func(m *nats.Msg) {
		id := string(m.Data)
		running.Go(func() {
			if err := work(ctx, registry, id); err != nil && ctx.Err() == nil {
				fmt.Fprintf(stderr, "cluster: execution %s: %v\n", id, err)
			}
		})
		_ = m.Respond(nil) // or the node asks in vain, and says so
	})
	if err != nil {
		return err
	}
	<-ctx.Done()
	_ = sub.Unsubscribe() // ends with the connection anyway
	return nil
}

// freePorts returns ports nobody listens on now.
func freePorts(n int) (ports []string, err error) {
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
		if err != nil {
			return nil, err
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports, nil
}

// origins are those of all nodes' pages: a page moves on to another node.
func (c *config) origins() (origins []string) {
	for _, addr := range c.http {
		origins = append(origins, (&url.URL{Scheme: "http", Host: addr}).String())
	}
	return origins
}
