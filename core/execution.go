package core

import (
	"container/list"
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
	"weak"
)

// execution is what a registry knows of one execution ID: its log and its
// clients, from the first Publish or Register until it is forgotten.
type execution struct {
	r  *Registry
	id string
	// version counts changes of the log, its sealing included: an owner of a
	// client that has found nothing to do compares it before it rests.
	version atomic.Uint64
	drained chan struct{} // closed when sealed and the clients of that moment have gone

	mu        sync.Mutex
	log       log
	clients   []*Client
	lanes     []*lane
	using     [maxEncodings]int // clients per encoder slot
	batches   [maxEncodings]weak.Pointer[batch]
	sealed    bool
	forgotten bool
	waiting   int           // clients Close waits for
	since     time.Duration // of the last publish, the last leaving, or the sealing
	expiry    *time.Timer
	inList    *list.Element // in Registry.finished
}

// newExecution makes an execution. r.mu is held.
func newExecution(r *Registry, id string) *execution {
	x := &execution{r: r, id: strings.Clone(id), drained: make(chan struct{}), since: r.now()}
	x.log = log{floor: r.lastID, maxEvents: r.opts.MaxEvents, maxBytes: r.opts.MaxBytes}
	if r.opts.Idle > 0 {
		x.expiry = time.AfterFunc(r.opts.Idle, x.expire)
	}
	return x
}

// batch is a run of frames that clients at the same position share. Its bytes
// are never changed.
type batch struct {
	from, to uint64 // positions before and after
	seq      int64  // events the log ever had up to to, unless some were superseded
	events   int
	tail     bool // nothing followed when it was made, and more may come
	p        []byte
	shared   *batch // keeps the execution's copy alive while this one is in use
}

// maxBatch bounds the bytes of a batch of several events, and with that what
// one write to one client can hold on to.
const maxBatch = 32 << 10

// publish appends an event, releases x.mu, which is held, and returns the lanes
// to wake.
func (x *execution) publish(id uint64, e Event) []*lane {
	defer x.mu.Unlock()
	size := len(e.Data)
	room := size + len(e.Type) + len(e.Key)
	for _, n := range x.using {
		if n > 0 {
			room += size + len(e.Type) + 64
		}
	}
	buf := appendLF(make([]byte, 0, room), e.Data)
	e.Data = buf[:len(buf):len(buf)]
	e.Type, buf = keep(buf, e.Type)
	e.Key, buf = keep(buf, e.Key)
	rec := record{id: id, event: e}
	for slot, n := range x.using {
		if n > 0 {
			// The frames stand behind the data while there is room.
			at := len(buf)
			buf = x.encode(buf, slot, id, e)
			rec.frames[slot] = buf[at:len(buf):len(buf)]
		}
	}
	rec.size = recordOverhead + cap(buf)
	if cap(buf) > room {
		rec.size += room // the data has stayed behind
	}
	x.change(func() { x.log.append(rec) })
	x.since = x.r.now()
	x.version.Add(1)
	if x.r.opts.Hooks.Published != nil {
		x.hookPublished(rec)
	}
	return x.lanes // only ever appended to
}

// hookPublished is apart from publish because its closure would cost every
// Publish an allocation.
func (x *execution) hookPublished(rec record) {
	e := rec.event
	e.ID = rec.id
	x.hook(func() { x.r.opts.Hooks.Published(x.id, e) })
}

// keep copies s into buf, so that all that is kept of an event is one
// allocation, and returns both.
func keep(buf []byte, s string) (string, []byte) {
	if s == "" {
		return "", buf
	}
	at := len(buf)
	buf = append(buf, s...)
	return unsafe.String(&buf[at], len(s)), buf // buf is only appended to
}

func (x *execution) encode(dst []byte, slot int, id uint64, e Event) []byte {
	e.ID = id
	return x.r.encoders[slot].AppendEvent(dst, e)
}

// change runs f, which changes the log, and keeps the registry's figures.
func (x *execution) change(f func()) {
	bytes, lost := x.log.bytes, x.log.lost
	f()
	x.r.bytes.Add(int64(x.log.bytes - bytes))
	if n := x.log.lost - lost; n > 0 {
		x.r.counters.evicted.Add(n)
	}
}

// evict drops the oldest events until that many bytes are free.
func (x *execution) evict(bytes int) {
	x.change(func() {
		for until := x.log.bytes - bytes; x.log.bytes > until && x.log.evict(0); {
		}
	})
}

// wake has the clients of these lanes look at the log.
func wake(lanes []*lane) {
	for _, l := range lanes {
		l.dirty.Store(true)
		l.schedule()
	}
}

// join adds c. r.mu and x.mu are held.
func (x *execution) join(c *Client) {
	c.index = len(x.clients)
	x.clients = append(x.clients, c)
	x.using[c.slot]++
	c.lane.size++
	h := &x.r.opts.Hooks
	if f := h.FirstViewer; f != nil && len(x.clients) == 1 {
		x.hook(func() { f(x.id) })
	}
	if f := h.Registered; f != nil {
		x.hook(func() { f(x.id) })
	}
}

// leave removes c, whose connection has been let go.
func (x *execution) leave(c *Client, reason error) {
	r := x.r
	r.mu.Lock()
	x.mu.Lock()
	last := x.clients[len(x.clients)-1]
	x.clients[c.index] = last
	last.index = c.index
	x.clients[len(x.clients)-1] = nil
	x.clients = x.clients[:len(x.clients)-1]
	x.using[c.slot]--
	c.lane.size--
	if c.awaited {
		if x.waiting--; x.waiting == 0 {
			close(x.drained)
		}
	}
	if f := r.opts.Hooks.Left; f != nil {
		x.hook(func() { f(x.id, reason) })
	}
	if len(x.clients) == 0 {
		x.clients = nil
		now := r.now()
		if !x.forgotten {
			x.hookLastViewer()
		}
		if x.sealed && now-x.since >= r.opts.Retention || !x.sealed && x.log.last == 0 {
			x.forget()
		}
		if !x.sealed {
			x.since = now
		}
	}
	x.mu.Unlock()
	r.clients--
	r.checkEmpty()
	r.mu.Unlock()
	x.runHooks()
}

