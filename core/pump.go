package core

import (
	"sync"
	"sync/atomic"
	"time"
)

// pumps runs lanes that have something to do. A pump is a goroutine that lives
// while there are such lanes; there are at most max.
type pumps struct {
	max   int
	start func() // run: a method value made once spares each start an allocation

	mu      sync.Mutex
	queue   []*lane
	head    int // of queue
	running int
}

func (p *pumps) push(l *lane) {
	p.mu.Lock()
	if len(p.queue) == cap(p.queue) && p.head > len(p.queue)/2 {
		p.queue = p.queue[:copy(p.queue, p.queue[p.head:])]
		p.head = 0
	}
	p.queue = append(p.queue, l)
	start := p.running < p.max
	if start {
		p.running++
	}
	p.mu.Unlock()
	if start {
		go p.start()
	}
}

func (p *pumps) run() {
	for {
		p.mu.Lock()
		if p.head == len(p.queue) {
			p.queue, p.head = p.queue[:0], 0
			p.running--
			p.mu.Unlock()
			return
		}
		l := p.queue[p.head]
		p.queue[p.head] = nil
		p.head++
		p.mu.Unlock()
		l.run()
	}
}

// lane is the clients of one execution and one encoder that one pump at a time
// walks when the log has changed: it writes to those of the shared pumps, and
// wakes the goroutines of the others. An execution with many clients has
// several lanes for an encoder, so that several pumps can work on it.
type lane struct {
	x     *execution
	slot  int
	size  int // clients assigned, guarded by x.mu
	state atomic.Int32
	dirty atomic.Bool // the log has changed
	tick  atomic.Bool // the timer has fired

	mu       sync.Mutex
	arrivals []*Client // new, or given back
	pokes    []*Client // with a request, or gone

	// Of the pump that runs it.
	members []*Client
	timer   *time.Timer
	tickAt  time.Duration // when the timer fires, 0 if it is not set
}

// States of lane.state: a lane is in the queue of pumps at most once, and run
// by at most one of them.
const (
	idle    = iota
	queued  // in the queue
	running // a pump is at it
	again   // and something has come that it may have missed
)

// A lane is split when each of an encoder's has so many clients, up to one a
// pump.
const laneClients = 256

// laneFor returns the lane for a new client. x.mu is held.
func (x *execution) laneFor(slot int) *lane {
	var best *lane
	n := 0
	for _, l := range x.lanes {
		if l.slot == slot {
			n++
			if best == nil || l.size < best.size {
				best = l
			}
		}
	}
	if best == nil || best.size >= laneClients && n < x.r.pumps.max {
		best = &lane{x: x, slot: slot}
		x.lanes = append(x.lanes, best)
	}
	return best
}

// schedule makes sure that the lane is run after this call.
func (l *lane) schedule() {
	for {
		switch s := l.state.Load(); s {
		case idle:
			if l.state.CompareAndSwap(idle, queued) {
				l.x.r.pumps.push(l)
				return
			}
		case running:
			if l.state.CompareAndSwap(running, again) {
				return
			}
		default:
			return
		}
	}
}

// arrive gives the lane a client: to write to, or to wake.
func (l *lane) arrive(c *Client) {
	l.mu.Lock()
	l.arrivals = append(l.arrivals, c)
	l.mu.Unlock()
	l.schedule()
}

// poke has the lane look at a client, if it is there.
func (l *lane) poke(c *Client) {
	l.mu.Lock()
	l.pokes = append(l.pokes, c)
	l.mu.Unlock()
	l.schedule()
}

// run looks once at all clients that may have something to do.
func (l *lane) run() {
	l.state.Store(running)
	l.mu.Lock()
	arrivals, pokes := l.arrivals, l.pokes
	l.arrivals, l.pokes = nil, nil
	l.mu.Unlock()
	all, tick := l.dirty.Swap(false), l.tick.Swap(false)

	r := round{lane: l}
	if tick || len(arrivals) > 0 {
		r.now = l.x.r.now()
	}
	for _, c := range arrivals {
		c.home, c.place = true, len(l.members)
		l.members = append(l.members, c)
		l.expect(c, r.now)
	}
	if tick {
		l.beat(r.now)
	}
	if all || tick {
		// From the end, since a visit may put the last member in another's
		// place.
		for i := len(l.members) - 1; i >= 0; i-- {
			r.visit(l.members[i])
		}
	} else {
		for _, c := range arrivals {
			r.visit(c)
		}
		for _, c := range pokes {
			r.visit(c)
		}
	}
	r.report()
	if !l.state.CompareAndSwap(running, idle) {
		l.state.Store(queued)
		l.x.r.pumps.push(l)
	}
}

