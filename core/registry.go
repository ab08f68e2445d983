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
	hooks    hooks
	start    time.Time // what now counts from
	pumps    pumps
	bytes    atomic.Int64 // retained by all logs
	counters counters
	down     atomic.Int64 // executions for which the backplane cannot be reached
	away     atomic.Bool  // that has been said

	// Locks are taken in the order Registry.mu, execution.mu, lane.mu,
	// pumps.mu. None is held while anything blocks or foreign code runs, but
	// for encoders.
	mu         sync.Mutex
	lastID     uint64
	forgotten  uint64 // lastID when an execution with events was last forgotten, or at the start: no log lacks what is behind it
	executions map[string]*execution
	finished   list.List             // of *execution, in the order they were closed
	encoders   [maxEncodings]Encoder // an encoder's index is its slot; set once, before any client has it
	several    [maxEncodings]bool    // for clients of several executions; likewise
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
	r.forgotten = r.lastID
	r.hooks.queues = map[string]*hookQueue{}
	r.pumps.max, r.pumps.start = runtime.GOMAXPROCS(0), r.pumps.run
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
// ErrEventKey, ErrEventData, ErrEventID, ErrTraceparent, ErrEventTooLarge), if
// the execution has been closed (ErrFinished), if another event came before it
// (ErrConflict), if there are too many executions (ErrTooManyExecutions), or
// after Shutdown (ErrShutdown).
//
// With a backplane, nil means that this has stored the event. Publish waits for
// that, and while it cannot be reached tries again until ctx ends; then the
// error wraps ErrUnavailable, and the event may have been stored or not.
func (r *Registry) Publish(ctx context.Context, executionID string, e Event) (id uint64, err error) {
	if done := r.opts.PublishDone; done != nil {
		start := r.now()
		defer func() { r.guard(func() { done(executionID, r.now()-start, err) }) }()
	}
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
	if r.opts.Traceparent != nil && e.Traceparent == "" {
		e.Traceparent = r.traceparent(ctx, executionID)
	}
	if r.opts.Backplane != nil {
		return r.append(ctx, executionID, e)
	}
	x, id, err := r.number(executionID, e.After)
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
// its lock held. Both locks are held while it is drawn and the version raised,
// so that whoever has held the registry's sees every event up to lastID once it
// has had the executions', and from the versions which these are.
func (r *Registry) number(executionID string, after *uint64) (*execution, uint64, error) {
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
	if after != nil && *after != x.log.last {
		defer x.mu.Unlock()
		return nil, 0, fmt.Errorf("%w: that is %d, not %d", ErrConflict, x.log.last, *after)
	}
	r.lastID++
	x.version.Add(1)
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
// ErrEncoder. With a backplane it waits for the history of an execution that
// nobody has watched here before, at most three seconds, and may return
// ErrUnavailable.
func (r *Registry) Register(executionID string, opts *ClientOptions) (*Client, error) {
	if opts == nil {
		opts = &ClientOptions{}
	}
	if err := checkExecutionID(executionID); err != nil {
		return nil, err
	}
	register := r.register
	if r.opts.Backplane != nil {
		register = r.registerShared
	}
	c, err := register(executionID, opts)
	if err != nil {
		r.refused(executionID, err)
		return nil, err
	}
	c.x.runHooks()
	return c, nil
}

func (r *Registry) register(executionID string, opts *ClientOptions) (*Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.admit(); err != nil {
		return nil, err
	}
	if r.opts.Backplane != nil && !r.followed(executionID) {
		return nil, errUnfollowed
	}
	if opts.LastEventID != "" && !r.opts.AwaitUnknown && !r.knows(executionID) {
		return nil, ErrUnknown
	}
	slot, err := r.slot(opts.Encoder, false)
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

// knows reports whether an execution has begun. r.mu is held.
func (r *Registry) knows(executionID string) bool {
	x := r.executions[executionID]
	return x != nil && (r.opts.Backplane == nil || x.began())
}

// admit returns an error if no more clients can be. r.mu is held.
func (r *Registry) admit() error {
	if r.draining {
		return ErrShutdown
	}
	if r.clients >= r.opts.MaxClients {
		return ErrTooManyClients
	}
	return nil
}

// slot returns the index of an encoder, which it gives to a new one. One for
// clients of several executions has an index of its own. r.mu is held.
func (r *Registry) slot(e Encoder, several bool) (int, error) {
	if e == nil {
		e = SSE
	}
	if !reflect.ValueOf(e).Comparable() {
		return 0, fmt.Errorf("%w: %T is not comparable", ErrEncoder, e)
	}
	if several && e == SSE {
		e = sseEncoder{several: true}
	}
	for i, known := range &r.encoders {
		switch {
		case known == e && r.several[i] == several:
			return i, nil
		case known == nil:
			r.encoders[i], r.several[i] = e, several
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
	if len(r.executions) >= r.opts.MaxExecutions && !r.forgetOldest(nil) {
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
//
// With a backplane the execution is finished on all nodes, and Close waits for
// the clients of this one. One without events is not known to it. If ctx ends
// before the backplane has stored that, the error wraps ErrUnavailable.
func (r *Registry) Close(ctx context.Context, executionID string) error {
	x, err := r.seal(ctx, executionID)
	if x == nil {
		return err
	}
	select {
	case <-x.drained:
		return nil
	case <-ctx.Done():
	}
	if !x.isSealed() { // the backplane has stored the end, but not yet told us
		return unavailable(ctx.Err())
	}
	return x.cut(ctx)
}

// seal ends an execution's log and returns it, if it is known.
func (r *Registry) seal(ctx context.Context, executionID string) (*execution, error) {
	if r.opts.Backplane != nil {
		return r.sealShared(ctx, executionID)
	}
	r.mu.Lock()
	x := r.executions[executionID]
	if x == nil {
		r.mu.Unlock()
		return nil, nil
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
	return x, nil
}

// Forget drops an execution at once, with all its events: its clients end with
// ErrUnregistered, and its ID can be used for a new execution. With
// a backplane, it is dropped on all nodes: Forget waits for that to take it, for
// ten seconds at most, and logs a failure.
func (r *Registry) Forget(executionID string) {
	if r.opts.Backplane != nil {
		r.forgetShared(executionID)
	} else if x := r.lookup(executionID); x != nil {
		r.forget(x)
	}
}

func (r *Registry) forget(x *execution) {
	r.mu.Lock()
	x.mu.Lock()
	clients := slices.Clone(x.clients)
	x.forget()
	x.mu.Unlock()
	r.mu.Unlock()
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
	merged := map[*Client]bool{}
	for _, x := range r.executions {
		x.mu.Lock()
		for _, c := range x.clients {
			if c.part == nil {
				clients = append(clients, c)
			} else if whole := c.part.whole; !merged[whole] {
				merged[whole] = true
				clients = append(clients, whole)
			}
		}
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
// first, of those nobody watches and the caller does not need. r.mu is held.
func (r *Registry) forgetOldest(needed map[*execution]bool) bool {
	for el := r.finished.Front(); el != nil; el = el.Next() {
		x := el.Value.(*execution)
		x.mu.Lock()
		unwatched := len(x.clients) == 0 && x.expected == 0 && !needed[x]
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
	for r.bytes.Load() > limit && r.forgetOldest(nil) {
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
