package core

import (
	"container/heap"
	"errors"
	"fmt"
	"strings"
)

// A client of several executions is a whole of parts, one for each execution.
// To its execution a part is a client like any other: it has a position in the
// log, it counts, Close waits for it, it is a member of a lane. But it has no
// connection. When its lane comes to it, it rouses the whole, which has a lane
// of its own and writes what all parts are to see, in the order of the IDs.

// part is one execution of a client that follows several. But for the fields
// of Client that others guard, it belongs to the owner of the whole.
type part struct {
	*Client
	whole *Client
	next  uint64 // ID of its next event, while it is in merge.ahead
	level uint64 // version of the execution, plus 1, that had no next event
	left  bool   // no longer a client of the execution
}

// merge is what a whole has besides.
type merge struct {
	parts []*part // set once
	ahead parts   // with events to come
	open  int     // parts whose end has not been written
	said  bool    // some part's end has, and it has not left yet
	sent  []sent  // what the batch under way has of which part, for hooks
}

type sent struct {
	x             *execution
	events, bytes int
}

// RegisterAll adds a client that follows several executions at once, over one
// connection, and resumes all of them from one Last-Event-ID: that of the last
// event the viewer has seen, of whichever of them. It gets the events of all in
// the order of their IDs, and of each what Register promises. Frames name the
// execution they belong to; see [SSE] and [JSON]. IDs given more than once
// count once.
//
// When an execution finishes, its TypeEnd is sent and the client goes on with
// the others; Close does not wait for it any longer. Behind the last of them
// comes one more TypeEnd, which names none, and the client ends. A viewer that
// resumes is told again of those that have finished meanwhile or before. With a
// Last-Event-ID, executions that are not known get TypeGap and TypeEnd at once,
// unless Options.AwaitUnknown is set: where viewers follow executions before
// their first event, set it.
//
// The client counts as one of each execution, and as one in
// Options.MaxClients. What ends it for one execution ends it for all, and a
// viewer that comes again resumes: Forget, LagDisconnect, and the end of the
// context given to Close.
//
// With a backplane it returns an error that wraps errors.ErrUnsupported: what
// other nodes publish arrives in the order of each execution, not of all.
//
// It returns the errors Register does: that of a limit if any execution is at
// it; ErrUnknown only if none is known; ErrFinished only if the viewer has
// everything of all. ErrExecutionIDs is returned for none or more than 1,000.
func (r *Registry) RegisterAll(executionIDs []string, opts *ClientOptions) (*Client, error) {
	if opts == nil {
		opts = &ClientOptions{}
	}
	ids := make([]string, 0, min(len(executionIDs), maxFollowed))
	seen := make(map[string]bool, cap(ids))
	for _, id := range executionIDs {
		if err := checkExecutionID(id); err != nil {
			return nil, err
		}
		if seen[id] {
			continue
		}
		if len(ids) == maxFollowed {
			return nil, fmt.Errorf("%w: more than %d", ErrExecutionIDs, maxFollowed)
		}
		seen[id] = true
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("%w: none", ErrExecutionIDs)
	}
	if r.opts.Backplane != nil {
		return nil, fmt.Errorf("execcast: several executions for one client, with a backplane: %w", errors.ErrUnsupported)
	}
	c, id, err := r.registerAll(ids, opts)
	if err != nil {
		r.refused(id, err)
		return nil, err
	}
	for _, p := range c.merge.parts {
		p.x.runHooks()
	}
	return c, nil
}

// maxFollowed bounds the executions of one client.
const maxFollowed = 1000

