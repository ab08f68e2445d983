package core

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func TestPublishRefuses(t *testing.T) {
	long := strings.Repeat("x", 257)
	cases := []struct {
		name string
		id   string
		e    Event
		want error
	}{
		{"empty ID", "", Event{}, ErrExecutionID},
		{"long ID", long, Event{}, ErrExecutionID},
		{"ID not UTF-8", "x\xff", Event{}, ErrExecutionID},
		{"ID with CR", "x\r", Event{}, ErrExecutionID},
		{"ID with LF", "x\ny", Event{}, ErrExecutionID},
		{"ID with NUL", "x\x00", Event{}, ErrExecutionID},
		{"ID with DEL", "x\x7f", Event{}, ErrExecutionID},
		{"ID with C1 control", "x\u0085", Event{}, ErrExecutionID},
		{"type with CR", "x", Event{Type: "a\rb"}, ErrEventType},
		{"type with LF", "x", Event{Type: "a\ndata: forged"}, ErrEventType},
		{"type with CRLF at the end", "x", Event{Type: "a\r\n"}, ErrEventType},
		{"type with NUL", "x", Event{Type: "a\x00"}, ErrEventType},
		{"type with TAB", "x", Event{Type: "a\tb"}, ErrEventType},
		{"type with C1 control", "x", Event{Type: "a\u0085"}, ErrEventType},
		{"type with leading space", "x", Event{Type: " a"}, ErrEventType},
		{"type with trailing space", "x", Event{Type: "a "}, ErrEventType},
		{"type of a space", "x", Event{Type: " "}, ErrEventType},
		{"type not UTF-8", "x", Event{Type: "\xc0\x80"}, ErrEventType},
		{"long type", "x", Event{Type: long}, ErrEventType},
		{"gap", "x", Event{Type: "stream-gap"}, ErrReservedType},
		{"end", "x", Event{Type: "stream-end"}, ErrReservedType},
		{"heartbeat", "x", Event{Type: "stream-heartbeat"}, ErrReservedType},
		{"open", "x", Event{Type: "open"}, ErrReservedType},
		{"error", "x", Event{Type: "error"}, ErrReservedType},
		{"long key", "x", Event{Key: long}, ErrEventKey},
		{"key not UTF-8", "x", Event{Key: "\x80"}, ErrEventKey},
		{"data not UTF-8", "x", Event{Data: []byte("a\xff")}, ErrEventData},
		{"data with a surrogate", "x", Event{Data: []byte("\xed\xa0\x80")}, ErrEventData},
		{"data cut within a character", "x", Event{Data: []byte("€")[:2]}, ErrEventData},
		{"data too large", "x", Event{Data: make([]byte, 256<<10+1)}, ErrEventTooLarge},
		{"with an ID", "x", Event{ID: 1}, ErrEventID},
		{"traceparent with a line break", "x", Event{Traceparent: "00\ndata: forged"}, ErrTraceparent},
	}
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: -1, Logger: slog.New(slog.DiscardHandler)})
		v := follow(r, "x", nil)
		before := r.lastID
		for _, c := range cases {
			id, err := r.Publish(t.Context(), c.id, c.e)
			require.ErrorIs(t, err, c.want, c.name)
			require.Zero(t, id, c.name)
			require.True(t, strings.HasPrefix(err.Error(), "execcast: "), "%s: %v", c.name, err)
			require.NotContains(t, err.Error(), "\n", c.name)
		}
		synctest.Wait()
		require.Empty(t, v.got.Bytes())
		require.Equal(t, before, r.lastID)
		require.Equal(t, Stats{Executions: 1, Clients: 1, TooLarge: 1}, r.Stats())

		// What is just allowed is not refused.
		for _, e := range []Event{
			{},
			{Type: strings.Repeat("x", 256), Key: strings.Repeat("k", 256)},
			{Type: "a b: c", Key: " \x00\r\n"},
			{Type: "message", Data: make([]byte, 256<<10)},
			{Type: "Error"},
			{Type: "\ufeff", Data: []byte("\ufeff\u2028\u2029\x00")},
		} {
			_, err := r.Publish(t.Context(), "x", e)
			require.NoError(t, err)
		}
		publish(t, r, strings.Repeat("é", 128), "a")
		synctest.Wait()
		require.Len(t, v.frames(t), 6)
		r.Forget("x")
	})
}

