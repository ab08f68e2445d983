package jetstream

import (
	"context"
	"hash/maphash"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/execcast/execcast/core"
	"github.com/nats-io/nats.go"
)

const (
	fetchers   = 32   // topics that are read from the stream at once
	shardQueue = 8192 // republished messages that wait for their turn
	maxPending = 256  // of one topic, while it is being read; the rest is read again
	// laggard is how long a replica is asked again for what the leader has.
	laggard = time.Second
)

// topic is an execution that is followed. One goroutine at a time owns it, which
// calls the follower: that of its shard, or a fetcher.
type topic struct {
	b        *Backplane
	f        core.Follower
	token    string
	next     *topic        // the next one of the same execution; Backplane.mu
	verified uint64        // it has all up to this sequence; watch
	seq      atomic.Uint64 // of the last message delivered; stored by the owner

	// Of the owner:
	sub  *nats.Subscription
	base uint64 // what seq counts from

	mu      sync.Mutex
	owned   bool
	stopped bool
	synced  bool          // the follower once had all there was
	asks    bool          // the leader has to be asked for the last message
	need    uint64        // highest sequence known to exist
	pending []*nats.Msg   // arrived, and not looked at
	report  *notification // to be told when all that is needed has been delivered
}

// notification is what Synced is called with.
type notification struct{ err error }

// Follow implements core.Backplane.
func (b *Backplane) Follow(executionID string, f core.Follower) (stop func()) {
	t := &topic{b: b, f: f, token: token(executionID), owned: true, asks: true}
	b.mu.Lock()
	t.next = b.topics[t.token]
	b.topics[t.token] = t
	b.mu.Unlock()
	b.fetches.push(t)
	return t.stop
}

func (t *topic) stop() {
	b := t.b
	b.mu.Lock()
	first := b.topics[t.token]
	if first == t {
		if t.next == nil {
			delete(b.topics, t.token)
		} else {
			b.topics[t.token] = t.next
		}
	} else {
		for ; first != nil; first = first.next {
			if first.next == t {
				first.next = t.next
				break
			}
		}
	}
	b.mu.Unlock()
	t.mu.Lock()
	t.stopped = true
	t.mu.Unlock()
	t.poke()
}

// startFollowing starts the goroutines that own topics for a while.
func (b *Backplane) startFollowing() {
	b.shards = make([]chan *nats.Msg, runtime.GOMAXPROCS(0))
	for i := range b.shards {
		c := make(chan *nats.Msg, shardQueue)
		b.shards[i] = c
		b.wg.Go(func() {
			for {
				select {
				case m := <-c:
					b.arrive(m)
				case <-b.ctx.Done():
					return
				}
			}
		})
	}
	for range fetchers {
		b.wg.Go(func() {
			for t := b.fetches.pop(); t != nil; t = b.fetches.pop() {
				t.work(true)
			}
		})
	}
}

// arrive hands a republished message to its topics.
func (b *Backplane) arrive(m *nats.Msg) {
	if len(m.Subject) <= len(b.live) {
		return
	}
	b.mu.RLock()
	t := b.topics[m.Subject[len(b.live):]]
	b.mu.RUnlock()
	for t != nil {
		t.arrive(m)
		b.mu.RLock()
		t = t.next
		b.mu.RUnlock()
	}
}

// arrive looks at a message that was republished, or found.
func (t *topic) arrive(m *nats.Msg) {
	t.mu.Lock()
	if len(t.pending) < maxPending {
		t.pending = append(t.pending, m)
	} else if seq, err := sequence(m); err == nil {
		t.need = max(t.need, seq)
	}
	owned := t.owned
	t.owned = true
	t.mu.Unlock()
	if !owned {
		t.work(false)
	}
}

// poke has a fetcher look at what has changed.
func (t *topic) poke() {
	t.mu.Lock()
	owned := t.owned
	t.owned = true
	t.mu.Unlock()
	if !owned {
		t.b.fetches.push(t)
	}
}

// work is what an owner does, until there is nothing to do or it passes the
// topic on to a fetcher, as whoever is not one must not wait.
func (t *topic) work(fetcher bool) {
	b := t.b
	for b.ctx.Err() == nil {
		t.mu.Lock()
		stopped, asks := t.stopped, t.asks
		pending := t.pending
		t.pending = nil
		t.mu.Unlock()
		if stopped {
			if fetcher {
				t.unsubscribe()
			} else {
				b.fetches.push(t)
			}
			return // and nobody owns it any more
		}
		t.deliver(pending)
		if (asks || t.lacks()) && unguarded != "gaps" || t.sub == nil {
			if !fetcher {
				b.fetches.push(t)
				return
			}
			if err := t.catchUp(b.ctx); err != nil {
				t.mu.Lock()
				t.asks = true // and so says when it is back
				t.mu.Unlock()
				t.f.Synced(err)
				b.park(t)
				return
			}
			continue
		}
		t.mu.Lock()
		switch {
		case len(t.pending) > 0 || t.asks || t.stopped:
		case t.report != nil:
			report := t.report
			t.report = nil
			t.mu.Unlock()
			t.f.Synced(report.err)
			continue
		default:
			t.owned = false
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
	}
}

// unguarded names a guard to do without, for tests that have to fail then.
var unguarded string

// lacks reports whether messages are known that were not delivered.
func (t *topic) lacks() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.need > t.seq.Load()
}

