package jetstream_test

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execcast/execcast/adapters/jetstream"
	"github.com/execcast/execcast/core"
	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

const patience = 20 * time.Second

// TestRootWithoutNATS: whoever uses no backplane does not download NATS.
func TestRootWithoutNATS(t *testing.T) {
	list := exec.Command("go", "list", "-m", "all")
	list.Dir = "../.."
	out, err := list.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "github.com/execcast/execcast\n")
	require.NotContains(t, string(out), "nats-io")
}

// follower keeps what it is told.
type follower struct {
	mu       sync.Mutex
	messages []core.Message
	synced   bool
}

func (f *follower) Deliver(messages []core.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.messages = append(f.messages, messages...)
}

func (f *follower) Synced(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.synced = err == nil
}

func (f *follower) ClientCount() int { return 1 }

func (f *follower) state() (messages []core.Message, synced bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.messages, f.synced
}

func follow(t testing.TB, b core.Backplane, executionID string) *follower {
	f := &follower{}
	stop := b.Follow(executionID, f)
	t.Cleanup(stop)
	return f
}

func publish(t testing.TB, b core.Backplane, executionID, data string) uint64 {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	id, err := b.Append(ctx, executionID, core.Message{Event: core.Event{Data: []byte(data)}})
	require.NoError(t, err)
	return id
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	require.Eventually(t, f, patience, 5*time.Millisecond, what)
}

func TestLost(t *testing.T) {
	// A message that is stored and whose republished copy does not arrive, as
	// when a leader dies in between.
	for guard, lost := range map[string]bool{"": false, "heads": true} {
		t.Run("without "+guard, func(t *testing.T) {
			jetstream.Unguard(t, guard) // before anything runs that reads it
			e := startEngine(t, 1)
			publisher, _ := e.open(t, 0, nil)
			b, nc := e.open(t, 0, &jetstream.Options{Retention: time.Nanosecond})
			f := follow(t, b, "x")
			publish(t, publisher, "x", "1")
			eventually(t, "the first message", func() bool { m, up := f.state(); return len(m) == 1 && up })
			jetstream.Deafen(t, b, "x")
			publish(t, publisher, "x", "2")
			if lost {
				for i := range 2 { // looks at the stream, each of which ends with a purge
					other := fmt.Sprint("other", i)
					publish(t, b, other, "1")
					purge(t, b, nc, other)
				}
				m, _ := f.state()
				require.Len(t, m, 1, "the message came without the guard")
				return
			}
			eventually(t, "the message nobody republished", func() bool { m, _ := f.state(); return len(m) == 2 })
		})
	}
}

func TestHostileNames(t *testing.T) {
	const n = 10_000
	e := startEngine(t, 1)
	b, _ := e.open(t, 0, nil)
	name := func(i int) string {
		special := []string{"*", ">", ".", " ", "/", "%", "ä", "$JS", "a", "A", "-", "_"}
		var s strings.Builder
		for ; i > 0 || s.Len() == 0; i /= len(special) {
			s.WriteString(special[i%len(special)])
		}
		return s.String()
	}
	followers := map[string]*follower{}
	for i := range n {
		followers[name(i)] = follow(t, b, name(i))
	}
	require.Len(t, followers, n)
	names := make(chan string)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for x := range names {
				if _, err := b.Append(t.Context(), x, core.Message{Event: core.Event{Data: []byte(x)}}); err != nil {
					t.Errorf("append to %q: %v", x, err)
				}
			}
		})
	}
	for x := range followers {
		names <- x
	}
	close(names)
	wg.Wait()
	for x, f := range followers {
		eventually(t, "the event of "+x, func() bool { m, _ := f.state(); return len(m) > 0 })
		m, _ := f.state()
		require.Len(t, m, 1, "%q has foreign events", x)
		require.Equal(t, x, string(m[0].Event.Data))
	}
}

// purge finishes an execution and waits until b, whose retention is next to
// nothing, has deleted it.
func purge(t testing.TB, b core.Backplane, nc *nats.Conn, executionID string) {
	_, err := b.Append(t.Context(), executionID, core.Message{Kind: core.Finished})
	require.NoError(t, err)
	eventually(t, "the finished execution to be deleted", func() bool {
		_, n, err := stored(t.Context(), nc, executionID)
		return err == nil && n == 0
	})
}

