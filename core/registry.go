package core

import (
	"container/list"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Registry holds executions, their events and the clients that follow them.
// All methods may be called concurrently.
type Registry struct {
	opts     Options
	hooked   bool // some hook is set
	clock    clock
	pumps    pumps
	bytes    atomic.Int64 // retained by all logs
	counters counters

	// Locks are taken in the order Registry.mu, execution.mu, lane.mu,
	// pumps.mu. None is held while anything blocks or foreign code runs, but
	// for encoders.
	mu         sync.Mutex
	lastID     uint64
	executions map[string]*execution
	finished   list.List             // of *execution, in the order they were closed
	encoders   [maxEncodings]Encoder // an encoder's index is its slot; set once, before any client has it
	clients    int
	draining   bool          // Shutdown has begun: no more clients
	closed     bool          // Shutdown has returned: no more events
	empty      chan struct{} // closed when draining and the last client has left
}

// New returns a registry. It starts nothing and needs no closing; Shutdown is
// for servers that end while clients are connected.
func New(opts *Options) *Registry {
	return newRegistry(opts, systemClock{time.Now()})
}

func newRegistry(opts *Options, c clock) *Registry {
	r := &Registry{
		opts:       opts.withDefaults(),
		clock:      c,
		executions: map[string]*execution{},
		empty:      make(chan struct{}),
		// IDs begin with the clock, in microseconds, so that they rise across
		// restarts as well.
		lastID: uint64(c.unix() / time.Microsecond),
	}
	h := &r.opts.Hooks
	r.hooked = h.FirstViewer != nil || h.LastViewer != nil || h.Published != nil || h.Registered != nil ||
		h.Left != nil || h.Delivered != nil || h.Gap != nil || h.Slow != nil || h.Finished != nil
	r.pumps.max = runtime.GOMAXPROCS(0)
	return r
}

// Heartbeat returns the interval at which clients get heartbeats, 0 for never,
// unless ClientOptions say otherwise. Adapters derive from it how long a peer
// may be silent.
func (r *Registry) Heartbeat() time.Duration { return r.opts.Heartbeat }

// Publish appends e to the execution's log and returns the ID it got there.
// Once it has returned nil, every present and future client is served the
// event, as far as the bounds allow. It creates an execution that is not
// known. It copies what it keeps of e and never waits for a client.
//
// It returns an error, and has changed nothing, if ctx is done, if the ID or
// the event is invalid (ErrExecutionID, ErrEventType, ErrReservedType,
// ErrEventKey, ErrEventData, ErrEventID, ErrEventTooLarge), if the execution
// has been closed (ErrFinished), if there are too many executions
// (ErrTooManyExecutions), or after Shutdown (ErrShutdown).
func (r *Registry) Publish(ctx context.Context, executionID string, e Event) (id uint64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := checkExecutionID(executionID); err != nil {
		return 0, err
	}
	if err := e.check(r.opts.MaxEventBytes); err != nil {
		if len(e.Data) > r.opts.MaxEventBytes {
			r.refused(&r.counters.tooLarge, ErrEventTooLarge, executionID)
		}
		return 0, err
	}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return 0, ErrShutdown
	}
	x, err := r.execution(executionID)
	if err != nil {
		r.mu.Unlock()
		return 0, err
	}
	x.mu.Lock()
	if x.sealed {
		x.mu.Unlock()
		r.mu.Unlock()
		return 0, ErrFinished
	}
	// The number is drawn with both locks held, so that whoever holds the
	// registry's lock sees every event up to lastID once it has the logs'.
	r.lastID++
	id = r.lastID
	r.mu.Unlock()
	x.publish(id, e)
	lanes := x.lanes // only ever appended to
	x.mu.Unlock()

	r.counters.published.Add(1)
	wake(lanes)
	if r.bytes.Load() > int64(r.opts.MaxTotalBytes) {
		r.shrink()
	}
	x.runHooks()
	return id, nil
}

// PublishJSON publishes v, marshalled by encoding/json, as an event of the
// given type. A value that does not marshal is an error, and nothing is
// published.
func (r *Registry) PublishJSON(ctx context.Context, executionID, eventType string, v any) (id uint64, err error) {
	data, err := json.Marshal(v)
	if err != nil {
		return 0, fmt.Errorf("execcast: event data: %w", err)
	}
	return r.Publish(ctx, executionID, Event{Type: eventType, Data: data})
}

