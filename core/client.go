package core

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"
)

// Client is one viewer's place in an execution, or in several: a position in
// its log and, once served, a connection. It has one owner at a time, who alone
// touches its position and its writer: the goroutine in Serve, the lane it was
// given to by Start, or the goroutine that lane lends it to while its
// connection is full. Everybody else leaves a request and wakes the owner.
type Client struct {
	// What each delivery by a shared pump touches stands together: with many
	// clients, fetching it from memory is what a delivery costs.
	home    bool        // in lane.members; the lane's
	said    bool        // TypeEnd has been written; the owner's, as the next five
	started bool        // something has been delivered, so that a gap is lag
	pos     uint64      // what it has been written up to: an ID, or the log's floor
	seen    uint64      // ID of the last event the viewer has, 0 if none
	seq     int64       // events of the log up to pos, negative if not known
	try     TryWriter   // w, for clients of shared pumps
	beat    atomic.Bool // a heartbeat is due, or MaxAge reached
	request atomic.Pointer[request]

	// The owner's.
	w      Writer
	rest   []byte // of a batch that TryWrite wrote partly
	missed missed // what to announce before the first event

	// The lane's.
	place  int           // in lane.members
	beatAt time.Duration // when the next heartbeat is due

	// Set once.
	x        *execution // of no ID, and unknown to the registry, if c follows several
	part     *part      // if c stands for one execution of another client
	merge    *merge     // if c follows several
	lane     *lane
	slot     int           // encoder
	expireAt time.Duration // when MaxAge is reached, 0 for never
	interval time.Duration // of heartbeats, 0 if off
	wake     chan struct{} // for the goroutine in Serve

	index   int         // in x.clients; guarded by x.mu, as the next
	awaited bool        // Close waits for it
	ending  atomic.Bool // its connection is being let go
	state   atomic.Int32
	parked  atomic.Bool // the goroutine in Serve waits for wake
	gone    atomic.Bool // Serve has ended; the lane drops it
}

// States of Client.state.
const (
	fresh     = iota // registered
	owned            // given to Serve or Start
	abandoned        // ended before it was given to either
)

// request asks a client's owner to end it.
type request struct {
	reason error
	when   when
}

type when bool

const (
	now     when = false // whatever is still unwritten
	drained when = true  // as soon as it has everything
)

// missed is a loss that was known at Register.
type missed struct {
	any  bool
	all  bool   // the viewer has nothing: all that is lost, it misses
	from uint64 // the ID the viewer gave, 0 if none
}

// newClient makes a client at the position opts asks for. r.mu and x.mu are
// held.
func newClient(x *execution, slot int, opts *ClientOptions) *Client {
	c := &Client{x: x, slot: slot, lane: x.laneFor(slot), interval: x.r.opts.Heartbeat}
	if opts.Heartbeat != 0 {
		c.interval = min(max(0, opts.Heartbeat), 100*365*24*time.Hour)
	}
	if age := x.r.opts.MaxAge; age > 0 {
		c.expireAt = x.r.now() + age - rand.N(age/10+1)
	}
	l := &x.log
	switch id, ok := parseID(opts.LastEventID); {
	case opts.LastEventID == "" && l.lost == 0:
		c.pos = l.floor
	case opts.LastEventID == "":
		c.missed = missed{any: true, all: true}
	case ok && id <= x.lastID() && id >= x.first:
		c.pos, c.seen, c.seq = id, id, -1 // a loss shows as a position below the floor
		if id >= l.floor {
			c.seq = int64(l.lost) + int64(l.after(id))
		}
	default:
		c.missed = missed{any: true, from: id}
	}
	return c
}

// parseID reads an ID as AppendEvent writes it. It returns 0 and false for
// anything else.
func parseID(s string) (uint64, bool) {
	id, err := strconv.ParseUint(s, 10, 53)
	if err != nil || s[0] == '0' || s[0] == '+' {
		return 0, false
	}
	return id, true
}

// hasAll reports whether nothing but the end is left for c to see, which has
// resumed. x.mu is held.
func (c *Client) hasAll() bool {
	l := &c.x.log
	return !c.missed.any && c.pos >= l.floor && l.after(c.pos) == l.n
}

