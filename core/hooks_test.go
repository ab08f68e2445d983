package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// recorder keeps what hooks are called with, in order.
type recorder struct {
	mu    sync.Mutex
	calls []string
}

func (h *recorder) add(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, fmt.Sprintf(format, args...))
}

// take returns the calls since the last take.
func (h *recorder) take() []string {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	calls := h.calls
	h.calls = nil
	return calls
}

func (h *recorder) hooks() Hooks {
	return Hooks{
		FirstViewer: func(id string) { h.add("first %s", id) },
		LastViewer:  func(id string) { h.add("last %s", id) },
		Published:   func(id string, e Event) { h.add("published %s %s %s %s %t", id, e.Type, e.Data, e.Key, e.ID > 0) },
		Registered:  func(id string) { h.add("registered %s", id) },
		Left:        func(id string, reason error) { h.add("left %s %v", id, reason) },
		Delivered:   func(id string, events, bytes int) { h.add("delivered %s %d %d", id, events, bytes) },
		Gap:         func(id string) { h.add("gap %s", id) },
		Slow:        func(id string) { h.add("slow %s", id) },
		Finished:    func(id string) { h.add("finished %s", id) },
	}
}

func TestHooks(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		var h recorder
		r := New(&Options{Hooks: h.hooks(), MaxEvents: 2, Lag: LagDisconnect})
		v := follow(r, "x", nil)
		require.Equal(t, []string{"first x", "registered x"}, h.take())
		id, err := r.Publish(t.Context(), "x", Event{Type: "t", Data: []byte("a"), Key: "k"})
		require.NoError(t, err)
		frame := len("id: 1234567890123456\nevent: t\ndata: a\n\n") - 16 + len(fmt.Sprint(id))
		require.Equal(t, []string{"published x t a k true", fmt.Sprintf("delivered x 1 %d", frame)}, h.take())
		time.Sleep(15 * time.Second)
		require.Equal(t, []string{"delivered x 0 3"}, h.take()) // a heartbeat

		second := follow(r, "x", &ClientOptions{LastEventID: fmt.Sprint(id)})
		require.Equal(t, []string{"registered x"}, h.take())
		release := v.stall()
		for _, data := range []string{"b", "c", "d", "e"} {
			publish(t, r, "x", data)
			synctest.Wait()
		}
		h.take()
		release()
		synctest.Wait()
		require.ErrorIs(t, v.reason, ErrSlowClient)
		calls := h.take()
		require.Equal(t, []string{"slow x", "left x execcast: client too slow"}, calls[len(calls)-2:])
		follow(r, "x", nil)
		calls = h.take()
		require.Equal(t, []string{"registered x", "gap x"}, calls[:2])
		require.True(t, strings.HasPrefix(calls[len(calls)-1], "delivered x 2 "), "%q", calls)
		require.NoError(t, r.Close(t.Context(), "x"))
		calls = h.take()
		require.Equal(t, "finished x", calls[0])
		require.Equal(t, "last x", calls[len(calls)-1])
		require.Equal(t, 2, count(calls, "left x <nil>"))
		require.NoError(t, r.Close(t.Context(), "x"))
		require.Empty(t, h.take())
		require.Equal(t, 1, second.ends)

		// The reasons.
		end := func(f func(v *viewer)) []string {
			v := follow(r, "y", nil)
			h.take()
			f(v)
			return h.take()
		}
		broken := errors.New("broken")
		require.Equal(t, []string{"left y broken", "last y"}, end(func(v *viewer) {
			v.breakdown(broken)
			time.Sleep(20 * time.Second)
		}))
		// Another run may have its first viewer before this one's has left.
		require.Equal(t, []string{"last y", "left y execcast: client unregistered"}, end(func(*viewer) { r.Forget("y") }))
		require.Equal(t, []string{"left y execcast: shutting down", "last y"}, end(func(*viewer) { r.Shutdown(t.Context()) }))
		require.Empty(t, r.hooks.queues)
		require.Zero(t, r.hooks.queued.Load())
	})
}

func count(calls []string, call string) (n int) {
	for _, c := range calls {
		if c == call {
			n++
		}
	}
	return n
}

