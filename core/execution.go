package core

import (
	"container/list"
	"context"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
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
	using     [maxEncodings]int                 // clients per encoder slot
	naming    *[maxEncodings]Encoder            // see encoder
	newest    [maxEncodings]weak.Pointer[batch] // batches up to the log's end
	backlog   map[place]weak.Pointer[batch]     // those that something follows
	sealed    bool
	forgotten bool
	waiting   int           // clients Close waits for
	since     time.Duration // of the last publish, the last leaving, or the sealing
	expiry    *time.Timer
	// With a backplane: what it has said of the execution.
	expected int           // Registers under way: they need x as clients do
	first    uint64        // what a viewer has seen cannot be before this
	head     uint64        // ID of the last message, 0 if there was none
	synced   bool          // the log holds what was stored when it was asked first
	down     error         // why it cannot be reached, if so
	news     chan struct{} // closed, and made anew, when any of these has changed
	stop     func()        // ends the following
	inList   *list.Element // in Registry.finished
}

// newExecution makes an execution. r.mu is held.
func newExecution(r *Registry, id string) *execution {
	x := &execution{r: r, id: strings.Clone(id), drained: make(chan struct{}), since: r.now()}
	x.log = log{floor: r.forgotten, maxEvents: r.opts.MaxEvents, maxBytes: r.opts.MaxBytes}
	if r.opts.Backplane != nil {
		x.log.floor = 0
		x.news = make(chan struct{})
	}
	if idle := r.idle(); idle > 0 {
		x.expiry = time.AfterFunc(idle, x.expire)
	}
	return x
}

// batch is a run of frames that clients at the same position share. Its bytes
// are never changed.
type batch struct {
	from, to uint64 // positions before and after
	seq      int64  // events the log ever had up to to, unless some were superseded
	events   int
	tail     bool   // nothing followed when it was made, and more may come
	killed   uint64 // events that had been superseded then
	p        []byte
	shared   *batch // keeps the execution's copy alive while this one is in use
	of       *merge // made for one client, of several executions
}

// place is a position in an encoding.
type place struct {
	slot int
	pos  uint64
}

// maxBatch bounds the bytes of a batch of several events, and with that what
// one write to one client can hold on to.
const maxBatch = 32 << 10

// publish appends an event, releases x.mu, which is held, and returns the lanes
// to wake.
func (x *execution) publish(id uint64, e Event) []*lane {
	defer x.mu.Unlock()
	rec := newRecord(id, e, x.encoders())
	x.change(func() { x.log.append(rec) })
	if x.r.opts.Backplane == nil || len(x.clients) > 0 {
		x.since = x.r.now() // copies nobody watches do not stay because of it
	}
	if x.r.opts.Hooks.Published != nil && x.r.opts.Backplane == nil {
		x.hookPublished(rec)
	}
	return x.lanes // only ever appended to
}

// hookPublished is apart from publish because its closure would cost every
// Publish an allocation.
func (x *execution) hookPublished(rec record) {
	e := rec.event()
	x.hook(func() { x.r.opts.Hooks.Published(x.id, e) })
}

// encoders returns those that clients of x have. x.mu is held.
func (x *execution) encoders() (list [maxEncodings]Encoder) {
	for slot, n := range x.using {
		if n > 0 {
			list[slot] = x.encoder(slot)
		}
	}
	return list
}

// encoder returns that of a slot, for events of x. x.mu is held.
func (x *execution) encoder(slot int) Encoder {
	if !x.r.several[slot] {
		return x.r.encoders[slot]
	}
	if x.naming == nil {
		x.naming = new([maxEncodings]Encoder)
	}
	if x.naming[slot] == nil {
		x.naming[slot] = &naming{x.r.encoders[slot], x.id}
	}
	return x.naming[slot]
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

// leave removes c, whose connection has been let go unless another part of a
// client has it still.
func (x *execution) leave(c *Client, reason error, letGo bool) {
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
		x.forgetUnneeded()
		if !x.sealed {
			x.since = now
		}
	}
	x.mu.Unlock()
	if letGo {
		r.clients--
		r.checkEmpty()
	}
	r.mu.Unlock()
	x.runHooks()
}

