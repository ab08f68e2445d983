package jetstream

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
)

const (
	// watchInterval is how often a node looks whether it has the last messages.
	watchInterval = time.Second
	// downInterval is how often it looks for a stream that was out of reach.
	downInterval = 100 * time.Millisecond
	// headBatch is how many last messages it asks for at once: a server allows
	// 1,024.
	headBatch = 512
)

// watch sees whether the stream can be reached and what has got lost on the way
// from there, until Close.
func (b *Backplane) watch() {
	changes := b.nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	defer b.nc.RemoveStatusListener(changes)
	timer := time.NewTimer(watchInterval)
	defer timer.Stop()
	failed, kicked := 0, false
	var end uint64 // up to here every topic has all there is
	for {
		select {
		case <-timer.C:
		case <-b.kick:
			if !kicked { // soon: whoever kicks would again at once
				kicked = true
				timer.Reset(downInterval / 2)
			}
			continue
		case <-changes:
			end = 0 // what was republished meanwhile is lost
		case <-b.ctx.Done():
			return
		}
		kicked = false
		s, err := b.look()
		if err != nil {
			if failed++; failed > 1 {
				b.setDown(err)
			}
			b.unpark(func(t *topic) bool { return t.isStopped() })
			timer.Reset(downInterval)
			continue
		}
		failed = 0
		info := s.CachedInfo()
		up := b.isDown() != nil
		if base := uint64(info.Created.UnixMicro()); base != b.base.Swap(base) {
			b.opts.Logger.Warn("execcast: the stream is another one than before", "stream", info.Config.Name, "created", info.Created)
			b.forgetWriters()
			for _, t := range b.all() {
				t.mu.Lock()
				t.asks = true
				t.mu.Unlock()
				t.poke()
			}
			end = 0
		}
		b.setDown(nil)
		b.unpark(func(*topic) bool { return true })
		if (info.State.LastSeq != end || up) && unguarded != "heads" && b.heads(info.State.LastSeq, up) {
			end = info.State.LastSeq
		}
		b.purgeDue(s)
		timer.Reset(watchInterval)
	}
}

// look asks the leader for the stream.
func (b *Backplane) look() (js.Stream, error) {
	if err := b.connected(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(b.ctx, attemptTime)
	defer cancel()
	return b.js.Stream(ctx, b.opts.Stream)
}

// wake has watch look now.
func (b *Backplane) wake() {
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

func (b *Backplane) isDown() error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.down
}

// setDown notes why the stream cannot be reached, nil if it can, and tells the
// topics of the former; of the latter they hear when they have what they missed.
func (b *Backplane) setDown(err error) {
	if err != nil {
		err = unreachable(err)
	}
	b.mu.Lock()
	was := b.down
	b.down = err
	b.mu.Unlock()
	if err == nil || was != nil {
		return
	}
	for _, t := range b.all() {
		t.tell(err)
	}
}

// tell has the topic's follower hear whether the stream can be reached.
func (t *topic) tell(err error) {
	t.mu.Lock()
	t.report = &notification{err}
	t.mu.Unlock()
	t.poke()
}

func (t *topic) isStopped() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stopped
}

// unpark gives topics that wait for the stream to the fetchers.
func (b *Backplane) unpark(which func(*topic) bool) {
	b.mu.Lock()
	var still, ready []*topic
	for _, t := range b.parked {
		if which(t) {
			ready = append(ready, t)
		} else {
			still = append(still, t)
		}
	}
	b.parked = still
	b.mu.Unlock()
	b.fetches.push(ready...)
}

func (b *Backplane) all() []*topic {
	b.mu.RLock()
	defer b.mu.RUnlock()
	all := make([]*topic, 0, len(b.topics))
	for _, t := range b.topics {
		for ; t != nil; t = t.next {
			all = append(all, t)
		}
	}
	return all
}

// heads looks whether the topics have all messages up to the stream's sequence
// end, gives them the last ones if not, and reports whether it was told of all.
func (b *Backplane) heads(end uint64, up bool) bool {
	var subjects []string
	topics := map[string][]*topic{}
	from := end
	all := true
	check := func() {
		if len(subjects) > 0 && !b.checkHeads(subjects, topics, from, end, up) {
			all = false
		}
		subjects, from = subjects[:0], end
		clear(topics)
	}
	for _, t := range b.all() {
		t.mu.Lock()
		skip := t.stopped || !t.synced || t.asks
		t.mu.Unlock()
		if skip {
			continue // it asks by itself
		}
		t.verified = max(t.verified, t.seq.Load())
		subject := b.events + t.token
		if topics[subject] == nil {
			subjects = append(subjects, subject)
		}
		topics[subject] = append(topics[subject], t)
		from = min(from, t.verified)
		if len(subjects) == headBatch {
			check()
		}
	}
	check()
	return all
}

func (b *Backplane) checkHeads(subjects []string, topics map[string][]*topic, from, end uint64, up bool) bool {
	var lasts []*nats.Msg
	var upTo uint64
	for try := 0; ; try++ { // a replica may be somewhat behind
		var err error
		lasts, upTo, err = b.lasts(b.ctx, subjects, from+1)
		if err == nil && upTo >= end || try == 3 || !b.pause(b.ctx, try+2) || b.ctx.Err() != nil {
			break
		}
	}
	for _, m := range lasts {
		seq, err := sequence(m)
		for _, t := range topics[m.Header.Get(headerSubject)] {
			if err == nil && seq > t.seq.Load() {
				t.arrive(m)
			}
		}
	}
	for _, ts := range topics {
		for _, t := range ts {
			if upTo >= end {
				t.verified = max(t.verified, upTo)
			}
			if up {
				t.tell(nil)
			}
		}
	}
	return upTo >= end
}

// purge is what is to be deleted from the stream.
type purge struct {
	due     time.Time
	subject string
	seq     uint64 // and all before
}

// purgeLater has an execution that has ended deleted after Options.Retention.
func (b *Backplane) purgeLater(subject string, seq uint64) {
	if b.opts.Retention < 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.purges = append(b.purges, purge{time.Now().Add(b.opts.Retention), subject, seq})
}

// purgeDue deletes what is due, for a while: watch has more to do.
func (b *Backplane) purgeDue(s js.Stream) {
	ctx, cancel := context.WithTimeout(b.ctx, attemptTime)
	defer cancel()
	for {
		b.mu.Lock()
		if len(b.purges) == 0 || time.Now().Before(b.purges[0].due) {
			b.mu.Unlock()
			return
		}
		p := b.purges[0]
		b.mu.Unlock()
		// What a new life of the execution has stored stays.
		err := s.Purge(ctx, js.WithPurgeSubject(p.subject), js.WithPurgeSequence(p.seq+1))
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				b.opts.Logger.Debug("execcast: purging a finished execution failed, and is tried again", "error", err.Error())
			}
			return
		}
		b.mu.Lock()
		b.purges = b.purges[1:]
		b.mu.Unlock()
	}
}
