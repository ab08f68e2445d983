package core

// Hooks are functions called as things happen; each may be nil, and costs
// nothing then.
//
// Hooks of one execution never overlap and keep their order; those of
// different executions may run at once. They run outside locks, in whichever
// goroutine caused them or is already running hooks of the execution: they may
// call the registry, but should return soon, since Publish and deliveries may
// be waiting behind them.
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

// hookQueue keeps the hooks of one execution in order. Guarded by the
// execution's lock.
type hookQueue struct {
	calls   []func()
	running bool
}

// hook queues a call; the caller holds e.mu and calls runHooks after releasing
// it.
func (e *execution) hook(call func()) { e.hooks.calls = append(e.hooks.calls, call) }

// runHooks makes the queued calls, unless another goroutine is at it, which
// will then make these too.
func (e *execution) runHooks() {
	if !e.r.hooked {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.hooks.running {
		return
	}
	e.hooks.running = true
	defer func() { e.hooks.running = false }()
	for len(e.hooks.calls) > 0 {
		calls := e.hooks.calls
		e.hooks.calls = nil
		for _, call := range calls {
			e.unlocked(call)
		}
	}
}

// unlocked calls f with e.mu, which the caller holds, released meanwhile, also
// when f panics.
func (e *execution) unlocked(f func()) {
	e.mu.Unlock()
	defer e.mu.Lock()
	f()
}