// Hooks may call the registry, and what these calls cause comes after.
func TestHooksReenter(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		var h recorder
		var r *Registry
		var extra *Client
		hooks := h.hooks()
		hooks.FirstViewer = func(id string) {
			h.add("first %s: %d", id, r.ClientCount(id))
			r.Publish(context.Background(), id, Event{Data: []byte("welcome")})
			extra, _ = r.Register(id, nil)
			h.add("first done")
		}
		hooks.Registered = nil
		hooks.Published = func(id string, e Event) {
			h.add("published %s", e.Data)
			if string(e.Data) == "close" {
				h.add("close %v", r.Close(cancelled(), id))
			}
		}
		hooks.Delivered = nil
		hooks.Left = func(id string, reason error) {
			h.add("left %v", reason)
			if errors.Is(reason, ErrUnregistered) {
				r.Publish(context.Background(), id, Event{Data: []byte("bye")})
			}
		}
		hooks.Finished = func(id string) {
			h.add("finished %d", r.Stats().Executions)
			r.Forget(id)
			r.Publish(context.Background(), id, Event{Data: []byte("again")})
		}
		r = New(&Options{Heartbeat: -1, Hooks: hooks, Logger: slog.New(slog.DiscardHandler)})
		v := follow(r, "x", nil)
		require.Equal(t, []string{"first x: 1", "first done", "published welcome"}, h.take())
		require.Equal(t, []string{"welcome"}, v.text(t))
		extra.Unregister()
		require.Equal(t, []string{"left execcast: client unregistered", "published bye"}, h.take())
		publish(t, r, "x", "close")
		calls := h.take()
		require.Equal(t, []string{"published close"}, calls[:1])
		require.Contains(t, calls, "finished 1")
		require.Contains(t, calls, "last x")
		require.Contains(t, calls, "published again")
		require.Equal(t, 1, v.ends)
		require.Equal(t, 1, r.Stats().Executions)
		require.Empty(t, r.hooks.queues)
		require.Zero(t, r.hooks.queued.Load())
	})
}

func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// PublishDone tells of each Publish, whatever became of it, at once.
func TestPublishDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		var r *Registry
		r = New(&Options{
			Logger:      slog.New(slog.DiscardHandler),
			Traceparent: func(context.Context) string { time.Sleep(time.Second); return "" },
			PublishDone: func(id string, took time.Duration, err error) {
				got = append(got, fmt.Sprintf("%q %v %v", id, took, err))
				r.Stats() // no lock is held
				if err != nil {
					panic("boom")
				}
			},
		})
		id, err := r.Publish(t.Context(), "x", Event{})
		require.NoError(t, err)
		require.NotZero(t, id)
		_, err = r.PublishJSON(t.Context(), "x", "error", 1)
		require.ErrorIs(t, err, ErrReservedType)
		_, err = r.Publish(t.Context(), "", Event{})
		require.ErrorIs(t, err, ErrExecutionID)
		_, err = r.Publish(cancelled(), "x", Event{})
		require.ErrorIs(t, err, context.Canceled)
		require.NoError(t, r.Close(t.Context(), "x"))
		_, err = r.Publish(t.Context(), "x", Event{})
		require.ErrorIs(t, err, ErrFinished)
		require.Equal(t, []string{
			`"x" 1s <nil>`, `"x" 0s execcast: reserved event type: "error"`, `"" 0s execcast: invalid execution ID: empty`,
			`"x" 0s context canceled`, `"x" 1s execcast: execution finished`,
		}, got)
		require.EqualValues(t, 4, r.Stats().Panics)
	})
}

// First and last viewer alternate, also when an ID runs again while a hook of
// its earlier life has not returned.
func TestHooksAcrossLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h recorder
		block := make(chan struct{})
		blocked := false
		hooks := h.hooks()
		hooks.Left = func(id string, reason error) {
			h.add("left %s", id)
			if !blocked {
				blocked = true
				<-block
			}
		}
		r := New(&Options{Hooks: hooks})
		c, err := r.Register("x", nil)
		require.NoError(t, err)
		go c.Unregister()
		synctest.Wait()
		require.Zero(t, r.Stats().Executions)
		var served []*viewer
		for range 3 {
			c, err := r.Register("x", nil)
			require.NoError(t, err)
			v := newViewer()
			served = append(served, v)
			c.Start(v)
			publish(t, r, "x", "a")
			r.Forget("x")
		}
		other, err := r.Register("y", nil) // not held up by x's
		require.NoError(t, err)
		other.Unregister()
		require.Equal(t, []string{"first x", "registered x", "left x", "first y", "registered y", "left y", "last y"}, h.take())
		close(block)
		calls := h.take()
		viewers := 0
		require.Equal(t, "last x", calls[0])
		for _, c := range calls[1:] {
			switch c {
			case "first x":
				viewers++
			case "last x":
				viewers--
			}
			require.Contains(t, []int{0, 1}, viewers)
		}
		require.Equal(t, 3, count(calls, "first x"))
		require.Equal(t, 4, count(calls, "last x"))
		require.Equal(t, 3, count(calls, "left x"))
		for _, v := range served {
			require.ErrorIs(t, v.reason, ErrUnregistered)
		}
	})
}

