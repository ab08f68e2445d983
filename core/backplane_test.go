package core_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
	"github.com/execcast/execcast/core/coretest"
)

// screen is a core.TryWriter that keeps what it is sent.
type screen struct {
	mu     sync.Mutex
	got    bytes.Buffer
	reason error
	ended  bool
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.Write(p)
}

func (s *screen) TryWrite(p []byte) (int, error) { return s.Write(p) }

func (s *screen) End(reason error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reason, s.ended = reason, true
	return nil
}

// text returns the events so far, as type and data.
func (s *screen) text(t *testing.T) (lines []string) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for f, err := range core.Decode(bytes.NewReader(s.got.Bytes()), 0) {
		require.NoError(t, err)
		if f.Data != nil {
			lines = append(lines, strings.TrimSpace(f.Type+" "+string(f.Data)))
		}
	}
	return lines
}

func (s *screen) end() (bool, error) {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended, s.reason
}

// node returns a registry that ends with the test.
func node(t *testing.T, shared core.Backplane, o core.Options) *core.Registry {
	o.Backplane, o.Heartbeat = shared, -1
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := core.New(&o)
	t.Cleanup(func() { require.NoError(t, r.Shutdown(context.Background())) })
	return r
}

func watch(t *testing.T, r *core.Registry, lastEventID string) (*screen, *core.Client) {
	t.Helper()
	c, err := r.Register("x", &core.ClientOptions{LastEventID: lastEventID})
	require.NoError(t, err)
	s := &screen{}
	c.Start(s)
	return s, c
}

func say(t *testing.T, r *core.Registry, data string) uint64 {
	t.Helper()
	id, err := r.Publish(t.Context(), "x", core.Event{Data: []byte(data)})
	require.NoError(t, err)
	return id
}

// An execution is followed from the first viewer on until some time after the
// last one has left, also while it is published to.
func TestFollowedWhileWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := coretest.NewMemory()
		a, b := node(t, shared, core.Options{}), node(t, shared, core.Options{})
		say(t, a, "1")
		synctest.Wait()
		require.Zero(t, shared.Followers("x"), "publishing follows nothing")
		require.Zero(t, a.Stats().Executions)

		v, c := watch(t, b, "")
		require.Equal(t, []string{"1"}, v.text(t))
		require.Equal(t, 1, shared.Followers("x"))
		c.Unregister()
		for range 25 {
			time.Sleep(time.Second)
			say(t, a, "2")
		}
		require.Equal(t, 1, shared.Followers("x"), "a viewer that reconnects finds it here")
		for range 10 {
			time.Sleep(time.Second)
			say(t, a, "3")
		}
		synctest.Wait()
		require.Zero(t, shared.Followers("x"))
		require.Zero(t, b.Stats().Executions)
		require.Zero(t, b.Stats().Bytes)

		v, _ = watch(t, b, "")
		require.Len(t, v.text(t), 36)
	})
}

func TestBackplaneAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := coretest.NewMemory()
		var states []error
		r := node(t, shared, core.Options{Hooks: core.Hooks{Backplane: func(err error) { states = append(states, err) }}})
		v, _ := watch(t, r, "")
		say(t, r, "1")
		require.Equal(t, []string{"1"}, v.text(t))

		away := errors.New("away")
		shared.Break(away)
		synctest.Wait()
		require.Equal(t, []error{away}, states)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := r.Publish(ctx, "x", core.Event{})
		require.ErrorIs(t, err, core.ErrUnavailable)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, r.Close(ctx, "x"), core.ErrUnavailable)

		// What the node holds it serves; what it does not, it cannot.
		late, _ := watch(t, r, "")
		require.Equal(t, []string{"1"}, late.text(t))
		_, err = r.Register("other", nil)
		require.ErrorIs(t, err, core.ErrUnavailable)

		published := make(chan error, 1)
		go func() {
			_, err := r.Publish(t.Context(), "x", core.Event{Data: []byte("2")})
			published <- err
		}()
		time.Sleep(time.Minute)
		shared.Break(nil)
		require.NoError(t, <-published)
		require.Equal(t, []string{"1", "2"}, v.text(t))
		require.Equal(t, []string{"1", "2"}, late.text(t))
		require.Equal(t, []error{away, nil}, states)
	})
}

// silent is a backplane that never answers.
type silent struct{ core.Backplane }

