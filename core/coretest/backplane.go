package coretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
)

// Engine is what RunBackplane has to know of the engine behind a backplane.
type Engine struct {
	// Open returns the engine's backplane as one more node gets it. All that
	// one test opens share their messages; it closes them with t.Cleanup.
	Open func(t testing.TB) core.Backplane
	// Break makes the engine unavailable to all nodes until repair is called.
	// Nil if that cannot be done.
	Break func(t testing.TB) (repair func())
	// Drop has the engine lose the oldest n messages of an execution. Nil if
	// that cannot be done.
	Drop func(t testing.TB, executionID string, n int)
}

// RunBackplane checks a backplane, one subtest a case: first by itself, then as
// registries use it. Execution IDs differ from case to case.
func RunBackplane(t *testing.T, e Engine) {
	for _, c := range backplaneCases {
		t.Run(c.name, func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("%s: %s", c.name, c.why)
				}
			})
			cl := &cluster{T: t, Engine: e}
			t.Cleanup(cl.report) // behind the nodes' end
			c.run(cl)
		})
	}
}

type backplaneCase struct {
	name string
	why  string
	run  func(c *cluster)
}

// cluster is what a case works with.
type cluster struct {
	*testing.T
	Engine

	mu         sync.Mutex
	complaints []string
}

// complain notes a failure. Unlike Errorf it may be called by goroutines that
// the case does not wait for, such as a backplane's, even after its end.
func (c *cluster) complain(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.complaints = append(c.complaints, fmt.Sprintf(format, args...))
}

// report fails the case if there are complaints.
func (c *cluster) report() {
	c.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, complaint := range c.complaints {
		c.Error(complaint)
	}
	c.complaints = nil
}

