package core

import (
	"context"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What comes between finding nothing to do and saying so must not be missed.
// Here it comes in between for certain.
func TestNoWakeUpIsLost(t *testing.T) {
	for name, happen := range map[string]func(r *Registry, c *Client){
		"publish":    func(r *Registry, c *Client) { r.Publish(context.Background(), "x", Event{}) },
		"close":      func(r *Registry, c *Client) { go r.Close(context.Background(), "x") },
		"unregister": func(r *Registry, c *Client) { c.Unregister() },
		"heartbeat":  func(r *Registry, c *Client) { time.Sleep(2 * time.Second) },
	} {
		test := func(t *testing.T, register func(r *Registry) (*Client, error)) {
			synctest.Test(t, func(t *testing.T) {
				r := New(&Options{Heartbeat: time.Second})
				c, err := register(r)
				require.NoError(t, err)
				require.NoError(t, c.own(newViewer()))
				c.wake = make(chan struct{}, 1)
				c.arrive()
				synctest.Wait()
				task := c.next()
				require.True(t, task.rest)
				happen(r, c)
				synctest.Wait() // the lane has looked, and found nobody waiting
				rested := make(chan struct{})
				go func() { defer close(rested); c.park(&task) }()
				synctest.Wait()
				select {
				case <-rested:
				default:
					require.Fail(t, "waits for what has come")
				}
				require.False(t, c.parked.Load())
				require.Empty(t, c.wake)

				c.gone.Store(true)
				c.lane.poke(c)
				c.finish(nil)
			})
		}
		t.Run(name, func(t *testing.T) {
			test(t, func(r *Registry) (*Client, error) { return r.Register("x", nil) })
		})
		t.Run(name+"/several", func(t *testing.T) {
			test(t, func(r *Registry) (*Client, error) { return r.RegisterAll([]string{"y", "x"}, nil) })
		})
	}
}

// hold keeps pumps from running until release is called, so that what comes in
// between is seen in one round.
func (r *Registry) hold() (release func()) {
	p := &r.pumps
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := p.max
	p.max = 0
	return func() {
		p.mu.Lock()
		p.max = limit
		p.running++
		p.mu.Unlock()
		p.run()
	}
}

// A heartbeat that is due with events goes out behind them, and not with the
// next one.
func TestHeartbeatInTheRoundOfAnEvent(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: 10 * time.Second})
		v := follow(r, "x", nil)
		release := r.hold()
		publish(t, r, "x", "a")
		time.Sleep(11 * time.Second)
		release()
		synctest.Wait()
		require.Equal(t, []string{"a", "beat"}, v.text(t))
		r.Forget("x")
	})
}

// Clients at the same position share one reading of the log, but not what is
// asked of one of them.
func TestRoundOfDifferentClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(&Options{Heartbeat: -1, MaxEvents: 3})
		ids := publish(t, r, "x", "a", "b", "c", "d")
		var vs []*viewer
		var cs []*Client
		release := r.hold()
		for _, last := range []string{ids[0], ids[1], ids[1], "", ids[2], ids[3], ids[1]} {
			c, err := r.Register("x", &ClientOptions{LastEventID: last})
			require.NoError(t, err)
			v := newViewer()
			c.Start(v)
			vs, cs = append(vs, v), append(cs, c)
		}
		cs[2].Unregister()
		release()
		synctest.Wait()
		require.Equal(t, []string{"b", "c", "d"}, vs[0].text(t)) // the floor is ids[0]
		require.Equal(t, []string{"c", "d"}, vs[1].text(t))
		require.Empty(t, vs[2].text(t))
		require.ErrorIs(t, vs[2].reason, ErrUnregistered)
		require.Equal(t, []string{`stream-gap {"to":"` + ids[0] + `","count":1}`, "b", "c", "d"}, vs[3].text(t))
		require.Equal(t, []string{"d"}, vs[4].text(t))
		require.Empty(t, vs[5].text(t))
		require.Equal(t, []string{"c", "d"}, vs[6].text(t))
		require.NoError(t, r.Close(t.Context(), "x"))
	})
}

// drowsy takes its time for TryWrite, which a pump is held up by.
type drowsy struct{ *viewer }

func (d drowsy) TryWrite(p []byte) (int, error) {
	time.Sleep(time.Second)
	return d.viewer.TryWrite(p)
}

// What a client was delivered has been counted when it leaves, also if the pump
// still has others to write to.
func TestDeliveredBeforeLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r *Registry
		left := 0
		r = New(&Options{Heartbeat: -1, Hooks: Hooks{Left: func(string, error) {
			left++
			if n := r.Stats().Delivered; n < uint64(left) {
				t.Errorf("%d have left, %d events were delivered", left, n)
			}
		}}})
		for range 3 {
			c, err := r.Register("x", nil)
			require.NoError(t, err)
			c.Start(drowsy{newViewer()})
		}
		synctest.Wait()
		release := r.hold()
		publish(t, r, "x", "a")
		closed := result(func() error { return r.Close(context.Background(), "x") })
		pending(t, closed)
		release()
		require.NoError(t, <-closed)
		synctest.Wait()
		require.Equal(t, 3, left)
		require.EqualValues(t, 3, r.Stats().Delivered)
	})
}

