package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// viewer is a Writer and TryWriter that keeps what it is sent.
type viewer struct {
	mu     sync.Mutex
	got    bytes.Buffer
	room   int // bytes TryWrite still takes; negative for no bound
	block  chan struct{}
	fail   error
	ends   int
	reason error
	ended  chan struct{}
}

func newViewer() *viewer { return &viewer{room: -1, ended: make(chan struct{})} }

func (v *viewer) Write(p []byte) (int, error) {
	v.mu.Lock()
	block, fail := v.block, v.fail
	v.mu.Unlock()
	if block != nil {
		<-block
	}
	if fail != nil {
		return 0, fail
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.got.Write(p)
}

func (v *viewer) TryWrite(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.fail != nil {
		return 0, v.fail
	}
	if v.room >= 0 {
		p = p[:min(len(p), v.room)]
		v.room -= len(p)
	}
	return v.got.Write(p)
}

func (v *viewer) End(reason error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ends++
	v.reason = reason
	if v.ends == 1 {
		close(v.ended)
	}
	return nil
}

// frames returns what has arrived, decoded: type and data of each event.
func (v *viewer) frames(t *testing.T) []Frame {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	var frames []Frame
	for f, err := range Decode(bytes.NewReader(v.got.Bytes()), 0) {
		require.NoError(t, err)
		frames = append(frames, f)
	}
	return frames
}

func (v *viewer) text(t *testing.T) []string {
	t.Helper()
	var s []string
	for _, f := range v.frames(t) {
		if f.Data == nil {
			s = append(s, "beat")
			continue
		}
		line := string(f.Data)
		if f.Type != "" {
			line = f.Type + " " + line
		}
		s = append(s, line)
	}
	return s
}

func publish(t *testing.T, r *Registry, id string, data ...string) (ids []string) {
	t.Helper()
	for _, d := range data {
		n, err := r.Publish(t.Context(), id, Event{Data: []byte(d)})
		require.NoError(t, err)
		ids = append(ids, strconv.FormatUint(n, 10))
	}
	return ids
}

// modes are the two ways of serving a client, which must not differ.
var modes = map[string]func(c *Client, v *viewer){
	"serve": func(c *Client, v *viewer) { go c.Serve(context.Background(), v) },
	"start": func(c *Client, v *viewer) { c.Start(v) },
}

func eachMode(t *testing.T, f func(t *testing.T, follow func(r *Registry, id string, opts *ClientOptions) *viewer)) {
	for name, serve := range modes {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f(t, func(r *Registry, id string, opts *ClientOptions) *viewer {
					c, err := r.Register(id, opts)
					require.NoError(t, err)
					v := newViewer()
					serve(c, v)
					synctest.Wait()
					return v
				})
			})
		})
	}
}

type follow = func(r *Registry, id string, opts *ClientOptions) *viewer

func TestLiveLateAndResumed(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: -1})
		live := follow(r, "x", nil)
		ids := publish(t, r, "x", "a", "b", "c")
		late := follow(r, "x", nil)
		resumed := follow(r, "x", &ClientOptions{LastEventID: ids[1]})
		publish(t, r, "x", "d")
		require.NoError(t, r.Close(t.Context(), "x"))
		want := []string{"a", "b", "c", "d", "stream-end {}"}
		require.Equal(t, want, live.text(t))
		require.Equal(t, want, late.text(t))
		require.Equal(t, want[2:], resumed.text(t))
		for _, v := range []*viewer{live, late, resumed} {
			require.Equal(t, 1, v.ends)
			require.NoError(t, v.reason)
		}
		require.Zero(t, r.ClientCount("x"))
	})
}

