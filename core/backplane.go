package core

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Backplane is a log of executions that several registries share: each
// publishes to it, and follows in it the executions it has viewers of. With
// one, a viewer may connect to any node and resume on any other.
//
// It asks for no more than what JetStream and Redis Streams can both do: append
// under a condition, with an ID that rises; read an execution's messages from
// an ID on; be told of new ones. All methods may be called concurrently.
type Backplane interface {
	// Append stores m behind the execution's other messages and returns its ID
	// once it is as safe as the engine makes it. IDs rise over all executions
	// and stay below 2^53. It fills in Prev and ignores m's own ID.
	//
	// While the engine cannot be reached it tries again, in a way that stores
	// m once, until ctx ends; then it returns an error that wraps
	// ErrUnavailable and ctx's error, and m may have been stored or not.
	//
	// Of one execution it stores nothing but a Forgotten message after
	// a Finished one (ErrFinished; a second Finished one is no error, and the
	// ID is that of the first; of an execution without messages none is
	// stored, and the ID is 0), and a message with After only if that is the ID
	// of the last one, or 0 and there is none (ErrConflict). A Forgotten
	// message takes all before it away; the execution can begin again behind it.
	Append(ctx context.Context, executionID string, m Message) (id uint64, err error)

	// Follow delivers the execution's messages to f, from the oldest on that
	// the engine retains, then each as it is stored, until stop is called. It
	// survives whatever happens to the engine. Neither Follow nor stop waits,
	// or calls f; stop is called once, maybe with locks held, and f may still
	// be called after it.
	Follow(executionID string, f Follower) (stop func())

	// ClientCount returns how many clients the execution has on all nodes,
	// asking those for Follower.ClientCount. Nodes that do not answer in time
	// count as having none.
	ClientCount(ctx context.Context, executionID string) (int, error)
}

// Follower is what a Backplane tells of an execution; a registry implements it.
// Deliver and Synced are called by one goroutine at a time, ClientCount by any.
// None of them blocks.
type Follower interface {
	// Deliver hands over the execution's next messages: in the order of their
	// IDs, each once, none left out but those that the engine has dropped,
	// which Prev shows. It copies what it keeps.
	Deliver(messages []Message)
	// Synced, with nil, says that all that was stored when Follow was called,
	// or when the engine came back, has been delivered; with an error, that
	// the engine cannot be reached for now.
	Synced(err error)
	// ClientCount returns how many clients the execution has on this node.
	ClientCount() int
}

// Message is an entry of a Backplane.
type Message struct {
	// ID is assigned by Append.
	ID uint64
	// Prev is the ID of the execution's message before, which shows a reader
	// that the engine has dropped some; 0 if this was the first.
	Prev uint64
	Kind Kind
	// Event is what has been published, without ID; only if Kind is Published.
	Event Event
	// After, for Append, is the fence: see Event.After.
	After *uint64
}

// Kind says what a Message is about.
type Kind uint8

const (
	Published Kind = iota // an event
	Finished              // the end of the execution
	Forgotten             // everything before is gone
)

const (
	// followWait bounds how long Register waits for an execution's history.
	followWait = 3 * time.Second
	// followLinger is how long an execution without viewers is followed still:
	// a page that is reloaded, or a viewer that reconnects, comes back sooner.
	followLinger = 30 * time.Second
)

// append publishes e through the backplane. Clients of this node, too, are
// served what comes back from there.
func (r *Registry) append(ctx context.Context, executionID string, e Event) (id uint64, err error) {
	r.mu.Lock()
	closed := r.closed
	r.mu.Unlock()
	if closed {
		return 0, ErrShutdown
	}
	after := e.After
	e.After = nil
	id, err = r.opts.Backplane.Append(ctx, executionID, Message{Event: e, After: after})
	if err != nil {
		r.refused(executionID, err)
		return 0, err
	}
	r.counters.published.Add(1)
	if f := r.opts.Hooks.Published; f != nil {
		e.ID, e.Data = id, appendLF(nil, e.Data)
		r.hook(executionID, func() { f(executionID, e) })
		r.runHooks(executionID)
	}
	return id, nil
}

// sealShared finishes an execution for all nodes and returns what this one has
// of it, nil if it does not follow it.
func (r *Registry) sealShared(ctx context.Context, executionID string) (*execution, error) {
	id, err := r.opts.Backplane.Append(ctx, executionID, Message{Kind: Finished})
	if err != nil || id == 0 { // 0: nothing has been published, nothing will end
		return nil, err
	}
	return r.lookup(executionID), nil
}