func TestPurge(t *testing.T) {
	e := startEngine(t, 1)
	b, nc := e.open(t, 0, &jetstream.Options{Retention: time.Millisecond})
	publish(t, b, "purged", "1")
	publish(t, b, "kept", "1")
	purge(t, b, nc, "purged")
	_, n, err := stored(t.Context(), nc, "kept")
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	publish(t, b, "purged", "again")
	f := follow(t, b, "purged")
	eventually(t, "the new life", func() bool { m, up := f.state(); return len(m) == 1 && up })
}

// watchedContext is a context that tells when somebody begins to wait for its
// end.
type watchedContext struct {
	context.Context
	once  sync.Once
	asked chan struct{}
}

func (c *watchedContext) Done() <-chan struct{} {
	c.once.Do(func() { close(c.asked) })
	return c.Context.Done()
}

func TestStart(t *testing.T) {
	e := startEngine(t, 1)
	e.stop(0)
	t.Run("never", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := jetstream.New(ctx, e.connect(t, 0), nil)
		require.ErrorIs(t, err, core.ErrUnavailable)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
	t.Run("later", func(t *testing.T) {
		nc := e.connect(t, 0)
		made := make(chan error, 1)
		ctx := &watchedContext{Context: t.Context(), asked: make(chan struct{})}
		go func() {
			b, err := jetstream.New(ctx, nc, nil)
			if err == nil {
				b.Close()
			}
			made <- err
		}()
		<-ctx.asked // it waits for another try
		e.start(t, 0)
		require.NoError(t, <-made)
	})
}

func TestForeignStream(t *testing.T) {
	e := startEngine(t, 1)
	nc := e.connect(t, 0)
	eventually(t, "the connection", nc.IsConnected)
	j, err := js.New(nc)
	require.NoError(t, err)
	_, err = j.CreateStream(t.Context(), js.StreamConfig{Name: "EXECCAST", Subjects: []string{"other"}})
	require.NoError(t, err)
	_, err = jetstream.New(t.Context(), nc, nil)
	require.ErrorIs(t, err, jetstream.ErrStream)
	require.ErrorContains(t, err, `its subjects are ["other"]`)
	_, err = jetstream.New(t.Context(), nc, &jetstream.Options{Prefix: "a.>"})
	require.ErrorContains(t, err, `"a.>" is no prefix`)
}

func TestTooLarge(t *testing.T) {
	e := startEngine(t, 1)
	b, _ := e.open(t, 0, nil)
	_, err := b.Append(t.Context(), "x", core.Message{Event: core.Event{Data: make([]byte, 2<<20)}})
	require.ErrorIs(t, err, nats.ErrMaxPayload)
}

// TestGoroutines: followed executions cost none, and Close ends all.
func TestGoroutines(t *testing.T) {
	e := startEngine(t, 1)
	nc := e.connect(t, 0)
	eventually(t, "the connection", nc.IsConnected)
	require.NoError(t, nc.Flush())
	before := runtime.NumGoroutine()
	b, err := jetstream.New(t.Context(), nc, nil)
	require.NoError(t, err)
	var followers []*follower
	for i := range 1000 {
		f := &follower{}
		b.Follow(fmt.Sprint(i), f)
		followers = append(followers, f)
	}
	for _, f := range followers {
		eventually(t, "all to be followed", func() bool { _, up := f.state(); return up })
	}
	require.Less(t, runtime.NumGoroutine(), before+100)
	b.Close()
	_, err = b.Append(t.Context(), "1", core.Message{})
	require.ErrorIs(t, err, core.ErrShutdown)
	require.Equal(t, 1, nc.NumSubscriptions(), "subscriptions, of which the connection has one for answers")
	nc.Close()
	e.stop(0)
	eventually(t, "the goroutines to end", func() bool {
		buf := make([]byte, 1<<20)
		return !strings.Contains(string(buf[:runtime.Stack(buf, true)]), "jetstream.(*Backplane)")
	})
}