func TestRegisterRefuses(t *testing.T) {
	r := New(nil)
	for _, id := range []string{"", strings.Repeat("x", 257), "\xff", "a\nb", "a\rb", "a\x00b"} {
		c, err := r.Register(id, nil)
		require.ErrorIs(t, err, ErrExecutionID, "%q", id)
		require.Nil(t, c)
		require.NotContains(t, err.Error(), "\n")
	}
	require.Equal(t, Stats{}, r.Stats())
	require.Zero(t, r.ClientCount("\xff"))
	require.NoError(t, r.Close(t.Context(), "\xff"))
	r.Forget("")
}

type badMarshaler struct{}

func (badMarshaler) MarshalJSON() ([]byte, error) { return nil, errors.New("no") }

func TestPublishJSON(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: -1})
		v := follow(r, "x", nil)
		cycle := map[string]any{}
		cycle["self"] = cycle
		for _, bad := range []any{make(chan int), func() {}, math.NaN(), math.Inf(1), badMarshaler{}, cycle, map[bool]int{true: 1}} {
			id, err := r.PublishJSON(t.Context(), "x", "t", bad)
			require.Error(t, err, "%T", bad)
			require.Zero(t, id)
			_, err = r.PublishJSON(t.Context(), "y", "t", bad) // creates nothing either
			require.Error(t, err)
		}
		require.Equal(t, Stats{Executions: 1, Clients: 1}, r.Stats())
		_, err := r.PublishJSON(t.Context(), "x", "open", 1)
		require.ErrorIs(t, err, ErrReservedType)
		id, err := r.PublishJSON(t.Context(), "x", "t", map[string]any{"a": "1\r\n2", "b": nil})
		require.NoError(t, err)
		require.Equal(t, r.lastID, id)
		_, err = r.PublishJSON(t.Context(), "x", "", nil)
		require.NoError(t, err)
		require.NoError(t, r.Close(t.Context(), "x"))
		require.Equal(t, []string{`t {"a":"1\r\n2","b":null}`, "null", "stream-end {}"}, v.text(t))
	})
}

func TestPublishCancelled(t *testing.T) {
	r := New(nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.Publish(ctx, "x", Event{})
	require.ErrorIs(t, err, context.Canceled)
	_, err = r.PublishJSON(ctx, "x", "t", 1)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, Stats{}, r.Stats())
}

// Publish keeps nothing of what it is given.
func TestPublishCopies(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: -1})
		first := follow(r, "x", nil)
		data := []byte("abc")
		for range 3 {
			_, err := r.Publish(t.Context(), "x", Event{Data: data})
			require.NoError(t, err)
			data[0]++
		}
		copy(data, "zzz")
		late := follow(r, "x", &ClientOptions{Encoder: lines}) // encodes now
		require.NoError(t, r.Close(t.Context(), "x"))
		require.Equal(t, []string{"abc", "bbc", "cbc", "stream-end {}"}, first.text(t))
		require.NotContains(t, late.got.String(), "z")
	})
}

func TestMaxEventBytes(t *testing.T) {
	r := New(&Options{MaxEventBytes: 3, Logger: slog.New(slog.DiscardHandler)})
	publish(t, r, "x", "abc")
	_, err := r.Publish(t.Context(), "x", Event{Data: []byte("abcd")})
	require.ErrorIs(t, err, ErrEventTooLarge)
	require.EqualError(t, err, "execcast: event too large: 4 bytes, at most 3 are allowed")
	require.EqualValues(t, 1, r.Stats().TooLarge)

	r = New(&Options{MaxEventBytes: -1, MaxBytes: 1000})
	publish(t, r, "x", strings.Repeat("x", 1<<20)) // an event of its own is always retained
	require.Greater(t, r.Stats().Bytes, int64(1<<20))
	publish(t, r, "x", "small")
	require.Less(t, r.Stats().Bytes, int64(1000))
	require.EqualValues(t, 1, r.Stats().Evicted)
}