// registerAll returns with an error the execution it is about, or the first.
func (r *Registry) registerAll(ids []string, opts *ClientOptions) (*Client, string, error) {
	r.mu.Lock() // so nothing is published, finished or evicted meanwhile
	defer r.mu.Unlock()
	if err := r.admit(); err != nil {
		return nil, ids[0], err
	}
	slot, err := r.slot(opts.Encoder, true)
	if err != nil {
		return nil, ids[0], err
	}
	c := newClient(&execution{r: r}, slot, opts)
	resumes := opts.LastEventID != ""
	known := map[*execution]bool{}
	var parts, gone []*part
	var missing []string
	all := resumes // the viewer has everything
	for _, id := range ids {
		x := r.executions[id]
		switch {
		case x == nil && resumes && !r.opts.AwaitUnknown:
			gone = append(gone, c.gonePart(id, opts))
			continue
		case x == nil:
			missing = append(missing, id)
			continue
		}
		x.mu.Lock()
		full := len(x.clients) >= r.opts.MaxExecutionClients
		p := newPart(c, x, opts)
		all = all && x.sealed && p.hasAll()
		x.mu.Unlock()
		if full {
			return nil, id, ErrTooManyExecutionClients
		}
		known[x] = true
		parts = append(parts, p)
	}
	switch {
	case len(gone) == len(ids):
		return nil, ids[0], ErrUnknown
	case all && len(missing) == 0:
		return nil, ids[0], ErrFinished
	}
	for len(r.executions)+len(missing) > r.opts.MaxExecutions {
		if !r.forgetOldest(known) {
			return nil, missing[0], ErrTooManyExecutions
		}
	}
	for _, id := range missing {
		x := newExecution(r, id)
		r.executions[id] = x
		x.mu.Lock()
		parts = append(parts, newPart(c, x, opts))
		x.mu.Unlock()
	}
	for _, p := range parts {
		p.x.mu.Lock()
		p.x.join(p.Client)
		p.x.mu.Unlock()
	}
	c.merge = &merge{parts: append(gone, parts...), open: len(ids)}
	r.clients++
	return c, "", nil
}

// naming is an encoder for events of one execution in a stream of several.
type naming struct {
	Encoder
	execution string
}

func (n *naming) AppendEvent(dst []byte, e Event) []byte {
	e.ExecutionID = n.execution
	return n.Encoder.AppendEvent(dst, e)
}

// newPart makes the part of c in x. r.mu and x.mu are held.
func newPart(c *Client, x *execution, opts *ClientOptions) *part {
	p := &part{Client: newClient(x, c.slot, opts), whole: c}
	p.Client.part = p
	p.interval, p.expireAt = 0, 0 // the whole's
	return p
}

// gonePart makes the part of c, which resumes, in an execution that is not
// known: it has lost whatever there was, and its end is to come.
func (c *Client) gonePart(id string, opts *ClientOptions) *part {
	r := c.x.r
	x := &execution{r: r, id: strings.Clone(id), sealed: true, forgotten: true, log: log{floor: r.lastID}}
	p := newPart(c, x, opts)
	p.missed = missed{any: true, from: max(p.seen, p.missed.from)}
	p.left = true
	return p
}

// rouse has the whole look at its parts. A lane calls it that comes to p.
func (p *part) rouse() {
	w := p.whole
	w.x.version.Add(1)
	w.lane.dirty.Store(true)
	w.lane.schedule()
}

// leave removes p from its execution; with the last one the client is gone.
func (p *part) leave(reason error, last bool) {
	p.left = true
	p.gone.Store(true)
	p.lane.poke(p.Client)
	p.x.leave(p.Client, reason, last)
}

// next goes on where Client.next has found nothing that ends c.
//
// A viewer resumes all parts from the last ID it has seen. So no event may be
// written before one of another part with a lower ID: not even if that one is
// only being published. The bound sees to it. An ID is drawn, and the version
// of its execution raised, under the registry's lock; so every event up to the
// bound shows as a version other than the one that was level, and is in the
// log once the execution's lock has been had.
func (m *merge) next(c *Client, t task) task {
	m.dismiss()
	r := c.x.r
	t.of, t.from = m, c.pos
	t.v = c.x.version.Load()
	for {
		r.mu.Lock()
		bound := r.lastID
		r.mu.Unlock()
		for _, p := range m.parts {
			if p.said || p.next != 0 || p.level == p.x.version.Load()+1 {
				continue
			}
			if len(t.p) >= maxBatch {
				return t
			}
			if p.read(&t, 0); t.ended {
				return t
			}
			if p.next != 0 {
				heap.Push(&m.ahead, p)
			}
		}
		for len(m.ahead) > 0 && m.ahead[0].next <= bound {
			p := m.ahead[0]
			full := p.read(&t, m.until(bound))
			if t.ended {
				return t
			}
			if p.next == 0 {
				heap.Pop(&m.ahead)
			} else {
				heap.Fix(&m.ahead, 0)
			}
			if full {
				return t
			}
		}
		switch {
		case m.open == 0:
			t.add(r.encoders[c.slot].AppendEvent(nil, Event{Type: TypeEnd, Data: emptyObject}))
			c.said = true
		case len(t.p) > 0 || t.events > 0 || m.said:
		case len(m.ahead) > 0:
			continue // with a bound that lets them pass
		case t.req != nil:
			t.ended, t.why = true, t.req.reason
		case c.beat.Swap(false):
			t.p = c.heartbeat()
		default:
			t.rest = true
		}
		return t
	}
}

