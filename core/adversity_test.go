package core

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

type embedding struct{ Encoder }

// A comparable type with an incomparable value inside is refused as well.
func TestEncoderOfIncomparableParts(t *testing.T) {
	r := New(nil)
	for range 2 {
		require.NotPanics(t, func() {
			_, err := r.Register("x", &ClientOptions{Encoder: embedding{incomparable{}}})
			require.ErrorIs(t, err, ErrEncoder)
		})
	}
}

// A client that is older than MaxAge when it is started ends, also when a
// younger one is served in the same round.
func TestMaxAgePassedBeforeStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(&Options{Heartbeat: -1, MaxAge: time.Minute})
		publish(t, r, "x", "a", "b")
		old, _ := r.Register("x", nil)
		time.Sleep(2 * time.Minute)
		young, _ := r.Register("x", nil)
		release := r.hold()
		v := newViewer()
		young.Start(newViewer())
		old.Start(v)
		release()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		ends := v.ends
		r.Forget("x")
		synctest.Wait()
		require.Equal(t, 1, ends)
	})
}

// A panic in the End of a client that was never served counts like any other.
func TestPanicInEndOfUnservedClient(t *testing.T) {
	r := New(nil)
	c, _ := r.Register("x", nil)
	c.Unregister()
	c.Start(panicker{newViewer()})
	require.EqualValues(t, 1, r.Stats().Panics)
}

// A hook that ends its goroutine ends no more than that.
func TestGoexitInHook(t *testing.T) {
	r := New(&Options{Hooks: Hooks{Published: func(string, Event) { runtime.Goexit() }}})
	done := make(chan int)
	go func() { defer close(done); r.Publish(t.Context(), "x", Event{}) }()
	<-done
	require.Empty(t, r.hooks.queues)
	require.Zero(t, r.hooks.queued.Load())
}
