package core_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/execcast/execcast/core"
)

// terminal is the simplest Writer: a connection that shows what it is sent. An
// adapter's would also flush, and bound itself with a write deadline.
type terminal struct{}

func (terminal) Write(p []byte) (int, error) {
	// IDs begin with the clock: hide them.
	for line := range strings.Lines(string(p)) {
		if strings.HasPrefix(line, "id: ") {
			line = "id: …\n"
		}
		fmt.Print(line)
	}
	return len(p), nil
}

// An orchestrator publishes under an execution ID; a viewer that comes late
// gets everything from the first event to the end.
func Example() {
	r := core.New(nil)
	ctx := context.Background()
	r.PublishJSON(ctx, "build-7", "task-start", map[string]any{"taskId": "compile"})
	r.PublishJSON(ctx, "build-7", "task-complete", map[string]any{"taskId": "compile", "status": "success"})

	client, err := r.Register("build-7", nil)
	if err != nil {
		fmt.Println(err) // an adapter answers 204, 404, …
		return
	}
	served := make(chan error)
	go func() { served <- client.Serve(ctx, terminal{}) }()

	if err := r.Close(ctx, "build-7"); err != nil {
		fmt.Println(err)
	}
	fmt.Println("served:", <-served)
	// Output:
	// id: …
	// event: task-start
	// data: {"taskId":"compile"}
	//
	// id: …
	// event: task-complete
	// data: {"status":"success","taskId":"compile"}
	//
	// event: stream-end
	// data: {}
	//
	// served: <nil>
}

// Publish numbers events and refuses what could not arrive as it is.
func ExampleRegistry_Publish() {
	r := core.New(nil)
	ctx := context.Background()
	first, _ := r.Publish(ctx, "x", core.Event{Data: []byte("compiling")})
	second, _ := r.Publish(ctx, "x", core.Event{Type: "task-output", Data: []byte("two\nlines")})
	fmt.Println(second > first)

	_, err := r.Publish(ctx, "x", core.Event{Type: "a\ndata: forged"})
	fmt.Println(err)
	fmt.Println(errors.Is(err, core.ErrEventType))
	// Output:
	// true
	// execcast: invalid event type: "a\ndata: forged" has control characters
	// true
}

// A viewer that reconnects with the last ID it saw gets what follows. What
// cannot be resumed exactly is said before anything else.
func ExampleRegistry_Register() {
	r := core.New(nil)
	ctx := context.Background()
	var ids []uint64
	for _, s := range []string{"a", "b", "c"} {
		id, _ := r.Publish(ctx, "x", core.Event{Data: []byte(s)})
		ids = append(ids, id)
	}
	r.Close(ctx, "x")

	for _, last := range []string{fmt.Sprint(ids[1]), "of another world", fmt.Sprint(ids[2])} {
		client, err := r.Register("x", &core.ClientOptions{LastEventID: last})
		if err != nil {
			fmt.Println(err)
			continue
		}
		var got bytes.Buffer
		client.Serve(ctx, &got)
		for f := range core.Decode(&got, 0) {
			if f.Type != "" {
				fmt.Println(f.Type)
			} else {
				fmt.Printf("event %s\n", f.Data)
			}
		}
	}
	// Output:
	// event c
	// stream-end
	// stream-gap
	// event a
	// event b
	// event c
	// stream-end
	// execcast: execution finished
}

// One connection follows several executions, and resumes them from one ID. Each
// event says which it belongs to; the last stream-end names none.
func ExampleRegistry_RegisterAll() {
	r := core.New(nil)
	ctx := context.Background()
	r.PublishJSON(ctx, "build", "task-start", map[string]any{"taskId": "compile"})
	seen, _ := r.PublishJSON(ctx, "deploy", "task-start", map[string]any{"taskId": "upload"})
	r.PublishJSON(ctx, "build", "task-complete", map[string]any{"taskId": "compile"})
	r.Close(ctx, "build")
	r.Close(ctx, "deploy")

	client, err := r.RegisterAll([]string{"build", "deploy"}, &core.ClientOptions{LastEventID: fmt.Sprint(seen)})
	if err != nil {
		fmt.Println(err)
		return
	}
	client.Serve(ctx, terminal{})
	// Output:
	// event: stream-end
	// data: {"execution":"deploy","data":{}}
	//
	// id: …
	// event: task-complete
	// data: {"execution":"build","data":{"taskId":"compile"}}
	//
	// event: stream-end
	// data: {"execution":"build","data":{}}
	//
	// event: stream-end
	// data: {"data":{}}
}