func TestMaxEvents(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{MaxEvents: 3, Heartbeat: -1})
		var ids []string
		for i := range 10 {
			ids = append(ids, publish(t, r, "x", strconv.Itoa(i))...)
			require.EqualValues(t, max(0, i-2), r.Stats().Evicted)
		}
		require.Equal(t, []string{`stream-gap {"to":"` + ids[6] + `","count":7}`, "7", "8", "9"}, follow(r, "x", nil).text(t))
		// Superseding makes room, so that nothing is evicted for it.
		r.Forget("x")
		for i := range 20 {
			_, err := r.Publish(t.Context(), "x", Event{Key: strconv.Itoa(i % 3), Data: []byte(strconv.Itoa(i))})
			require.NoError(t, err)
		}
		require.Equal(t, []string{"17", "18", "19"}, follow(r, "x", nil).text(t))
		require.EqualValues(t, 7, r.Stats().Evicted)
		r.Forget("x")

		r = New(&Options{MaxEvents: 1, Heartbeat: -1})
		ids = publish(t, r, "x", "a", "b", "c")
		require.Equal(t, []string{"c"}, follow(r, "x", &ClientOptions{LastEventID: ids[1]}).text(t))
		require.Equal(t, []string{`stream-gap {"from":"` + ids[0] + `","to":"` + ids[1] + `"}`, "c"}, follow(r, "x", &ClientOptions{LastEventID: ids[0]}).text(t))
		r.Forget("x")

		r = New(&Options{MaxEvents: -1, MaxBytes: -1, Heartbeat: -1})
		for i := range 10_000 {
			_, err := r.Publish(t.Context(), "x", Event{Data: []byte(strconv.Itoa(i))})
			require.NoError(t, err)
		}
		require.Len(t, follow(r, "x", nil).frames(t), 10_000)
		r.Forget("x")
	})
}

// A key leaves nothing behind, not even room in the map: a Go map never gives
// it back.
func TestKeysLeaveNothingBehind(t *testing.T) {
	r := New(&Options{MaxEvents: 5000, MaxBytes: -1})
	for i := range 5000 {
		_, err := r.Publish(t.Context(), "x", Event{Key: "key " + strconv.Itoa(i)})
		require.NoError(t, err)
	}
	l := &r.lookup("x").log
	require.Equal(t, 5000, l.keyMax)
	for range 4999 {
		publish(t, r, "x", "a")
	}
	require.Len(t, l.keys, 1)
	require.LessOrEqual(t, l.keyMax, 5000/4)
	require.NoError(t, l.invariants())
	_, err := r.Publish(t.Context(), "x", Event{Key: "key 4999"}) // the map made anew still knows it
	require.NoError(t, err)
	require.NoError(t, l.invariants())
	require.EqualValues(t, 4999, r.Stats().Evicted)
}

