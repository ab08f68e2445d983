package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/adapters/jetstream"
	"github.com/execcast/execcast/core"
)

var (
	kills     = flag.Int("kills", 2, "nodes killed")
	stops     = flag.Int("stops", 1, "nodes stopped for some seconds, or until the next fault")
	viewers   = flag.Int("viewers", 60, "viewers of all executions")
	events    = flag.Int("events", 6000, "events of all executions")
	finishes  = flag.Int("finishes", 20, "executions finished right before their leader is killed")
	many      = flag.Int("many", 1000, "executions with a viewer each, whose memory is measured")
	unguarded = flag.String("unguarded", "", "a guard of the backplane to do without, which has to turn the tests red: gaps or heads")
	everySome = flag.Duration("every", 9*time.Second, "time between two faults")
)

const executions = 30

// publisher is an orchestrator outside the nodes.
func publisher(t *testing.T, c *running) (*core.Registry, *jetstream.Backplane, js.JetStream) {
	nc, err := nats.Connect(strings.Join(c.nats, ","), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(100*time.Millisecond), nats.Timeout(time.Second), nats.PingInterval(time.Second))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := jetstream.New(ctx, nc, &jetstream.Options{Replicas: 3})
	require.NoError(t, err)
	t.Cleanup(b.Close)
	j, err := js.New(nc)
	require.NoError(t, err)
	return core.New(&core.Options{Backplane: b}), b, j
}

// Nodes are killed and stopped while viewers outside hop between them with
// their last ID, and publishers outside go on. The seconds it prints are to be
// judged by whoever reads them; what is counted has to be right.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	c := launch(t)
	c.start(0) // the cluster is there
	registry, _, _ := publisher(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute+time.Duration(*kills+*stops)*2**everySome)
	defer cancel()
	each := *events / executions
	faults := *kills + *stops
	length := time.Duration(faults+1) * *everySome // of the publishing
	ids := make([]string, executions)
	for i := range ids {
		ids[i] = fmt.Sprintf("fault.%d.>", i)
	}

	var faultTimes struct {
		sync.Mutex
		at []time.Time
	}
	calm := func(at time.Time) bool { // no election under way
		faultTimes.Lock()
		defer faultTimes.Unlock()
		return !slices.ContainsFunc(faultTimes.at, func(f time.Time) bool { return at.After(f.Add(-time.Second)) && at.Before(f.Add(8*time.Second)) })
	}
	var lost, doubled, gaps, moved, acknowledged atomic.Int64
	var latencies struct {
		sync.Mutex
		d []time.Duration
	}
	var stall atomic.Int64
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() { // its publisher
			var last uint64
			for n := 1; n <= each; n++ {
				begin := time.Now()
				data, err := json.Marshal(map[string]any{"step": n, "at": begin.UnixNano()})
				if err != nil {
					t.Error(err)
					return
				}
				got, err := registry.Publish(ctx, id, core.Event{Type: "step", Data: data, After: new(last)})
				if err != nil {
					t.Errorf("event %d of execution %d: %v", n, i, err)
					return
				}
				last = got
				acknowledged.Add(1)
				took := time.Since(begin)
				for old := stall.Load(); int64(took) > old && !stall.CompareAndSwap(old, int64(took)); old = stall.Load() {
				}
				time.Sleep(length/time.Duration(each) - took) // spreads the events over the faults
			}
			if err := registry.Close(ctx, id); err != nil {
				t.Errorf("close of execution %d: %v", i, err)
			}
		})
	}
	for i := range *viewers {
		wg.Go(func() {
			v := &viewer{c: c, id: ids[i%executions], at: i % 3, settled: -1}
			var own []time.Duration
			leave := 1 + rand.N(each)
			err := v.follow(ctx, func() {
				now := time.Now()
				if sent := time.Unix(0, v.sent); calm(sent) && calm(now) && v.moves == v.settled {
					own = append(own, now.Sub(sent))
				}
				if leave--; leave == 0 { // a viewer that goes to another node by itself
					leave = 1 + rand.N(each)
					v.hop()
				}
			})
			if err != nil {
				t.Errorf("viewer %d: %v", i, err)
			}
			next := 1
			for _, step := range v.steps {
				if step < next {
					doubled.Add(1)
				} else {
					lost.Add(int64(step - next))
					next = step + 1
				}
			}
			lost.Add(int64(each + 1 - next))
			gaps.Add(int64(v.gaps))
			moved.Add(int64(v.moves))
			latencies.Lock()
			latencies.d = append(latencies.d, own...)
			latencies.Unlock()
		})
	}
	plan := slices.Concat(slices.Repeat([]string{"kill"}, *kills), slices.Repeat([]string{"stop"}, *stops))
	rand.Shuffle(len(plan), func(i, j int) { plan[i], plan[j] = plan[j], plan[i] })
	wg.Go(func() {
		for _, fault := range plan {
			select {
			case <-time.After(*everySome):
			case <-ctx.Done():
				return
			}
			faultTimes.Lock()
			faultTimes.at = append(faultTimes.at, time.Now())
			faultTimes.Unlock()
			pid := c.pid(rand.N(3))
			if fault == "kill" {
				_ = syscall.Kill(pid, syscall.SIGKILL)
				continue
			}
			_ = syscall.Kill(pid, syscall.SIGSTOP)
			time.AfterFunc(time.Second+rand.N(4*time.Second), func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
		}
	})
	wg.Wait()
	slices.Sort(latencies.d)
	t.Logf("%d kills, %d stops, %d viewers in %d moves, %d executions, %d events acknowledged", *kills, *stops, *viewers, moved.Load(), executions, acknowledged.Load())
	t.Logf("lost %d, doubled or reordered %d, gaps %d", lost.Load(), doubled.Load(), gaps.Load())
	if n := len(latencies.d); n > 0 {
		t.Logf("latency outside elections, %d deliveries: p50 %v, p99 %v", n, latencies.d[n/2].Round(10*time.Microsecond), latencies.d[n*99/100].Round(10*time.Microsecond))
	}
	t.Logf("longest stall of a publish: %v", time.Duration(stall.Load()).Round(10*time.Millisecond))
	require.Equal(t, int64(each*executions), acknowledged.Load(), "events acknowledged")
	require.Zero(t, lost.Load(), "lost")
	require.Zero(t, doubled.Load(), "doubled or reordered")
	require.Zero(t, gaps.Load(), "gaps")
	require.GreaterOrEqual(t, moved.Load(), int64(*kills), "viewers were where a node was killed")
}