// Close returns when every client has been written everything, or says how
// many it had to cut off.
func ExampleRegistry_Close() {
	r := core.New(nil)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	r.Publish(ctx, "x", core.Event{Data: []byte("the last words")})
	r.Register("x", nil) // and never served, so it gets nothing

	err := r.Close(ctx, "x")
	var drain *core.DrainError
	fmt.Println(errors.As(err, &drain), drain.Cut, errors.Is(err, context.DeadlineExceeded))
	fmt.Println(r.ClientCount("x"))

	_, err = r.Publish(context.Background(), "x", core.Event{Data: []byte("too late")})
	fmt.Println(err)
	// Output:
	// true 1 true
	// 0
	// execcast: execution finished
}

// Shutdown ends clients so that they reconnect elsewhere; it finishes no
// execution.
func ExampleRegistry_Shutdown() {
	r := core.New(nil)
	ctx := context.Background()
	client, _ := r.Register("x", nil)
	served := make(chan error)
	go func() { served <- client.Serve(ctx, terminal{}) }()

	fmt.Println(r.Shutdown(ctx))
	fmt.Println(<-served)
	_, err := r.Register("x", nil)
	fmt.Println(err)
	// Output:
	// <nil>
	// execcast: shutting down
	// execcast: shutting down
}

// conn is a TryWriter over a connection that never fills up.
type conn struct{ closed chan error }

func (c conn) Write(p []byte) (int, error)    { return os.Stdout.Write(p) }
func (c conn) TryWrite(p []byte) (int, error) { return os.Stdout.Write(p) }
func (c conn) End(reason error) error         { c.closed <- reason; return nil }

