package jetstream_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/execcast/execcast/adapters/jetstream"
	"github.com/execcast/execcast/core"
	"github.com/execcast/execcast/core/coretest"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// engine is a NATS server, or a cluster of them, inside the test.
type engine struct {
	opts    []*server.Options
	servers []*server.Server
}

// startEngine starts so many servers, which keep their addresses and data when
// they are stopped and started again.
func startEngine(t testing.TB, n int) *engine {
	e := &engine{servers: make([]*server.Server, n)}
	var routes []*url.URL
	for i := range n {
		o := &server.Options{
			ServerName: fmt.Sprintf("s%d", i), Host: "127.0.0.1", Port: freePort(t),
			JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
			MaxControlLine: 4096,
		}
		if n > 1 {
			o.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: freePort(t)}
			routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", o.Cluster.Port)})
		}
		e.opts = append(e.opts, o)
	}
	for i, o := range e.opts {
		o.Routes = routes
		e.start(t, i)
	}
	t.Cleanup(func() {
		for i := range e.servers {
			e.stop(i)
		}
	})
	return e
}

func (e *engine) start(t testing.TB, i int) {
	s, err := server.NewServer(e.opts[i].Clone())
	require.NoError(t, err)
	e.servers[i] = s
	s.Start()
	require.True(t, s.ReadyForConnections(20*time.Second), "the server does not start")
}

func (e *engine) stop(i int) {
	e.servers[i].Shutdown()
	e.servers[i].WaitForShutdown()
}

// connect connects to the i-th server, and to no other.
func (e *engine) connect(t testing.TB, i int) *nats.Conn {
	nc, err := nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", e.opts[i%len(e.opts)].Port), nats.MaxReconnects(-1),
		nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0), nats.RetryOnFailedConnect(true), nats.IgnoreDiscoveredServers())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// open returns a backplane on a connection of its own to the i-th server.
func (e *engine) open(t testing.TB, i int, opts *jetstream.Options) (*jetstream.Backplane, *nats.Conn) {
	nc := e.connect(t, i)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	o := jetstream.Options{}
	if opts != nil {
		o = *opts
	}
	if o.Replicas == 0 {
		o.Replicas = len(e.opts)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	b, err := jetstream.New(ctx, nc, &o)
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return b, nc
}

// stored returns the stream, and how many messages of an execution it has.
func stored(ctx context.Context, nc *nats.Conn, executionID string) (js.Stream, uint64, error) {
	j, err := js.New(nc)
	if err != nil {
		return nil, 0, err
	}
	s, err := j.Stream(ctx, "EXECCAST")
	if err != nil {
		return nil, 0, err
	}
	subject := jetstream.Subject(executionID)
	info, err := s.Info(ctx, js.WithSubjectFilter(subject))
	if err != nil {
		return nil, 0, err
	}
	return s, info.State.Subjects[subject], nil
}

// drop deletes the oldest n messages of an execution.
func drop(t testing.TB, nc *nats.Conn, executionID string, n int) {
	s, has, err := stored(t.Context(), nc, executionID)
	require.NoError(t, err)
	require.NoError(t, s.Purge(t.Context(), js.WithPurgeSubject(jetstream.Subject(executionID)), js.WithPurgeKeep(has-uint64(n))))
	// They answer direct get, too, and follow the leader a little later.
	eventually(t, "the replicas are level", func() bool {
		info, err := s.Info(t.Context())
		return err == nil && (info.Cluster == nil || !slices.ContainsFunc(info.Cluster.Replicas, func(p *js.PeerInfo) bool { return !p.Current || p.Lag > 0 }))
	})
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestSuite(t *testing.T) {
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d servers", n), func(t *testing.T) {
			e := startEngine(t, n)
			opened := 0
			suite := coretest.Engine{
				Open: func(t testing.TB) core.Backplane {
					opened++
					b, _ := e.open(t, opened, nil)
					return b
				},
				Drop: func(t testing.TB, executionID string, n int) {
					drop(t, e.connect(t, 0), executionID, n)
				},
			}
			if n == 1 {
				suite.Break = func(t testing.TB) func() {
					e.stop(0)
					return func() { e.start(t, 0) }
				}
			}
			coretest.RunBackplane(t, suite)
		})
	}
}
