package core

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// eachModeOfSeveral is eachMode for clients of several executions.
func eachModeOfSeveral(t *testing.T, f func(t *testing.T, follow func(r *Registry, opts *ClientOptions, ids ...string) *viewer)) {
	for name, serve := range modes {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f(t, func(r *Registry, opts *ClientOptions, ids ...string) *viewer {
					t.Helper()
					c, err := r.RegisterAll(ids, opts)
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

type followAll = func(r *Registry, opts *ClientOptions, ids ...string) *viewer

// named returns what has arrived as lines of execution, type and data.
func (v *viewer) named(t *testing.T) []string {
	t.Helper()
	var s []string
	for _, f := range v.frames(t) {
		if f.Data == nil {
			s = append(s, "beat")
			continue
		}
		var m struct {
			Execution string
			Data      json.RawMessage
		}
		d := json.NewDecoder(bytes.NewReader(f.Data))
		d.DisallowUnknownFields()
		require.NoError(t, d.Decode(&m), "%s", f.Data)
		s = append(s, strings.Trim(fmt.Sprintf("%s %s %s", m.Execution, f.Type, m.Data), " "))
	}
	return s
}

func last(t *testing.T, v *viewer) string {
	t.Helper()
	id := ""
	for _, f := range v.frames(t) {
		if f.HasID {
			id = f.ID
		}
	}
	return id
}

// What goes over the wire is fixed: clients in other languages read it.
func TestFramesOfSeveral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(&Options{HeartbeatEvents: true, Heartbeat: time.Minute})
		sse, message := newViewer(), newViewer()
		for v, enc := range map[*viewer]Encoder{sse: nil, message: lines} {
			c, err := r.RegisterAll([]string{"a", `b"é`, "a"}, &ClientOptions{Encoder: enc})
			require.NoError(t, err)
			go c.Serve(t.Context(), v)
		}
		var ids []any
		for i, e := range []Event{
			{Type: "t", Data: []byte("{\"n\":\r\n1}")}, {Data: []byte("a\nb")}, {Type: "empty"}, {Type: "t", Data: []byte(`"s"`)},
		} {
			id, err := r.Publish(t.Context(), []string{"a", `b"é`}[i%2], e)
			require.NoError(t, err)
			ids = append(ids, id)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		require.NoError(t, r.Close(t.Context(), "a"))
		require.NoError(t, r.Close(t.Context(), `b"é`))
		synctest.Wait()
		require.Equal(t, fmt.Sprintf(`id: %d
event: t
data: {"execution":"a","data":{"n":
data: 1}}

id: %d
data: {"execution":"b\"é","data":"a\nb"}

id: %d
event: empty
data: {"execution":"a","data":""}

id: %d
event: t
data: {"execution":"b\"é","data":"s"}

:

event: stream-heartbeat
data: {"data":{}}

event: stream-end
data: {"execution":"a","data":{}}

event: stream-end
data: {"execution":"b\"é","data":{}}

event: stream-end
data: {"data":{}}

`, ids...), sse.got.String())
		require.Equal(t, fmt.Sprintf(`{"id":"%d","execution":"a","event":"t","data":{"n":
1}}
{"id":"%d","execution":"b\"é","event":"message","data":"a\nb"}
{"id":"%d","execution":"a","event":"empty","data":""}
{"id":"%d","execution":"b\"é","event":"t","data":"s"}
{"event":"stream-heartbeat","data":{}}
{"execution":"a","event":"stream-end","data":{}}
{"execution":"b\"é","event":"stream-end","data":{}}
{"event":"stream-end","data":{}}
`, ids...), strings.ReplaceAll(message.got.String(), "{}\n\n", "{}\n"))
	})
}

func TestLiveLateAndResumedOfSeveral(t *testing.T) {
	eachModeOfSeveral(t, func(t *testing.T, follow followAll) {
		r := New(&Options{Heartbeat: -1})
		live := follow(r, nil, "a", "b", "c")
		var ids []string
		for i := range 9 {
			ids = append(ids, publish(t, r, string('a'+rune(i*i%3)), strconv.Itoa(i))...)
		}
		late := follow(r, nil, "c", "b", "a")
		resumed := follow(r, &ClientOptions{LastEventID: ids[4]}, "b", "a")
		alone := follow(r, &ClientOptions{LastEventID: ids[2]}, "b")
		for _, id := range []string{"b", "c", "a"} {
			require.Equal(t, 0, live.ends)
			require.NoError(t, r.Close(t.Context(), id))
			require.Zero(t, r.ClientCount(id))
			synctest.Wait()
		}
		all := []string{"a  0", "b  1", "b  2", "a  3", "b  4", "b  5", "a  6", "b  7", "b  8",
			"b stream-end {}", "c stream-end {}", "a stream-end {}", "stream-end {}"}
		require.Equal(t, all, live.named(t))
		require.Equal(t, all, late.named(t))
		require.Equal(t, append(all[5:10:10], all[11:]...), resumed.named(t))
		require.Equal(t, []string{"b  4", "b  5", "b  7", "b  8", "b stream-end {}", "stream-end {}"}, alone.named(t))
		for _, v := range []*viewer{live, late, resumed, alone} {
			require.Equal(t, 1, v.ends)
			require.NoError(t, v.reason)
		}
		require.Zero(t, r.Stats().Clients)
		require.EqualValues(t, 9+9+4+4, r.Stats().Delivered)
	})
}

// A backlog of many logs comes in order, whole, and in batches of bounded size.
func TestBacklogOfSeveral(t *testing.T) {
	eachModeOfSeveral(t, func(t *testing.T, follow followAll) {
		r := New(&Options{Heartbeat: -1})
		var ids, want []string
		for i := range 40 {
			ids = append(ids, "x"+strconv.Itoa(i))
		}
		for i := range 3000 {
			data := strconv.Itoa(i) + strings.Repeat("x", i%500)
			id := ids[i*i%len(ids)]
			publish(t, r, id, data)
			want = append(want, id+"  "+strconv.Quote(data))
		}
		c, err := r.RegisterAll(ids, nil)
		require.NoError(t, err)
		v := &batchViewer{viewer: newViewer()}
		go c.Serve(t.Context(), v)
		synctest.Wait()
		got := v.named(t)
		for i, s := range got {
			if !strings.Contains(s, `"`) { // digits alone are JSON
				got[i] = s[:strings.LastIndexByte(s, ' ')+1] + `"` + s[strings.LastIndexByte(s, ' ')+1:] + `"`
			}
		}
		require.Equal(t, want, got)
		require.LessOrEqual(t, slices.Max(v.sizes), maxBatch)
		require.Less(t, len(v.sizes), v.got.Len()*2/maxBatch)
		r.Shutdown(t.Context())
	})
}

type batchViewer struct {
	*viewer
	sizes []int
}

func (v *batchViewer) Write(p []byte) (int, error) {
	v.sizes = append(v.sizes, len(p))
	return v.viewer.Write(p)
}

// Between the draw of an ID and the event's place in the log, and between two
// looks at logs, others may publish. What follows in another execution must
// wait: a viewer that resumed from it would lose the lower one.
func TestNothingBeforeALowerID(t *testing.T) {
	for name, serve := range modes {
		t.Run(name, func(t *testing.T) {
			r := New(&Options{Heartbeat: -1})
			publish(t, r, "a", "0")
			publish(t, r, "b", "0")
			c, err := r.RegisterAll([]string{"a", "b"}, nil)
			require.NoError(t, err)
			v := newViewer()
			serve(c, v)
			others := func() {
				for range 200 {
					runtime.Gosched()
				}
			}
			for seen := 2; seen < 400; seen += 2 {
				if seen%4 == 0 {
					// The first is still being published.
					x, id, err := r.number("a", nil)
					require.NoError(t, err)
					publish(t, r, "b", "2")
					others()
					wake(x.publish(id, Event{Data: []byte("1")}))
				} else {
					// The first is published behind the back of who has looked
					// at its log and waits for the other's.
					x := r.lookup("b")
					x.mu.Lock()
					x.version.Add(1)
					wake(x.lanes)
					others()
					publish(t, r, "a", "1")
					r.mu.Lock()
					r.lastID++
					id := r.lastID
					r.mu.Unlock()
					wake(x.publish(id, Event{Data: []byte("2")}))
				}
				var got []string
				for len(got) < seen+2 {
					runtime.Gosched()
					got = v.named(t)
				}
				require.Equal(t, []string{"a  1", "b  2"}, got[seen:])
			}
			r.Forget("a")
			<-v.ended
		})
	}
}

func TestGapOfOneOfSeveral(t *testing.T) {
	eachModeOfSeveral(t, func(t *testing.T, follow followAll) {
		r := New(&Options{MaxEvents: 2, Heartbeat: -1})
		a := publish(t, r, "a", "1", "2", "3", "4")
		b := publish(t, r, "b", "5")
		v := follow(r, nil, "b", "a")
		require.Equal(t, []string{
			`a stream-gap {"to":"` + a[1] + `","count":2}`, "a  3", "a  4", "b  5"}, v.named(t))
		w := follow(r, &ClientOptions{LastEventID: a[0]}, "b", "a")
		require.Equal(t, `a stream-gap {"from":"`+a[0]+`","to":"`+a[1]+`"}`, slices.DeleteFunc(w.named(t),
			func(s string) bool { return !strings.HasPrefix(s, "a stream-gap") })[0])
		require.Equal(t, b[0], last(t, w))

		release := v.stall()
		publish(t, r, "b", "6")
		synctest.Wait()
		for _, data := range []string{"7", "8", "9"} {
			a = append(a, publish(t, r, "a", data)...)
			synctest.Wait()
		}
		release()
		synctest.Wait()
		require.Equal(t, []string{"b  6", `a stream-gap {"from":"` + a[3] + `","to":"` + a[4] + `","count":1}`, "a  8", "a  9"}, v.named(t)[4:])
		require.EqualValues(t, 3, r.Stats().Gaps)
		r.Shutdown(t.Context())
	})
}

func TestLagDisconnectOfSeveral(t *testing.T) {
	eachModeOfSeveral(t, func(t *testing.T, follow followAll) {
		var h recorder
		r := New(&Options{MaxEvents: 2, Heartbeat: -1, Lag: LagDisconnect, Hooks: h.hooks()})
		v := follow(r, nil, "a", "b")
		publish(t, r, "a", "1")
		synctest.Wait()
		release := v.stall()
		publish(t, r, "b", "2")
		synctest.Wait()
		publish(t, r, "a", "3", "4", "5")
		h.take()
		release()
		synctest.Wait()
		require.ErrorIs(t, v.reason, ErrSlowClient)
		require.Equal(t, []string{"a  1", "b  2"}, v.named(t))
		require.EqualValues(t, 1, r.Stats().Slow)
		calls := h.take()
		for _, id := range []string{"a", "b"} {
			require.Equal(t, 1, count(calls, "slow "+id))
			require.Equal(t, 1, count(calls, "left "+id+" execcast: client too slow"))
			require.Equal(t, 1, count(calls, "last "+id))
		}
		require.Zero(t, r.Stats().Clients)
	})
}

func TestResumeOfFinishedAndUnknown(t *testing.T) {
	eachModeOfSeveral(t, func(t *testing.T, follow followAll) {
		r := New(nil)
		publish(t, r, "a", "1")
		b := publish(t, r, "b", "2")
		require.NoError(t, r.Close(t.Context(), "a"))
		resume := &ClientOptions{LastEventID: b[0]}

		v := follow(r, resume, "a", "x", "b") // who has all of a learns that it is finished
		gone := `x stream-gap {"from":"` + b[0] + `","to":"` + b[0] + `"}`
		require.Equal(t, []string{gone, "x stream-end {}", "a stream-end {}"}, v.named(t))
		require.Zero(t, r.ClientCount("x"))
		require.Equal(t, 2, r.Stats().Executions)
		publish(t, r, "x", "not for who was told that it has ended")
		publish(t, r, "b", "3")
		synctest.Wait()
		require.Equal(t, "b  3", v.named(t)[3])
		r.Forget("x")

		require.NoError(t, r.Close(t.Context(), "b"))
		require.Equal(t, []string{"b stream-end {}", "stream-end {}"}, v.named(t)[4:])
		require.NoError(t, v.reason)

		resume.LastEventID = last(t, v)
		_, err := r.RegisterAll([]string{"a", "b"}, resume)
		require.ErrorIs(t, err, ErrFinished)
		_, err = r.RegisterAll([]string{"a", "x"}, resume)
		require.ErrorIs(t, err, ErrFinished)
		_, err = r.RegisterAll([]string{"x", "y"}, resume)
		require.ErrorIs(t, err, ErrUnknown)
		require.Equal(t, []string{"a  1", "b  2", "b  3", "a stream-end {}", "b stream-end {}", "stream-end {}"},
			sorted(follow(r, nil, "b", "a").named(t)))
		require.Zero(t, r.Stats().Clients)

		bad := follow(r, &ClientOptions{LastEventID: "none"}, "b", "x")
		require.Equal(t, "stream-end {}", bad.named(t)[len(bad.named(t))-1])
		require.NotContains(t, bad.got.String(), "from")
	})
}

// sorted brings the ends of a finished backlog, each of which comes as soon as
// it can, to the back.
func sorted(s []string) []string {
	slices.SortStableFunc(s, func(a, b string) int {
		rank := func(s string) int {
			if !strings.HasSuffix(s, "stream-end {}") {
				return 0
			}
			return 2 - min(1, strings.Index(s, "stream-end"))
		}
		return rank(a) - rank(b)
	})
	slices.SortFunc(s[3:5], strings.Compare)
	return s
}

func TestAwaitUnknownOfSeveral(t *testing.T) {
	eachModeOfSeveral(t, func(t *testing.T, follow followAll) {
		r := New(&Options{AwaitUnknown: true, Heartbeat: -1})
		a := publish(t, r, "a", "1", "2")
		v := follow(r, &ClientOptions{LastEventID: a[0]}, "a", "x")
		publish(t, r, "x", "3")
		synctest.Wait()
		require.Equal(t, []string{"a  2", "x  3"}, v.named(t)) // x cannot have had events before
		r.Forget("x")
		synctest.Wait()
		require.ErrorIs(t, v.reason, ErrUnregistered)
		v = follow(r, &ClientOptions{LastEventID: a[1]}, "a", "x")
		publish(t, r, "x", "4")
		synctest.Wait()
		require.Equal(t, []string{"x stream-gap", "x  4"}, trim(v.named(t)))
		r.Shutdown(t.Context())
	})
}

func TestRegisterAllRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h recorder
		r := New(&Options{MaxExecutions: 4, MaxExecutionClients: 2, MaxClients: 4, Hooks: h.hooks(), Logger: slog.New(slog.DiscardHandler)})
		many := make([]string, 2000)
		for i := range many {
			many[i] = strconv.Itoa(i % 1001)
		}
		for _, refused := range []struct {
			ids  []string
			want error
		}{
			{nil, ErrExecutionIDs},
			{many, ErrExecutionIDs},
			{many[:1000], ErrTooManyExecutions},
			{[]string{"a", ""}, ErrExecutionID},
			{[]string{"a", "b", "c", "d", "e"}, ErrTooManyExecutions},
		} {
			_, err := r.RegisterAll(refused.ids, nil)
			require.ErrorIs(t, err, refused.want)
		}
		_, err := r.RegisterAll([]string{"a"}, &ClientOptions{Encoder: incomparable{}})
		require.ErrorIs(t, err, ErrEncoder)
		require.Zero(t, r.Stats().Executions)
		require.Empty(t, h.take())

		// Room is made, though not by forgetting what is asked for.
		for _, id := range []string{"old", "other", "c", "d"} {
			publish(t, r, id, id)
			require.NoError(t, r.Close(t.Context(), id))
		}
		first, err := r.RegisterAll([]string{"old", "a", "b", "a"}, nil)
		require.NoError(t, err)
		require.NotNil(t, r.lookup("old"))
		require.Nil(t, r.lookup("other"))
		require.Nil(t, r.lookup("c"))
		require.Equal(t, 1, r.ClientCount("a"))
		require.Equal(t, 1, r.Stats().Clients)

		_, err = r.Register("a", nil)
		require.NoError(t, err)
		h.take()
		_, err = r.RegisterAll([]string{"b", "a"}, nil)
		require.ErrorIs(t, err, ErrTooManyExecutionClients)
		require.Equal(t, 1, r.ClientCount("b"))
		require.Empty(t, h.take())
		first.Unregister()
		first.Unregister()
		synctest.Wait()
		require.Equal(t, 1, r.Stats().Clients)
		require.Zero(t, r.ClientCount("b"))
		require.Nil(t, r.lookup("b")) // nothing was published
		require.ErrorIs(t, first.Serve(t.Context(), newViewer()), ErrUnregistered)
		for range 3 {
			_, err = r.RegisterAll([]string{"x"}, nil)
		}
		require.ErrorIs(t, err, ErrTooManyExecutionClients)
		_, err = r.RegisterAll([]string{"y"}, nil)
		require.NoError(t, err)
		_, err = r.RegisterAll([]string{"y"}, nil)
		require.ErrorIs(t, err, ErrTooManyClients)

		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		var drain *DrainError
		require.ErrorAs(t, r.Shutdown(cancelled), &drain)
		require.Equal(t, 4, drain.Cut)
		_, err = r.RegisterAll([]string{"x"}, nil)
		require.ErrorIs(t, err, ErrShutdown)
		_, err = r.Publish(t.Context(), "x", Event{ExecutionID: "x"})
		require.ErrorIs(t, err, ErrEventID)
		_, err = New(&Options{Backplane: struct{ Backplane }{}}).RegisterAll([]string{"x"}, nil)
		require.ErrorIs(t, err, errors.ErrUnsupported)
	})
}

