//go:build !race

package core

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// A publish costs one allocation, for all that is kept of the event, its frames
// included; a second if no frame holds the data as it is, so that it comes on
// top. A delivery by the shared pumps costs none.
func TestAllocs(t *testing.T) {
	events := map[string]Event{
		"plain": {Data: []byte(`{"taskId":"build","line":"compiling"}`)},
		"typed": {Type: "task-output", Data: []byte(`{"taskId":"build","line":"compiling"}`)},
		"keyed": {Type: "task-progress", Key: "build", Data: []byte(`{"taskId":"build","progress":1}`)},
		"CRLF":  {Data: []byte("a\r\nb\rc")},
		"lines": {Data: []byte("compiling\nlinking\ntesting\npackaging\nsigning\nuploading\ndone\nand some\nmore\nlines")},
		"empty": {},
		"trace": {Data: []byte(`{"taskId":"build"}`), Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	}
	for name, e := range events {
		t.Run(name, func(t *testing.T) {
			with := func(clients int, encoders ...Encoder) float64 {
				c := newCrowd(t, clients, encoders...)
				defer c.r.Forget("x")
				for range 5000 { // until the ring is as large as it gets
					c.publish(e)
				}
				return testing.AllocsPerRun(300, func() { c.publish(e) })
			}
			none, one, many := with(0, SSE), with(1, SSE), with(200, SSE)
			two, manyInTwo := with(2, SSE, lines), with(200, SSE, lines)
			t.Logf("allocations per Publish: %.0f; with 1 client %.0f, with 200 %.0f; in two encodings with 2 clients %.0f, with 200 %.0f",
				none, one, many, two, manyInTwo)
			require.LessOrEqual(t, none, 1.0)
			want := 1.0
			if name == "lines" {
				want = 2
			}
			require.LessOrEqual(t, one, want)
			require.LessOrEqual(t, many, want)       // so the deliveries cost nothing
			require.LessOrEqual(t, manyInTwo, two+1) // perhaps for another pump
		})
	}
}

// A backlog of many events costs a few allocations to assemble, however many
// clients it goes to, and none a client.
func TestAllocsOfABacklog(t *testing.T) {
	with := func(clients int) float64 {
		c := newCrowd(t, clients, SSE)
		defer c.r.Forget("x")
		data := []byte("0123456789")
		run := func() {
			release := c.r.hold()
			for range 64 {
				c.r.Publish(context.Background(), "x", Event{Data: data})
			}
			release()
			c.wait(64)
		}
		for range 100 {
			run()
		}
		return testing.AllocsPerRun(100, run)
	}
	few, many := with(1), with(200)
	t.Logf("allocations per 64 events: to 1 client %.2f, to 200 %.2f", few, many)
	require.LessOrEqual(t, few, 64.0+8)
	require.LessOrEqual(t, many-few, 2.0)
}

func TestAllocsOfEncoders(t *testing.T) {
	dst := make([]byte, 0, 1024)
	e := Event{ID: 1 << 52, Type: "task-output", Data: []byte("{\"line\":\n\"a\"}")}
	for _, enc := range []Encoder{SSE, JSON} {
		require.Zero(t, testing.AllocsPerRun(100, func() { dst = enc.AppendEvent(dst[:0], e) }))
		require.Zero(t, testing.AllocsPerRun(100, func() { dst = enc.AppendHeartbeat(dst[:0]) }))
	}
	f := Frame{ID: "1", Type: "t", Data: e.Data, Retry: 2e9, Comment: "c"}
	require.Zero(t, testing.AllocsPerRun(100, func() { dst, _ = AppendFrame(dst[:0], f) }))
}