// seal ends the log and reports whether it was open. r.mu and x.mu are held.
func (x *execution) seal() bool {
	if x.sealed {
		return false
	}
	x.sealed = true
	x.version.Add(1)
	x.since = x.r.now()
	x.waiting = len(x.clients)
	for _, c := range x.clients {
		c.awaited = true
	}
	if x.waiting == 0 {
		close(x.drained)
	}
	if f := x.r.opts.Hooks.Finished; f != nil {
		x.hook(func() { f(x.id) })
	}
	x.inList = x.r.finished.PushBack(x)
	switch retention := x.r.opts.Retention; {
	case retention == 0 && x.waiting == 0:
		x.forget()
	case retention == 0: // with the last client
	case x.expiry == nil:
		x.expiry = time.AfterFunc(retention, x.expire)
	default:
		x.expiry.Reset(retention)
	}
	return true
}

// cut ends the clients Close was waiting for when its ctx ended.
func (x *execution) cut(ctx context.Context) error {
	x.mu.Lock()
	var clients []*Client
	for _, c := range x.clients {
		if c.awaited && !c.ending.Load() {
			clients = append(clients, c)
		}
	}
	x.mu.Unlock()
	if len(clients) == 0 {
		return nil
	}
	for _, c := range clients {
		c.end(context.Cause(ctx), now)
	}
	x.r.opts.Logger.Warn("execcast: close cut clients off", "execution", x.id, "clients", len(clients))
	return &DrainError{Cut: len(clients), Cause: ctx.Err()}
}

// expire is called by the expiry timer: it forgets x if that is due.
func (x *execution) expire() {
	r := x.r
	r.mu.Lock()
	defer r.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.forgotten {
		return
	}
	after := r.opts.Idle
	if x.sealed {
		after = r.opts.Retention
	}
	switch left := x.since + after - r.now(); {
	case left > 0:
		x.expiry.Reset(left)
	case len(x.clients) == 0:
		x.forget()
	case !x.sealed:
		x.expiry.Reset(after)
	} // else with the last client
}

// forget drops x from the registry. r.mu and x.mu are held. Its log stays
// readable for clients that are being written to.
func (x *execution) forget() {
	if x.forgotten {
		return
	}
	x.forgotten = true
	if len(x.clients) > 0 {
		x.hookLastViewer()
	}
	if x.expiry != nil {
		x.expiry.Stop()
	}
	if x.inList != nil {
		x.r.finished.Remove(x.inList)
	}
	delete(x.r.executions, x.id)
	x.r.bytes.Add(-int64(x.log.bytes))
	x.log.bytes = 0
}

// hookLastViewer is called with the last client's leaving, or when x is
// forgotten before: another execution of the same ID may come after that.
func (x *execution) hookLastViewer() {
	if f := x.r.opts.Hooks.LastViewer; f != nil {
		x.hook(func() { f(x.id) })
	}
}

// read returns what follows position pos in an encoding: the frame of one
// event, or several in a row, assembled once for all clients there. It returns
// no events if nothing follows. x.mu is held, and pos is not below the floor.
func (x *execution) read(slot int, pos uint64) batch {
	l := &x.log
	b := batch{from: pos, to: pos}
	i := l.after(pos)
	if i == l.n {
		return b
	}
	if s := x.batches[slot].Value(); s != nil && s.from == pos && (s.to == l.last || !s.tail) {
		b = *s
		b.shared = s
		b.tail = b.tail && !x.sealed
		return b
	}
	size, end := 0, i
	for ; end < l.n; end++ {
		rec := l.at(end)
		if rec.dead {
			continue
		}
		frame := x.frame(rec, slot)
		if b.events > 0 && size+len(frame) > maxBatch {
			break
		}
		size += len(frame)
		b.events++
		b.to = rec.id
		b.p = frame
	}
	b.seq = int64(l.lost) + int64(end)
	b.tail = end == l.n && !x.sealed
	if b.events > 1 {
		b.p = make([]byte, 0, size)
		for ; i < end; i++ {
			b.p = append(b.p, l.at(i).frames[slot]...)
		}
		s := new(batch)
		*s = b
		x.batches[slot] = weak.Make(s)
		b.shared = s
	}
	return b
}

// frame returns a live record's frame, encoding it if no client had that
// encoding when the event was published.
func (x *execution) frame(rec *record, slot int) []byte {
	if rec.frames[slot] == nil {
		frame := x.encode(nil, slot, rec.id, rec.event)
		rec.frames[slot] = frame
		if !x.forgotten {
			rec.size += cap(frame)
			x.change(func() { x.log.bytes += cap(frame) })
		}
	}
	return rec.frames[slot]
}

// appendGap appends the data of a gap event. from is 0 if the viewer has no
// usable ID, count negative if it is not known.
func appendGap(dst []byte, from, to uint64, count int64) []byte {
	dst = append(dst, '{')
	if from != 0 {
		dst = append(dst, `"from":"`...)
		dst = strconv.AppendUint(dst, from, 10)
		dst = append(dst, `",`...)
	}
	dst = append(dst, `"to":"`...)
	dst = strconv.AppendUint(dst, to, 10)
	dst = append(dst, '"')
	if count >= 0 {
		dst = append(dst, `,"count":`...)
		dst = strconv.AppendInt(dst, count, 10)
	}
	return append(dst, '}')
}