// forgetShared has all nodes forget an execution, and this one at once.
func (r *Registry) forgetShared(executionID string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	id, err := r.opts.Backplane.Append(ctx, executionID, Message{Kind: Forgotten})
	if err != nil {
		r.opts.Logger.Warn("execcast: other nodes were not told to forget", "execution", executionID, "error", err.Error())
	}
	if x := r.lookup(executionID); x != nil && (err != nil || id == 0 || !x.reached(id)) { // else it may have begun again
		r.forget(x)
	}
}

// errUnfollowed: an execution has to be followed before a client can be
// registered.
var errUnfollowed = errors.New("not followed")

// followed reports whether an execution's log holds what the backplane had when
// it was first asked. r.mu is held.
func (r *Registry) followed(executionID string) bool {
	x := r.executions[executionID]
	if x == nil {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.synced
}

// registerShared registers a client when the execution is followed and its log
// holds what the backplane has.
func (r *Registry) registerShared(executionID string, opts *ClientOptions) (*Client, error) {
	late := make(chan struct{})
	patience := time.AfterFunc(followWait, func() { close(late) })
	defer patience.Stop()
	for {
		c, err := r.follow(executionID, opts, late)
		if err != errUnfollowed { // else it was forgotten meanwhile
			return c, err
		}
	}
}

func (r *Registry) follow(executionID string, opts *ClientOptions, late <-chan struct{}) (*Client, error) {
	r.mu.Lock()
	if err := r.admit(); err != nil { // before it costs the engine anything
		r.mu.Unlock()
		return nil, err
	}
	begin := r.executions[executionID] == nil
	x, err := r.execution(executionID)
	if err != nil {
		r.mu.Unlock()
		return nil, err
	}
	x.mu.Lock()
	x.expected++
	before := x.synced
	x.mu.Unlock()
	r.mu.Unlock()
	defer x.release()
	if begin {
		stop := r.opts.Backplane.Follow(executionID, x)
		x.mu.Lock()
		x.stop = stop
		if x.forgotten {
			stop()
		}
		x.mu.Unlock()
	}
	err = x.await(late, func() (bool, error) { return x.synced || x.forgotten, x.down })
	if err != nil {
		return nil, err
	}
	// The viewer may come from a node that is ahead of this one, even where
	// this one has heard of no message yet. An ID that does not come in time is
	// of another life, or made up.
	if seen, ok := parseID(opts.LastEventID); ok {
		err = x.await(late, func() (bool, error) {
			return x.head >= seen || x.head == 0 && !before || x.sealed || x.forgotten, x.down
		})
		if err != nil && !errors.Is(err, errLate) {
			return nil, err
		}
	}
	return r.register(executionID, opts)
}

// release lets go of x, which follow needs no longer. What the backplane has
// nothing of is not kept because somebody has asked for it.
func (x *execution) release() {
	x.r.mu.Lock()
	x.mu.Lock()
	x.expected--
	if x.synced {
		x.forgetUnneeded()
	}
	x.mu.Unlock()
	x.r.mu.Unlock()
	x.runHooks()
}

var errLate = errors.New("no answer in time")

// await waits until what f, which is called with x.mu held, says is true, or an
// error.
func (x *execution) await(late <-chan struct{}, f func() (bool, error)) error {
	for {
		x.mu.Lock()
		done, err := f()
		news := x.news
		x.mu.Unlock()
		switch {
		case done:
			return nil
		case err != nil:
			return unavailable(err)
		}
		select {
		case <-news:
		case <-late:
			return unavailable(errLate)
		}
	}
}

func unavailable(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// Deliver makes x a Follower.
func (x *execution) Deliver(messages []Message) {
	r := x.r
	for i := range messages {
		switch m := &messages[i]; m.Kind {
		case Published:
			r.mu.Lock()
			x.mu.Lock()
			r.lastID = max(r.lastID, m.ID)
			x.version.Add(1)
			r.mu.Unlock()
			if !x.arrive(m) || x.sealed {
				x.mu.Unlock()
				continue
			}
			if err := m.Event.check(maxData); err != nil {
				// Nobody has published that: to viewers it is a gap.
				x.change(func() { x.log.skip(m.ID, true) })
				x.mu.Unlock()
				r.opts.Logger.Warn("execcast: the backplane delivered an invalid event", "execution", x.id, "id", m.ID, "error", err.Error())
				continue
			}
			wake(x.publish(m.ID, m.Event))
			if r.bytes.Load() > int64(r.opts.MaxTotalBytes) {
				r.shrink()
			}
		case Finished:
			r.mu.Lock()
			x.mu.Lock()
			var lanes []*lane
			if x.arrive(m) && x.seal() {
				lanes = x.lanes
			}
			x.mu.Unlock()
			r.mu.Unlock()
			wake(lanes)
		case Forgotten:
			x.mu.Lock()
			known := x.arrive(m) && (x.log.last != 0 || x.sealed)
			x.mu.Unlock()
			if known {
				r.forget(x)
			}
		}
	}
	x.mu.Lock()
	x.tell()
	x.mu.Unlock()
	x.runHooks()
}

// arrive moves the log's head to m, whose place in it must be empty: what the
// backplane has dropped since the last message is a gap for whoever has not
// got it. It reports whether m is new. x.mu is held.
func (x *execution) arrive(m *Message) bool {
	if x.forgotten || m.ID <= x.head {
		return false
	}
	switch {
	case m.Prev == x.head:
		if x.head == 0 {
			x.first = m.ID
		}
	case m.Prev == 0: // all that was has gone, and is not remembered
		x.change(func() { x.log.skip(m.ID-1, true) })
	case m.Kind == Forgotten:
		x.first = m.ID
	case m.Prev < x.head: // the engine has lost what this node has
	default:
		x.change(func() { x.log.skip(min(m.Prev, m.ID-1), true) })
	}
	x.head = m.ID
	return true
}

// Synced makes x a Follower.
func (x *execution) Synced(err error) {
	x.mu.Lock()
	if !x.forgotten { // else it may be because it was stopped
		x.setDown(err)
	}
	if err == nil {
		x.synced = true
	}
	x.tell()
	x.mu.Unlock()
	x.r.reachable(err)
}

// setDown notes why the backplane cannot be reached for x, nil if it can. x.mu is held.
func (x *execution) setDown(err error) {
	switch {
	case x.down == nil && err != nil:
		x.r.down.Add(1)
	case x.down != nil && err == nil:
		x.r.down.Add(-1)
	}
	x.down = err
}

// tell wakes those who wait in await. x.mu is held.
func (x *execution) tell() {
	close(x.news)
	x.news = make(chan struct{})
}

// began reports whether the backplane has any of the execution.
func (x *execution) began() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.log.last != 0 || x.sealed
}

// reached reports whether the message of that ID, or a later one, has arrived.
func (x *execution) reached(id uint64) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.head >= id
}

