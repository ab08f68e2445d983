//go:build js && wasm

//lint:file-ignore U1000 JavaScript calls what go:wasmexport exports.

package main

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"time"
	"unsafe"

	"github.com/execcast/execcast/core"
)

// handles are the numbers by which JavaScript knows Go's objects.
type handles[T any] map[uint32]T

var lastHandle uint32

func newHandle() uint32 {
	lastHandle++
	return lastHandle
}

func (h handles[T]) add(v T) uint32 {
	handle := newHandle()
	h[handle] = v
	return handle
}

var (
	registries = handles[*core.Registry]{}
	clients    = handles[*client]{}
	calls      = handles[context.CancelCauseFunc]{}
)

// client is one writer of JavaScript's.
type client struct {
	*core.Client
	handle  uint32
	timeout time.Duration
	settled chan error // buffered: the outcome of a write that was pending
}

var errWrite = errors.New("execcast: write failed") // JavaScript knows why

//go:wasmimport execcast write
func jsWrite(client uint32, p unsafe.Pointer, n uint32) uint32

//go:wasmimport execcast end
func jsEnd(client uint32, message unsafe.Pointer, n uint32)

//go:wasmimport execcast done
func jsDone(call uint32, message unsafe.Pointer, n uint32, cut int32)

// What JavaScript's write may answer.
const (
	written = iota
	failed
	pending // settle follows
)

func (c *client) Write(p []byte) (int, error) {
	switch jsWrite(c.handle, unsafe.Pointer(unsafe.SliceData(p)), uint32(len(p))) {
	case written:
		return len(p), nil
	case failed:
		return 0, errWrite
	}
	var expired <-chan time.Time
	if c.timeout > 0 {
		timer := time.NewTimer(c.timeout)
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case err := <-c.settled:
		if err != nil {
			return 0, err
		}
		return len(p), nil
	case <-expired:
		return 0, core.ErrSlowClient
	}
}

// End is told in the form of describe; an empty message means that the
// execution has finished.
func (c *client) End(reason error) error {
	message := describe(reason)
	jsEnd(c.handle, unsafe.Pointer(unsafe.StringData(message)), uint32(len(message)))
	delete(clients, c.handle)
	return nil
}

// sentinels are the errors that JavaScript can tell apart, by these names.
var sentinels = []struct {
	name string
	err  error
}{
	{"ErrExecutionID", core.ErrExecutionID},
	{"ErrEventType", core.ErrEventType},
	{"ErrReservedType", core.ErrReservedType},
	{"ErrEventKey", core.ErrEventKey},
	{"ErrEventData", core.ErrEventData},
	{"ErrTraceparent", core.ErrTraceparent},
	{"ErrEventTooLarge", core.ErrEventTooLarge},
	{"ErrUnknown", core.ErrUnknown},
	{"ErrFinished", core.ErrFinished},
	{"ErrShutdown", core.ErrShutdown},
	{"ErrTooManyExecutions", core.ErrTooManyExecutions},
	{"ErrTooManyClients", core.ErrTooManyClients},
	{"ErrTooManyExecutionClients", core.ErrTooManyExecutionClients},
	{"ErrSlowClient", core.ErrSlowClient},
	{"ErrUnregistered", core.ErrUnregistered},
	{"ErrMaxAge", core.ErrMaxAge},
	{"ErrWrite", errWrite},
}

// describe returns name, NUL and text of an error; "" for nil.
func describe(err error) string {
	if err == nil {
		return ""
	}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			return s.name + "\x00" + err.Error()
		}
	}
	return "\x00" + err.Error()
}

// fail makes err the result of a call, and returns it as a number that is no
// result.
func fail(err error) float64 {
	give(append(reuse(), describe(err)...))
	return -1
}

//go:wasmexport registryNew
func registryNew() uint32 {
	number := func(i int) float64 {
		var bits uint64
		for j := range 8 {
			bits |= uint64(in[8*i+j]) << (8 * j)
		}
		return math.Float64frombits(bits)
	}
	handle := newHandle()
	opts := &core.Options{Logger: slog.New(logs{handle})}
	var has float64
	// In the order of optionNames in registry.js.
	for i, field := range []any{
		&opts.MaxEventBytes, &opts.MaxEvents, &opts.MaxBytes, &opts.MaxTotalBytes,
		&opts.MaxExecutions, &opts.MaxClients, &opts.MaxExecutionClients,
		&opts.Retention, &opts.Idle, &opts.Heartbeat, &opts.MaxAge, &opts.ShutdownSpread,
		&opts.HeartbeatEvents, &opts.AwaitUnknown, &opts.Lag, &has,
	} {
		switch f := field.(type) {
		case *int:
			*f = int(number(i))
		case *time.Duration:
			*f = milliseconds(number(i))
		case *bool:
			*f = number(i) != 0
		case *core.LagPolicy:
			*f = core.LagPolicy(number(i))
		case *float64:
			*f = number(i)
		}
	}
	opts.Hooks = hooks(handle, uint32(has))
	registries[handle] = core.New(opts)
	return handle
}