func TestCloseOneOfSeveral(t *testing.T) {
	eachModeOfSeveral(t, func(t *testing.T, follow followAll) {
		var h recorder
		r := New(&Options{Heartbeat: -1, Hooks: h.hooks(), Logger: slog.New(slog.DiscardHandler)})
		v := follow(r, nil, "a", "b", "c")
		release := v.stall()
		publish(t, r, "b", "1")
		publish(t, r, "a", "2")
		closed := result(func() error { return r.Close(t.Context(), "a") })
		pending(t, closed)
		require.Equal(t, 1, r.ClientCount("a"))
		release()
		require.NoError(t, <-closed)
		require.Equal(t, []string{"b  1", "a  2", "a stream-end {}"}, v.named(t)[:3])
		require.Zero(t, r.ClientCount("a"))
		require.Equal(t, 1, r.ClientCount("b"))
		require.Equal(t, 1, r.Stats().Clients)
		calls := h.take()
		require.Equal(t, 1, count(calls, "left a <nil>"))
		require.Equal(t, 1, count(calls, "last a"))
		require.Zero(t, count(calls, "last b"))
		require.NoError(t, r.Close(t.Context(), "a"))

		publish(t, r, "b", "3")
		synctest.Wait()
		v.stall()
		publish(t, r, "c", "4")
		ctx, cancel := context.WithCancel(t.Context())
		cut := result(func() error { return r.Close(ctx, "b") })
		pending(t, cut)
		cancel()
		var drain *DrainError
		require.ErrorAs(t, <-cut, &drain)
		require.Equal(t, 1, drain.Cut)
		v.mu.Lock()
		block := v.block
		v.mu.Unlock()
		close(block)
		synctest.Wait()
		require.ErrorIs(t, v.reason, context.Canceled)
		require.Zero(t, r.Stats().Clients)
		require.Zero(t, r.ClientCount("c"))
	})
}