// deliver passes messages on that follow the last one, and notes that it needs
// the others.
func (t *topic) deliver(messages []*nats.Msg) {
	var next []core.Message
	seq, need := t.seq.Load(), uint64(0)
	for _, m := range messages {
		s, err := decode(m)
		switch {
		case err != nil:
			t.b.opts.Logger.Warn("execcast: foreign message", "subject", m.Subject, "error", err.Error())
		case t.base != t.b.base.Load(): // of another stream, maybe
			need = max(need, s.seq)
		case s.seq <= seq:
		case s.prev > seq && unguarded != "gaps":
			need = max(need, s.seq)
		default:
			next = append(next, s.message(t.base))
			seq = s.seq
		}
	}
	t.pass(next, seq)
	if need > 0 {
		t.know(need)
	}
}

func (t *topic) pass(next []core.Message, seq uint64) {
	if len(next) > 0 {
		t.f.Deliver(next)
		t.seq.Store(seq)
	}
}

// catchUp subscribes, if that has not been done, and reads from the stream what
// the topic needs.
func (t *topic) catchUp(ctx context.Context) error {
	b := t.b
	subject := b.events + t.token
	if t.sub == nil {
		sub, err := b.nc.ChanSubscribe(b.live+t.token, b.shards[maphash.String(seed, t.token)%uint64(len(b.shards))])
		if err != nil {
			return unreachable(err)
		}
		t.sub = sub
	}
	if err := b.isDown(); err != nil {
		return err
	}
	if base := b.base.Load(); t.base != base {
		t.base = base
		t.seq.Store(0)
		t.mu.Lock()
		t.need, t.asks = 0, true
		t.mu.Unlock()
	}
	t.mu.Lock()
	asks := t.asks
	t.asks = false
	t.mu.Unlock()
	err := t.read(ctx, subject, asks)
	if err == nil && asks {
		t.mu.Lock()
		t.synced = true
		t.mu.Unlock()
		t.f.Synced(nil)
	}
	return err
}

var seed = maphash.MakeSeed()

// read delivers what the stream has, until nothing is lacking: with asks up to
// what the leader says is the last message.
func (t *topic) read(ctx context.Context, subject string, asks bool) error {
	b := t.b
	var unasked error
	if asks {
		last, err := b.last(ctx, subject)
		if err != nil {
			unasked = unreachable(err) // but replicas may answer
		} else {
			t.know(last.seq)
		}
	}
	progress, tries := time.Now(), 0
	for more := unasked != nil; more || t.lacks(); {
		var page []*nats.Msg
		var err error
		page, more, err = b.page(ctx, subject, t.seq.Load()+1)
		t.take(page)
		switch {
		case err != nil && unasked != nil:
			return unasked
		case err != nil:
			return unreachable(err)
		case len(page) > 0:
			progress, tries = time.Now(), 0
		case unasked != nil:
			return unasked
		case time.Since(progress) < laggard:
			b.pause(ctx, tries)
			tries++
		default: // a replica that stays behind, or the messages are no more
			s, err := b.next(ctx, subject, t.seq.Load()+1)
			if err != nil {
				return unreachable(err)
			}
			if s.seq == 0 {
				t.mu.Lock()
				t.need = 0
				t.mu.Unlock()
				return nil
			}
			t.pass([]core.Message{s.message(t.base)}, s.seq)
		}
	}
	return unasked
}

// know notes that a message exists.
func (t *topic) know(seq uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.need = max(t.need, seq)
}

// take delivers what was read from the stream, which leaves nothing out.
func (t *topic) take(page []*nats.Msg) {
	var next []core.Message
	seq := t.seq.Load()
	for _, m := range page {
		if s, err := decode(m); err == nil && s.seq > seq {
			next = append(next, s.message(t.base))
			seq = s.seq
		}
	}
	t.pass(next, seq)
}

func (t *topic) unsubscribe() {
	if t.sub != nil {
		_ = t.sub.Unsubscribe() // or the connection has gone
		t.sub = nil
	}
}

// park keeps a topic, still owned, until the stream may be reached again.
func (b *Backplane) park(t *topic) {
	b.mu.Lock()
	b.parked = append(b.parked, t)
	b.mu.Unlock()
	b.wake()
}

// queue is a queue without bounds of topics for the fetchers: a topic is in it
// once, as it is owned by then.
type queue struct {
	mu     sync.Mutex
	more   sync.Cond
	topics []*topic
	closed bool
}

func (q *queue) init() { q.more.L = &q.mu }

func (q *queue) push(topics ...*topic) {
	q.mu.Lock()
	q.topics = append(q.topics, topics...)
	q.mu.Unlock()
	q.more.Broadcast()
}

// pop waits for a topic. It returns nil once the queue is closed.
func (q *queue) pop() *topic {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.topics) == 0 && !q.closed {
		q.more.Wait()
	}
	if q.closed {
		return nil
	}
	t := q.topics[0]
	q.topics[0] = nil
	q.topics = q.topics[1:]
	return t
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.more.Broadcast()
}