// read adds to t what p is to see up to an ID: the announcement that events are
// missing, events, the end. It reports whether t is full, and leaves in next
// what comes then, 0 if nothing does.
func (p *part) read(t *task, until uint64) (full bool) {
	x, m := p.x, t.of
	before, events, gaps := len(t.p), t.events, 0
	x.mu.Lock()
	defer x.mu.Unlock()
	l := &x.log
	if p.missed.any || p.pos < l.floor {
		gap := p.gap()
		if gap.ended {
			*t = gap
			return false
		}
		gaps++
		t.add(gap.p)
		p.wrote(&gap.batch)
	}
	p.next = 0
	for i := l.after(p.pos); i < l.n && p.next == 0; i++ {
		rec := l.at(i)
		if rec.dead {
			continue
		}
		if rec.id > until {
			p.next = rec.id
			break
		}
		frame := x.frame(rec, p.slot)
		if full = len(t.p) > 0 && len(t.p)+len(frame) > maxBatch; full {
			p.next = rec.id
			break
		}
		t.add(frame)
		t.events++
		t.to = rec.id
		p.pos, p.seen, p.seq, p.started = rec.id, rec.id, int64(l.lost)+int64(i)+1, true
	}
	if p.next == 0 {
		p.level = x.version.Load() + 1
		if x.sealed {
			t.add(x.encoder(p.slot).AppendEvent(nil, Event{Type: TypeEnd, Data: emptyObject}))
			p.said, m.said = true, true
			m.open--
		}
	}
	h := &x.r.opts.Hooks
	if n := len(t.p) - before; (h.Delivered != nil || h.Gap != nil) && (n > 0 || gaps > 0) {
		m.sent = append(m.sent, sent{x, t.events - events, n})
	}
	return full
}

// add appends a frame. The first is shared, and never changed: there is no
// room behind it.
func (b *batch) add(frame []byte) {
	if len(b.p) == 0 {
		b.p = frame[:len(frame):len(frame)]
		return
	}
	b.p = append(b.p, frame...)
}

// wrote tells each execution that the connection has accepted its events.
func (m *merge) wrote() {
	for _, s := range m.sent {
		if f := s.x.r.opts.Hooks.Delivered; f != nil {
			s.x.hook(func() { f(s.x.id, s.events, s.bytes) })
		}
		s.x.runHooks()
	}
	clear(m.sent)
	m.sent = m.sent[:0]
}

// dismiss has the parts leave whose end has been written, since Close waits
// for them; the last ones leave with the connection.
func (m *merge) dismiss() {
	if !m.said || m.open == 0 {
		return
	}
	m.said = false
	for _, p := range m.parts {
		if p.said && !p.left {
			p.leave(nil, false)
		}
	}
}

// leave removes the parts that are left, of which there is at least one: those
// of unknown executions, which never were clients, come first in parts.
func (m *merge) leave(reason error) {
	var rest []*part
	for _, p := range m.parts {
		if p.left {
			p.x.runHooks() // of a gap that was not written
		} else {
			rest = append(rest, p)
		}
	}
	for i, p := range rest {
		p.leave(reason, i == len(rest)-1)
	}
}

// slow has the executions' hooks called for a client that was too slow.
func (m *merge) slow(f func(executionID string)) {
	for _, p := range m.parts {
		if !p.left {
			p.x.hook(func() { f(p.x.id) })
		}
	}
}

// until is how far the first part may be read before another's event comes.
func (m *merge) until(bound uint64) uint64 {
	for _, p := range m.ahead[1:min(3, len(m.ahead))] {
		bound = min(bound, p.next-1)
	}
	return bound
}

// parts is a heap by next.
type parts []*part

func (h parts) Len() int           { return len(h) }
func (h parts) Less(i, j int) bool { return h[i].next < h[j].next }
func (h parts) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *parts) Push(p any)        { *h = append(*h, p.(*part)) }

func (h *parts) Pop() any {
	last := len(*h) - 1
	p := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return p
}