// Executions are finished right before the stream's leader is killed: each
// viewer sees the end, once, whatever became of the leader.
func TestFinishAndKill(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	c := launch(t)
	c.start(0)
	registry, _, j := publisher(t, c)
	const batch = 20
	ended, told, killed := 0, 0, 0
	for round := 0; ended < *finishes; round++ {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		var all []*viewer
		var wg sync.WaitGroup
		for i := range batch {
			id := fmt.Sprintf("finish-%d-%d", round, i)
			_, err := registry.Publish(ctx, id, core.Event{Type: "step", Data: []byte(`{"step":1}`)})
			require.NoError(t, err)
			v := &viewer{c: c, id: id, at: i % 3}
			all = append(all, v)
			watching := make(chan struct{})
			wg.Go(func() {
				first := sync.OnceFunc(func() { close(watching) })
				if err := v.follow(ctx, first); err != nil {
					t.Errorf("viewer of %s: %v", id, err)
					first()
				}
			})
			<-watching
		}
		info, err := j.Stream(ctx, "EXECCAST")
		require.NoError(t, err)
		leader := int(info.CachedInfo().Cluster.Leader[len("node-")] - '1')
		var closing sync.WaitGroup
		for _, v := range all {
			closing.Go(func() {
				if _, err := registry.Publish(ctx, v.id, core.Event{Type: "step", Data: []byte(`{"step":2}`)}); err != nil {
					t.Errorf("publish: %v", err)
				}
				if err := registry.Close(ctx, v.id); err != nil {
					t.Errorf("close: %v", err)
				}
			})
		}
		time.Sleep(rand.N(20 * time.Millisecond)) // anywhere in what is being stored
		_ = syscall.Kill(c.pid(leader), syscall.SIGKILL)
		killed++
		closing.Wait()
		wg.Wait()
		cancel()
		for _, v := range all {
			require.Equal(t, []int{1, 2}, v.steps, "viewer of %s", v.id)
			require.Equal(t, 1, v.ends, "ends seen by the viewer of %s", v.id)
			require.Zero(t, v.gaps)
			ended++
			told += v.told
		}
		c.start(leader) // it is back, and part of the cluster
	}
	t.Logf("%d executions finished beside %d kills of the leader: each end seen once, %d of them as a 204 on another node", ended, killed, told)
}

// sink is a viewer's connection that notes when something comes.
type sink struct{ got chan<- struct{} }

