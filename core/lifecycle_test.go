package core

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"
)

// at lets so much time pass since start, and what is due then happen.
func at(start time.Time, d time.Duration) {
	time.Sleep(time.Until(start.Add(d)))
	synctest.Wait()
}

// stall makes the viewer's connection full until release is called.
func (v *viewer) stall() (release func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	block := make(chan struct{})
	v.block, v.room = block, 0
	return func() {
		v.mu.Lock()
		v.block, v.room = nil, -1
		v.mu.Unlock()
		close(block)
	}
}

func (v *viewer) breakdown(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fail = err
}

// result runs f, which may block, and returns where its result will be.
func result(f func() error) <-chan error {
	c := make(chan error, 1)
	go func() { c <- f() }()
	return c
}

// pending fails the test if the result is there already.
func pending(t *testing.T, c <-chan error) {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-c:
		require.Fail(t, "returned early", "%v", err)
	default:
	}
}

func TestForgottenWithoutPublish(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(nil)
		a, b := follow(r, "x", nil), follow(r, "x", nil)
		require.Equal(t, 2, r.ClientCount("x"))
		a.breakdown(errors.New("gone"))
		time.Sleep(16 * time.Second) // the heartbeat finds out
		synctest.Wait()
		require.Equal(t, 1, a.ends)
		require.Equal(t, 1, r.ClientCount("x"))
		require.Equal(t, 1, r.Stats().Executions)
		b.breakdown(errors.New("gone"))
		time.Sleep(16 * time.Second)
		synctest.Wait()
		require.Zero(t, r.Stats().Executions)
		_, err := r.Register("x", &ClientOptions{LastEventID: "1"})
		require.ErrorIs(t, err, ErrUnknown)
	})
}

func TestRememberedOncePublished(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: -1})
		v := follow(r, "x", nil)
		publish(t, r, "x", "a")
		v.breakdown(errors.New("gone"))
		publish(t, r, "x", "b")
		synctest.Wait()
		require.Zero(t, r.ClientCount("x"))
		require.Equal(t, []string{"a", "b"}, follow(r, "x", nil).text(t))
		r.Forget("x")
	})
}

func TestAwaitUnknown(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(nil)
		_, err := r.Register("x", &ClientOptions{LastEventID: "5"})
		require.ErrorIs(t, err, ErrUnknown)
		require.Equal(t, Stats{}, r.Stats())

		r = New(&Options{AwaitUnknown: true, Heartbeat: -1})
		floor := strconv.FormatUint(r.lastID, 10)
		v := follow(r, "x", &ClientOptions{LastEventID: "5"})
		malformed := follow(r, "x", &ClientOptions{LastEventID: "five"})
		publish(t, r, "x", "a")
		require.NoError(t, r.Close(t.Context(), "x"))
		require.Equal(t, []string{`stream-gap {"from":"5","to":"` + floor + `"}`, "a", "stream-end {}"}, v.text(t))
		require.Equal(t, []string{`stream-gap {"to":"` + floor + `"}`, "a", "stream-end {}"}, malformed.text(t))
	})
}

func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(nil)
		start := time.Now()
		publish(t, r, "x", "a")
		publish(t, r, "never", "a")
		at(start, 23*time.Hour)
		publish(t, r, "x", "b") // counts from here
		at(start, 24*time.Hour-time.Second)
		require.Equal(t, 2, r.Stats().Executions)
		at(start, 24*time.Hour+time.Second)
		require.Equal(t, 1, r.Stats().Executions)
		at(start, 40*time.Hour)
		c, err := r.Register("x", nil) // and from its leaving
		require.NoError(t, err)
		at(start, 100*time.Hour)
		require.Equal(t, 1, r.ClientCount("x"))
		c.Unregister()
		at(start, 124*time.Hour-time.Second)
		require.Equal(t, 1, r.Stats().Executions)
		require.NotZero(t, r.Stats().Bytes)
		at(start, 124*time.Hour+time.Second)
		require.Zero(t, r.Stats().Executions)
		require.Zero(t, r.Stats().Bytes)
	})
}

func TestIdleOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(&Options{Idle: -1, Retention: time.Second})
		publish(t, r, "x", "a")
		time.Sleep(10_000 * time.Hour)
		require.Equal(t, 1, r.Stats().Executions)
		require.NoError(t, r.Close(t.Context(), "x"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Zero(t, r.Stats().Executions)
	})
}