// Serve writes to w what the client is to see, in the calling goroutine, until
// it ends; then it calls w's End, if it has one, and returns the reason given
// there: nil when the execution finished and everything has been written. When
// ctx ends, so does the client, with its cause.
func (c *Client) Serve(ctx context.Context, w Writer) error {
	if err := c.own(w); err != nil {
		return err
	}
	c.wake = make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { c.end(context.Cause(ctx), now) })
	defer stop()
	c.arrive()
	reason, _ := c.run()
	c.gone.Store(true)
	c.lane.poke(c)
	c.finish(reason)
	return reason
}

// Start hands the client to the registry's shared pumps, which write to w, and
// returns. They call w's End when the client ends.
func (c *Client) Start(w TryWriter) {
	if c.own(w) != nil {
		return
	}
	c.try = w
	c.arrive()
}

// arrive gives c to its lane, after its parts to theirs.
func (c *Client) arrive() {
	if c.merge != nil {
		for _, p := range c.merge.parts {
			if !p.left {
				p.lane.arrive(p.Client)
			}
		}
	}
	c.lane.arrive(c)
}

// own gives c its writer. If that cannot be, it lets go of w.
func (c *Client) own(w Writer) error {
	if !c.state.CompareAndSwap(fresh, owned) {
		err := ErrServed
		if req := c.request.Load(); c.state.Load() == abandoned && req != nil {
			err = req.reason
		}
		c.report(end(w, err))
		return err
	}
	c.w = w
	return nil
}

// Unregister ends the client with ErrUnregistered, without writing what it has
// not yet got. It returns at once; the connection is let go soon after.
// Adapters call it for a viewer that has gone, and for a client they cannot
// serve after all.
func (c *Client) Unregister() { c.end(ErrUnregistered, now) }

// end asks for the client's end. The first reason counts, but one that asks
// for it now overrides one that does not.
func (c *Client) end(reason error, when when) {
	c = c.connected()
	req := &request{reason, when}
	for {
		old := c.request.Load()
		if old != nil && (old.when == now || when == drained) {
			return
		}
		if c.request.CompareAndSwap(old, req) {
			break
		}
	}
	if when == now && c.state.CompareAndSwap(fresh, abandoned) {
		c.leave(reason)
		return
	}
	c.lane.poke(c)
}

// connected returns the client that has c's connection: c, or what it is a
// part of.
func (c *Client) connected() *Client {
	if c.part != nil {
		return c.part.whole
	}
	return c
}

// task is the next thing to do for a client.
type task struct {
	batch        // to write, if it has bytes
	ended bool   // the client has ended
	why   error  // for what reason
	rest  bool   // nothing to do until version or request change
	v     uint64 // version of the execution
	req   *request
}

