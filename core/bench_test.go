package core

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
)

// crowd is an execution with clients that count what they get.
type crowd struct {
	r       *Registry
	clients int
	got     atomic.Int64 // events, which must all be of one size
	want    int64
}

func newCrowd(t testing.TB, clients int, encoders ...Encoder) *crowd {
	return newCrowdServed(t, clients, func(c *Client, w TryWriter) { c.Start(w) }, encoders...)
}

func newCrowdServed(t testing.TB, clients int, serve func(*Client, TryWriter), encoders ...Encoder) *crowd {
	c := &crowd{r: New(&Options{Heartbeat: -1}), clients: clients}
	for i := range clients {
		client, err := c.r.Register("x", &ClientOptions{Encoder: counting{encoders[i%len(encoders)]}})
		if err != nil {
			t.Fatal(err)
		}
		serve(client, &sink{crowd: c})
	}
	return c
}

// counting ends each frame with a zero byte, so that a sink can count frames.
type counting struct{ Encoder }

func (c counting) AppendEvent(dst []byte, e Event) []byte {
	return append(c.Encoder.AppendEvent(dst, e), 0)
}

type sink struct{ *crowd }

func (s *sink) Write(p []byte) (int, error) {
	n := int64(0)
	for _, b := range p {
		if b == 0 {
			n++
		}
	}
	s.got.Add(n)
	return len(p), nil
}

func (s *sink) TryWrite(p []byte) (int, error) { return s.Write(p) }
func (s *sink) End(error) error                { return nil }

// publish waits until every client has the event.
func (c *crowd) publish(e Event) {
	if _, err := c.r.Publish(context.Background(), "x", e); err != nil {
		panic(err)
	}
	c.wait(1)
}

func (c *crowd) wait(events int) {
	c.want += int64(events * c.clients)
	for c.got.Load() < c.want {
		runtime.Gosched()
	}
}

var benchmarkData = []byte(`{"taskId":"build","stream":"stdout","line":"` +
	"github.com/execcast/execcast/core: compiling, linking and doing what there is to do" + `"}`)

// BenchmarkPublish is what a publish costs its caller.
func BenchmarkPublish(b *testing.B) {
	for _, bench := range []struct {
		name    string
		clients int
		e       Event
	}{
		{"no clients", 0, Event{Type: "task-output", Data: benchmarkData}},
		{"keyed", 0, Event{Type: "task-progress", Key: "build", Data: benchmarkData}},
		{"1 client", 1, Event{Type: "task-output", Data: benchmarkData}},
		{"1000 clients", 1000, Event{Type: "task-output", Data: benchmarkData}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			c := newCrowd(b, bench.clients, SSE)
			defer c.r.Forget("x")
			b.ReportAllocs()
			b.SetBytes(int64(len(bench.e.Data)))
			for b.Loop() {
				if _, err := c.r.Publish(context.Background(), "x", bench.e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("parallel, an execution each", func(b *testing.B) {
		r := New(nil)
		var n atomic.Int64
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			id := fmt.Sprint(n.Add(1))
			for pb.Next() {
				if _, err := r.Publish(context.Background(), id, Event{Type: "task-output", Data: benchmarkData}); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

// BenchmarkHooks is what hooks add to a publish: those that are seldom called,
// and those that are called each time.
func BenchmarkHooks(b *testing.B) {
	nothing := func(string) {}
	for _, bench := range []struct {
		name  string
		hooks Hooks
	}{
		{"none", Hooks{}},
		{"viewers", Hooks{FirstViewer: nothing, LastViewer: nothing, Finished: nothing}},
		{"published", Hooks{Published: func(string, Event) {}}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			r := New(&Options{Hooks: bench.hooks})
			var n atomic.Int64
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				id := fmt.Sprint(n.Add(1))
				for pb.Next() {
					if _, err := r.Publish(context.Background(), id, Event{Type: "task-output", Data: benchmarkData}); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	for name, enc := range map[string]Encoder{"SSE": SSE, "JSON": JSON} {
		for what, data := range map[string][]byte{"object": benchmarkData, "text": []byte("two lines\nof text that is no JSON, as long as the other one, so that they can be compared")} {
			b.Run(name+" "+what, func(b *testing.B) {
				var dst []byte
				b.ReportAllocs()
				b.SetBytes(int64(len(data)))
				for b.Loop() {
					dst = enc.AppendEvent(dst[:0], Event{ID: 1_700_000_000_000_000, Type: "task-output", Data: data})
				}
			})
		}
	}
}

// BenchmarkDeliver is what it costs until all clients have been written an
// event, with so many events published before waiting.
func BenchmarkDeliver(b *testing.B) {
	serve := map[string]func(*Client, TryWriter){
		"shared pumps": func(c *Client, w TryWriter) { c.Start(w) },
		"goroutines":   func(c *Client, w TryWriter) { go c.Serve(context.Background(), w) },
	}
	for _, mode := range []string{"shared pumps", "goroutines"} {
		for _, clients := range []int{1, 100, 10_000} {
			for _, inFlight := range []int{1, 64} {
				b.Run(fmt.Sprintf("%s/%d clients/%d in flight", mode, clients, inFlight), func(b *testing.B) {
					c := newCrowdServed(b, clients, serve[mode], SSE)
					e := Event{Type: "task-output", Data: benchmarkData}
					b.ReportAllocs()
					for b.Loop() {
						for range inFlight {
							if _, err := c.r.Publish(context.Background(), "x", e); err != nil {
								b.Fatal(err)
							}
						}
						c.wait(inFlight)
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*inFlight*clients), "ns/delivery")
					b.StopTimer()
					c.r.Forget("x")
					for c.r.Stats().Clients > 0 {
						runtime.Gosched()
					}
				})
			}
		}
	}
}

// BenchmarkBacklog is what it costs until clients that come late have been
// written a log of 3 MiB: all of them at once.
func BenchmarkBacklog(b *testing.B) {
	const events, clients = 3000, 100
	for _, mode := range []string{"shared pumps", "goroutines"} {
		b.Run(mode, func(b *testing.B) {
			r := New(&Options{Heartbeat: -1})
			data := bytes.Repeat([]byte("x"), 1000)
			for range events {
				if _, err := r.Publish(context.Background(), "x", Event{Data: data}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				want := r.Stats().Delivered + events*clients
				all := make([]*Client, clients)
				for i := range all {
					c, err := r.Register("x", nil)
					if err != nil {
						b.Fatal(err)
					}
					all[i] = c
					if mode == "goroutines" {
						go c.Serve(context.Background(), full{})
					} else {
						c.Start(full{})
					}
				}
				for r.Stats().Delivered < want {
					runtime.Gosched()
				}
				for _, c := range all {
					c.Unregister()
				}
			}
		})
	}
}

// full is a connection that takes nothing without blocking.
type full struct{}

func (full) Write(p []byte) (int, error)  { runtime.Gosched(); return len(p), nil }
func (full) TryWrite([]byte) (int, error) { return 0, nil }
func (full) End(error) error              { return nil }