func TestLateAfterFinish(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(nil)
		ids := publish(t, r, "x", "a", "b")
		require.NoError(t, r.Close(t.Context(), "x"))
		require.Equal(t, []string{"a", "b", "stream-end {}"}, follow(r, "x", nil).text(t))
		require.Equal(t, []string{"b", "stream-end {}"}, follow(r, "x", &ClientOptions{LastEventID: ids[0]}).text(t))
		_, err := r.Register("x", &ClientOptions{LastEventID: ids[1]})
		require.ErrorIs(t, err, ErrFinished)
		_, err = r.Publish(t.Context(), "x", Event{})
		require.ErrorIs(t, err, ErrFinished)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		require.Zero(t, r.Stats().Executions)
		_, err = r.Register("x", &ClientOptions{LastEventID: ids[1]})
		require.ErrorIs(t, err, ErrUnknown)
	})
}

func TestGap(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{MaxEvents: 2, Heartbeat: -1})
		ids := publish(t, r, "x", "a", "b", "c", "d")
		gap := func(from, count string) string {
			s := `"to":"` + ids[1] + `"`
			if from != "" {
				s = `"from":"` + from + `",` + s
			}
			if count != "" {
				s += `,"count":` + count
			}
			return "stream-gap {" + s + "}"
		}
		for _, c := range []struct {
			last string
			want []string
		}{
			{"", []string{gap("", "2"), "c", "d"}},
			{ids[0], []string{gap(ids[0], ""), "c", "d"}},
			{ids[1], []string{"c", "d"}},
			{ids[2], []string{"d"}},
			{ids[3], nil},
			{"1", []string{gap("1", ""), "c", "d"}},
			{"9007199254740991", []string{gap("9007199254740991", ""), "c", "d"}},
			{"99999999999999999999", []string{gap("", ""), "c", "d"}},
			{"abc\r\n", []string{gap("", ""), "c", "d"}},
			{"0" + ids[3], []string{gap("", ""), "c", "d"}},
		} {
			v := follow(r, "x", &ClientOptions{LastEventID: c.last})
			require.Equal(t, c.want, v.text(t), "last event ID %q", c.last)
		}
		require.NoError(t, r.Close(t.Context(), "x"))
	})
}

func TestLagging(t *testing.T) {
	for _, policy := range []LagPolicy{LagGap, LagDisconnect} {
		t.Run(fmt.Sprint(policy), func(t *testing.T) {
			eachMode(t, func(t *testing.T, follow follow) {
				r := New(&Options{MaxEvents: 3, Heartbeat: -1, Lag: policy})
				v := follow(r, "x", nil)
				v.mu.Lock()
				v.block, v.room = make(chan struct{}), 0
				v.mu.Unlock()
				ids := publish(t, r, "x", "a")
				synctest.Wait()
				ids = append(ids, publish(t, r, "x", "b", "c", "d", "e", "f")...)
				synctest.Wait()
				close(v.block)
				synctest.Wait()
				if policy == LagDisconnect {
					require.Equal(t, []string{"a"}, v.text(t))
					require.ErrorIs(t, v.reason, ErrSlowClient)
					require.EqualValues(t, 1, r.Stats().Slow)
					return
				}
				require.Equal(t, []string{"a", `stream-gap {"from":"` + ids[0] + `","to":"` + ids[2] + `","count":2}`, "d", "e", "f"}, v.text(t))
				require.NoError(t, r.Close(t.Context(), "x"))
			})
		})
	}
}

func TestKeys(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{MaxEvents: 2000, MaxBytes: -1, Heartbeat: -1})
		var want []string
		last := map[string]int{}
		type pub struct{ key, data string }
		var all []pub
		for i := range 101_000 {
			p := pub{data: "r" + strconv.Itoa(i)}
			if i%101 != 0 {
				p = pub{"k" + strconv.Itoa(i%7), "t" + strconv.Itoa(i)}
				last[p.key] = i
			}
			all = append(all, p)
			_, err := r.Publish(t.Context(), "x", Event{Key: p.key, Data: []byte(p.data)})
			require.NoError(t, err)
		}
		for i, p := range all {
			if p.key == "" || last[p.key] == i {
				want = append(want, p.data)
			}
		}
		v := follow(r, "x", nil)
		require.Equal(t, want, v.text(t))
		x := r.lookup("x")
		require.LessOrEqual(t, len(x.log.ring), 4096)
		require.Len(t, x.log.keys, 7)
		// A key's memory leaves with its record.
		publish(t, r, "x", slices.Repeat([]string{"z"}, 2000)...)
		require.Empty(t, x.log.keys)
		require.NoError(t, r.Close(t.Context(), "x"))
	})
}