var backplaneCases = []backplaneCase{{
	name: "IDs",
	why:  "IDs rise over all executions and nodes, and each message names the one before, so that loss shows",
	run: func(c *cluster) {
		nodes := []core.Backplane{c.Open(c), c.Open(c)}
		var last uint64
		prev := map[string]uint64{}
		f := map[string]*follower{}
		for _, x := range []string{"ids-a", "ids-b"} {
			f[x] = c.follow(nodes[0], x)
		}
		for i := range 20 {
			x := []string{"ids-a", "ids-b"}[i%2]
			id := c.add(nodes[i/2%2], x, core.Message{Event: core.Event{Data: []byte("1")}})
			require.Greater(c, id, last)
			require.Less(c, id, uint64(1<<53))
			last = id
			m := f[x].next()
			require.Equal(c, id, m.ID)
			require.Equal(c, prev[x], m.Prev)
			prev[x] = id
		}
	},
}, {
	name: "Content",
	why:  "what is delivered is what was published, to the byte",
	run: func(c *cluster) {
		node := c.Open(c)
		f := c.follow(node, "content")
		for i, e := range []core.Event{
			{},
			{Type: "tick", Data: []byte(`{"n":1}`)},
			{Type: "Ä ö: \"quoted\" é\u2028 🙂", Data: []byte("line\nline\r\nline\r \x00 end")},
			{Type: "key", Key: "a\nb: c\r\n\x00 ü ", Data: []byte("x")},
			{Type: strings.Repeat("t", 256), Key: strings.Repeat("k", 256), Data: bytes.Repeat([]byte("0123456789abcdef"), 16<<10)},
			{Data: []byte("\ufeffBOM"), Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		} {
			id := c.add(node, "content", core.Message{Event: e})
			m := f.next()
			require.Equal(c, id, m.ID, "event %d", i)
			require.Equal(c, core.Published, m.Kind, "event %d", i)
			require.Equal(c, e.Type, m.Event.Type, "event %d", i)
			require.Equal(c, e.Key, m.Event.Key, "event %d", i)
			require.Equal(c, string(e.Data), string(m.Event.Data), "event %d", i)
			require.Equal(c, e.Traceparent, m.Event.Traceparent, "event %d", i)
		}
	},
}, {
	name: "HistoryAndTail",
	why:  "who follows gets what was before, then what comes, each once and in order, whoever publishes",
	run: func(c *cluster) {
		const n = 300
		nodes := []core.Backplane{c.Open(c), c.Open(c), c.Open(c)}
		var wg sync.WaitGroup
		begin := make(chan struct{})
		for i, node := range nodes {
			wg.Go(func() {
				for j := range n {
					if i == 0 && j%(n/10) == 0 {
						begin <- struct{}{} // a follower, between these two
					}
					id, err := node.Append(c.Context(), "history", core.Message{Event: core.Event{Data: fmt.Appendf(nil, "%d %d", i, j)}})
					if err != nil || id == 0 {
						c.complain("append %d of node %d: ID %d, %v", j, i, id, err)
						return
					}
				}
			})
		}
		var followers []*follower
		for range 10 {
			wait(c, "the next events are published", begin)
			followers = append(followers, c.follow(nodes[rand.N(3)], "history"))
		}
		wg.Wait()
		followers = append(followers, c.follow(nodes[0], "history"))
		for i, f := range followers {
			next := [3]int{}
			var last uint64
			for range 3 * n {
				m := f.next()
				require.Equal(c, last, m.Prev, "follower %d: a message is missing or doubled", i)
				last = m.ID
				var node, j int
				_, err := fmt.Sscan(string(m.Event.Data), &node, &j)
				require.NoError(c, err)
				require.Equal(c, next[node], j, "follower %d: messages of node %d", i, node)
				next[node]++
			}
		}
	},
}, {
	name: "Finished",
	why:  "after the end nothing is accepted, from any node",
	run: func(c *cluster) {
		a, b := c.Open(c), c.Open(c)
		f := c.follow(b, "finished")
		id, err := a.Append(c.Context(), "finished", core.Message{Kind: core.Finished})
		require.NoError(c, err, "the end of what nobody knows")
		require.Zero(c, id)
		c.add(a, "finished", core.Message{})
		c.add(b, "finished", core.Message{})
		id = c.add(a, "finished", core.Message{Kind: core.Finished})
		for _, node := range []core.Backplane{b, a, c.Open(c)} {
			_, err = node.Append(c.Context(), "finished", core.Message{})
			require.ErrorIs(c, err, core.ErrFinished)
			second, err := node.Append(c.Context(), "finished", core.Message{Kind: core.Finished})
			require.NoError(c, err, "the end, again")
			require.Equal(c, id, second, "the ID of the end")
		}
		f.next()
		f.next()
		m := f.next()
		require.Equal(c, core.Finished, m.Kind)
		require.Equal(c, id, m.ID)
		f.expectNothing()
	},
}, {
	name: "FinishedRace",
	why:  "an event whose publisher was told nil is in front of the end",
	run: func(c *cluster) {
		for i := range 10 {
			x := fmt.Sprintf("finished-race-%d", i)
			nodes := []core.Backplane{c.Open(c), c.Open(c), c.Open(c)}
			c.add(nodes[0], x, core.Message{})
			f := c.follow(nodes[1], x)
			var stored [2]int
			var wg sync.WaitGroup
			begun := make(chan struct{}, 2)
			for i, node := range nodes[:2] {
				wg.Go(func() {
					for {
						_, err := node.Append(c.Context(), x, core.Message{})
						if errors.Is(err, core.ErrFinished) {
							return
						}
						if err != nil {
							c.complain("append: %v", err)
							return
						}
						if stored[i]++; stored[i] == 2 {
							begun <- struct{}{}
						}
					}
				})
			}
			wait(c, "one node publishes", begun)
			wait(c, "the other publishes", begun)
			c.add(nodes[2], x, core.Message{Kind: core.Finished})
			wg.Wait()
			for range 1 + stored[0] + stored[1] {
				require.Equal(c, core.Published, f.next().Kind)
			}
			require.Equal(c, core.Finished, f.next().Kind)
			f.expectNothing()
		}
	},
}, {
	name: "Fence",
	why:  "of two orchestrators of one execution, one wins and the other knows",
	run: func(c *cluster) {
		nodes := []core.Backplane{c.Open(c), c.Open(c)}
		for range 10 {
			var wg sync.WaitGroup
			x := fmt.Sprintf("fence-%d", rand.Uint64())
			won := make([]int, 2)
			for i, node := range nodes {
				wg.Go(func() {
					last := uint64(0)
					for range 5 {
						id, err := node.Append(c.Context(), x, core.Message{After: new(last), Event: core.Event{Data: fmt.Append(nil, i)}})
						if errors.Is(err, core.ErrConflict) {
							return
						}
						if err != nil {
							c.complain("append: %v", err)
							return
						}
						last = id
						won[i]++
					}
				})
			}
			wg.Wait()
			slices.Sort(won)
			require.Equal(c, []int{0, 5}, won, "events each of two orchestrators could publish")
		}
		id := c.add(nodes[0], "fence", core.Message{})
		_, err := nodes[1].Append(c.Context(), "fence", core.Message{After: new(id - 1)})
		require.ErrorIs(c, err, core.ErrConflict)
		c.add(nodes[1], "fence", core.Message{After: new(id)})
	},
}, {
	name: "Forgotten",
	why:  "what is forgotten is gone for all nodes, and its ID can be used again",
	run: func(c *cluster) {
		a, b := c.Open(c), c.Open(c)
		c.add(a, "forgotten", core.Message{})
		c.add(a, "forgotten", core.Message{Kind: core.Finished})
		f := c.follow(b, "forgotten")
		f.next()
		f.next()
		c.add(b, "forgotten", core.Message{Kind: core.Forgotten})
		require.Equal(c, core.Forgotten, f.next().Kind)
		id, err := a.Append(c.Context(), "forgotten", core.Message{Kind: core.Finished})
		require.NoError(c, err)
		require.Zero(c, id, "nothing is left that could be finished")
		id = c.add(a, "forgotten", core.Message{After: new(uint64(0))})
		require.Equal(c, id, f.next().ID)
		late := c.follow(a, "forgotten")
		// A replica that lags may still have what is gone, and then says so.
		gone := false
		for m := late.next(); m.ID != id; m = late.next() {
			require.Less(c, m.ID, id)
			gone = m.Kind != core.Forgotten
		}
		require.False(c, gone, "what was forgotten is followed by something else than that")
		late.expectNothing()
	},
}, {
	name: "HostileNames",
	why:  "an execution's ID is a name and never a pattern: nobody sees another's events",
	run: func(c *cluster) {
		node := c.Open(c)
		names := []string{"*", ">", "a.b", "a.*", "a", "A", "b", "a b", "a\tb", "$SYS.>", "", ".", "..", "a.", ".a", "ä", "%2e", "_", "-", "=", "YQ", "61"}
		names = slices.DeleteFunc(names, func(s string) bool { return s == "" || strings.Contains(s, "\t") })
		names = append(names, strings.Repeat("x", 256), strings.Repeat("🙂", 64))
		var followers []*follower
		for _, x := range names {
			followers = append(followers, c.follow(node, x))
		}
		for _, x := range names {
			c.add(node, x, core.Message{Event: core.Event{Data: []byte(x)}})
		}
		for i, f := range followers {
			require.Equal(c, names[i], string(f.next().Event.Data))
			f.expectNothing()
		}
	},
}, {
	name: "Drop",
	why:  "what the engine has lost shows, with the ID up to which it is gone",
	run: func(c *cluster) {
		if c.Drop == nil {
			c.Skip("this engine keeps everything")
		}
		node := c.Open(c)
		var ids []uint64
		for range 10 {
			ids = append(ids, c.add(node, "drop", core.Message{}))
		}
		c.Drop(c, "drop", 4)
		f := c.follow(c.Open(c), "drop")
		for i := 4; i < 10; i++ {
			m := f.next()
			require.Equal(c, ids[i], m.ID)
			require.Equal(c, ids[i-1], m.Prev)
		}
		f.expectNothing()
	},
}, {
	name: "Cancelled",
	why:  "a publisher's context bounds its waiting",
	run: func(c *cluster) {
		node := c.Open(c)
		ctx, cancel := context.WithCancel(c.Context())
		cancel()
		returned := make(chan error, 1)
		go func() {
			_, err := node.Append(ctx, "cancelled", core.Message{})
			returned <- err
		}()
		err := wait(c, "Append returns", returned)
		require.ErrorIs(c, err, context.Canceled)
		require.ErrorIs(c, err, core.ErrUnavailable)
	},
}, {
	name: "Break",
	why:  "while the engine is away publishers wait, and when it is back nobody has lost anything",
	run: func(c *cluster) {
		if c.Break == nil {
			c.Skip("this engine cannot be made unavailable")
		}
		node, other := c.Open(c), c.Open(c)
		f := c.follow(other, "break")
		id := c.add(node, "break", core.Message{})
		require.Equal(c, id, f.next().ID)
		for round := range 3 {
			repair := c.Break(c)
			ctx, cancel := context.WithTimeout(c.Context(), 300*time.Millisecond)
			_, err := node.Append(ctx, "break-unseen", core.Message{})
			cancel()
			require.ErrorIs(c, err, core.ErrUnavailable, "round %d", round)
			require.ErrorIs(c, err, context.DeadlineExceeded, "round %d", round)
			f.expectDown()
			late := c.follow(other, "break") // the engine is away when it begins
			stored := make(chan uint64, 1)
			waits := &watchedContext{Context: c.Context(), asked: make(chan struct{})}
			go func() {
				id, err := node.Append(waits, "break", core.Message{Event: core.Event{Data: fmt.Append(nil, round)}})
				if err != nil {
					c.complain("append: %v", err)
				}
				stored <- id
			}()
			wait(c, "Append looks after its context", waits.asked)
			repair()
			id := wait(c, "what was being published is stored", stored)
			m := f.next()
			require.Equal(c, id, m.ID, "round %d", round)
			require.Equal(c, fmt.Sprint(round), string(m.Event.Data))
			f.expectUp()
			for range round + 2 {
				m = late.next()
			}
			require.Equal(c, id, m.ID, "round %d", round)
			late.expectNothing()
		}
	},
}, {
	name: "Stop",
	why:  "an execution that nobody watches costs nothing",
	run: func(c *cluster) {
		node := c.Open(c)
		f := c.follow(node, "stop")
		c.add(node, "stop", core.Message{})
		f.next()
		f.stop()
		c.eventually("the end of what is delivered", func() bool {
			c.add(node, "stop", core.Message{})
			f.mu.Lock()
			f.read = len(f.messages)
			f.mu.Unlock()
			time.Sleep(moment)
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.read == len(f.messages)
		})
		c.add(node, "stop", core.Message{})
		f.expectNothing()
	},
}, {
	name: "Locks",
	why:  "Follow and stop are called with locks held that a follower takes, so neither waits for one",
	run: func(c *cluster) {
		node := c.Open(c)
		f, other := c.follow(node, "locks"), c.follow(node, "locks")
		c.add(node, "locks", core.Message{})
		f.next()
		other.next()
		calls := func() int64 { return f.delivering.Load() + other.delivering.Load() }
		counts := func() int64 { return f.counting.Load() + other.counting.Load() }
		delivered, asked := calls(), counts()
		f.mu.Lock() // Deliver and ClientCount wait for it
		counted := make(chan struct{})
		go func() {
			defer close(counted)
			ctx, cancel := context.WithTimeout(c.Context(), patience)
			defer cancel()
			node.ClientCount(ctx, "locks")
		}()
		stored := make(chan struct{})
		go func() {
			defer close(stored)
			node.Append(c.Context(), "locks", core.Message{})
		}()
		wait(c, "Append does not wait for followers", stored)
		c.eventually("both are told of it", func() bool { return calls() >= delivered+2 })
		c.eventually("one is asked for its clients", func() bool { return counts() > asked })
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			c.follow(node, "locks-new").stop()
			other.stop()
			f.stop()
		}()
		select {
		case <-stopped:
		case <-time.After(patience / 2):
			c.Error("hang: Follow or stop waits for a follower")
		}
		f.mu.Unlock()
		wait(c, "Follow and stop have returned", stopped)
		wait(c, "ClientCount has returned", counted)
	},
}, {
	name: "ClientCount",
	why:  "how many viewers an execution has is asked of all nodes",
	run: func(c *cluster) {
		a, b := c.Open(c), c.Open(c)
		n, err := a.ClientCount(c.Context(), "count")
		require.NoError(c, err)
		require.Zero(c, n)
		c.followed(a, "count", 3)
		c.followed(b, "count", 4)
		c.followed(b, "count-other", 5)
		c.eventually("the counts of both nodes", func() bool {
			n, err := a.ClientCount(c.Context(), "count")
			return err == nil && n == 7
		})
	},
}, {
	name: "Registries",
	why:  "a viewer may come to any node, resume on any other, and sees the end on all",
	run: func(c *cluster) {
		nodes := []*core.Registry{c.registry(nil), c.registry(nil), c.registry(nil)}
		watcher := c.watch(nodes[0], "registries", "")
		var want []string
		for i := range 30 {
			id, err := nodes[1+i%2].Publish(c.Context(), "registries", core.Event{Type: "tick", Data: fmt.Append(nil, i)})
			require.NoError(c, err)
			want = append(want, fmt.Sprintf("%d tick %d", id, i))
		}
		watcher.expect(want[:20]...)
		id, _, _ := strings.Cut(want[19], " ")
		watcher.leave()
		resumed := c.watch(nodes[2], "registries", id)
		late := c.watch(nodes[1], "registries", "")
		resumed.expect(want[20:]...)
		n, err := nodes[0].ClusterClientCount(c.Context(), "registries")
		require.NoError(c, err)
		require.GreaterOrEqual(c, n, 2)
		require.NoError(c, nodes[0].Close(c.Context(), "registries"))
		late.expect(append(want, "0 stream-end {}")...)
		resumed.expect("0 stream-end {}")
		require.NoError(c, late.ended())
		require.NoError(c, resumed.ended())
		for _, r := range nodes {
			_, err := r.Publish(c.Context(), "registries", core.Event{})
			require.ErrorIs(c, err, core.ErrFinished)
			last, _, _ := strings.Cut(want[29], " ")
			_, err = r.Register("registries", &core.ClientOptions{LastEventID: last})
			require.ErrorIs(c, err, core.ErrFinished)
			_, err = r.Register("registries-nobody-knows", &core.ClientOptions{LastEventID: last})
			require.ErrorIs(c, err, core.ErrUnknown)
		}
	},
}, {
	name: "RegistriesHop",
	why:  "viewers that hop between nodes lose, double and reorder nothing",
	run: func(c *cluster) {
		const n, viewers = 300, 6
		var hopping sync.WaitGroup
		c.Cleanup(hopping.Wait) // behind the nodes' shutdown, which ends it
		nodes := []*core.Registry{c.registry(nil), c.registry(nil), c.registry(nil)}
		done := make(chan []string, viewers)
		_, err := nodes[0].Publish(c.Context(), "hop", core.Event{Data: []byte("0")})
		require.NoError(c, err)
		for range viewers {
			hopping.Go(func() {
				var got []string
				last := ""
				for {
					v, err := c.try(nodes[rand.N(3)], "hop", last)
					if errors.Is(err, core.ErrFinished) || errors.Is(err, core.ErrShutdown) { // that if the case has failed
						break
					}
					if err != nil {
						c.complain("register: %v", err)
						break
					}
					for range 1 + rand.N(20) {
						line, ok := v.next()
						if !ok || line == "0 stream-end {}" {
							break
						}
						id, _, _ := strings.Cut(line, " ")
						last = id
						got = append(got, line)
					}
					v.client.Unregister()
				}
				done <- got
			})
		}
		for i := 1; i < n; i++ {
			_, err := nodes[i%3].Publish(c.Context(), "hop", core.Event{Data: fmt.Append(nil, i)})
			require.NoError(c, err)
		}
		ctx, cancel := context.WithTimeout(c.Context(), patience)
		defer cancel()
		require.NoError(c, nodes[0].Close(ctx, "hop"))
		for i := range viewers {
			got := wait(c, "a hopping viewer has everything", done)
			require.Len(c, got, n, "viewer %d", i)
			for j, line := range got {
				require.True(c, strings.HasSuffix(line, fmt.Sprintf(" message %d", j)), "viewer %d, event %d: %s", i, j, line)
			}
		}
	},
}, {
	name: "RegistriesForget",
	why:  "Forget ends the viewers of all nodes, and the ID can run again",
	run: func(c *cluster) {
		a, b := c.registry(nil), c.registry(nil)
		_, err := a.Publish(c.Context(), "forget", core.Event{Data: []byte("old")})
		require.NoError(c, err)
		v := c.watch(b, "forget", "")
		_, ok := v.next()
		require.True(c, ok)
		a.Forget("forget")
		require.ErrorIs(c, v.ended(), core.ErrUnregistered)
		id, err := a.Publish(c.Context(), "forget", core.Event{Data: []byte("new")})
		require.NoError(c, err)
		c.watch(b, "forget", "").expect(fmt.Sprintf("%d message new", id))
	},
}}