//go:wasmexport registryFree
func registryFree(handle uint32) { delete(registries, handle) }

// publish returns the event's ID, or a negative number if it is refused.
//
//go:wasmexport publish
func publish(registry, executionID, typ, key, traceparent, data uint32) float64 {
	a := newArgs()
	x := a.string(executionID)
	e := core.Event{Type: a.string(typ), Key: a.string(key), Traceparent: a.string(traceparent), Data: a.bytes(data)}
	id, err := registries[registry].Publish(context.Background(), x, e)
	if err != nil {
		return fail(err)
	}
	return float64(id)
}

// register returns the number of a client, or a negative one if it is refused.
// start has to follow.
//
//go:wasmexport register
func register(registry, executionID, lastEventID uint32, heartbeat, writeTimeout float64) float64 {
	a := newArgs()
	c, err := registries[registry].Register(a.string(executionID), &core.ClientOptions{
		LastEventID: a.string(lastEventID),
		Heartbeat:   milliseconds(heartbeat),
	})
	if err != nil {
		return fail(err)
	}
	cl := &client{Client: c, timeout: milliseconds(writeTimeout), settled: make(chan error, 1)}
	cl.handle = clients.add(cl)
	return float64(cl.handle)
}

//go:wasmexport start
func start(handle uint32) {
	c := clients[handle]
	go c.Serve(context.Background(), c)
}

// settle tells the outcome of the write that was pending, if there is one.
//
//go:wasmexport settle
func settle(handle, ok uint32) {
	c := clients[handle]
	if c == nil {
		return // timed out
	}
	var err error
	if ok == 0 {
		err = errWrite
	}
	select {
	case c.settled <- err:
	default:
	}
}

//go:wasmexport unregister
func unregister(handle uint32) {
	if c := clients[handle]; c != nil {
		c.Unregister()
		select {
		case c.settled <- core.ErrUnregistered: // of a write that is pending
		default:
		}
	}
}

//go:wasmexport clientCount
func clientCount(registry, executionID uint32) uint32 {
	a := newArgs()
	return uint32(registries[registry].ClientCount(a.string(executionID)))
}

//go:wasmexport forget
func forget(registry, executionID uint32) {
	a := newArgs()
	registries[registry].Forget(a.string(executionID))
}

// closeExecution and shutdown return the number of a call, whose outcome done
// tells, later.
//
//go:wasmexport closeExecution
func closeExecution(registry, executionID uint32) uint32 {
	a := newArgs()
	r, x := registries[registry], a.string(executionID)
	return call(func(ctx context.Context) error { return r.Close(ctx, x) })
}

//go:wasmexport shutdown
func shutdown(registry uint32) uint32 { return call(registries[registry].Shutdown) }

func call(f func(context.Context) error) uint32 {
	ctx, stop := context.WithCancelCause(context.Background())
	handle := calls.add(stop)
	go func() {
		err := f(ctx)
		delete(calls, handle)
		stop(nil)
		cut := int32(-1)
		var drain *core.DrainError
		if errors.As(err, &drain) {
			cut = int32(drain.Cut)
		}
		message := describe(err)
		jsDone(handle, unsafe.Pointer(unsafe.StringData(message)), uint32(len(message)), cut)
	}()
	return handle
}

//go:wasmexport cancel
func cancel(handle uint32) {
	if stop := calls[handle]; stop != nil {
		stop(context.Canceled)
	}
}

//go:wasmexport stats
func stats(registry uint32) {
	s := registries[registry].Stats()
	p := reuse()
	// In the order of statNames in registry.js.
	for _, n := range []uint64{
		uint64(s.Executions), uint64(s.Clients), uint64(s.Bytes), s.Published, s.Delivered, s.DeliveredBytes, s.Gaps, s.Slow, s.Evicted,
		s.Panics, s.TooLarge, s.TooManyExecutions, s.TooManyClients, s.TooManyExecutionClients,
	} {
		p = appendFloat(p, float64(n))
	}
	give(p)
}