func TestRetention(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: -1})
		start := time.Now()
		publish(t, r, "x", "a")
		publish(t, r, "watched", "a")
		at(start, 5*time.Minute)
		require.NoError(t, r.Close(t.Context(), "x"))
		require.NoError(t, r.Close(t.Context(), "watched"))
		at(start, 14*time.Minute)
		// Late viewers do not prolong it, but one that has not got everything
		// yet is not robbed of it.
		follow(r, "x", nil)
		late, err := r.Register("watched", nil)
		require.NoError(t, err)
		at(start, 15*time.Minute-time.Second)
		require.Equal(t, 2, r.Stats().Executions)
		at(start, 15*time.Minute+time.Second)
		require.Equal(t, 1, r.Stats().Executions)
		at(start, 20*time.Minute)
		v := newViewer()
		late.Start(v)
		synctest.Wait()
		require.Equal(t, []string{"a", "stream-end {}"}, v.text(t))
		require.Zero(t, r.Stats().Executions)
	})
}

func TestRetentionOff(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Retention: -1, Heartbeat: -1})
		publish(t, r, "x", "a")
		require.NoError(t, r.Close(t.Context(), "x"))
		require.Zero(t, r.Stats().Executions)

		ids := publish(t, r, "x", "b")
		v := follow(r, "x", nil)
		release := v.stall()
		publish(t, r, "x", "c")
		closed := result(func() error { return r.Close(context.Background(), "x") })
		pending(t, closed)
		require.Equal(t, 1, r.Stats().Executions)
		require.Equal(t, []string{"c", "stream-end {}"}, follow(r, "x", &ClientOptions{LastEventID: ids[0]}).text(t))
		release()
		require.NoError(t, <-closed)
		require.Equal(t, []string{"b", "c", "stream-end {}"}, v.text(t))
		require.Zero(t, r.Stats().Executions)
	})
}

func TestForget(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: -1})
		v, stuck := follow(r, "x", nil), follow(r, "x", nil)
		ids := publish(t, r, "x", "a", "b")
		synctest.Wait()
		release := stuck.stall()
		publish(t, r, "x", "c")
		synctest.Wait()
		r.Forget("x")
		r.Forget("x")
		r.Forget("never")
		require.Zero(t, r.ClientCount("x"))
		require.Zero(t, r.Stats().Bytes)
		_, err := r.Register("x", &ClientOptions{LastEventID: ids[1]})
		require.ErrorIs(t, err, ErrUnknown)

		// The ID can run again, beside clients that are still being let go.
		again := publish(t, r, "x", "d")
		require.Greater(t, again[0], ids[1])
		synctest.Wait()
		require.ErrorIs(t, v.reason, ErrUnregistered)
		require.Equal(t, []string{"a", "b", "c"}, v.text(t))
		require.Zero(t, stuck.ends)
		require.Equal(t, 1, r.Stats().Clients)
		late := follow(r, "x", &ClientOptions{LastEventID: ids[1]})
		floor := strconv.FormatUint(r.lookup("x").log.floor, 10)
		require.Equal(t, []string{`stream-gap {"from":"` + ids[1] + `","to":"` + floor + `"}`, "d"}, late.text(t))
		release()
		synctest.Wait()
		require.ErrorIs(t, stuck.reason, ErrUnregistered)
		require.Equal(t, 1, stuck.ends)
		require.Equal(t, []string{"a", "b", "c"}, stuck.text(t))
		require.NoError(t, r.Close(t.Context(), "x"))
		require.Equal(t, 1, late.ends)
		require.Equal(t, v.text(t), stuck.text(t))
		require.Zero(t, r.Stats().Clients)
	})
}

func TestForgetWhileClosing(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: -1})
		release := follow(r, "x", nil).stall()
		publish(t, r, "x", "a")
		closed := result(func() error { return r.Close(context.Background(), "x") })
		pending(t, closed)
		r.Forget("x")
		pending(t, closed) // the connection has not been let go
		release()
		require.NoError(t, <-closed)
	})
}