// What a transport says about its viewer: how it encodes, and where to resume.
func ExampleClientOptions() {
	r := core.New(nil)
	ctx := context.Background()
	first, _ := r.Publish(ctx, "x", core.Event{Data: []byte(`{"done":1}`)})
	r.Publish(ctx, "x", core.Event{Data: []byte(`{"done":2}`)})
	r.Close(ctx, "x")

	client, err := r.Register("x", &core.ClientOptions{
		Encoder:     core.JSON,
		LastEventID: fmt.Sprint(first),
		Heartbeat:   -1, // off: this transport has its own
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	var got bytes.Buffer
	client.Serve(ctx, &got)
	for messages := json.NewDecoder(&got); messages.More(); {
		var m struct {
			Event string
			Data  json.RawMessage
		}
		messages.Decode(&m)
		fmt.Println(m.Event, string(m.Data))
	}
	// Output:
	// message {"done":2}
	// stream-end {}
}

// A busy connection is so slow that much is published while it is written to.
type busy struct{ publish func() }

func (b *busy) Write(p []byte) (int, error) {
	if b.publish != nil {
		b.publish()
		b.publish = nil
	}
	for f := range core.Decode(bytes.NewReader(p), 0) {
		var gap struct{ Count int }
		if f.Type == core.TypeGap && json.Unmarshal(f.Data, &gap) == nil {
			fmt.Println("missed:", gap.Count)
			continue
		}
		fmt.Printf("%s %s\n", f.Type, f.Data)
	}
	return len(p), nil
}

// A viewer slower than the log is long is told what it misses, or disconnected.
func ExampleLagPolicy() {
	for _, policy := range []core.LagPolicy{core.LagGap, core.LagDisconnect} {
		r := core.New(&core.Options{MaxEvents: 2, Lag: policy})
		ctx := context.Background()
		r.Publish(ctx, "x", core.Event{Type: "step", Data: []byte("0")})
		client, _ := r.Register("x", nil)
		err := client.Serve(ctx, &busy{func() {
			for i := range 1000 {
				r.Publish(ctx, "x", core.Event{Type: "step", Data: fmt.Append(nil, i+1)})
			}
			go r.Close(ctx, "x")
		}})
		fmt.Println("served:", err)
	}
	// Output:
	// step 0
	// missed: 998
	// step 999
	// step 1000
	// stream-end {}
	// served: <nil>
	// step 0
	// served: execcast: client too slow
}

// A client whose connection can be written to without blocking needs no
// goroutine of its own.
func ExampleClient_Start() {
	r := core.New(nil)
	client, _ := r.Register("x", &core.ClientOptions{Encoder: core.JSON})
	c := conn{make(chan error, 1)}
	client.Start(c) // returns at once

	r.Close(context.Background(), "x")
	fmt.Println("\nended:", <-c.closed)
	// Output:
	// {"event":"stream-end","data":{}}
	// ended: <nil>
}

// Of events with the same key a late viewer gets the last: progress does not
// push results out of the history.
func ExampleEvent_key() {
	r := core.New(&core.Options{MaxEvents: 3})
	ctx := context.Background()
	for i := range 1000 {
		r.Publish(ctx, "x", core.Event{Key: "progress", Data: fmt.Append(nil, i, " of 1000")})
		if i%500 == 0 {
			r.Publish(ctx, "x", core.Event{Data: fmt.Append(nil, "result ", i)})
		}
	}
	r.Close(ctx, "x")

	client, _ := r.Register("x", nil)
	var got bytes.Buffer
	client.Serve(ctx, &got)
	for f := range core.Decode(&got, 0) {
		fmt.Printf("%s\n", f.Data)
	}
	// Output:
	// result 0
	// result 500
	// 999 of 1000
	// {}
}

// Hooks tell, among other things, whether anybody is watching: whether progress
// is worth computing.
// A second orchestrator of the same execution, or a retry of what was stored
// already, is refused.
func ExampleEvent_after() {
	ctx := context.Background()
	registry := core.New(nil)
	first, err := registry.Publish(ctx, "job-1", core.Event{Type: "started", After: new(uint64(0))})
	fmt.Println(err)
	_, err = registry.Publish(ctx, "job-1", core.Event{Type: "started", After: new(uint64(0))})
	fmt.Println(errors.Is(err, core.ErrConflict))
	_, err = registry.Publish(ctx, "job-1", core.Event{Type: "done", After: new(first)})
	fmt.Println(err)
	// Output:
	// <nil>
	// true
	// <nil>
}

func ExampleHooks() {
	r := core.New(&core.Options{Hooks: core.Hooks{
		FirstViewer: func(id string) { fmt.Println("somebody watches", id) },
		LastViewer:  func(id string) { fmt.Println("nobody watches", id) },
		Left:        func(id string, reason error) { fmt.Println("left:", reason) },
	}})
	a, _ := r.Register("x", nil)
	b, _ := r.Register("x", nil)
	a.Unregister()
	b.Unregister()
	// Output:
	// somebody watches x
	// left: execcast: client unregistered
	// left: execcast: client unregistered
	// nobody watches x
}

// AppendFrame writes what an adapter or a proxy sends besides events; it
// refuses what would not arrive as it is.
func ExampleAppendFrame() {
	p, _ := core.AppendFrame(nil, core.Frame{Retry: 2 * time.Second, Comment: "too many clients"})
	p, _ = core.AppendFrame(p, core.Frame{ID: "orders/17", Type: "shipped", Data: []byte("two\nlines")})
	os.Stdout.Write(p)

	_, err := core.AppendFrame(nil, core.Frame{ID: "17\nevent: forged"})
	var bad *core.FrameError
	fmt.Println(errors.As(err, &bad), bad.Field)
	// Output:
	// : too many clients
	// retry: 2000
	//
	// id: orders/17
	// event: shipped
	// data: two
	// data: lines
	//
	// true id
}

// Decode reads any event stream, frame by frame.
func ExampleDecode() {
	stream := ": hello\n\nretry: 500\nid: 1\nevent: shipped\ndata: two\ndata: lines\n\nid\n\ndata: incomplete"
	for f, err := range core.Decode(strings.NewReader(stream), 0) {
		if err != nil {
			fmt.Println(err) // the connection broke, or a frame was too large
			return
		}
		switch {
		case f.Data != nil:
			fmt.Printf("event %q, ID %q, retry %v: %q\n", f.Type, f.ID, f.Retry, f.Data)
		case f.HasID:
			fmt.Printf("ID reset to %q\n", f.ID)
		default:
			fmt.Printf("comment %q\n", f.Comment)
		}
	}
	// Output:
	// comment "hello"
	// event "shipped", ID "1", retry 500ms: "two\nlines"
	// ID reset to ""
}

// Events carry the trace that their publisher's context has. With OpenTelemetry
// the option is a propagator's Inject: see examples/tracing.
func ExampleOptions_traceparent() {
	type trace struct{}
	r := core.New(&core.Options{Traceparent: func(ctx context.Context) string {
		traceparent, _ := ctx.Value(trace{}).(string)
		return traceparent
	}})
	ctx := context.WithValue(context.Background(), trace{}, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	r.Publish(ctx, "x", core.Event{Type: "task-start", Data: []byte("{}")})

	client, _ := r.Register("x", nil)
	go r.Close(ctx, "x")
	client.Serve(ctx, terminal{})
	// Output:
	// id: …
	// event: task-start
	// traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
	// data: {}
	//
	// event: stream-end
	// data: {}
}

// PublishDone is where a metric of publishing comes from.
func ExampleOptions_publishDone() {
	latency, failed := time.Duration(0), 0
	r := core.New(&core.Options{PublishDone: func(executionID string, took time.Duration, err error) {
		latency += took // called by one goroutine here; a server has several
		if err != nil {
			failed++
			fmt.Println(executionID, err)
		}
	}})
	r.Publish(context.Background(), "x", core.Event{Data: []byte("{}")})
	r.Publish(context.Background(), "x", core.Event{Type: "stream-end"})
	fmt.Println(failed, "of 2 failed")
	// Output:
	// x execcast: reserved event type: "stream-end"
	// 1 of 2 failed
}

// Data that is JSON is embedded as it is, anything else becomes a string.
func ExampleJSON() {
	for _, data := range []string{`{"taskId":"a", "progress":0.5}`, "compiling\n", ""} {
		fmt.Printf("%s\n", core.JSON.AppendEvent(nil, core.Event{ID: 17, Type: "task-output", Data: []byte(data)}))
	}
	// Output:
	// {"id":"17","event":"task-output","data":{"taskId":"a", "progress":0.5}}
	// {"id":"17","event":"task-output","data":"compiling\n"}
	// {"id":"17","event":"task-output","data":""}
}

// upper is an Encoder of one's own: SSE, but louder. It is comparable, so that
// all clients that use it share the encoded bytes.
type upper struct{}

func (upper) AppendEvent(dst []byte, e core.Event) []byte {
	e.Data = bytes.ToUpper(e.Data)
	return core.SSE.AppendEvent(dst, e)
}

func (upper) AppendHeartbeat(dst []byte) []byte { return core.SSE.AppendHeartbeat(dst) }

func ExampleEncoder() {
	r := core.New(nil)
	ctx := context.Background()
	r.Publish(ctx, "x", core.Event{Data: []byte("done")})
	client, _ := r.Register("x", &core.ClientOptions{Encoder: upper{}})
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error)
	go func() { served <- client.Serve(ctx, terminal{}) }()
	for r.Stats().Delivered == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	fmt.Println(<-served)
	// Output:
	// id: …
	// data: DONE
	//
	// context canceled
}

// Stats has what a metrics endpoint would want.
func ExampleRegistry_Stats() {
	r := core.New(&core.Options{MaxEvents: 10})
	for range 25 {
		r.Publish(context.Background(), "x", core.Event{})
	}
	s := r.Stats()
	fmt.Println(s.Executions, s.Published, s.Evicted)
	// Output: 1 25 15
}

// Forget drops an execution with its viewers, so that its ID can run again.
func ExampleRegistry_Forget() {
	r := core.New(nil)
	ctx := context.Background()
	r.Close(ctx, "nightly") // of what is unknown: nothing
	r.Publish(ctx, "nightly", core.Event{Data: []byte("yesterday")})
	r.Close(ctx, "nightly")
	_, err := r.Publish(ctx, "nightly", core.Event{Data: []byte("today")})
	fmt.Println(err)

	r.Forget("nightly")
	_, err = r.Publish(ctx, "nightly", core.Event{Data: []byte("today")})
	fmt.Println(err)
	// Output:
	// execcast: execution finished
	// <nil>
}