// Register adds a client to an execution, which is created if it is not known.
// It fixes the client's position: the client will be served every event
// published from now on, behind those it has missed. An adapter calls it before
// it writes anything, so that an error can still become a proper answer, and
// then must call Serve, Start or Unregister.
//
// It returns ErrExecutionID, ErrUnknown (a Last-Event-ID for an execution that
// is not known), ErrFinished (the viewer has everything), ErrShutdown,
// ErrTooManyExecutions, ErrTooManyClients, ErrTooManyExecutionClients or
// ErrTooManyEncoders.
func (r *Registry) Register(executionID string, opts *ClientOptions) (*Client, error) {
	if opts == nil {
		opts = &ClientOptions{}
	}
	if err := checkExecutionID(executionID); err != nil {
		return nil, err
	}
	r.mu.Lock()
	c, err := r.register(executionID, opts)
	r.mu.Unlock()
	if err != nil {
		return nil, err
	}
	c.x.runHooks()
	return c, nil
}

func (r *Registry) register(executionID string, opts *ClientOptions) (*Client, error) {
	if r.draining {
		return nil, ErrShutdown
	}
	if r.clients >= r.opts.MaxClients {
		return nil, r.refused(&r.counters.tooManyClients, ErrTooManyClients, executionID)
	}
	slot, err := r.slot(opts.Encoder)
	if err != nil {
		return nil, err
	}
	if r.executions[executionID] == nil && opts.LastEventID != "" && !r.opts.AwaitUnknown {
		return nil, ErrUnknown
	}
	x, err := r.execution(executionID)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.clients) >= r.opts.MaxExecutionClients {
		return nil, r.refused(&r.counters.tooManyExecutionClients, ErrTooManyExecutionClients, executionID)
	}
	c := newClient(x, slot, opts)
	if x.sealed && opts.LastEventID != "" && c.hasAll() {
		return nil, ErrFinished
	}
	r.clients++
	x.join(c)
	return c, nil
}

// slot returns the index of an encoder, which it gives to a new one.
func (r *Registry) slot(e Encoder) (int, error) {
	if e == nil {
		e = SSE
	}
	for i, known := range &r.encoders {
		switch known {
		case e:
			return i, nil
		case nil:
			r.encoders[i] = e
			return i, nil
		}
	}
	return 0, ErrTooManyEncoders
}

// execution returns the execution of that ID, made if need be. r.mu is held.
func (r *Registry) execution(id string) (*execution, error) {
	if x := r.executions[id]; x != nil {
		return x, nil
	}
	if len(r.executions) >= r.opts.MaxExecutions && !r.forgetOldest() {
		return nil, r.refused(&r.counters.tooManyExecutions, ErrTooManyExecutions, id)
	}
	x := newExecution(r, id)
	r.executions[id] = x
	return x, nil
}

// ClientCount returns how many clients the execution has now: registered, and
// their connections not yet let go.
func (r *Registry) ClientCount(executionID string) int {
	x := r.lookup(executionID)
	if x == nil {
		return 0
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.clients)
}

func (r *Registry) lookup(executionID string) *execution {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.executions[executionID]
}

// Close finishes an execution: nothing can be published to it any more
// (ErrFinished), and its clients end once they have been written everything
// and a last event, TypeEnd. Close returns nil when all of them have, which
// means that the operating system has accepted the bytes and the connections
// have been let go; or, when ctx ends first, a *DrainError with the number of
// clients that were cut off. Such a client is gone when its connection's
// deadline strikes, at the latest.
//
// Closing again waits again. Closing an execution that is not known does
// nothing. A closed execution is remembered for Options.Retention.
func (r *Registry) Close(ctx context.Context, executionID string) error {
	r.mu.Lock()
	x := r.executions[executionID]
	if x == nil {
		r.mu.Unlock()
		return nil
	}
	x.mu.Lock()
	sealed := x.seal()
	lanes := x.lanes
	x.mu.Unlock()
	r.mu.Unlock()
	if sealed {
		wake(lanes)
		x.runHooks()
	}
	select {
	case <-x.drained:
		return nil
	case <-ctx.Done():
	}
	return x.cut(ctx)
}

// Forget drops an execution at once, with all its events: its clients end with
// ErrUnregistered, and its ID can be used for a new execution.
func (r *Registry) Forget(executionID string) {
	r.mu.Lock()
	x := r.executions[executionID]
	var clients []*Client
	if x != nil {
		x.mu.Lock()
		clients = append(clients, x.clients...)
		x.forget()
		x.mu.Unlock()
	}
	r.mu.Unlock()
	for _, c := range clients {
		c.end(ErrUnregistered, now)
	}
}