// What is kept of an event stays the same when it gets more frames, and a key
// does not hold on to the bytes from before.
func TestFramesMadeLater(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		for _, data := range []string{"", "x", "a\nb", "a\r\nb\rc", `{"a":[1]}`, `"`} {
			var seen []Event
			r := New(&Options{Heartbeat: -1, Hooks: Hooks{Published: func(_ string, e Event) { seen = append(seen, e) }}})
			e := Event{Type: "progress", Key: "k", Data: []byte(data), Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
			publishEvent := func() {
				_, err := r.Publish(t.Context(), "x", e)
				require.NoError(t, err)
			}
			publishEvent()
			l := &r.lookup("x").log
			want := l.at(0).event()
			require.Equal(t, seen[0], want)
			require.Equal(t, string(appendLF(nil, e.Data)), string(want.Data))
			before := unsafe.SliceData(l.at(0).buf)
			for i, enc := range []Encoder{SSE, JSON, lines} {
				follow(r, "x", &ClientOptions{Encoder: enc})
				synctest.Wait()
				require.Equal(t, string(enc.AppendEvent(nil, want)), string(l.at(0).frame(i)))
				require.Equal(t, want, l.at(0).event())
				require.NotSame(t, before, unsafe.SliceData(l.at(0).buf))
				for k := range l.keys {
					require.Same(t, unsafe.StringData(l.at(0).keyString()), unsafe.StringData(k))
				}
				checkLog(t, r.lookup("x"))
			}
			publishEvent()
			e = want
			e.ID = l.at(l.n - 1).id
			require.Equal(t, e, l.at(l.n-1).event())
			require.Equal(t, e, seen[1])
			for i, enc := range []Encoder{SSE, JSON, lines} {
				require.Equal(t, string(enc.AppendEvent(nil, e)), string(l.at(l.n-1).frame(i)))
			}
			checkLog(t, r.lookup("x"))
			require.NoError(t, r.Close(t.Context(), "x"))
		}
	})
}

func TestMaxBytes(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		const limit = 100_000
		r := New(&Options{MaxBytes: limit, Heartbeat: -1})
		data := strings.Repeat("x", 1000)
		// Without a client there is no frame; each encoding's counts.
		for range 200 {
			publish(t, r, "x", data)
			require.LessOrEqual(t, r.Stats().Bytes, int64(limit))
		}
		without := len(r.lookup("x").log.ring)
		require.Equal(t, 128, without)
		v := follow(r, "x", nil)
		follow(r, "x", &ClientOptions{Encoder: lines})
		// What late viewers have had encoded is reclaimed with the next event.
		require.Greater(t, r.Stats().Bytes, int64(limit))
		for range 200 {
			publish(t, r, "x", data)
			require.LessOrEqual(t, r.Stats().Bytes, int64(limit))
		}
		x := r.lookup("x")
		require.InDelta(t, limit/2200, x.log.n, 3) // two frames, one of which holds the data
		require.EqualValues(t, 400-x.log.n, r.Stats().Evicted)
		synctest.Wait()
		require.NotContains(t, v.text(t)[1:], TypeGap) // nobody lags
		checkLog(t, x)
		r.Forget("x")
		require.Zero(t, r.Stats().Bytes)
	})
}

// checkLog fails unless the log's figures are those of its records. The
// execution must not be in use.
func checkLog(t *testing.T, x *execution) {
	t.Helper()
	require.NoError(t, x.log.invariants())
}

func (l *log) invariants() error {
	size, dead := 0, 0
	var before uint64
	keys := map[string]uint64{}
	for i := range l.n {
		r := l.at(i)
		if r.id <= before || r.id <= l.floor {
			return errors.New("IDs do not rise above the floor")
		}
		before = r.id
		if r.dead {
			if r.buf != nil || r.key != 0 {
				return errors.New("a dead record holds something")
			}
			dead++
			continue
		}
		size += r.size()
		if k := r.keyString(); k != "" {
			if keys[k] != 0 {
				return errors.New("two live events have key " + k)
			}
			keys[k] = r.id
		}
	}
	switch {
	case l.n > 0 && (l.at(0).dead || l.at(l.n-1).dead):
		return errors.New("a dead record stands at an end")
	case l.n > 0 && before != l.last:
		return errors.New("last is not the last")
	case dead != l.dead:
		return errors.New("dead is not the number of dead records")
	case size != l.bytes:
		return errors.New("bytes is not the sum of the records'")
	case len(keys) != len(l.keys):
		return errors.New("keys without records, or records without keys")
	case l.n-l.dead > l.maxEvents:
		return errors.New("too many events")
	case len(l.ring) > 64 && len(l.ring) > 8*l.maxEvents:
		return errors.New("the ring is larger than the limit needs")
	}
	for k, id := range l.keys {
		if keys[k] != id {
			return errors.New("the record of a key is another")
		}
	}
	for i := l.n; i < len(l.ring); i++ {
		if r := l.at(i); r.id != 0 || r.buf != nil {
			return errors.New("a free place holds something")
		}
	}
	return nil
}