// add appends a message, which must be stored.
func (c *cluster) add(b core.Backplane, executionID string, m core.Message) uint64 {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	id, err := b.Append(ctx, executionID, m)
	require.NoError(c, err)
	require.NotZero(c, id)
	return id
}

// eventually asks until f is true: what a backplane's engine does elsewhere
// cannot be waited for in another way.
func (c *cluster) eventually(what string, f func() bool) {
	c.Helper()
	for start := time.Now(); !f(); time.Sleep(10 * time.Millisecond) {
		if c.report(); c.Failed() {
			c.FailNow()
		}
		if time.Since(start) > patience {
			require.FailNow(c, "hang", "waiting for %s", what)
		}
	}
}

// watchedContext is a context that tells when it has first been looked at by
// somebody who is about to wait.
type watchedContext struct {
	context.Context
	once  sync.Once
	asked chan struct{}
}

func (c *watchedContext) Done() <-chan struct{} {
	c.once.Do(func() { close(c.asked) })
	return c.Context.Done()
}

// follower is a core.Follower that keeps what it is told.
type follower struct {
	c        *cluster
	clients  int
	stopping func()
	// How often Deliver and ClientCount were called.
	delivering, counting atomic.Int64

	mu       sync.Mutex
	messages []core.Message
	read     int
	busy     bool // Deliver or Synced is running
	up       bool
	down     bool // Synced was called with an error since up
}