// lastID returns the highest ID a viewer of x can have seen. r.mu and x.mu are
// held.
func (x *execution) lastID() uint64 {
	if x.r.opts.Backplane != nil {
		return x.head
	}
	return x.r.lastID
}

func (x *execution) isSealed() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sealed
}

// ClientCount makes x a Follower.
func (x *execution) ClientCount() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.clients)
}

// reachable tells the operator when the backplane has gone, for the first
// execution that cannot reach it, and when it is back, for the last one. err is
// what one of them has heard.
func (r *Registry) reachable(err error) {
	away := r.down.Load() > 0
	if r.away.Swap(away) == away {
		return
	}
	switch {
	case !away:
		err = nil
	case err == nil: // told by another execution meanwhile
		err = ErrUnavailable
	}
	if err != nil {
		r.opts.Logger.Warn("execcast: backplane unavailable", "error", err.Error())
	} else {
		r.opts.Logger.Info("execcast: backplane available")
	}
	if f := r.opts.Hooks.Backplane; f != nil {
		r.guard(func() { f(err) })
	}
}

// ClusterClientCount returns how many clients the execution has on all nodes
// that share the registry's backplane; without one, on this. It asks the other
// nodes and waits for their answers until ctx ends, or for a time the backplane
// chooses: a node that is gone counts nothing.
func (r *Registry) ClusterClientCount(ctx context.Context, executionID string) (int, error) {
	if r.opts.Backplane == nil {
		return r.ClientCount(executionID), ctx.Err()
	}
	if err := checkExecutionID(executionID); err != nil {
		return 0, err
	}
	return r.opts.Backplane.ClientCount(ctx, executionID)
}