// seal ends the log and reports whether it was open. r.mu and x.mu are held.
func (x *execution) seal() bool {
	if x.sealed || x.forgotten {
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
	if f := x.r.opts.Hooks.Finished; f != nil && (x.r.opts.Backplane == nil || x.synced) { // else that is history
		x.hook(func() { f(x.id) })
	}
	x.inList = x.r.finished.PushBack(x)
	switch retention := x.r.opts.Retention; {
	case retention == 0 && x.waiting == 0 && x.expected == 0:
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
		if c.awaited && !c.connected().ending.Load() {
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
	after := r.idle()
	if x.sealed {
		after = r.opts.Retention
	}
	switch left := x.since + after - r.now(); {
	case left > 0:
		x.expiry.Reset(left)
	case len(x.clients) == 0 && x.expected == 0:
		x.forget()
	case !x.sealed:
		x.expiry.Reset(after)
	} // else with the last client
}

// forgetUnneeded forgets x if nobody needs it, and it has no events or has been
// finished for long enough. r.mu and x.mu are held.
func (x *execution) forgetUnneeded() {
	if len(x.clients) > 0 || x.expected > 0 {
		return
	}
	if x.sealed && x.r.now()-x.since >= x.r.opts.Retention || !x.sealed && x.log.last == 0 {
		x.forget()
	}
}

// idle is how long an execution without viewers and publishes is kept.
func (r *Registry) idle() time.Duration {
	if r.opts.Backplane != nil {
		return followLinger
	}
	return r.opts.Idle
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
	if x.log.last != 0 {
		x.r.forgotten = x.r.lastID
	}
	x.r.bytes.Add(-int64(x.log.bytes))
	x.log.bytes = 0
	x.setDown(nil)
	if x.stop != nil {
		x.stop()
	}
	if x.news != nil {
		x.tell()
	}
	if !x.sealed { // by another node later, maybe: nobody here waits for it
		close(x.drained)
	}
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
	if s := x.made(slot, pos); s != nil {
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
		if len(x.backlog) > 0 && x.made(slot, b.to) != nil {
			end++ // from here on it is made already
			break
		}
	}
	b.seq = int64(l.lost) + int64(end)
	b.tail = end == l.n && !x.sealed
	if b.events > 1 {
		b.p = make([]byte, 0, size)
		for ; i < end; i++ {
			b.p = append(b.p, l.at(i).frame(slot)...)
		}
		b.killed = l.killed
		s := new(batch)
		*s = b
		if end == l.n {
			x.newest[slot] = weak.Make(s)
		} else {
			x.keep(place{slot, pos}, weak.Make(s))
		}
		b.shared = s
	}
	return b
}

// made returns the batch of several events that follows a position, if some
// client has use for it still.
func (x *execution) made(slot int, pos uint64) *batch {
	s := x.newest[slot].Value()
	if s == nil || s.from != pos || s.tail && s.to != x.log.last {
		s = x.backlog[place{slot, pos}].Value()
	}
	if s == nil || s.killed != x.log.killed { // not what late clients are to see
		return nil
	}
	return s
}

// keep has clients that come late, one behind the other, share a batch.
func (x *execution) keep(at place, s weak.Pointer[batch]) {
	const most = 256 // places; twice what a log of the default size has
	if len(x.backlog) >= most {
		maps.DeleteFunc(x.backlog, func(_ place, s weak.Pointer[batch]) bool { return s.Value() == nil })
	}
	switch {
	case x.backlog == nil:
		x.backlog = map[place]weak.Pointer[batch]{}
	case len(x.backlog) >= most:
		return
	}
	x.backlog[at] = s
}

// frame returns a live record's frame, encoding it if no client had that
// encoding when the event was published.
func (x *execution) frame(rec *record, slot int) []byte {
	if p := rec.frame(slot); p != nil {
		return p
	}
	more := *rec
	e := rec.event()
	enc := x.encoder(slot)
	more.buf = append(make([]byte, 0, len(rec.buf)+frameRoom(enc, &e)), rec.buf...)
	more.encode(enc, slot, e)
	if x.forgotten {
		*rec = more
	} else {
		x.change(func() { x.log.replace(rec, more) })
	}
	return more.frame(slot)
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