// Hooks of one execution never overlap, whoever causes them.
func TestHooksDoNotOverlap(t *testing.T) {
	var inside, calls, last atomic.Int64
	busy := func() {
		if inside.Add(1) != 1 {
			calls.Add(1 << 40)
		}
		calls.Add(1)
		inside.Add(-1)
	}
	unordered := false
	r := New(&Options{Hooks: Hooks{
		FirstViewer: func(string) { busy() },
		LastViewer:  func(string) { busy() },
		Registered:  func(string) { busy() },
		Left:        func(string, error) { busy() },
		Delivered:   func(string, int, int) { busy() },
		Published: func(_ string, e Event) {
			busy()
			unordered = unordered || int64(e.ID) <= last.Load()
			last.Store(int64(e.ID))
		},
	}})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				c, err := r.Register("x", nil)
				if err != nil {
					calls.Add(1 << 40)
					return
				}
				c.Start(newViewer())
				r.Publish(context.Background(), "x", Event{Data: []byte("a")})
				c.Unregister()
			}
		})
	}
	wg.Wait()
	require.NoError(t, r.Shutdown(t.Context()))
	require.Less(t, calls.Load(), int64(1<<40))
	require.GreaterOrEqual(t, calls.Load(), int64(8*100*3+2))
	require.False(t, unordered)
}

// A hook that panics takes nothing with it, wherever it runs.
func TestHooksPanic(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		var out recorder
		var h recorder
		boom := func(hook string) {
			h.add("%s", hook)
			panic("boom")
		}
		r := New(&Options{
			MaxEvents: 1, Lag: LagDisconnect,
			Logger: slog.New(handler{func(record slog.Record) { out.add("%s", record.Message) }}),
			Hooks: Hooks{
				FirstViewer: func(string) { boom("first") },
				LastViewer:  func(string) { boom("last") },
				Registered:  func(string) { boom("registered") },
				Left:        func(string, error) { boom("left") },
				Delivered:   func(string, int, int) { boom("delivered") },
				Gap:         func(string) { boom("gap") },
				Slow:        func(string) { boom("slow") },
				Finished:    func(string) { boom("finished") },
				Published:   func(string, Event) { boom("published") },
			},
		})
		v := follow(r, "x", nil)
		ids := publish(t, r, "x", "a")
		synctest.Wait()
		release := v.stall()
		publish(t, r, "x", "b")
		synctest.Wait()
		publish(t, r, "x", "c", "d")
		synctest.Wait()
		release()
		synctest.Wait()
		require.ErrorIs(t, v.reason, ErrSlowClient)
		late := follow(r, "x", &ClientOptions{LastEventID: ids[0]})
		require.NoError(t, r.Close(t.Context(), "x"))
		require.Len(t, late.text(t), 3)
		calls := h.take()
		for hook, n := range map[string]int{"first": 2, "last": 2, "registered": 2, "left": 2, "gap": 1, "slow": 1, "finished": 1, "published": 4} {
			require.Equal(t, n, count(calls, hook), hook)
		}
		require.GreaterOrEqual(t, count(calls, "delivered"), 4)
		require.EqualValues(t, len(calls), r.Stats().Panics)
		require.Equal(t, len(calls), count(out.take(), "execcast: hook panicked"))
		require.Empty(t, r.hooks.queues)
		require.Zero(t, r.hooks.queued.Load())
	})
}

// handler is a slog.Handler that does as it is told.
type handler struct{ f func(slog.Record) }

func (h handler) Enabled(context.Context, slog.Level) bool { return true }
func (h handler) Handle(_ context.Context, r slog.Record) error {
	h.f(r)
	return nil
}
func (h handler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h handler) WithGroup(string) slog.Handler      { return h }