// An execution with many clients has several lanes, and they are filled alike.
func TestLanes(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: -1})
		r.pumps.max = 3
		var vs []*viewer
		for range 4 * laneClients {
			vs = append(vs, follow(r, "x", nil))
		}
		json := follow(r, "x", &ClientOptions{Encoder: lines})
		x := r.lookup("x")
		require.Len(t, x.lanes, 4)
		for _, l := range x.lanes[:3] {
			require.InDelta(t, 4*laneClients/3, l.size, laneClients/2)
		}
		require.Equal(t, 1, x.lanes[3].size)
		publish(t, r, "x", "a", "b")
		require.NoError(t, r.Close(t.Context(), "x"))
		for _, v := range vs {
			require.Equal(t, []string{"a", "b", "stream-end {}"}, v.text(t))
		}
		require.Contains(t, json.got.String(), "stream-end")
		synctest.Wait()
		for _, l := range x.lanes {
			require.Zero(t, l.size)
			require.Empty(t, l.members)
		}
	})
}

// A backlog goes out as few writes, none of them larger than a batch unless one
// event is; clients at the same position share one that is no larger.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(&Options{Heartbeat: -1})
		for _, c := range []struct{ events, writes int }{{2000, 4}, {200, 1}} {
			var want []string
			for i := range c.events {
				want = append(want, "event "+strconv.Itoa(i))
			}
			publish(t, r, "x", want...)
			release := r.hold()
			var vs []*countingViewer
			for range 4 {
				c, err := r.Register("x", nil)
				require.NoError(t, err)
				v := &countingViewer{viewer: newViewer()}
				vs = append(vs, v)
				c.Start(v)
			}
			release()
			synctest.Wait()
			for _, v := range vs {
				require.Equal(t, want, v.text(t))
				require.LessOrEqual(t, v.largest, maxBatch)
				require.LessOrEqual(t, v.writes, c.writes)
				require.True(t, c.writes > 1 || v.first == vs[0].first, "not shared")
			}
			r.Forget("x")
		}
		large := strings.Repeat("x", 2*maxBatch)
		publish(t, r, "x", "a", large, "b")
		v := &countingViewer{viewer: newViewer()}
		c, err := r.Register("x", nil)
		require.NoError(t, err)
		c.Start(v)
		require.NoError(t, r.Close(t.Context(), "x"))
		require.Equal(t, []string{"a", large, "b", "stream-end {}"}, v.text(t))
	})
}

type countingViewer struct {
	*viewer
	writes, largest int
	first           *byte
}

func (v *countingViewer) TryWrite(p []byte) (int, error) {
	if v.writes++; v.writes == 1 {
		v.first = &p[0]
	}
	v.largest = max(v.largest, len(p))
	return v.viewer.TryWrite(p)
}

// Clients that come late, each a little later than the one before and from
// where it likes, are written the same bytes: assembled once.
func TestLateClientsShareTheBacklog(t *testing.T) {
	r := New(nil)
	publish := func(n int, e Event) {
		for range n {
			_, err := r.Publish(t.Context(), "x", e)
			require.NoError(t, err)
		}
	}
	publish(1, Event{Key: "k", Data: []byte("old")})
	publish(300, Event{Data: make([]byte, 1000)})
	c, err := r.Register("x", nil)
	require.NoError(t, err)
	defer c.Unregister()
	x, start := c.x, c.pos
	// follow reads the log to its end and returns what it was given.
	follow := func(pos uint64) (batches []batch) {
		for {
			x.mu.Lock()
			b := x.read(c.slot, pos)
			x.mu.Unlock()
			if b.events == 0 {
				return batches
			}
			require.Equal(t, pos, b.from)
			require.LessOrEqual(t, len(b.p), maxBatch)
			batches, pos = append(batches, b), b.to
		}
	}
	shared := func(a, b []batch) (n int) {
		for _, a := range a {
			if slices.ContainsFunc(b, func(b batch) bool { return &a.p[0] == &b.p[0] }) {
				n++
			}
		}
		return n
	}
	text := func(batches []batch) (s string) {
		for _, b := range batches {
			s += string(b.p)
		}
		return s
	}
	first := follow(start)
	require.Greater(t, len(first), 8)
	second := follow(start)
	require.Equal(t, len(first), shared(first, second))

	publish(1, Event{Data: []byte("more")}) // behind all of it
	third := follow(start)
	require.GreaterOrEqual(t, shared(first, third), len(first)-1)
	require.True(t, strings.HasPrefix(text(third), text(first)))

	fourth := follow(x.log.at(7).id) // in the middle of the first batch
	require.Equal(t, len(third)-1, shared(third, fourth))
	require.True(t, strings.HasSuffix(text(third), text(fourth)))

	publish(1, Event{Key: "k", Data: []byte("new")})
	fifth := follow(start)
	require.Contains(t, text(first), "data: old\n")
	require.NotContains(t, text(fifth), "data: old\n")
	require.Contains(t, text(fifth), "data: new\n")
	require.Zero(t, shared(third, fifth))

	for i := range 300 { // viewers that each come from elsewhere
		follow(x.log.at(i).id)
	}
	require.LessOrEqual(t, len(x.backlog), 256)
	runtime.KeepAlive([][]batch{first, second, third, fourth, fifth})
}