func TestMaxTotalBytes(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		const limit = 1_000_000
		var out bytes.Buffer
		r := New(&Options{MaxTotalBytes: limit, Heartbeat: -1, Logger: slog.New(slog.NewTextHandler(&out, nil))})
		fill := func(id string, events int) []string {
			var ids []string
			for range events {
				ids = append(ids, publish(t, r, id, strings.Repeat("x", 1000))...)
			}
			return ids
		}
		known := func() (ids []string) {
			for _, id := range []string{"old", "new", "watched", "running", "small"} {
				if r.lookup(id) != nil {
					ids = append(ids, id)
				}
			}
			return ids
		}
		fill("running", 100)
		small := fill("small", 10)
		fill("watched", 100)
		fill("new", 100)
		fill("old", 100)
		held, err := r.Register("watched", nil)
		require.NoError(t, err)
		for _, id := range []string{"old", "new"} { // in the order of their closing
			require.NoError(t, r.Close(t.Context(), id))
			time.Sleep(time.Second)
		}
		seal := result(func() error { return r.Close(context.Background(), "watched") })
		synctest.Wait()
		require.Equal(t, []string{"old", "new", "watched", "running", "small"}, known())

		fill("running", 540)
		require.Equal(t, []string{"new", "watched", "running", "small"}, known())
		require.LessOrEqual(t, r.Stats().Bytes, int64(limit))
		require.Zero(t, r.Stats().Evicted)
		fill("running", 100)
		require.Equal(t, []string{"watched", "running", "small"}, known())
		require.Zero(t, r.Stats().Evicted)

		// Then the largest loses its oldest events, down to 15/16 of the limit
		// at once, so that most publishes need not look.
		times := r.counters.shrunk.Load()
		fill("running", 200)
		require.Equal(t, []string{"watched", "running", "small"}, known())
		require.LessOrEqual(t, r.Stats().Bytes, int64(limit))
		require.NotZero(t, r.Stats().Evicted)
		require.LessOrEqual(t, r.counters.shrunk.Load()-times, uint64(4))
		require.Zero(t, r.lookup("small").log.lost)
		require.Zero(t, r.lookup("watched").log.lost)
		require.Equal(t, 10, len(follow(r, "small", nil).frames(t)))
		require.Equal(t, 9, len(follow(r, "small", &ClientOptions{LastEventID: small[0]}).frames(t)))
		require.Contains(t, out.String(), "memory limit reached")
		require.LessOrEqual(t, strings.Count(out.String(), "\n"), 4)

		held.Unregister()
		require.NoError(t, <-seal)
		require.NoError(t, r.Shutdown(t.Context()))
		require.Zero(t, r.Stats().Bytes)
	})
}

// The limit holds where every execution has only an event or two: those go as
// well.
func TestMaxTotalBytesOfMany(t *testing.T) {
	var out bytes.Buffer
	const limit = 1 << 20
	r := New(&Options{MaxTotalBytes: limit, Logger: slog.New(slog.NewTextHandler(&out, nil))})
	var last []string
	for i := range 100 {
		last = publish(t, r, strconv.Itoa(i), strings.Repeat("x", 100<<10))
		require.LessOrEqual(t, r.Stats().Bytes, int64(limit))
	}
	require.Equal(t, 100, r.Stats().Executions)
	require.GreaterOrEqual(t, r.Stats().Evicted, uint64(90))
	require.LessOrEqual(t, strings.Count(out.String(), "\n"), 8) // doubling
	// A viewer of one that has lost all is told.
	v := newViewer()
	c, err := r.Register("0", nil)
	require.NoError(t, err)
	require.Equal(t, 0, r.lookup("0").log.n)
	done := result(func() error { return c.Serve(context.Background(), v) })
	require.NoError(t, r.Close(t.Context(), "0"))
	require.NoError(t, <-done)
	require.Len(t, v.text(t), 2)
	require.Regexp(t, `^stream-gap \{"to":"\d+","count":1\}$`, v.text(t)[0])
	require.NotEmpty(t, last)
}