// follow follows an execution until the test ends.
func (c *cluster) follow(b core.Backplane, executionID string) *follower {
	return c.followed(b, executionID, 0)
}

func (c *cluster) followed(b core.Backplane, executionID string, clients int) *follower {
	f := &follower{c: c, clients: clients}
	f.stopping = sync.OnceFunc(b.Follow(executionID, f))
	c.Cleanup(f.stopping)
	return f
}

func (f *follower) stop() { f.stopping() }

func (f *follower) enter() {
	f.mu.Lock()
	if f.busy {
		f.c.complain("Deliver or Synced called while one of them is running")
	}
	f.busy = true
	f.mu.Unlock()
}

func (f *follower) leave() {
	f.mu.Lock()
	f.busy = false
	f.mu.Unlock()
}

func (f *follower) Deliver(messages []core.Message) {
	f.delivering.Add(1)
	f.enter()
	defer f.leave()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range messages {
		m.Event.Data = bytes.Clone(m.Event.Data)
		f.messages = append(f.messages, m)
	}
}

func (f *follower) Synced(err error) {
	f.enter()
	defer f.leave()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.up = true
	} else {
		f.up, f.down = false, true
	}
}

func (f *follower) ClientCount() int {
	f.counting.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.clients
}

// next waits for the next message.
func (f *follower) next() (m core.Message) {
	f.c.Helper()
	f.c.eventually("a message", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.read == len(f.messages) {
			return false
		}
		m = f.messages[f.read]
		f.read++
		return true
	})
	return m
}

