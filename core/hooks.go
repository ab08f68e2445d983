package core

import (
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Hooks are functions called as things happen; each may be nil, and costs
// nothing then.
//
// Hooks of one execution never overlap and keep their order; those of
// different executions may run at once. They run outside locks, in whichever
// goroutine caused them or is already running hooks of the execution: they may
// call the registry, but not wait in Close or Shutdown for clients whose
// deliveries wait for the hook, and should return soon: calls queue up behind
// them. A hook that panics is logged and counted, and the others go on.
type Hooks struct {
	// FirstViewer is called when an execution that had no client gets one,
	// LastViewer when its last one has left: between the two, progress is
	// worth computing.
	FirstViewer func(executionID string)
	LastViewer  func(executionID string)
	// Published is called for each event, with its ID, on the node that
	// published it. Data must not be changed, nor kept beyond the call.
	Published func(executionID string, e Event)
	// Registered is called for each client.
	Registered func(executionID string)
	// Left is called for each client that was registered, after its connection
	// has been let go, with the reason given to Ender.End.
	Left func(executionID string, reason error)
	// Delivered is called when connections have accepted events: how many,
	// added up over clients, and their bytes, heartbeats included (but for
	// those of clients of several executions, which are of none).
	Delivered func(executionID string, events, bytes int)
	// Gap is called when a client is told that events are missing.
	Gap func(executionID string)
	// Slow is called when a client is ended with ErrSlowClient.
	Slow func(executionID string)
	// Finished is called once when an execution is closed, before its clients
	// have everything; with a backplane, on each node that follows it then.
	Finished func(executionID string)
	// Backplane is called with an error when Options.Backplane cannot be
	// reached any more, and with nil when it can again. It may be called by
	// several goroutines.
	Backplane func(err error)
}

// hooks keeps the calls of each execution ID in order, also over the lives of
// several executions with the same ID.
type hooks struct {
	queued atomic.Int64 // calls in all queues: most of the time there are none
	mu     sync.Mutex
	queues map[string]*hookQueue // only while there are calls
	spare  *hookQueue            // the memory of the one that was last done with
}

const maxSpareCalls = 64

type hookQueue struct {
	calls   []func()
	running bool
}

// hook queues a call. Where the order matters the caller holds x.mu; it calls
// runHooks after releasing that.
func (x *execution) hook(call func()) { x.r.hook(x.id, call) }

func (r *Registry) hook(executionID string, call func()) {
	h := &r.hooks
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.queues[executionID]
	if q == nil {
		if q, h.spare = h.spare, nil; q == nil {
			q = &hookQueue{}
		}
		h.queues[executionID] = q
	}
	q.calls = append(q.calls, call)
	h.queued.Add(1)
}

// runHooks makes the queued calls, unless another goroutine is at it, which
// will then make these too.
func (x *execution) runHooks() { x.r.runHooks(x.id) }

func (r *Registry) runHooks(executionID string) {
	h := &r.hooks
	if h.queued.Load() == 0 {
		return // what the caller has queued is being called
	}
	h.mu.Lock()
	q := h.queues[executionID]
	if q == nil || q.running {
		h.mu.Unlock()
		return
	}
	q.running = true
	h.mu.Unlock()
	done := false
	defer func() {
		if !done { // a hook has called runtime.Goexit
			h.mu.Lock()
			q.running = false
			if len(q.calls) == 0 {
				delete(h.queues, executionID)
			}
			h.mu.Unlock()
		}
	}()
	var calls []func()
	for {
		h.mu.Lock()
		calls, q.calls = q.calls, calls[:0]
		h.queued.Add(-int64(len(calls)))
		if done = len(calls) == 0; done {
			delete(h.queues, executionID)
			q.running = false
			h.spare = q
		}
		h.mu.Unlock()
		if done {
			return
		}
		for _, call := range calls {
			r.guard(call)
		}
		clear(calls)
		if cap(calls) > maxSpareCalls {
			calls = nil
		}
	}
}

// guard calls a hook. One that panics is logged and counted: it may run in a
// goroutine of the package, where a panic would end the process.
func (r *Registry) guard(call func()) {
	defer func() {
		if v := recover(); v != nil {
			r.counters.panics.Add(1)
			r.opts.Logger.Error("execcast: hook panicked", "panic", v, "stack", string(debug.Stack()))
		}
	}()
	call()
}