func TestHeartbeat(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(nil)
		v := follow(r, "x", nil)
		time.Sleep(61 * time.Second)
		synctest.Wait()
		require.Equal(t, slices.Repeat([]string{"beat"}, 4), v.text(t))
		require.NoError(t, r.Close(t.Context(), "x"))
	})
}

func TestShutdown(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(nil)
		var vs []*viewer
		for i := range 300 {
			vs = append(vs, follow(r, strconv.Itoa(i%3), nil))
		}
		publish(t, r, "0", "a")
		start := time.Now()
		require.NoError(t, r.Shutdown(t.Context()))
		require.InDelta(t, 2, time.Since(start).Seconds(), 0.1)
		for i, v := range vs {
			require.ErrorIs(t, v.reason, ErrShutdown)
			if i%3 == 0 {
				require.Equal(t, []string{"a"}, v.text(t))
			}
		}
		_, err := r.Register("x", nil)
		require.ErrorIs(t, err, ErrShutdown)
		_, err = r.Publish(t.Context(), "x", Event{})
		require.ErrorIs(t, err, ErrShutdown)
		require.Zero(t, r.Stats().Bytes)
	})
}

func TestCloseCutsOff(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: -1})
		stuck, well := follow(r, "x", nil), follow(r, "x", nil)
		stuck.mu.Lock()
		stuck.block, stuck.room = make(chan struct{}), 0
		stuck.mu.Unlock()
		publish(t, r, "x", "a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var drain *DrainError
		err := r.Close(ctx, "x")
		require.ErrorAs(t, err, &drain)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 1, drain.Cut)
		require.Equal(t, []string{"a", "stream-end {}"}, well.text(t))
		close(stuck.block)
		synctest.Wait()
		require.Equal(t, 1, stuck.ends)
		require.Error(t, stuck.reason)
		require.Zero(t, r.ClientCount("x"))
	})
}

func TestFailingWriters(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(nil)
		bad, well := follow(r, "x", nil), follow(r, "x", nil)
		broken := errors.New("broken")
		bad.mu.Lock()
		bad.fail = broken
		bad.mu.Unlock()
		publish(t, r, "x", "a")
		synctest.Wait()
		require.Equal(t, 1, bad.ends)
		require.ErrorIs(t, bad.reason, broken)
		require.Equal(t, []string{"a"}, well.text(t))
		require.Equal(t, 1, r.ClientCount("x"))
		require.NoError(t, r.Close(t.Context(), "x"))
	})
}

// The count is of the moment of the announcement, not of Register.
func TestGapCountAtAnnouncement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(&Options{MaxEvents: 2, Heartbeat: -1})
		publish(t, r, "x", "a", "b", "c", "d", "e")
		c, err := r.Register("x", nil)
		require.NoError(t, err)
		ids := publish(t, r, "x", "f", "g", "h", "i", "j")
		v := newViewer()
		go c.Serve(t.Context(), v)
		require.NoError(t, r.Close(t.Context(), "x"))
		require.Equal(t, []string{`stream-gap {"to":"` + ids[2] + `","count":8}`, "i", "j", "stream-end {}"}, v.text(t))
	})
}

// A viewer that has seen nothing yet cannot be told what it saw last.
func TestGapBeforeFirstEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(&Options{MaxEvents: 2, Heartbeat: -1})
		c, err := r.Register("x", nil)
		require.NoError(t, err)
		ids := publish(t, r, "x", "a", "b", "c", "d")
		v := newViewer()
		go c.Serve(t.Context(), v)
		require.NoError(t, r.Close(t.Context(), "x"))
		require.Equal(t, []string{`stream-gap {"to":"` + ids[1] + `","count":2}`, "c", "d", "stream-end {}"}, v.text(t))
	})
}