func TestCloseAgain(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: -1})
		require.NoError(t, r.Close(t.Context(), "unknown"))
		require.Zero(t, r.Stats().Executions)
		v := follow(r, "x", nil)
		release := v.stall()
		publish(t, r, "x", "a")
		first := result(func() error { return r.Close(context.Background(), "x") })
		pending(t, first)
		// A viewer that comes now has the end before Close returns, but is not
		// what Close waits for.
		require.Equal(t, []string{"a", "stream-end {}"}, follow(r, "x", nil).text(t))
		late, err := r.Register("x", nil)
		require.NoError(t, err)
		second := result(func() error { return r.Close(context.Background(), "x") })
		pending(t, first)
		pending(t, second)
		release()
		require.NoError(t, <-first)
		require.NoError(t, <-second)
		require.NoError(t, r.Close(t.Context(), "x"))
		require.Equal(t, []string{"a", "stream-end {}"}, v.text(t))
		require.Equal(t, 1, r.ClientCount("x"))
		late.Unregister()
		require.Zero(t, r.ClientCount("x"))
	})
}

func TestCloseAfterCut(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: -1})
		v := follow(r, "x", nil)
		release := v.stall()
		publish(t, r, "x", "a")
		synctest.Wait()
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(cause)
		err := r.Close(ctx, "x")
		require.Equal(t, &DrainError{Cut: 1, Cause: context.Canceled}, err)
		again := result(func() error { return r.Close(context.Background(), "x") })
		pending(t, again) // until its connection has been let go
		release()
		require.NoError(t, <-again)
		require.ErrorIs(t, v.reason, cause)
		require.Equal(t, []string{"a"}, v.text(t))
	})
}

// lingerer's End blocks, as an adapter's does that waits for its peer.
type lingerer struct {
	*viewer
	linger chan struct{}
}

func (l lingerer) End(reason error) error {
	<-l.linger
	return l.viewer.End(reason)
}

// A client that has everything and is being let go has not been cut off.
func TestCutCountsOnlyThoseCutOff(t *testing.T) {
	for name, serve := range map[string]func(c *Client, w TryWriter){
		"serve": func(c *Client, w TryWriter) { go c.Serve(context.Background(), w) },
		"start": func(c *Client, w TryWriter) { c.Start(w) },
	} {
		for _, by := range []string{"close", "shutdown"} {
			t.Run(name+" "+by, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := New(&Options{Heartbeat: -1})
					c, err := r.Register("x", nil)
					require.NoError(t, err)
					l := lingerer{newViewer(), make(chan struct{})}
					serve(c, l)
					publish(t, r, "x", "a")
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					if by == "close" {
						require.NoError(t, r.Close(ctx, "x"))
					} else {
						require.NoError(t, r.Shutdown(ctx))
					}
					require.Error(t, ctx.Err())
					require.Zero(t, l.ends)
					require.Equal(t, 1, r.Stats().Clients)
					close(l.linger)
					synctest.Wait()
					require.Equal(t, 1, l.ends)
					require.Zero(t, r.Stats().Clients)
				})
			})
		}
	}
}

// What several clients share was made before Close, and is not the last thing
// a client is to see.
func TestBatchMadeBeforeClose(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: -1})
		want := []string{"a", "b", "stream-end {}"}
		publish(t, r, "x", "a", "b")
		slow := newViewer()
		slow.stall()
		c, err := r.Register("x", nil)
		require.NoError(t, err)
		c.Start(slow) // holds the batch
		c, err = r.Register("x", nil)
		require.NoError(t, err)
		synctest.Wait()
		closed := result(func() error { return r.Close(context.Background(), "x") })
		pending(t, closed)
		v := newViewer()
		c.Start(v)
		synctest.Wait()
		require.Equal(t, want, v.text(t))
		require.Equal(t, want, follow(r, "x", nil).text(t))
		close(slow.block)
		require.NoError(t, <-closed)
		require.Equal(t, want, slow.text(t))
	})
}

func TestFinishDuringShutdown(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: -1})
		v := follow(r, "x", nil)
		release := v.stall()
		publish(t, r, "x", "a")
		synctest.Wait()
		down := result(func() error { return r.Shutdown(context.Background()) })
		pending(t, down)
		time.Sleep(time.Second)
		publish(t, r, "x", "b") // works until Shutdown has returned
		closed := result(func() error { return r.Close(context.Background(), "x") })
		pending(t, closed)
		release()
		require.NoError(t, <-closed)
		require.NoError(t, <-down)
		require.Equal(t, []string{"a", "b", "stream-end {}"}, v.text(t))
		require.NoError(t, v.reason)
	})
}