// One Publish over the limit brings all logs to one level in one pass.
func TestMaxTotalBytesOnePass(t *testing.T) {
	r := New(&Options{MaxTotalBytes: -1, Logger: slog.New(slog.DiscardHandler)})
	for i := range 300 {
		for range 1 + i%20 {
			publish(t, r, strconv.Itoa(i), strings.Repeat("x", 150))
		}
	}
	limit := int(r.Stats().Bytes)
	r.opts.MaxTotalBytes = limit
	publish(t, r, "299", "one more")
	require.EqualValues(t, 1, r.counters.shrunk.Load())
	require.LessOrEqual(t, r.Stats().Bytes, int64(limit-limit/16))
	require.Greater(t, r.Stats().Bytes, int64(limit-limit/8))
	least, most := math.MaxInt, 0
	for i := range 300 {
		n, had := r.lookup(strconv.Itoa(i)).log.n, 1+i%20
		if n < had {
			least, most = min(least, n), max(most, n)
		}
	}
	require.LessOrEqual(t, most-least, 1)
}

func TestMaxExecutions(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{MaxExecutions: 3, Heartbeat: -1, Logger: slog.New(slog.DiscardHandler)})
		publish(t, r, "a", "1")
		publish(t, r, "b", "1")
		held, err := r.Register("c", nil)
		require.NoError(t, err)
		_, err = r.Publish(t.Context(), "d", Event{})
		require.ErrorIs(t, err, ErrTooManyExecutions)
		_, err = r.Register("d", nil)
		require.ErrorIs(t, err, ErrTooManyExecutions)
		require.EqualValues(t, 2, r.Stats().TooManyExecutions)
		require.Equal(t, 3, r.Stats().Executions)
		publish(t, r, "a", "2") // those there are not affected

		// Finished ones make room, the one closed first before others, but
		// none that is watched.
		require.NoError(t, r.Close(t.Context(), "b"))
		require.NoError(t, r.Close(t.Context(), "a"))
		ctx, cancel := context.WithCancel(t.Context())
		closed := result(func() error { return r.Close(ctx, "c") })
		pending(t, closed)
		publish(t, r, "d", "1")
		require.Nil(t, r.lookup("b"))
		publish(t, r, "e", "1")
		require.Nil(t, r.lookup("a"))
		_, err = r.Publish(t.Context(), "f", Event{})
		require.ErrorIs(t, err, ErrTooManyExecutions)
		require.EqualValues(t, 3, r.Stats().TooManyExecutions)
		held.Unregister()
		require.NoError(t, <-closed)
		cancel()
		publish(t, r, "f", "1")
		require.Nil(t, r.lookup("c"))
		require.NoError(t, r.Shutdown(t.Context()))
	})
}

func TestMaxClients(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{MaxClients: 3, MaxExecutionClients: 2, Heartbeat: -1, Logger: slog.New(slog.DiscardHandler)})
		var held []*Client
		register := func(id string, want error) {
			t.Helper()
			c, err := r.Register(id, nil)
			if want != nil {
				require.ErrorIs(t, err, want)
				require.Nil(t, c)
				return
			}
			require.NoError(t, err)
			held = append(held, c)
		}
		register("x", nil)
		register("x", nil)
		register("x", ErrTooManyExecutionClients)
		register("y", nil)
		register("y", ErrTooManyClients)
		register("x", ErrTooManyClients)
		register("z", ErrTooManyClients)
		s := r.Stats()
		require.EqualValues(t, 1, s.TooManyExecutionClients)
		require.EqualValues(t, 3, s.TooManyClients)
		require.Equal(t, 2, s.Executions) // z has not come to be
		require.Equal(t, 3, s.Clients)
		held[0].Unregister()
		register("x", nil)
		held[1].Unregister()
		held[2].Unregister()
		follow(r, "x", nil)
		require.Equal(t, 2, r.ClientCount("x"))
		r.Forget("x")
		synctest.Wait()
		require.Zero(t, r.Stats().Clients)
	})
}

