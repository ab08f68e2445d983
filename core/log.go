package core

import (
	"bytes"
	"unsafe"
)

// maxEncodings bounds the encoders of a registry, so that a record holds its
// frames without an allocation of its own.
const maxEncodings = 4

// record is one event in a log, with its frame in each encoding that has been
// asked for. It is small, and has one pointer, because a log is mostly records
// and each publish fills one anew.
type record struct {
	id uint64
	// buf holds the type, the key, the traceparent, the data, and frames. Its
	// bytes are never changed, since they are read without a lock by whoever
	// is writing them to a client; a further frame comes with a new buf.
	buf      []byte
	data     span
	frames   [maxEncodings]span // empty: not made yet
	typ, key uint16             // lengths: the type begins buf, the key and
	trace    uint8              // the traceparent follow
	dead     bool               // superseded: id is all that is left of it
}

// span is a part of a record's buf.
type span struct{ at, n uint32 }

// maxData bounds an event's data whatever the options say, so that a span can
// hold the frames made of it.
const maxData = 64 << 20

const recordOverhead = int(unsafe.Sizeof(record{}))

// newRecord makes the record of an event, with a frame in each of these
// encodings, nil for none, in one allocation as a rule.
func newRecord(id uint64, e Event, encoders [maxEncodings]Encoder) record {
	e.ID = id
	names := len(e.Type) + len(e.Key) + len(e.Traceparent)
	room := names
	for _, enc := range encoders {
		if enc != nil {
			room += frameRoom(enc, &e)
		}
	}
	breaks := bytes.IndexByte(e.Data, '\r') >= 0
	if breaks || room == names {
		room += len(e.Data)
	}
	r := record{id: id, typ: uint16(len(e.Type)), key: uint16(len(e.Key)), trace: uint8(len(e.Traceparent))}
	r.buf = append(append(append(make([]byte, 0, room), e.Type...), e.Key...), e.Traceparent...)
	if breaks {
		r.buf = appendLF(r.buf, e.Data)
		r.data = r.since(names)
		e.Data = r.bytes(r.data)
	}
	for slot, enc := range encoders {
		if enc != nil {
			r.encode(enc, slot, e)
		}
	}
	if !breaks {
		r.keepData(e.Data)
	}
	return r
}

// frameRoom returns how long a frame of e is, about, at most.
func frameRoom(enc Encoder, e *Event) int {
	n := len(e.Data) + len(e.Type) + 64
	if enc, ok := enc.(*naming); ok {
		n += len(enc.execution) + len(`{"execution":"","data":}`)
	}
	if e.Traceparent != "" {
		n += len(e.Traceparent) + len(`"traceparent":"",`)
	}
	return n
}

// keepData finds the data in a frame, where an encoding has left it as it is,
// or else appends it.
func (r *record) keepData(data []byte) {
	for _, f := range r.frames {
		if i := bytes.Index(r.bytes(f), data); i >= 0 {
			r.data = span{f.at + uint32(i), uint32(len(data))}
			return
		}
	}
	at := len(r.buf)
	r.buf = append(r.buf, data...)
	r.data = r.since(at)
}

// encode appends the frame of e, which is the record's event.
func (r *record) encode(enc Encoder, slot int, e Event) {
	at := len(r.buf)
	r.buf = enc.AppendEvent(r.buf, e)
	r.frames[slot] = r.since(at)
}

// since returns what has been appended to buf behind at.
func (r *record) since(at int) span { return span{uint32(at), uint32(len(r.buf) - at)} }

func (r *record) bytes(s span) []byte {
	return r.buf[s.at : s.at+s.n : s.at+s.n]
}

// string returns n bytes of buf from at as a string.
func (r *record) string(at, n int) string {
	return unsafe.String(unsafe.SliceData(r.buf[at:]), n)
}

func (r *record) keyString() string { return r.string(int(r.typ), int(r.key)) }

// event returns the event as it was published. It shares the record's bytes.
func (r *record) event() Event {
	return Event{
		ID: r.id, Type: r.string(0, int(r.typ)), Data: r.bytes(r.data), Key: r.keyString(),
		Traceparent: r.string(int(r.typ)+int(r.key), int(r.trace)),
	}
}

// frame returns r's frame in an encoding, nil if there is none.
func (r *record) frame(slot int) []byte {
	if r.frames[slot].n == 0 {
		return nil
	}
	return r.bytes(r.frames[slot])
}

// size returns the bytes accounted for r.
func (r *record) size() int { return recordOverhead + cap(r.buf) }

