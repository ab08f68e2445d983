package core

import (
	"container/list"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Registry holds executions, their events and the clients that follow them.
// All methods may be called concurrently.
type Registry struct {
	opts     Options
	hooked   bool // some hook is set
	hooks    hooks
	start    time.Time // what now counts from
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
	start := time.Now()
	r := &Registry{
		opts:       opts.withDefaults(),
		start:      start,
		executions: map[string]*execution{},
		empty:      make(chan struct{}),
		// IDs begin with the clock, in microseconds, so that they rise across
		// restarts as well.
		lastID: uint64(start.UnixMicro()),
	}
	h := &r.opts.Hooks
	r.hooks.queues = map[string]*hookQueue{}
	r.hooked = h.FirstViewer != nil || h.LastViewer != nil || h.Published != nil || h.Registered != nil ||
		h.Left != nil || h.Delivered != nil || h.Gap != nil || h.Slow != nil || h.Finished != nil
	r.pumps.max = runtime.GOMAXPROCS(0)
	return r
}

// now returns the time since the registry was made, which never goes back.
func (r *Registry) now() time.Duration { return time.Since(r.start) }

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
		r.refused(executionID, err)
		return 0, err
	}
	x, id, err := r.number(executionID)
	if err != nil {
		r.refused(executionID, err)
		return 0, err
	}
	lanes := x.publish(id, e)
	r.counters.published.Add(1)
	wake(lanes)
	if r.bytes.Load() > int64(r.opts.MaxTotalBytes) {
		r.shrink()
	}
	x.runHooks()
	return id, nil
}

// number draws the ID of an event and returns the execution it belongs to, with
// its lock held. Both locks are held while it is drawn, so that whoever holds
// the registry's sees every event up to lastID once it has the executions'.
func (r *Registry) number(executionID string) (*execution, uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, 0, ErrShutdown
	}
	x, err := r.execution(executionID)
	if err != nil {
		return nil, 0, err
	}
	x.mu.Lock()
	if x.sealed {
		x.mu.Unlock()
		return nil, 0, ErrFinished
	}
	r.lastID++
	return x, r.lastID, nil
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
// ErrEncoder.
func (r *Registry) Register(executionID string, opts *ClientOptions) (*Client, error) {
	if opts == nil {
		opts = &ClientOptions{}
	}
	if err := checkExecutionID(executionID); err != nil {
		return nil, err
	}
	c, err := r.register(executionID, opts)
	if err != nil {
		r.refused(executionID, err)
		return nil, err
	}
	c.x.runHooks()
	return c, nil
}

func (r *Registry) register(executionID string, opts *ClientOptions) (*Client, error) {
	enc := opts.Encoder
	if enc == nil {
		enc = SSE
	}
	if !reflect.ValueOf(enc).Comparable() {
		return nil, fmt.Errorf("%w: %T is not comparable", ErrEncoder, enc)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining {
		return nil, ErrShutdown
	}
	if r.clients >= r.opts.MaxClients {
		return nil, ErrTooManyClients
	}
	if r.executions[executionID] == nil && opts.LastEventID != "" && !r.opts.AwaitUnknown {
		return nil, ErrUnknown
	}
	slot, err := r.slot(enc)
	if err != nil {
		return nil, err
	}
	x, err := r.execution(executionID)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.clients) >= r.opts.MaxExecutionClients {
		return nil, ErrTooManyExecutionClients
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
	for i, known := range &r.encoders {
		switch known {
		case e:
			return i, nil
		case nil:
			r.encoders[i] = e
			return i, nil
		}
	}
	return 0, fmt.Errorf("%w: %d are in use already", ErrEncoder, maxEncodings)
}

// execution returns the execution of that ID, made if need be. r.mu is held.
func (r *Registry) execution(id string) (*execution, error) {
	if x := r.executions[id]; x != nil {
		return x, nil
	}
	if len(r.executions) >= r.opts.MaxExecutions && !r.forgetOldest() {
		return nil, ErrTooManyExecutions
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
	if x == nil {
		return
	}
	for _, c := range clients {
		c.end(ErrUnregistered, now)
	}
	x.runHooks()
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
		cut := 0
		for _, c := range clients {
			if !c.ending.Load() {
				cut++
				c.end(ErrShutdown, now)
			}
		}
		if cut > 0 {
			err = &DrainError{Cut: cut, Cause: ctx.Err()}
			r.opts.Logger.Warn("execcast: shutdown cut clients off", "clients", cut)
		}
	}
	r.mu.Lock()
	r.closed = true
	var all []*execution
	for _, x := range r.executions {
		all = append(all, x)
		x.mu.Lock()
		x.forget()
		x.mu.Unlock()
	}
	r.mu.Unlock()
	for _, x := range all {
		x.runHooks()
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
	start := r.now()
	tick := make(chan struct{}, 1)
	timer := time.AfterFunc(time.Hour, func() { tick <- struct{}{} })
	defer timer.Stop()
	for i, c := range clients {
		due := window * time.Duration(i) / time.Duration(len(clients))
		if wait := due - (r.now() - start); wait > 0 {
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
// go first, then the oldest events of the largest logs, down to a common level.
// It goes some way below the limit, so that a full registry does not look at
// all logs for each Publish.
func (r *Registry) shrink() {
	bytes, limit := r.bytes.Load(), int64(r.opts.MaxTotalBytes)
	if n := r.counters.shrunk.Add(1); n&(n-1) == 0 {
		r.opts.Logger.Warn("execcast: memory limit reached, dropping the oldest events", "bytes", bytes, "limit", limit, "times", n)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.bytes.Load() > limit && r.forgetOldest() {
	}
	if r.bytes.Load() <= limit {
		return
	}
	type size struct {
		x     *execution
		bytes int
	}
	sizes := make([]size, 0, len(r.executions))
	total := 0
	for _, x := range r.executions {
		x.mu.Lock()
		sizes = append(sizes, size{x, x.log.bytes})
		total += x.log.bytes
		x.mu.Unlock()
	}
	slices.SortFunc(sizes, func(a, b size) int { return b.bytes - a.bytes })
	// Lower the level from the largest log on until what stands above it is
	// enough.
	excess := total - int(limit-limit/16)
	above, n, level := 0, 0, 0
	for n < len(sizes) {
		above += sizes[n].bytes
		n++
		if level = (above - excess) / n; n == len(sizes) || level >= sizes[n].bytes {
			break
		}
	}
	for _, s := range sizes[:n] {
		s.x.mu.Lock()
		s.x.evict(max(0, s.x.log.bytes-max(0, level)))
		s.x.mu.Unlock()
	}
}