func (silent) Follow(string, core.Follower) func() { return func() {} }

func TestBackplaneSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := node(t, silent{}, core.Options{})
		start := time.Now()
		_, err := r.Register("x", nil)
		require.ErrorIs(t, err, core.ErrUnavailable)
		require.Equal(t, 3*time.Second, time.Since(start))
		time.Sleep(time.Minute)
		require.Zero(t, r.Stats().Executions, "and it is given up")
	})
}

// A viewer that comes from a node that is ahead waits until this one is there;
// one with an ID that never comes gets a gap.
func TestResumeAheadOfNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := coretest.NewMemory()
		r := node(t, shared, core.Options{})
		id := say(t, r, "1")
		v, _ := watch(t, r, "")
		require.Equal(t, []string{"1"}, v.text(t))

		registered := make(chan *screen)
		ahead := fmt.Sprint(id + 1)
		start := time.Now()
		go func() {
			v, _ := watch(t, r, ahead)
			registered <- v
		}()
		time.Sleep(time.Second)
		require.Equal(t, id+1, say(t, r, "2"))
		v = <-registered
		require.Equal(t, time.Second, time.Since(start), "and no longer")
		require.Empty(t, v.text(t))
		say(t, r, "3")
		require.Equal(t, []string{"3"}, v.text(t))

		start = time.Now()
		v, _ = watch(t, r, "9007199254740991")
		require.Equal(t, 3*time.Second, time.Since(start))
		require.Equal(t, []string{`stream-gap {"from":"9007199254740991","to":"0"}`, "1", "2", "3"}, v.text(t))

		// Nor can it be told from one that this node has not heard of.
		c, err := r.Register("y", nil)
		require.NoError(t, err)
		defer c.Unregister()
		id, err = r.Publish(t.Context(), "y", core.Event{})
		require.NoError(t, err)
		synctest.Wait()
		v, _ = watch(t, r, fmt.Sprint(id))
		require.Equal(t, []string{fmt.Sprintf(`stream-gap {"from":"%d","to":"0"}`, id), "1", "2", "3"}, v.text(t))
	})
}

// What the backplane has lost is a gap for whoever has not got it, and for
// nobody else.
func TestBackplaneDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := coretest.NewMemory()
		r := node(t, shared, core.Options{})
		waiting, _ := watch(t, r, "")
		var ids []uint64
		for i := range 6 {
			ids = append(ids, say(t, r, fmt.Sprint(i)))
		}
		require.Len(t, waiting.text(t), 6, "who waits for the first event misses nothing")
		shared.Drop("x", 3)
		fresh := node(t, shared, core.Options{})
		gap := func(from uint64) string {
			if from == 0 {
				return fmt.Sprintf(`stream-gap {"to":"%d"}`, ids[2])
			}
			return fmt.Sprintf(`stream-gap {"from":"%d","to":"%d"}`, from, ids[2])
		}
		for _, c := range []struct {
			last uint64
			want []string
		}{
			{0, []string{gap(0), "3", "4", "5"}},
			{ids[0], []string{gap(ids[0]), "3", "4", "5"}},
			{ids[2], []string{"3", "4", "5"}},
			{ids[4], []string{"5"}},
		} {
			last := ""
			if c.last != 0 {
				last = fmt.Sprint(c.last)
			}
			v, _ := watch(t, fresh, last)
			require.Equal(t, c.want, v.text(t), "resuming after %q", last)
		}

		// Lost between two messages the node has got.
		late := node(t, shared, core.Options{})
		v, _ := watch(t, late, fmt.Sprint(ids[5]))
		require.Empty(t, v.text(t))
		// The node does not hear of the next event before it is gone.
		resume := shared.Hold()
		lost, err := shared.Append(t.Context(), "x", core.Message{})
		require.NoError(t, err)
		shared.Drop("x", 99)
		resume()
		say(t, r, "7")
		require.Equal(t, []string{fmt.Sprintf(`stream-gap {"from":"%d","to":"%d"}`, ids[5], lost), "7"}, v.text(t))
	})
}

func TestSharedKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := coretest.NewMemory()
		a, b := node(t, shared, core.Options{}), node(t, shared, core.Options{})
		for i := range 5 {
			_, err := a.Publish(t.Context(), "x", core.Event{Key: "progress", Data: fmt.Append(nil, i)})
			require.NoError(t, err)
		}
		say(t, a, "line")
		v, _ := watch(t, b, "")
		require.Equal(t, []string{"4", "line"}, v.text(t))
	})
}

func TestSharedClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := coretest.NewMemory()
		var finished []string
		hooks := func(name string) core.Hooks {
			return core.Hooks{Finished: func(string) { finished = append(finished, name) }}
		}
		a := node(t, shared, core.Options{Hooks: hooks("a")})
		b := node(t, shared, core.Options{Hooks: hooks("b"), Retention: time.Minute})
		require.NoError(t, a.Close(t.Context(), "x"), "of the unknown")
		say(t, a, "1")
		v, _ := watch(t, b, "")
		require.NoError(t, a.Close(t.Context(), "x"))
		require.Equal(t, []string{"1", "stream-end {}"}, v.text(t))
		ended, reason := v.end()
		require.True(t, ended)
		require.NoError(t, reason)
		require.NoError(t, b.Close(t.Context(), "x"), "again, by another node")
		require.Equal(t, []string{"b"}, finished, "once, where there are viewers")
		late, _ := watch(t, a, "")
		require.Equal(t, []string{"1", "stream-end {}"}, late.text(t))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Zero(t, b.Stats().Executions)

		// A node that has not heard of the end cannot say that its viewers
		// have been told.
		say := func(r *core.Registry) {
			_, err := r.Publish(t.Context(), "y", core.Event{})
			require.NoError(t, err)
		}
		say(a)
		c, err := a.Register("y", nil)
		require.NoError(t, err)
		s := &screen{}
		c.Start(s)
		synctest.Wait()
		resume := shared.Hold()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, a.Close(ctx, "y"), core.ErrUnavailable)
		resume()
		require.NoError(t, a.Close(t.Context(), "y"))
		ended, reason = s.end()
		require.True(t, ended)
		require.NoError(t, reason)
	})
}

func TestFence(t *testing.T) {
	for _, shared := range []core.Backplane{nil, coretest.NewMemory()} {
		r := core.New(&core.Options{Backplane: shared})
		first, err := r.Publish(t.Context(), "x", core.Event{After: new(uint64(0))})
		require.NoError(t, err)
		_, err = r.Publish(t.Context(), "x", core.Event{After: new(uint64(0))})
		require.ErrorIs(t, err, core.ErrConflict, "a second orchestrator begins")
		second, err := r.Publish(t.Context(), "x", core.Event{After: new(first)})
		require.NoError(t, err)
		_, err = r.Publish(t.Context(), "x", core.Event{After: new(first)})
		require.ErrorIs(t, err, core.ErrConflict, "stored already")
		_, err = r.Publish(t.Context(), "x", core.Event{})
		require.NoError(t, err, "no fence")
		_, err = r.Publish(t.Context(), "x", core.Event{After: new(second)})
		require.ErrorIs(t, err, core.ErrConflict)
		require.NoError(t, r.Close(t.Context(), "x"))
		_, err = r.Publish(t.Context(), "x", core.Event{After: new(second)})
		require.ErrorIs(t, err, core.ErrFinished)
	}
}

func TestSharedLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := coretest.NewMemory()
		r := node(t, shared, core.Options{MaxExecutions: 2, MaxEvents: 3})
		for i := range 10 {
			say(t, r, fmt.Sprint(i))
		}
		v, _ := watch(t, r, "")
		require.Equal(t, []string{"7", "8", "9"}, v.text(t)[1:])
		require.Contains(t, v.text(t)[0], `"count":7`)
		y, err := r.Register("y", nil)
		require.NoError(t, err)
		defer y.Unregister()
		_, err = r.Register("z", nil)
		require.ErrorIs(t, err, core.ErrTooManyExecutions)
		_, err = r.Publish(t.Context(), "z", core.Event{})
		require.NoError(t, err, "publishing needs no room here")
		_, err = r.Publish(t.Context(), "z\n", core.Event{})
		require.ErrorIs(t, err, core.ErrExecutionID)
		_, err = r.Publish(t.Context(), "z", core.Event{Type: "open"})
		require.ErrorIs(t, err, core.ErrReservedType)
		_, err = r.ClusterClientCount(t.Context(), "")
		require.ErrorIs(t, err, core.ErrExecutionID)
		n, err := r.ClusterClientCount(t.Context(), "x")
		require.NoError(t, err)
		require.Equal(t, 1, n)
	})
}

func TestSharedShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := coretest.NewMemory()
		r := node(t, shared, core.Options{})
		v, _ := watch(t, r, "")
		say(t, r, "1")
		synctest.Wait() // what has not come back yet the viewer gets elsewhere
		require.NoError(t, r.Shutdown(t.Context()))
		require.Equal(t, []string{"1"}, v.text(t))
		_, reason := v.end()
		require.ErrorIs(t, reason, core.ErrShutdown)
		require.Zero(t, shared.Followers("x"))
		_, err := r.Publish(t.Context(), "x", core.Event{})
		require.ErrorIs(t, err, core.ErrShutdown)
		_, err = r.Register("x", nil)
		require.ErrorIs(t, err, core.ErrShutdown)
	})
}

// script is a backplane that does what the test says.
type script struct {
	core.Backplane
	follow func(f core.Follower) (stop func())
	append func(executionID string, m core.Message, id uint64)
}

func (s script) Follow(executionID string, f core.Follower) func() {
	if s.follow == nil {
		return s.Backplane.Follow(executionID, f)
	}
	return s.follow(f)
}

func (s script) Append(ctx context.Context, executionID string, m core.Message) (uint64, error) {
	id, err := s.Backplane.Append(ctx, executionID, m)
	if s.append != nil {
		s.append(executionID, m, id)
	}
	return id, err
}

func event(id, prev uint64) core.Message {
	return core.Message{ID: id, Prev: prev, Event: core.Event{Data: fmt.Append(nil, id)}}
}

// A node that remembers nothing of what has finished serves it all the same.
func TestSharedRetentionOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := coretest.NewMemory()
		finished := 0
		a := node(t, shared, core.Options{})
		b := node(t, shared, core.Options{Retention: -1, Hooks: core.Hooks{Finished: func(string) { finished++ }}})
		last := say(t, a, "1")
		require.NoError(t, a.Close(t.Context(), "x"))
		for range 2 {
			v, _ := watch(t, b, "")
			require.Equal(t, []string{"1", "stream-end {}"}, v.text(t))
			synctest.Wait()
			require.Zero(t, b.Stats().Executions)
			_, err := b.Register("x", &core.ClientOptions{LastEventID: fmt.Sprint(last)})
			require.ErrorIs(t, err, core.ErrFinished)
			require.Zero(t, b.Stats().Executions, "after ErrFinished")
		}
		synctest.Wait()
		require.Zero(t, finished, "it was finished before")
		require.Zero(t, shared.Followers("x"))
	})
}

// Nothing can end that has not begun, and nobody waits for it.
func TestSharedCloseUnpublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := node(t, coretest.NewMemory(), core.Options{})
		v, _ := watch(t, r, "")
		require.NoError(t, r.Close(context.Background(), "x"))
		say(t, r, "1")
		require.Equal(t, []string{"1"}, v.text(t))
		require.NoError(t, r.Close(context.Background(), "x"))
		ended, reason := v.end()
		require.True(t, ended)
		require.NoError(t, reason)
	})
}

// Asking for what nobody knows leaves nothing behind, here or in the engine.
func TestUnknownIsNotFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := coretest.NewMemory()
		r := node(t, shared, core.Options{MaxExecutions: 10, MaxClients: 1})
		for i := range 100 {
			_, err := r.Register(fmt.Sprint(i), &core.ClientOptions{LastEventID: "1"})
			require.ErrorIs(t, err, core.ErrUnknown)
		}
		require.Zero(t, r.Stats().Executions)
		watch(t, r, "")
		for i := range 100 {
			_, err := r.Register(fmt.Sprint(i), nil)
			require.ErrorIs(t, err, core.ErrTooManyClients)
		}
		require.Equal(t, 1, r.Stats().Executions)
		synctest.Wait()
		for i := range 100 {
			require.Zero(t, shared.Followers(fmt.Sprint(i)))
		}
	})
}