type numbered struct {
	Encoder
	n int
}

type incomparable []byte

func (incomparable) AppendEvent(dst []byte, e Event) []byte { return dst }
func (incomparable) AppendHeartbeat(dst []byte) []byte      { return dst }

func TestEncoders(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{Heartbeat: -1})
		_, err := r.Register("x", &ClientOptions{Encoder: incomparable{}})
		require.ErrorIs(t, err, ErrEncoder)
		var vs []*viewer
		for range 3 { // equal values are one encoder
			for i := range 4 {
				vs = append(vs, follow(r, "x", &ClientOptions{Encoder: numbered{SSE, i}}))
			}
		}
		_, err = r.Register("x", &ClientOptions{Encoder: numbered{SSE, 4}})
		require.ErrorIs(t, err, ErrEncoder)
		_, err = r.Register("new", &ClientOptions{Encoder: numbered{SSE, 4}})
		require.ErrorIs(t, err, ErrEncoder)
		require.Equal(t, 1, r.Stats().Executions)
		publish(t, r, "x", "a")
		require.NoError(t, r.Close(t.Context(), "x"))
		for _, v := range vs {
			require.Equal(t, []string{"a", "stream-end {}"}, v.text(t))
		}
	})
}

// mute has no frame for some events and none for a heartbeat.
type mute struct{ typ string }

func (m mute) AppendEvent(dst []byte, e Event) []byte {
	if e.Type == m.typ {
		return dst
	}
	return SSE.AppendEvent(dst, e)
}
func (m mute) AppendHeartbeat(dst []byte) []byte { return dst }

func TestEncoderWithoutAFrame(t *testing.T) {
	eachMode(t, func(t *testing.T, follow follow) {
		r := New(&Options{MaxEvents: 1})
		ids := publish(t, r, "x", "a", "b")
		gapless := follow(r, "x", &ClientOptions{Encoder: mute{TypeGap}})
		endless := follow(r, "x", &ClientOptions{Encoder: mute{TypeEnd}, LastEventID: ids[0]})
		eventless := follow(r, "x", &ClientOptions{Encoder: mute{""}, LastEventID: ids[0]})
		time.Sleep(time.Minute)
		require.NoError(t, r.Close(t.Context(), "x"))
		require.Equal(t, []string{"b", "stream-end {}"}, gapless.text(t))
		require.Equal(t, []string{"b"}, endless.text(t))
		require.Equal(t, []string{"stream-end {}"}, eventless.text(t))
	})
}

// A limit says so in the log when it first strikes and then whenever the count
// has doubled, with IDs quoted.
func TestRefusalsAreLogged(t *testing.T) {
	var out bytes.Buffer
	r := New(&Options{MaxExecutions: 1, Logger: slog.New(slog.NewTextHandler(&out, nil))})
	publish(t, r, "x", "a")
	for range 100 {
		_, err := r.Register(`y" level=ERROR`, nil)
		require.ErrorIs(t, err, ErrTooManyExecutions)
	}
	require.Equal(t, 7, strings.Count(out.String(), "\n"))
	require.Contains(t, out.String(), `execution="y\" level=ERROR" times=64`)
	require.Contains(t, out.String(), "level=WARN")
	out.Reset()
	_, err := r.Register("x", &ClientOptions{LastEventID: "1"})
	require.NoError(t, err)
	_, err = r.Register("unknown", &ClientOptions{LastEventID: "1"})
	require.ErrorIs(t, err, ErrUnknown)
	require.Empty(t, out.String()) // not an operator's business
}