func TestShutdownCutsOff(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: -1, ShutdownSpread: time.Hour})
		stuck := follow(r, "x", nil)
		release := stuck.stall()
		publish(t, r, "x", "a")
		var vs []*viewer
		for range 1000 {
			vs = append(vs, follow(r, "x", nil))
		}
		unserved, err := r.Register("x", nil)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		start := time.Now()
		down := result(func() error { return r.Shutdown(ctx) })
		at(start, 1900*time.Millisecond) // half of ctx's time is for spreading
		require.InDelta(t, 50, r.ClientCount("x"), 10)
		at(start, 2100*time.Millisecond)
		require.Equal(t, 2, r.ClientCount("x"))
		for _, v := range vs {
			require.ErrorIs(t, v.reason, ErrShutdown)
			require.Equal(t, []string{"a"}, v.text(t))
		}
		err = <-down
		require.Equal(t, &DrainError{Cut: 2, Cause: context.DeadlineExceeded}, err)
		require.EqualError(t, err, "execcast: 2 clients cut off before they had everything: context deadline exceeded")
		require.Equal(t, 4*time.Second, time.Since(start))
		require.Zero(t, r.Stats().Executions)
		require.ErrorIs(t, unserved.Serve(t.Context(), newViewer()), ErrShutdown)
		release()
		synctest.Wait()
		require.ErrorIs(t, stuck.reason, ErrShutdown)
		require.Zero(t, r.Stats().Clients)
		require.NoError(t, r.Shutdown(t.Context()))
	})
}

func TestShutdownOfFewIsQuick(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(nil)
		follow(r, "x", nil)
		start := time.Now()
		require.NoError(t, r.Shutdown(t.Context()))
		require.LessOrEqual(t, time.Since(start), 10*time.Millisecond)
	})
}

func TestMaxAge(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{MaxAge: time.Hour, Heartbeat: -1})
		start := time.Now()
		var vs []*viewer
		for range 100 {
			vs = append(vs, follow(r, "x", nil))
		}
		at(start, 54*time.Minute-time.Second)
		require.Equal(t, 100, r.ClientCount("x"))
		at(start, 57*time.Minute)
		require.InDelta(t, 50, r.ClientCount("x"), 40) // spread over the last tenth
		ids := publish(t, r, "x", "a")
		at(start, time.Hour+time.Second)
		require.Zero(t, r.ClientCount("x"))
		for _, v := range vs {
			require.Equal(t, 1, v.ends)
			require.ErrorIs(t, v.reason, ErrMaxAge)
		}
		publish(t, r, "x", "b")
		require.Equal(t, []string{"b"}, follow(r, "x", &ClientOptions{LastEventID: ids[0]}).text(t))
		r.Forget("x")
	})
}

// sluggard takes longer for an event than the next one takes to come.
type sluggard struct{ *viewer }

func (s sluggard) TryWrite(p []byte) (int, error) { return 0, nil }
func (s sluggard) Write(p []byte) (int, error) {
	time.Sleep(1500 * time.Millisecond)
	return s.viewer.Write(p)
}

// MaxAge also ends a client that has always something left to write.
func TestMaxAgeOfALaggard(t *testing.T) {
	for _, mode := range []string{"serve", "start"} {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := New(&Options{Heartbeat: -1, MaxAge: time.Minute})
				c, err := r.Register("x", nil)
				require.NoError(t, err)
				s := sluggard{newViewer()}
				if mode == "serve" {
					go c.Serve(context.Background(), s)
				} else {
					c.Start(s)
				}
				for range 65 {
					publish(t, r, "x", "a")
					time.Sleep(time.Second)
				}
				require.Zero(t, r.ClientCount("x"))
				require.ErrorIs(t, s.reason, ErrMaxAge)
			})
		})
	}
}