// panicker is a viewer whose methods panic.
type panicker struct{ *viewer }

func (p panicker) Write([]byte) (int, error)    { panic("write") }
func (p panicker) TryWrite([]byte) (int, error) { panic("try") }
func (p panicker) End(reason error) error {
	p.viewer.End(reason)
	panic("end")
}

func TestPanickingWriter(t *testing.T) {
	for _, mode := range []string{"serve", "start"} {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := New(&Options{Heartbeat: -1, Logger: slog.New(slog.DiscardHandler)})
				p := panicker{newViewer()}
				well := newViewer()
				for _, w := range []TryWriter{p, well} {
					c, err := r.Register("x", nil)
					require.NoError(t, err)
					if mode == "serve" {
						go c.Serve(context.Background(), w)
					} else {
						c.Start(w)
					}
				}
				publish(t, r, "x", "a")
				require.NoError(t, r.Close(t.Context(), "x"))
				require.Equal(t, []string{"a", "stream-end {}"}, well.text(t))
				require.Equal(t, 1, p.ends)
				require.ErrorContains(t, p.reason, "writer panicked")
				require.EqualValues(t, 2, r.Stats().Panics)
				require.EqualValues(t, 1, r.Stats().Delivered)
			})
		})
	}
}

// liar's TryWrite says that it has written what it cannot have.
type liar struct {
	*viewer
	n int
}

func (l liar) TryWrite(p []byte) (int, error) { return l.n, nil }

func TestLyingWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(&Options{Heartbeat: -1})
		for _, n := range []int{-1, 1 << 20} {
			l := liar{newViewer(), n}
			c, err := r.Register("x", nil)
			require.NoError(t, err)
			c.Start(l)
			publish(t, r, "x", "a")
			synctest.Wait()
			require.ErrorContains(t, l.reason, fmt.Sprintf("TryWrite of %d bytes returned %d", 29, n))
			require.Equal(t, 1, l.ends)
			require.Zero(t, r.ClientCount("x"))
			r.Forget("x")
		}
	})
}

// Whatever is logged is logged outside all locks: a handler may call the
// registry, to show its log in the browser for example.
func TestLoggerReenters(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		var out recorder
		var r *Registry
		var depth atomic.Int32
		log := handler{func(record slog.Record) {
			out.add("%s", record.Message)
			if depth.Add(1) == 1 {
				r.Publish(context.Background(), "log", Event{Data: []byte(record.Message)})
				if c, err := r.Register("log", nil); err == nil {
					c.Unregister()
				}
				r.Close(cancelled(), "unknown")
				r.ClientCount("log")
				r.Stats()
			}
			depth.Add(-1)
		}}
		r = New(&Options{MaxClients: 4, MaxExecutionClients: 2, MaxExecutions: 4, MaxEventBytes: 5000, MaxTotalBytes: 20_000,
			Heartbeat: -1, Logger: slog.New(log), Hooks: Hooks{Finished: func(string) { panic("hook") }}})
		in := func(what string, f func()) {
			t.Helper()
			done := make(chan struct{})
			go func() { defer close(done); f() }()
			synctest.Wait()
			select {
			case <-done:
			default:
				require.Fail(t, "hangs", what)
			}
			require.NotEmpty(t, out.take(), what)
		}
		v := follow(r, "x", nil)
		follow(r, "x", nil)
		in("too many of one execution", func() { r.Register("x", nil) })
		in("too many executions", func() {
			for i := range 5 {
				r.Publish(context.Background(), fmt.Sprint(i), Event{})
			}
		})
		in("too large", func() { r.Publish(context.Background(), "x", Event{Data: make([]byte, 5001)}) })
		in("memory", func() {
			for range 10 {
				r.Publish(context.Background(), "x", Event{Data: make([]byte, 4000)})
			}
		})
		release := v.stall()
		r.Publish(context.Background(), "x", Event{})
		in("cut by close, and a hook's panic", func() { r.Close(cancelled(), "x") })
		release()
		bad, err := r.Register("1", nil)
		require.NoError(t, err)
		in("a writer's panic", func() { bad.Start(panicker{newViewer()}) })
		v = follow(r, "1", nil)
		release = v.stall()
		r.Publish(context.Background(), "1", Event{Data: []byte("a")})
		synctest.Wait()
		in("cut by shutdown", func() { r.Shutdown(cancelled()) })
		release()
	})
}