// A node that has heard of no event yet does not send away a viewer that has
// seen the first on another, nor, if it cannot hear, show it again what it has.
func TestResumeBeforeFirstMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := coretest.NewMemory()
		r := node(t, shared, core.Options{})
		waiting, _ := watch(t, r, "")
		resume := shared.Hold()
		seen := fmt.Sprint(say(t, r, "1"))
		registered := make(chan error)
		go func() {
			c, err := r.Register("x", &core.ClientOptions{LastEventID: seen})
			if err == nil {
				c.Unregister()
			}
			registered <- err
		}()
		time.Sleep(time.Second)
		resume()
		require.NoError(t, <-registered)
		require.Equal(t, []string{"1"}, waiting.text(t))

		resume = shared.Hold()
		seen = fmt.Sprint(say(t, r, "2"))
		shared.Break(errors.New("away"))
		resume()
		synctest.Wait()
		_, err := r.Register("x", &core.ClientOptions{LastEventID: seen})
		require.ErrorIs(t, err, core.ErrUnavailable)
		shared.Break(nil)
		synctest.Wait()
		v, _ := watch(t, r, seen)
		require.Empty(t, v.text(t))
	})
}

// An end of which nothing else is left is forgotten like any other.
func TestForgetOnlyEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := coretest.NewMemory()
		r := node(t, shared, core.Options{})
		say(t, r, "1")
		require.NoError(t, r.Close(t.Context(), "x"))
		shared.Drop("x", 1)
		v, _ := watch(t, r, "")
		require.Equal(t, "stream-end {}", v.text(t)[1])
		_, err := shared.Append(t.Context(), "x", core.Message{Kind: core.Forgotten})
		require.NoError(t, err)
		say(t, r, "2")
		synctest.Wait()
		v, _ = watch(t, r, "")
		require.Equal(t, []string{"2"}, v.text(t))
	})
}

// Forget ends those who watch what is forgotten, not those who watch the next
// run already.
func TestForgetNotTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r *core.Registry
		var next *screen
		r = node(t, script{Backplane: coretest.NewMemory(), append: func(_ string, m core.Message, _ uint64) {
			if m.Kind == core.Forgotten {
				synctest.Wait() // it has been told, and again runs
				say(t, r, "2")
				next, _ = watch(t, r, "")
			}
		}}, core.Options{})
		say(t, r, "1")
		v, _ := watch(t, r, "")
		r.Forget("x")
		_, reason := v.end()
		require.ErrorIs(t, reason, core.ErrUnregistered)
		require.Equal(t, []string{"2"}, next.text(t))
		ended, _ := next.end()
		require.False(t, ended)
	})
}

// Register's patience is for all it waits for, whatever the backplane does.
func TestRegisterPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := node(t, script{follow: func(f core.Follower) func() {
			go func() {
				time.Sleep(10 * time.Millisecond)
				f.Deliver([]core.Message{event(1, 0), {ID: 2, Prev: 1, Kind: core.Forgotten}})
				f.Synced(nil)
			}()
			return func() {}
		}}, core.Options{})
		start := time.Now()
		_, err := r.Register("x", nil)
		require.ErrorIs(t, err, core.ErrUnavailable)
		require.Equal(t, 3*time.Second, time.Since(start))
		time.Sleep(time.Second)
	})
}

// What a viewer is waiting for is not forgotten to make room.
func TestRegisterKeepsExecution(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		follows := 0
		r := node(t, script{follow: func(f core.Follower) func() {
			follows++
			go func() {
				f.Deliver([]core.Message{event(1, 0), {ID: 2, Prev: 1, Kind: core.Finished}})
				time.Sleep(time.Second)
				f.Synced(nil)
			}()
			return func() {}
		}}, core.Options{MaxExecutions: 1, Retention: time.Millisecond})
		registered := make(chan *screen)
		go func() {
			v, _ := watch(t, r, "")
			registered <- v
		}()
		synctest.Wait()
		_, err := r.Register("y", nil)
		require.ErrorIs(t, err, core.ErrTooManyExecutions)
		require.Equal(t, []string{"1", "stream-end {}"}, (<-registered).text(t))
		require.Equal(t, 1, follows)
	})
}