func TestHeartbeatEvents(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{HeartbeatEvents: true, Heartbeat: time.Second})
		v := follow(r, "x", nil)
		json := follow(r, "x", &ClientOptions{Encoder: lines})
		never := follow(r, "x", &ClientOptions{Heartbeat: -1})
		rare := follow(r, "x", &ClientOptions{Heartbeat: time.Minute})
		time.Sleep(90*time.Second + time.Millisecond)
		synctest.Wait()
		frames := v.frames(t)
		require.Len(t, frames, 180)
		require.Equal(t, Frame{Type: TypeHeartbeat, Data: []byte("{}")}, frames[1])
		require.Equal(t, "{\"event\":\"stream-heartbeat\",\"data\":{}}\n", json.got.String()[:39])
		require.Empty(t, never.text(t))
		require.Equal(t, []string{"beat", "stream-heartbeat {}"}, rare.text(t))
		r.Forget("x")
	})
}

// Heartbeats go out at their interval, whatever else does, and behind what is
// already there.
func TestHeartbeatAmongEvents(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: 10 * time.Second})
		v := follow(r, "x", nil)
		for i := range 35 {
			publish(t, r, "x", strconv.Itoa(i))
			time.Sleep(time.Second)
		}
		synctest.Wait()
		beats := 0
		for i, s := range v.text(t) {
			if s == "beat" {
				beats++
				require.InDelta(t, 11*beats, i+1, 1)
			}
		}
		require.Equal(t, 3, beats)
		// One that was full when its heartbeat was due gets one then, not all
		// it has missed.
		release := v.stall()
		publish(t, r, "x", "full")
		time.Sleep(time.Minute)
		release()
		synctest.Wait()
		text := v.text(t)
		require.Equal(t, []string{"34", "full", "beat"}, text[len(text)-3:])
		r.Forget("x")
	})
}

func TestServed(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: -1})
		c, err := r.Register("x", nil)
		require.NoError(t, err)
		v, second, third := newViewer(), newViewer(), newViewer()
		c.Start(v)
		require.ErrorIs(t, c.Serve(t.Context(), second), ErrServed)
		c.Start(third)
		require.ErrorIs(t, second.reason, ErrServed)
		require.ErrorIs(t, third.reason, ErrServed)
		publish(t, r, "x", "a")
		require.NoError(t, r.Close(t.Context(), "x"))
		require.Equal(t, []string{"a", "stream-end {}"}, v.text(t))
		require.Empty(t, second.text(t))
		require.ErrorIs(t, c.Serve(t.Context(), newViewer()), ErrServed)

		// Ended before it was served: gone at once, and its writer let go.
		c, err = r.Register("y", nil)
		require.NoError(t, err)
		c.Unregister()
		c.Unregister()
		require.Zero(t, r.Stats().Clients)
		v, second = newViewer(), newViewer()
		require.ErrorIs(t, c.Serve(t.Context(), v), ErrUnregistered)
		require.ErrorIs(t, v.reason, ErrUnregistered)
		c.Start(second)
		require.ErrorIs(t, second.reason, ErrUnregistered)
		require.Equal(t, 1, second.ends)
	})
}

func TestServeReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(&Options{Heartbeat: -1})
		publish(t, r, "x", "a")
		serve := func(ctx context.Context, w Writer) <-chan error {
			c, err := r.Register("x", nil)
			require.NoError(t, err)
			return result(func() error { return c.Serve(ctx, w) })
		}
		cause := errors.New("the tab was closed")
		ctx, cancel := context.WithCancelCause(t.Context())
		v := newViewer()
		cancelled := serve(ctx, v)
		pending(t, cancelled)
		cancel(cause)
		require.ErrorIs(t, <-cancelled, cause)
		require.ErrorIs(t, v.reason, cause)
		require.Zero(t, r.ClientCount("x"))

		v = newViewer()
		require.ErrorIs(t, <-serve(ctx, v), cause)
		require.Equal(t, 1, v.ends)

		broken := errors.New("broken")
		v = newViewer()
		v.fail = broken
		require.ErrorIs(t, <-serve(t.Context(), v), broken)

		finished := serve(t.Context(), struct{ Writer }{newViewer()}) // not an Ender
		require.NoError(t, r.Close(t.Context(), "x"))
		require.NoError(t, <-finished)
	})
}

// The end reaches a client that fails while the end is written, too.
func TestFailureAtTheEnd(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: -1})
		v := follow(r, "x", nil)
		broken := errors.New("broken")
		v.breakdown(broken)
		require.NoError(t, r.Close(t.Context(), "x"))
		require.Equal(t, 1, v.ends)
		require.ErrorIs(t, v.reason, broken)
	})
}