func (s sink) TryWrite(p []byte) (int, error) { return s.Write(p) }
func (s sink) End(error) error                { return nil }

func (s sink) Write(p []byte) (int, error) {
	select {
	case s.got <- struct{}{}:
	default:
	}
	return len(p), nil
}

// What an execution with a viewer costs a node, and how soon one that no viewer
// of the node has followed before can be resumed there.
func TestMany(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	c := launch(t)
	c.start(0)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	orchestrator, _, _ := publisher(t, c)
	ids := make([]uint64, *many)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(*many); i = next.Add(1) - 1 {
				for range 2 {
					id, err := orchestrator.Publish(ctx, fmt.Sprintf("many-%d", i), core.Event{Data: []byte(`"some text of an execution"`)})
					if err != nil {
						t.Errorf("publish: %v", err)
						return
					}
					if ids[i] == 0 {
						ids[i] = id
					}
				}
			}
		})
	}
	wg.Wait()
	require.False(t, t.Failed())

	node, _, _ := publisher(t, c)
	memory := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before := memory()
	took := make([]time.Duration, *many)
	next.Store(0)
	for range 16 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(*many); i = next.Add(1) - 1 {
				begin := time.Now()
				client, err := node.Register(fmt.Sprintf("many-%d", i), &core.ClientOptions{LastEventID: fmt.Sprint(ids[i])})
				if err != nil {
					t.Errorf("register: %v", err)
					return
				}
				got := make(chan struct{}, 1)
				client.Start(sink{got})
				select {
				case <-got:
				case <-ctx.Done():
					t.Error("hang: nothing comes")
					return
				}
				took[i] = time.Since(begin)
			}
		})
	}
	wg.Wait()
	require.False(t, t.Failed())
	after := memory()
	slices.Sort(took)
	t.Logf("%d executions with a viewer: %d bytes each on its node; resumed there, 16 at a time, in p50 %v, p99 %v",
		*many, (after-before)/uint64(*many), took[*many/2].Round(10*time.Microsecond), took[*many*99/100].Round(10*time.Microsecond))
	require.NoError(t, node.Shutdown(ctx))
}

// While two of three nodes are stopped nothing can be stored: viewers of the
// third stay connected, and get everything when the others are back.
func TestCatchUp(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	if runtime.GOOS != "linux" {
		t.Skip("whether a process is stopped is read from /proc")
	}
	c := launch(t)
	c.start(0)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	registry, _, _ := publisher(t, c)
	say := func(n int) {
		_, err := registry.Publish(ctx, "catch-up", core.Event{Type: "step", Data: fmt.Appendf(nil, `{"step":%d}`, n)})
		require.NoError(t, err)
	}
	say(1)
	v := &viewer{c: c, id: "catch-up", at: 2}
	arrived := make(chan time.Time, 100)
	done := make(chan error, 1)
	go func() { done <- v.follow(ctx, func() { arrived <- time.Now() }) }()
	<-arrived
	for i := range 2 {
		require.NoError(t, syscall.Kill(c.pid(i), syscall.SIGSTOP))
	}
	for i := range 2 {
		require.Eventually(t, func() bool { return isStopped(c.pid(i)) }, 20*time.Second, time.Millisecond, "node %d is stopped", i)
	}
	var resumed atomic.Bool
	begin := time.Now()
	back := time.AfterFunc(5*time.Second, func() {
		resumed.Store(true)
		for i := range 2 {
			_ = syscall.Kill(c.pid(i), syscall.SIGCONT)
		}
	})
	defer back.Stop()
	say(2)
	stored := time.Now()
	require.True(t, resumed.Load(), "stored by one node of three")
	seen := <-arrived
	t.Logf("nothing stored for %v; the viewer had it %v after the publisher was told that it is stored", stored.Sub(begin).Round(10*time.Millisecond), seen.Sub(stored).Round(time.Millisecond))
	require.NoError(t, registry.Close(ctx, "catch-up"))
	require.NoError(t, <-done)
	require.Equal(t, []int{1, 2}, v.steps)
	require.Zero(t, v.moves, "a viewer of a node that runs stays there")
}

// isStopped reports whether all threads of a process are.
func isStopped(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		return false
	}
	for _, name := range threads {
		stat, err := os.ReadFile(name)
		if err != nil {
			return false
		}
		_, state, _ := strings.Cut(string(stat), ") ") // behind the program's name (proc(5))
		if !strings.HasPrefix(state, "T") {
			return false
		}
	}
	return true
}
