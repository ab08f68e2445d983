package core

import "unsafe"

// maxEncodings bounds the encoders of a registry, so that a record holds its
// frames without an allocation of its own.
const maxEncodings = 4

// record is one event in a log, with its frame in each encoding that has been
// asked for. Frames and data are never changed once set: they are read without
// a lock by whoever is writing them to a client.
type record struct {
	id     uint64
	event  Event // without ID
	size   int   // bytes accounted for it
	frames [maxEncodings][]byte
	dead   bool // superseded: id is all that is left of it
}

const recordOverhead = int(unsafe.Sizeof(record{}))

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
	floor  uint64 // the highest ID that a bound evicted, at first the counter at the log's creation
	last   uint64 // ID of the newest event, 0 if there was none
	lost   uint64 // events evicted by a bound
	killed bool   // an event has been superseded: positions no longer count events
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
	key := r.event.Key
	if old, ok := l.keys[key]; ok {
		l.kill(l.at(l.after(old - 1)))
	}
	for l.n-l.dead >= l.maxEvents && l.evict(0) {
	}
	if l.n == len(l.ring) {
		l.grow()
	}
	if key != "" {
		if l.keys == nil {
			l.keys = map[string]uint64{}
		}
		delete(l.keys, key) // the old key's bytes are its record's
		l.keys[key] = r.id
		l.keyMax = max(l.keyMax, len(l.keys))
	}
	*l.at(l.n) = r
	l.n++
	l.last = r.id
	l.bytes += r.size
	for l.bytes > l.maxBytes && l.evict(1) {
	}
	l.trim()
}

// evict drops the oldest live record if there are more than so many.
func (l *log) evict(keep int) bool {
	l.trim()
	if l.n-l.dead <= keep {
		return false
	}
	r := l.at(0)
	if r.event.Key != "" {
		delete(l.keys, r.event.Key)
		l.shrinkKeys()
	}
	l.floor = r.id
	l.lost++
	l.bytes -= r.size
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
	l.bytes -= r.size
	*r = record{id: r.id, dead: true}
	l.dead++
	l.killed = true
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