// An execution that is gone leaves nothing behind: not in a lane's timer, a
// batch, a hook's queue or the pumps' queue.
func TestNothingHoldsTheGone(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{MaxAge: time.Hour, Retention: -1})
		var gone []weak.Pointer[execution]
		for i := range 21 { // the last may still be on a stack
			id := strconv.Itoa(i)
			for range 3 {
				follow(r, id, nil)
			}
			gone = append(gone, weak.Make(r.lookup(id)))
			publish(t, r, id, "a", "b", "c")
			if i%2 == 0 {
				require.NoError(t, r.Close(t.Context(), id))
			} else {
				r.Forget(id)
			}
			synctest.Wait()
		}
		runtime.GC()
		for i, x := range gone[:20] {
			require.True(t, x.Value() == nil, "execution %d", i)
		}
		s := r.Stats()
		require.Equal(t, Stats{Published: 63, Delivered: s.Delivered, DeliveredBytes: s.DeliveredBytes}, s)
	})
}

// churner drives a registry through what a day brings.
type churner struct {
	t *testing.T
	r *Registry
	n int
}

// minute starts executions with viewers of all kinds, ends some in each of the
// ways there are and leaves others to expire.
func (c *churner) minute() {
	t, r := c.t, c.r
	for i := range 4 {
		c.n++
		id := fmt.Sprintf("run-%d", c.n)
		var vs []*viewer
		for j := range 4 {
			client, err := r.Register(id, nil)
			require.NoError(t, err)
			v := newViewer()
			vs = append(vs, v)
			if j%2 == 0 {
				client.Start(v)
			} else {
				go client.Serve(context.Background(), v)
			}
		}
		for j := range 8 {
			_, err := r.Publish(t.Context(), id, Event{Key: []string{"", "progress", id}[j%3], Data: []byte(id)})
			require.NoError(t, err)
		}
		synctest.Wait()
		vs[0].breakdown(errors.New("gone"))
		release := vs[1].stall()
		last := publish(t, r, id, "last")
		synctest.Wait()
		release()
		resumed, err := r.Register(id, &ClientOptions{LastEventID: last[0], Encoder: lines})
		require.NoError(t, err)
		resumed.Start(newViewer())
		switch i {
		case 0:
			require.NoError(t, r.Close(t.Context(), id)) // expires after the retention time
		case 1:
			r.Forget(id)
		default: // idles, and expires
			for _, v := range vs {
				v.breakdown(errors.New("gone"))
			}
			resumed.Unregister()
			publish(t, r, id, "unseen")
		}
	}
	time.Sleep(time.Minute)
	synctest.Wait()
}

func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestDayOfChurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := churner{t: t, r: New(&Options{Idle: time.Hour, MaxAge: 30 * time.Minute})}
		// cycle returns the heap at the churn's end and when all has expired.
		cycle := func(hours int) (busy, empty int64) {
			for range hours * 60 {
				c.minute()
			}
			require.Greater(t, c.r.Stats().Executions, 120)
			busy = heapBytes()
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			s := c.r.Stats()
			require.Zero(t, s.Executions)
			require.Zero(t, s.Clients)
			require.Zero(t, s.Bytes)
			require.Empty(t, c.r.hooks.queues)
			require.Zero(t, c.r.pumps.running)
			require.Zero(t, c.r.finished.Len())
			return busy, heapBytes()
		}
		hours := 24
		if small {
			hours = 3
		}
		cycle(1)
		busy, empty := cycle(2)
		before := c.n
		busyAfter, emptyAfter := cycle(hours)
		percent := func(a, b int64) float64 { return 100 * float64(b-a) / float64(a) }
		t.Logf("heap after a warm cycle: %d bytes, emptied %d; after %d hours more: %d bytes (%+.2f %%), emptied %d (%+.2f %%)",
			busy, empty, hours, busyAfter, percent(busy, busyAfter), emptyAfter, percent(empty, emptyAfter))
		// The heap of the runtime itself moves by some 20 KB; a leak would grow
		// with the executions that have gone.
		gone := int64(c.n - before)
		require.Less(t, emptyAfter-empty, 32<<10+2*gone)
		require.Less(t, busyAfter-busy, 32<<10+2*gone)
		runtime.KeepAlive(c.r)
	})
}