// next tells the owner what to do.
func (c *Client) next() (t task) {
	x := c.x
	t.req = c.request.Load()
	if c.said {
		return task{ended: true}
	}
	if t.req != nil && t.req.when == now {
		return task{ended: true, why: t.req.reason}
	}
	if c.expireAt != 0 && x.r.now() >= c.expireAt {
		return task{ended: true, why: ErrMaxAge}
	}
	if c.merge != nil {
		return c.merge.next(c, t)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	t.v = x.version.Load()
	if c.missed.any || c.pos < x.log.floor {
		return c.gap()
	}
	t.batch = x.read(c.slot, c.pos)
	switch {
	case t.events > 0:
	case x.sealed:
		t.p = x.encoder(c.slot).AppendEvent(nil, Event{Type: TypeEnd, Data: emptyObject})
		c.said = true
	case t.req != nil:
		t.ended, t.why = true, t.req.reason
	case c.beat.Swap(false):
		t.p = c.heartbeat()
	default:
		t.rest = true
	}
	return t
}

// gap makes the announcement that events are missing and moves c behind them.
// x.mu is held.
func (c *Client) gap() (t task) {
	x := c.x
	l := &x.log
	from, count := c.seen, int64(-1)
	switch {
	case c.missed.all && !l.unsure:
		count = int64(l.lost)
	case c.missed.any:
		from = c.missed.from
	case c.seq >= 0 && l.killed == 0 && !l.unsure:
		count = int64(l.lost) - c.seq
	}
	if c.started && x.r.opts.Lag == LagDisconnect {
		return task{ended: true, why: ErrSlowClient}
	}
	data := appendGap(nil, from, l.floor, count)
	t.p = x.encoder(c.slot).AppendEvent(nil, Event{Type: TypeGap, Data: data})
	t.to, t.seq = l.floor, int64(l.lost)
	c.missed = missed{}
	x.r.counters.gaps.Add(1)
	if f := x.r.opts.Hooks.Gap; f != nil {
		x.hook(func() { f(x.id) })
	}
	return t
}

func (c *Client) heartbeat() []byte {
	r := c.x.r
	enc := r.encoders[c.slot]
	p := enc.AppendHeartbeat(nil)
	if r.opts.HeartbeatEvents {
		p = enc.AppendEvent(p, Event{Type: TypeHeartbeat, Data: emptyObject})
	}
	return p
}

// wrote moves c behind what it has been written.
func (c *Client) wrote(b *batch) {
	if b.events > 0 {
		c.seen = b.to
	}
	if b.to > c.pos {
		c.pos, c.seq = b.to, b.seq
	}
	c.started = true
	if b.of != nil {
		b.of.wrote()
	}
}

// run serves c from the calling goroutine until it ends, or, if c belongs to a
// lane, until nothing is left to write.
func (c *Client) run() (reason error, ended bool) {
	for {
		t := c.next()
		switch {
		case t.ended:
			return t.why, true
		case t.rest && c.try != nil:
			return nil, false
		case t.rest:
			c.park(&t)
		default:
			if len(t.p) > 0 { // an encoding may have no frame for it
				if err := write(c.w, t.p); err != nil {
					return err, true
				}
			}
			c.wrote(&t.batch)
			c.x.delivered(t.events, len(t.p))
			if t.tail && t.req == nil && c.try == nil {
				c.park(&t) // without asking the log again
			}
		}
	}
}

// delivered counts what a connection has accepted.
func (x *execution) delivered(events, bytes int) {
	if events > 0 {
		x.r.counters.delivered.Add(uint64(events))
	}
	x.r.counters.deliveredBytes.Add(uint64(bytes))
	if f := x.r.opts.Hooks.Delivered; f != nil && x.id != "" { // see merge.wrote
		x.hook(func() { f(x.id, events, bytes) })
	}
	x.runHooks()
}

// park waits until there may be something to do that t did not see.
func (c *Client) park(t *task) {
	c.parked.Store(true)
	if c.x.version.Load() != t.v || c.request.Load() != t.req || c.beat.Load() {
		if c.parked.CompareAndSwap(true, false) {
			return
		}
	}
	<-c.wake
}

// unpark wakes the goroutine in Serve if it waits.
func (c *Client) unpark() {
	if c.parked.Load() && c.parked.CompareAndSwap(true, false) {
		c.wake <- struct{}{}
	}
}

// finish lets go of the connection, and then of the client.
func (c *Client) finish(reason error) {
	r := c.x.r
	c.rest = nil
	c.ending.Store(true)
	c.report(reason)
	c.report(end(c.w, reason))
	if errors.Is(reason, ErrSlowClient) {
		r.counters.slow.Add(1)
		if f := r.opts.Hooks.Slow; f != nil {
			if c.merge == nil {
				c.x.hook(func() { f(c.x.id) })
			} else {
				c.merge.slow(f)
			}
		}
	}
	c.leave(reason)
}

// leave removes c, whose connection has been let go.
func (c *Client) leave(reason error) {
	if c.merge != nil {
		c.merge.leave(reason)
		return
	}
	c.x.leave(c, reason, true)
}

// report logs an error of an adapter that nobody else would see.
func (c *Client) report(err error) {
	var p *panicError
	if errors.As(err, &p) {
		x := c.x
		if c.merge != nil {
			x = c.merge.parts[0].x
		}
		c.x.r.counters.panics.Add(1)
		c.x.r.opts.Logger.Error("execcast: writer panicked", "execution", x.id, "panic", p.value, "stack", string(p.stack))
	}
}