// Hooks hear of each execution what they would of a client of it alone.
func TestHooksOfSeveral(t *testing.T) {
	eachModeOfSeveral(t, func(t *testing.T, follow followAll) {
		var h recorder
		r := New(&Options{Hooks: h.hooks(), MaxEvents: 1})
		publish(t, r, "a", "0", "1")
		h.take()
		v := follow(r, nil, "a", "b")
		delivered := func(id string) (events, bytes int) {
			for _, call := range h.take() {
				var n, size int
				if _, err := fmt.Sscanf(call, "delivered "+id+" %d %d", &n, &size); err == nil {
					events, bytes = events+n, bytes+size
				}
			}
			return events, bytes
		}
		calls := h.take()
		for _, want := range []string{"first a", "registered a", "first b", "registered b", "gap a"} {
			require.Equal(t, 1, count(calls, want), want)
		}
		time.Sleep(15 * time.Second)
		synctest.Wait()
		h.take() // a heartbeat is nobody's
		before := v.got.Len()
		publish(t, r, "a", "2")
		synctest.Wait()
		events, bytes := delivered("a")
		require.Equal(t, 1, events)
		require.Equal(t, v.got.Len()-before, bytes)
		r.Forget("b")
		synctest.Wait()
		require.ErrorIs(t, v.reason, ErrUnregistered)
		calls = h.take()
		for _, id := range []string{"a", "b"} {
			require.Equal(t, 1, count(calls, "left "+id+" "+ErrUnregistered.Error()))
			require.Equal(t, 1, count(calls, "last "+id))
		}
		require.Zero(t, r.Stats().Clients)
		require.Empty(t, r.hooks.queues)
	})
}