// moment is how long what must not come is waited for. An absence cannot be
// waited for in another way: too short a time lets a fault pass, and fails no
// backplane that has none.
const moment = 50 * time.Millisecond

// expectNothing fails if a message comes within a moment.
func (f *follower) expectNothing() {
	f.c.Helper()
	time.Sleep(moment)
	f.mu.Lock()
	defer f.mu.Unlock()
	require.Empty(f.c, f.messages[f.read:], "a message too many")
}

func (f *follower) expectDown() {
	f.c.Helper()
	f.c.eventually("Synced with an error", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.down
	})
}

func (f *follower) expectUp() {
	f.c.Helper()
	f.c.eventually("Synced without an error", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.up
	})
	f.mu.Lock()
	f.down = false
	f.mu.Unlock()
}

// registry returns a node.
func (c *cluster) registry(opts *core.Options) *core.Registry {
	o := core.Options{Logger: slog.New(slog.DiscardHandler)}
	if opts != nil {
		o = *opts
	}
	o.Backplane = c.Open(c)
	r := core.New(&o)
	c.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := r.Shutdown(ctx); err != nil {
			c.Errorf("shutdown: %v", err)
		}
	})
	return r
}

// lines encodes each event as a line: ID, type, data.
type lines struct{}

func (lines) AppendEvent(dst []byte, e core.Event) []byte {
	if e.Type == "" {
		e.Type = "message"
	}
	return fmt.Appendf(dst, "%d %s %s\n", e.ID, e.Type, e.Data)
}