// log is the bounded, append-only history of one execution and, at the same
// time, every client's queue: a position in it is the ID of the last event a
// client has. It is a ring of records ordered by ID. All methods want the
// execution's lock.
type log struct {
	ring   []record // a power of two long, or nil
	head   int      // index of the oldest record
	n      int      // records in the ring, dead ones included
	dead   int
	bytes  int
	floor  uint64 // the highest ID that a bound evicted, at first Registry.forgotten
	last   uint64 // ID of the newest event, 0 if there was none
	lost   uint64 // events evicted by a bound
	killed uint64 // events superseded so far: if any, positions no longer count events
	unsure bool   // events are gone that were never counted
	keys   map[string]uint64
	keyMax int // most keys at once since keys was made

	maxEvents, maxBytes int
}

func (l *log) at(i int) *record { return &l.ring[(l.head+i)&(len(l.ring)-1)] }

// after returns the index of the first record with an ID above pos.
func (l *log) after(pos uint64) int {
	if pos >= l.last {
		return l.n
	}
	if l.n > 1 && pos >= l.at(l.n-2).id {
		return l.n - 1
	}
	lo, hi := 0, l.n
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if l.at(mid).id > pos {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// append adds a record, supersedes the one with its key and evicts what the
// bounds no longer allow, though never the new one.
func (l *log) append(r record) {
	key := r.keyString()
	if old, ok := l.keys[key]; ok {
		l.kill(l.at(l.after(old - 1)))
	}
	for l.n-l.dead >= l.maxEvents && l.evict(0) {
	}
	if l.n == len(l.ring) {
		l.grow()
	}
	if key != "" {
		l.setKey(key, r.id)
	}
	*l.at(l.n) = r
	l.n++
	l.last = r.id
	l.bytes += r.size()
	for l.bytes > l.maxBytes && l.evict(1) {
	}
	l.trim()
}

func (l *log) setKey(key string, id uint64) {
	if l.keys == nil {
		l.keys = map[string]uint64{}
	}
	delete(l.keys, key) // the old key's bytes are its record's
	l.keys[key] = id
	l.keyMax = max(l.keyMax, len(l.keys))
}

// replace puts a live record in the place of r, with the same event.
func (l *log) replace(r *record, more record) {
	l.bytes += more.size() - r.size()
	if more.key > 0 {
		l.setKey(more.keyString(), r.id)
	}
	*r = more
}

// skip moves the log's floor to an ID above all its records, which go. lost
// says that events were there that it has never seen.
func (l *log) skip(to uint64, lost bool) {
	for l.evict(0) {
	}
	l.floor = to
	if lost {
		l.lost++
		l.unsure = true
	}
}

// evict drops the oldest live record if there are more than so many.
func (l *log) evict(keep int) bool {
	l.trim()
	if l.n-l.dead <= keep {
		return false
	}
	r := l.at(0)
	if r.key > 0 {
		delete(l.keys, r.keyString())
		l.shrinkKeys()
	}
	l.floor = r.id
	l.lost++
	l.bytes -= r.size()
	l.pop()
	l.trim()
	return true
}

// trim drops dead records from the log's old end.
func (l *log) trim() {
	for l.n > 0 && l.at(0).dead {
		l.dead--
		l.pop()
	}
}

func (l *log) pop() {
	*l.at(0) = record{}
	l.head = (l.head + 1) & (len(l.ring) - 1)
	l.n--
}

// kill marks r as superseded and releases what it holds.
func (l *log) kill(r *record) {
	l.bytes -= r.size()
	*r = record{id: r.id, dead: true}
	l.dead++
	l.killed++
}

// grow makes room for one more record: by dropping dead ones if there are many,
// else by doubling the ring.
func (l *log) grow() {
	if l.dead > 0 && l.dead >= l.n/4 {
		live := 0
		for i := range l.n {
			if r := l.at(i); !r.dead {
				if live != i {
					*l.at(live) = *r
				}
				live++
			}
		}
		for i := live; i < l.n; i++ {
			*l.at(i) = record{}
		}
		l.n, l.dead = live, 0
		return
	}
	ring := make([]record, max(4, 2*len(l.ring)))
	for i := range l.n {
		ring[i] = *l.at(i)
	}
	l.ring, l.head = ring, 0
}

// shrinkKeys makes the map anew when most of its keys have gone: a Go map
// never gives memory back.
func (l *log) shrinkKeys() {
	if l.keyMax < 1024 || len(l.keys) > l.keyMax/4 {
		return
	}
	keys := make(map[string]uint64, len(l.keys))
	for k, id := range l.keys {
		keys[k] = id
	}
	l.keys, l.keyMax = keys, len(keys)
}