func TestEndsOfSeveral(t *testing.T) {
	eachModeOfSeveral(t, func(t *testing.T, follow followAll) {
		r := New(&Options{MaxAge: time.Minute, Heartbeat: 20 * time.Second})
		aged := follow(r, nil, "a", "b")
		time.Sleep(time.Minute)
		synctest.Wait()
		require.ErrorIs(t, aged.reason, ErrMaxAge)
		require.Equal(t, []string{"beat", "beat"}, aged.named(t))

		down := follow(r, nil, "a", "b")
		publish(t, r, "b", "1")
		require.NoError(t, r.Shutdown(t.Context()))
		require.ErrorIs(t, down.reason, ErrShutdown)
		require.Equal(t, []string{"b  1"}, down.named(t))
		require.Zero(t, r.Stats().Clients)
	})
}

// A client that is not served delays nobody, and does not block Close for ever.
func TestSeveralWithoutFrames(t *testing.T) {
	eachModeOfSeveral(t, func(t *testing.T, follow followAll) {
		r := New(&Options{MaxEvents: 1})
		publish(t, r, "a", "1", "2")
		endless := follow(r, &ClientOptions{Encoder: mute{TypeEnd}}, "a", "b")
		gapless := follow(r, &ClientOptions{Encoder: mute{TypeGap}}, "a", "b")
		eventless := follow(r, &ClientOptions{Encoder: mute{""}}, "a", "b")
		time.Sleep(time.Minute)
		require.NoError(t, r.Close(t.Context(), "a"))
		require.NoError(t, r.Close(t.Context(), "b"))
		require.Equal(t, []string{`a stream-gap`, "a  2"}, trim(endless.named(t)))
		require.Equal(t, []string{"a  2", "a stream-end {}", "b stream-end {}"}, gapless.named(t)[:3])
		require.Equal(t, []string{"a stream-gap", "a stream-end {}", "b stream-end {}"}, trim(eventless.named(t))[:3])
		require.Zero(t, r.Stats().Clients)
	})
}