// drop takes c out of the lane's care.
func (l *lane) drop(c *Client) {
	last := l.members[len(l.members)-1]
	l.members[c.place] = last
	last.place = c.place
	l.members[len(l.members)-1] = nil
	l.members = l.members[:len(l.members)-1]
	c.home = false
	if len(l.members) == 0 && l.timer != nil {
		l.timer.Stop() // it would keep the log of a forgotten execution
		l.tickAt = 0
	}
}

// round is one walk of a pump over a lane.
type round struct {
	lane                  *lane
	now                   time.Duration
	batch                 batch // what the last client got: most are at one position
	other                 batch // a frame of one client alone: a gap, a heartbeat, the end
	writes, events, bytes int
}

// visit does what there is to do for c without waiting.
func (r *round) visit(c *Client) {
	switch {
	case !c.home:
	case c.try != nil:
		r.pump(c)
	case c.gone.Load():
		r.lane.drop(c)
	case c.part != nil:
		c.part.rouse()
	default:
		c.unpark()
	}
}

// pump writes to c what it is to see, until it has it or its connection is
// full.
func (r *round) pump(c *Client) {
	for {
		b := &r.batch
		fresh := c.pos == 0 && c.missed.any // with a backplane 0 is a position, too
		if b.events == 0 || c.pos != b.from || fresh || c.request.Load() != nil {
			t := c.next()
			switch {
			case t.ended:
				r.end(c, t.why)
				return
			case t.rest:
				return
			case t.events == 0:
				b = &r.other
			}
			*b = t.batch
		}
		n := 0
		if len(b.p) > 0 { // an encoding may have no frame for it
			var err error
			if n, err = tryWrite(c.try, b.p); err != nil {
				r.end(c, err)
				return
			}
		}
		c.wrote(b)
		r.writes++
		r.events += b.events
		r.bytes += len(b.p)
		if n < len(b.p) {
			// From here on a goroutine owns c, until it has caught up.
			c.rest = b.p[n:]
			r.lane.drop(c)
			go c.catchUp()
			return
		}
		if b.tail && !c.beat.Load() && c.request.Load() == nil {
			return // what comes later runs the lane again
		}
	}
}

// end has c finish, which may wait for its peer, in a goroutine of its own.
func (r *round) end(c *Client, reason error) {
	r.report()
	r.lane.drop(c)
	go c.finish(reason)
}

// report counts what has been delivered, before anybody is told that a client
// has left.
func (r *round) report() {
	if r.writes > 0 {
		r.lane.x.delivered(r.events, r.bytes)
		r.writes, r.events, r.bytes = 0, 0, 0
	}
}

// catchUp writes to a client of the lane whose connection was full, blocking,
// until it has everything, and gives it back.
func (c *Client) catchUp() {
	err := write(c.w, c.rest)
	c.rest = nil
	ended := err != nil
	if !ended {
		err, ended = c.run()
	}
	if ended {
		c.finish(err)
		return
	}
	c.lane.arrive(c)
}

// expect sets a new member's heartbeat, and the timer if it has to fire
// earlier than it would.
func (l *lane) expect(c *Client, now time.Duration) {
	if c.beatAt == 0 && c.interval > 0 {
		c.beatAt = now + c.interval
	}
	if c.expireAt != 0 && c.expireAt <= now {
		c.beat.Store(true) // due does not come back to it
	}
	l.fireAt(c.due(now), now)
}

// due returns when the lane's timer has to look at c, 0 for never.
func (c *Client) due(now time.Duration) time.Duration {
	switch {
	case c.expireAt <= now: // off, or seen
		return c.beatAt
	case c.beatAt == 0:
		return c.expireAt
	}
	return min(c.beatAt, c.expireAt)
}

func (l *lane) fireAt(due, now time.Duration) {
	if due == 0 || l.tickAt != 0 && l.tickAt <= due {
		return
	}
	l.tickAt = due
	if l.timer == nil {
		l.timer = time.AfterFunc(due-now, func() {
			l.tick.Store(true)
			l.schedule()
		})
		return
	}
	l.timer.Reset(due - now)
}

// beat marks the members whose heartbeat or end is due. Those whose heartbeat
// is due soon are taken along, so that the timer fires a few times an interval
// however many members there are.
func (l *lane) beat(now time.Duration) {
	l.tickAt = 0
	var next time.Duration
	for _, c := range l.members {
		if c.beatAt != 0 && c.beatAt <= now+c.interval/8 {
			c.beatAt = now + c.interval
			c.beat.Store(true)
		}
		if c.expireAt != 0 && c.expireAt <= now {
			c.beat.Store(true) // has next look
		}
		if due := c.due(now); due != 0 && (next == 0 || due < next) {
			next = due
		}
	}
	l.fireAt(next, now)
}