func (lines) AppendHeartbeat(dst []byte) []byte { return dst }

// nodeViewer is a client of a registry without a transport.
type nodeViewer struct {
	c      *cluster
	client *core.Client
	lines  chan string
	done   chan error
}

func (c *cluster) try(r *core.Registry, executionID, lastEventID string) (*nodeViewer, error) {
	client, err := r.Register(executionID, &core.ClientOptions{Encoder: lines{}, LastEventID: lastEventID})
	if err != nil {
		return nil, err
	}
	v := &nodeViewer{c, client, make(chan string, 100_000), make(chan error, 1)}
	go func() {
		err := client.Serve(context.Background(), v)
		close(v.lines)
		v.done <- err
	}()
	return v, nil
}

func (c *cluster) watch(r *core.Registry, executionID, lastEventID string) *nodeViewer {
	c.Helper()
	v, err := c.try(r, executionID, lastEventID)
	require.NoError(c, err)
	c.Cleanup(v.client.Unregister)
	return v
}

func (v *nodeViewer) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		select {
		case v.lines <- strings.TrimSuffix(line, "\n"):
		default:
			return 0, io.ErrShortWrite
		}
	}
	return len(p), nil
}

// next returns the next line, or false at the end.
func (v *nodeViewer) next() (string, bool) {
	hang := time.NewTimer(patience)
	defer hang.Stop()
	select {
	case line, ok := <-v.lines:
		return line, ok
	case <-hang.C:
		v.c.complain("hang: waiting for an event")
		return "", false
	}
}

func (v *nodeViewer) expect(want ...string) {
	v.c.Helper()
	for i, w := range want {
		got, ok := v.next()
		require.True(v.c, ok, "the stream ended instead of event %d, %s", i, w)
		require.Equal(v.c, w, got, "event %d", i)
	}
}

// leave ends the client.
func (v *nodeViewer) leave() {
	v.client.Unregister()
	v.ended()
}

// ended waits for the client's end and returns its reason.
func (v *nodeViewer) ended() error {
	v.c.Helper()
	return wait(v.c, "the client has ended", v.done)
}