// trim leaves out what a gap says.
func trim(s []string) []string {
	for i := range s {
		if strings.Contains(s[i], "stream-gap") {
			s[i] = s[i][:strings.IndexByte(s[i], '{')-1]
		}
	}
	return s
}

// Many who follow many cost each publish no more than its own lanes, and leave
// nothing behind.
func TestSeveralLeaveNothingBehind(t *testing.T) {
	eachModeOfSeveral(t, func(t *testing.T, follow followAll) {
		r := New(&Options{Heartbeat: -1})
		publish(t, r, "a", "0")
		for range 300 {
			v := follow(r, nil, "a", "b", "c")
			publish(t, r, "c", "1")
			require.NoError(t, r.Close(t.Context(), "c"))
			r.Forget("c")
			r.Forget("b")
			synctest.Wait()
			require.ErrorIs(t, v.reason, ErrUnregistered)
		}
		x := r.lookup("a")
		require.Empty(t, x.clients)
		require.Len(t, x.lanes, 1)
		require.Empty(t, x.lanes[0].members)
		require.Zero(t, x.lanes[0].size)
		require.Equal(t, 1, r.Stats().Executions)
	})
}

// TestModelOfSeveral has viewers follow several executions at once, over
// connections that break, fill up and are made anew, while all is published
// and closed, and holds what each has seen in the end against all that was
// published: everything once, in the order of the IDs, but for what a gap
// announced and what was superseded, and each end behind everything.
func TestModelOfSeveral(t *testing.T) {
	worlds := 60
	if testing.Short() || small {
		worlds = 15
	}
	seed := Seed(t)
	var tally struct{ events, gaps, connections, partial atomic.Int64 }
	for i := range worlds {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		bounded := i%3 == 0
		synctest.Test(t, func(t *testing.T) {
			opts := Options{MaxEvents: -1, MaxBytes: -1, Heartbeat: -1, Logger: slog.New(slog.DiscardHandler)}
			if bounded {
				opts.MaxEvents = 1 + rng.IntN(40)
			}
			r := New(&opts)
			ids := []string{"a", "b", "c", "d", "e"}[:2+rng.IntN(4)]
			var mu sync.Mutex
			published := map[uint64]modelEvent{}
			latest := map[string]uint64{} // of each execution's keys
			publish := func(rng *rand.Rand, id string) {
				e := Event{Data: []byte(id + strconv.Itoa(rng.IntN(1000)) + strings.Repeat("x", rng.IntN(2)*rng.IntN(2000)))}
				if rng.IntN(4) == 0 {
					e.Key = strconv.Itoa(rng.IntN(3))
				}
				n, err := r.Publish(context.Background(), id, e)
				if errors.Is(err, ErrFinished) {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Errorf("publish: %v", err)
				}
				published[n] = modelEvent{id: n, key: e.Key, typ: id, data: string(e.Data)}
				if e.Key != "" {
					latest[id+e.Key] = max(latest[id+e.Key], n)
				}
			}
			for _, id := range ids {
				publish(rng, id)
			}
			var publishers, viewers sync.WaitGroup
			for range 4 {
				rng := rand.New(rand.NewPCG(rng.Uint64(), 0))
				publishers.Go(func() {
					for range 150 {
						publish(rng, ids[rng.IntN(len(ids))])
						if rng.IntN(20) == 0 {
							time.Sleep(time.Duration(rng.IntN(50)) * time.Microsecond)
						}
					}
				})
			}
			all := make([]*severalViewer, 4)
			for i := range all {
				v := &severalViewer{rng: rand.New(rand.NewPCG(rng.Uint64(), 0)), breaks: 10}
				all[i] = v
				viewers.Go(func() { v.watch(t, r, ids) })
			}
			early := ids[rng.IntN(len(ids))]
			time.Sleep(time.Duration(rng.IntN(200)) * time.Microsecond)
			if err := r.Close(context.Background(), early); err != nil {
				t.Errorf("close: %v", err)
			}
			publishers.Wait()
			for _, id := range ids {
				if err := r.Close(context.Background(), id); err != nil {
					t.Errorf("close: %v", err)
				}
			}
			viewers.Wait()
			synctest.Wait()
			for _, v := range all {
				seen, gapTo := map[uint64]bool{}, map[string]uint64{}
				last := uint64(0)
				for _, f := range v.got {
					id, execution := f.id, f.execution
					switch {
					case f.typ == TypeGap:
						require.True(t, bounded, "a gap where nothing was lost")
						tally.gaps.Add(1)
						gapTo[execution] = max(gapTo[execution], f.gapTo)
					case id != 0:
						require.Greater(t, id, last, "order, over all connections")
						require.Greater(t, id, gapTo[execution])
						last = id
						require.Equal(t, published[id].data, f.data)
						require.Equal(t, published[id].typ, execution)
						seen[id] = true
						tally.events.Add(1)
					}
				}
				for n, e := range published {
					if !seen[n] && n > gapTo[e.typ] && (e.key == "" || latest[e.typ+e.key] == n) {
						require.Fail(t, "lost", "%d of %s, key %q", n, e.typ, e.key)
					}
				}
				tally.connections.Add(v.connections)
				tally.partial.Add(v.partial)
			}
			require.Zero(t, r.Stats().Clients)
			require.NoError(t, r.Shutdown(t.Context()))
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("events %d, gaps %d, connections %d, partial writes %d", tally.events.Load(), tally.gaps.Load(), tally.connections.Load(), tally.partial.Load())
	if !testing.Short() && !small {
		require.NotZero(t, tally.gaps.Load())
		require.NotZero(t, tally.partial.Load())
		require.Greater(t, tally.connections.Load(), int64(4*worlds))
	}
}

// severalViewer is a viewer with one connection after the other.
type severalViewer struct {
	rng                  *rand.Rand
	breaks               int // of its connections that are still to come
	got                  []severalFrame
	connections, partial int64
}

type severalFrame struct {
	id, gapTo            uint64
	execution, typ, data string
}

func (v *severalViewer) watch(t *testing.T, r *Registry, ids []string) {
	last := ""
	for {
		c, err := r.RegisterAll(ids, &ClientOptions{LastEventID: last})
		if errors.Is(err, ErrFinished) {
			return
		}
		if err != nil {
			t.Errorf("register: %v", err)
			return
		}
		v.connections++
		conn := &severalConn{severalViewer: v, left: 1 << 40, ended: make(chan error, 1)}
		if v.breaks > 0 && v.rng.IntN(4) > 0 {
			v.breaks--
			conn.left = v.rng.IntN(20_000)
		}
		if v.rng.IntN(2) == 0 {
			c.Start(conn)
		} else {
			go c.Serve(context.Background(), conn)
		}
		reason := <-conn.ended
		ended := map[string]bool{}
		for f, err := range Decode(&conn.buf, 0) {
			var m struct {
				Execution string
				Data      json.RawMessage
			}
			if err != nil || f.Data != nil && json.Unmarshal(f.Data, &m) != nil {
				t.Errorf("%v: %q", err, f.Data)
			}
			g := severalFrame{execution: m.Execution, typ: f.Type}
			if f.HasID {
				last = f.ID
				g.id, _ = parseID(f.ID)
				json.Unmarshal(m.Data, &g.data)
			}
			if ended[m.Execution] || ended[""] {
				t.Errorf("%s of %q behind its end", f.Type, m.Execution)
			}
			switch f.Type {
			case TypeEnd:
				ended[m.Execution] = true
			case TypeGap:
				var gap struct{ To string }
				json.Unmarshal(m.Data, &gap)
				g.gapTo, _ = parseID(gap.To)
			}
			v.got = append(v.got, g)
		}
		switch {
		case reason == nil && len(ended) != len(ids)+1:
			t.Errorf("ended after %v", ended)
			return
		case reason == nil:
			return
		case ended[""] && !errors.Is(reason, errConnection):
			t.Errorf("ended with %v", reason)
		}
	}
}

// severalConn takes what fits, or so it says, and breaks after so many bytes.
type severalConn struct {
	*severalViewer
	buf   bytes.Buffer
	left  int
	ended chan error
}

func (c *severalConn) Write(p []byte) (int, error) {
	if c.rng.IntN(4) == 0 {
		time.Sleep(time.Duration(c.rng.IntN(100)) * time.Microsecond)
	}
	if c.left < len(p) {
		c.buf.Write(p[:c.left])
		return c.left, errConnection
	}
	c.left -= len(p)
	return c.buf.Write(p)
}

func (c *severalConn) TryWrite(p []byte) (int, error) {
	n := len(p)
	if c.rng.IntN(6) == 0 {
		n = c.rng.IntN(n)
		c.partial++
	}
	return c.Write(p[:n])
}

func (c *severalConn) End(reason error) error {
	c.ended <- reason
	return nil
}
