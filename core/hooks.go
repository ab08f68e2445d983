package core

import (
	"runtime/debug"
	"sync"
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
	// Published is called for each event, with its ID. Data must not be
	// changed, nor kept beyond the call.
	Published func(executionID string, e Event)
	// Registered is called for each client.
	Registered func(executionID string)
	// Left is called for each client that was registered, after its connection
	// has been let go, with the reason given to Ender.End.
	Left func(executionID string, reason error)
	// Delivered is called when connections have accepted events: how many,
	// added up over clients, and their bytes, heartbeats included.
	Delivered func(executionID string, events, bytes int)
	// Gap is called when a client is told that events are missing.
	Gap func(executionID string)
	// Slow is called when a client is ended with ErrSlowClient.
	Slow func(executionID string)
	// Finished is called once when an execution is closed, before its clients
	// have everything.
	Finished func(executionID string)
}

// hooks keeps the calls of each execution ID in order, also over the lives of
// several executions with the same ID.
type hooks struct {
	mu     sync.Mutex
	queues map[string]*hookQueue // only while there are calls
}

type hookQueue struct {
	calls   []func()
	running bool
}

// hook queues a call. Where the order matters the caller holds x.mu; it calls
// runHooks after releasing that.
func (x *execution) hook(call func()) {
	h := &x.r.hooks
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.queues[x.id]
	if q == nil {
		q = &hookQueue{}
		h.queues[x.id] = q
	}
	q.calls = append(q.calls, call)
}

// runHooks makes the queued calls, unless another goroutine is at it, which
// will then make these too.
func (x *execution) runHooks() {
	if !x.r.hooked {
		return
	}
	h := &x.r.hooks
	h.mu.Lock()
	q := h.queues[x.id]
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
			h.mu.Unlock()
		}
	}()
	for {
		h.mu.Lock()
		calls := q.calls
		q.calls = nil
		if done = len(calls) == 0; done {
			delete(h.queues, x.id)
		}
		h.mu.Unlock()
		if done {
			return
		}
		for _, call := range calls {
			x.r.guard(call)
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