// Shutdown ends all clients so that they reconnect elsewhere and resume.
// Register is refused at once; Publish works until Shutdown returns. The ends
// are spread over Options.ShutdownSpread, or half of what ctx leaves if that is
// less; each client is first written what it has not yet got. Shutdown returns
// nil when the last one has gone, or a *DrainError with the number of those cut
// off when ctx ends. Afterwards the registry holds nothing.
//
// It does not finish executions: viewers see a connection that ended, not an
// execution that did. For servers that wait for their handlers, as
// http.Server.Shutdown does, call it before or at the same time.
func (r *Registry) Shutdown(ctx context.Context) error {
	r.mu.Lock()
	r.draining = true
	clients := make([]*Client, 0, r.clients)
	for _, x := range r.executions {
		x.mu.Lock()
		clients = append(clients, x.clients...)
		x.mu.Unlock()
	}
	r.checkEmpty()
	r.mu.Unlock()

	r.endSpread(ctx, clients)
	var err error
	select {
	case <-r.empty:
	case <-ctx.Done():
		r.mu.Lock()
		cut := r.clients
		r.mu.Unlock()
		if cut > 0 {
			err = &DrainError{Cut: cut, Cause: ctx.Err()}
			r.opts.Logger.Warn("execcast: shutdown cut clients off", "clients", cut)
		}
		for _, c := range clients {
			c.end(ErrShutdown, now)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, x := range r.executions {
		x.mu.Lock()
		x.forget()
		x.mu.Unlock()
	}
	return err
}

// endSpread asks clients to end when they have everything, one after the other
// over the shutdown window, until ctx ends.
func (r *Registry) endSpread(ctx context.Context, clients []*Client) {
	const step = 10 * time.Millisecond // a few clients need no spreading
	window := min(r.opts.ShutdownSpread, step*time.Duration(len(clients)))
	if deadline, ok := ctx.Deadline(); ok {
		window = min(window, time.Until(deadline)/2)
	}
	start := r.clock.now()
	tick := make(chan struct{}, 1)
	timer := r.clock.afterFunc(time.Hour, func() { tick <- struct{}{} })
	defer timer.Stop()
	for i, c := range clients {
		due := window * time.Duration(i) / time.Duration(len(clients))
		if wait := due - (r.clock.now() - start); wait > 0 {
			timer.Reset(max(wait, step))
			select {
			case <-tick:
			case <-ctx.Done():
				return
			}
		}
		c.end(ErrShutdown, drained)
	}
}

// checkEmpty tells Shutdown that no client is left. r.mu is held.
func (r *Registry) checkEmpty() {
	if !r.draining || r.clients > 0 {
		return
	}
	select {
	case <-r.empty:
	default:
		close(r.empty)
	}
}

// forgetOldest makes room by forgetting the finished execution that was closed
// first, of those nobody watches. r.mu is held.
func (r *Registry) forgetOldest() bool {
	for el := r.finished.Front(); el != nil; el = el.Next() {
		x := el.Value.(*execution)
		x.mu.Lock()
		unwatched := len(x.clients) == 0
		if unwatched {
			x.forget()
		}
		x.mu.Unlock()
		if unwatched {
			return true
		}
	}
	return false
}

// shrink brings the bytes of all logs below their limit: finished executions
// go first, then the oldest events of the largest logs. It goes some way below
// the limit, so that a full registry does not look for the largest log at each
// Publish.
func (r *Registry) shrink() {
	r.mu.Lock()
	defer r.mu.Unlock()
	limit := int64(r.opts.MaxTotalBytes)
	if r.bytes.Load() <= limit {
		return
	}
	r.opts.Logger.Warn("execcast: memory limit reached, dropping the oldest events", "bytes", r.bytes.Load(), "limit", limit)
	for r.bytes.Load() > limit && r.forgetOldest() {
	}
	limit -= limit / 16
	for r.bytes.Load() > limit {
		var largest *execution
		most := 0
		for _, x := range r.executions {
			x.mu.Lock()
			if n := x.log.bytes; x.log.n-x.log.dead > 1 && n > most {
				largest, most = x, n
			}
			x.mu.Unlock()
		}
		if largest == nil {
			return // one event each is left: MaxExecutions is the limit then
		}
		largest.mu.Lock()
		largest.evict(min(int(r.bytes.Load()-limit), most/2))
		largest.mu.Unlock()
	}
}