// A backplane that was stopped has nothing to say any more, and one that
// counts wrongly cannot hide a loss.
func TestFaultyBackplane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var states []error
		var follower core.Follower
		r := node(t, script{follow: func(f core.Follower) func() {
			follower = f
			go func() {
				f.Deliver([]core.Message{event(10, 0), event(11, 10)})
				f.Synced(nil)
			}()
			return func() { go f.Synced(errors.New("stopped")) }
		}}, core.Options{MaxEvents: 2, Hooks: core.Hooks{Backplane: func(err error) { states = append(states, err) }}})
		v, c := watch(t, r, "10")
		require.Equal(t, []string{"11"}, v.text(t))
		for _, old := range []core.Message{{}, event(3, 2), event(11, 10)} {
			follower.Deliver([]core.Message{old})
			require.Equal(t, []string{"11"}, v.text(t))
		}
		follower.Deliver([]core.Message{event(20, 5)})
		require.Equal(t, []string{"11", "20"}, v.text(t), "the engine has lost 6 to 11, the node has not")
		behind, third := watch(t, r, "10")
		require.Equal(t, []string{"11", "20"}, behind.text(t))
		third.Unregister()
		follower.Deliver([]core.Message{event(30, 99)})
		require.Equal(t, []string{"11", "20", `stream-gap {"from":"20","to":"29"}`, "30"}, v.text(t))
		late, other := watch(t, r, "8")
		require.Equal(t, []string{`stream-gap {"from":"8","to":"29"}`, "30"}, late.text(t))
		c.Unregister()
		other.Unregister()
		time.Sleep(time.Minute)
		require.Zero(t, r.Stats().Executions)
		follower.Deliver([]core.Message{event(40, 30)})
		require.Zero(t, r.Stats().Bytes)
		require.Empty(t, states)
	})
}

// Who resumes with an ID that never was is told so first, also when served
// beside those who begin where the log does.
func TestGapBesideBeginners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := node(t, coretest.NewMemory(), core.Options{})
		say(t, r, "1")
		var beginners, resumed []*screen
		var clients []*core.Client
		for range 20 {
			for _, last := range []string{"", "1"} {
				c, err := r.Register("x", &core.ClientOptions{LastEventID: last})
				require.NoError(t, err)
				clients = append(clients, c)
			}
		}
		for i, c := range clients {
			s := &screen{}
			if i%2 == 0 {
				beginners = append(beginners, s)
			} else {
				resumed = append(resumed, s)
			}
			c.Start(s)
		}
		for i := range beginners {
			require.Equal(t, []string{"1"}, beginners[i].text(t))
			require.Equal(t, []string{`stream-gap {"from":"1","to":"0"}`, "1"}, resumed[i].text(t))
		}
	})
}

// Shutdown ends what Register has begun, and is not kept waiting by it.
func TestShutdownWhileFollowing(t *testing.T) {
	for _, when := range []string{"in Follow", "while it waits"} {
		t.Run(when, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r *core.Registry
				stops := 0
				r = node(t, script{follow: func(core.Follower) func() {
					if when == "in Follow" {
						if err := r.Shutdown(t.Context()); err != nil {
							t.Error(err)
						}
					}
					return func() { stops++ }
				}}, core.Options{})
				start := time.Now()
				done := make(chan error)
				go func() {
					_, err := r.Register("x", nil)
					done <- err
				}()
				synctest.Wait()
				if when == "while it waits" {
					require.NoError(t, r.Shutdown(t.Context()))
				}
				require.ErrorIs(t, <-done, core.ErrShutdown)
				require.Zero(t, time.Since(start))
				require.Equal(t, 1, stops)
			})
		})
	}
}

// What somebody else has put into the engine reaches no viewer.
func TestInvalidDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := coretest.NewMemory()
		r := node(t, shared, core.Options{})
		v, _ := watch(t, r, "")
		first := say(t, r, "1")
		require.Equal(t, []string{"1"}, v.text(t))
		var last uint64
		for _, e := range []core.Event{
			{Type: "a\nid: 9"}, {Type: "stream-end"}, {Data: []byte("\xff")}, {Key: strings.Repeat("k", 70_000)},
			{Traceparent: strings.Repeat("0", 300)},
		} {
			id, err := shared.Append(t.Context(), "x", core.Message{Event: e})
			require.NoError(t, err)
			last = id
		}
		say(t, r, "2")
		got := v.text(t)
		require.Equal(t, "1", got[0])
		require.Equal(t, "2", got[len(got)-1])
		for _, line := range got[1 : len(got)-1] {
			require.Regexp(t, "^stream-gap ", line)
		}
		late, _ := watch(t, r, fmt.Sprint(first))
		require.Equal(t, []string{fmt.Sprintf(`stream-gap {"from":"%d","to":"%d"}`, first, last), "2"}, late.text(t))
	})
}
