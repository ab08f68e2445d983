package jetstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/execcast/execcast/core"
	js "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

const (
	// attemptTime is how long one try to store or read waits for its answer.
	attemptTime = time.Second
	// maxPause bounds the time between two tries, and with that how long after
	// an election an append is stored.
	maxPause = 250 * time.Millisecond
	// staleTime is how long a leader that has been paused may not know of its
	// successor.
	staleTime = 1500 * time.Millisecond
	// maxWriters bounds the executions whose last message is remembered.
	maxWriters = 16384
)

// writer appends to an execution, one message after the other.
type writer struct {
	users int           // who append or wait for it; Backplane.mu
	turn  chan struct{} // holds a value while somebody appends

	// Of whoever appends:
	known bool // last is what this node believes to be the last message
	last  stored
}

// Append implements core.Backplane.
func (b *Backplane) Append(ctx context.Context, executionID string, m core.Message) (uint64, error) {
	w := b.writer(executionID)
	defer b.release(executionID, w)
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-ctx.Done():
		return 0, unavailable(ctx, nil)
	}
	a := appending{b: b, w: w, m: &m, subject: b.events + token(executionID), msgID: nuid.Next(), start: time.Now()}
	seq, err := a.run(ctx)
	if err != nil || seq == 0 {
		return 0, err
	}
	if m.Kind != core.Published {
		b.purgeLater(a.subject, seq)
	}
	return b.base.Load() + seq, nil
}

// appending is one Append.
type appending struct {
	b       *Backplane
	w       *writer
	m       *core.Message
	subject string
	msgID   string
	start   time.Time
	// A try that has expected the sequence before was not answered: it may have
	// been stored, or may still be.
	unanswered bool
	before     uint64
}

// run returns the sequence of the stored message, 0 if there was nothing to
// store.
func (a *appending) run(ctx context.Context) (uint64, error) {
	var last error
	for try := 0; ; try++ {
		if try > 0 && !a.b.pause(ctx, try-1) {
			return 0, unavailable(ctx, last)
		}
		if last = a.b.connected(); last != nil {
			if errors.Is(last, core.ErrShutdown) {
				return 0, last
			}
			continue
		}
		fresh := !a.w.known
		if fresh {
			var seq uint64
			if seq, last = a.look(ctx); last != nil {
				continue
			} else if seq != 0 {
				return seq, nil
			}
		}
		store, err := a.decide()
		switch {
		case !fresh && (!store || err != nil):
			a.w.known = false // ask before saying so
			try = -1
			continue
		case errors.Is(err, errStale):
			a.w.known = false
			last = err
			continue
		case err == errEnded:
			return a.w.last.seq, nil
		case !store || err != nil:
			return 0, err
		}
		var seq uint64
		if seq, last = a.store(ctx); last == nil {
			return seq, nil
		}
		if permanent(last) {
			return 0, fmt.Errorf("execcast: the stream refuses the message: %w", last)
		}
	}
}

// look asks the leader for the execution's last message. It returns a sequence
// if that, or one after an unanswered try, is the message to be stored.
func (a *appending) look(ctx context.Context) (uint64, error) {
	last, err := a.b.last(ctx, a.subject)
	if err != nil {
		return 0, err
	}
	if a.unanswered {
		for s := (stored{seq: a.before}); s.seq < last.seq; {
			if s, err = a.b.next(ctx, a.subject, s.seq+1); err != nil {
				return 0, err
			}
			if s.seq == 0 {
				break
			}
			if s.msgID == a.msgID {
				return s.seq, nil
			}
		}
		// Behind another message it can no longer be stored.
		a.unanswered = last.seq == a.before
	}
	a.w.last, a.w.known = last, true
	return 0, nil
}

// errStale: the leader's answer seems to be from the past, which one that has
// been paused may give until it hears of its successor.
var errStale = errors.New("the execution's last message is older than expected")

// errEnded: the message is stored, by somebody else.
var errEnded = errors.New("already finished")

// decide reports whether the message may be stored behind the last one, and
// whether it needs to be.
func (a *appending) decide() (store bool, err error) {
	last, m := &a.w.last, a.m
	empty := last.seq == 0 || last.kind == core.Forgotten
	switch {
	case m.Kind == core.Forgotten:
		return !empty, nil
	case !empty && last.kind == core.Finished:
		if m.Kind == core.Finished {
			return false, errEnded
		}
		return false, core.ErrFinished
	case m.Kind == core.Finished:
		return !empty, nil
	case m.After != nil:
		var id uint64
		if !empty {
			id = a.b.base.Load() + last.seq
		}
		if *m.After > a.b.base.Load()+last.seq && time.Since(a.start) < staleTime {
			return false, errStale
		}
		if *m.After != id {
			return false, fmt.Errorf("%w: that is %d, not %d", core.ErrConflict, id, *m.After)
		}
	}
	return true, nil
}

// store tries to store the message behind the last one.
func (a *appending) store(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	expected := a.w.last.seq
	ack, err := a.b.js.PublishMsg(ctx, encode(a.subject, a.msgID, expected, a.m), js.WithRetryAttempts(0))
	if err == nil {
		a.remember(ack.Sequence)
		return ack.Sequence, nil
	}
	var api *js.APIError
	switch {
	case errors.As(err, &api):
		switch api.ErrorCode {
		case js.JSErrCodeStreamWrongLastSequence, js.JSErrCodeStreamWrongLastSequenceConstant:
			a.w.known = false
			return 0, errBehind
		case codeDuplicate:
			a.unanswered, a.before = true, expected
		}
	case !errors.Is(err, js.ErrNoStreamResponse):
		// With the same expectation the next try is stored only if this one
		// was not.
		a.unanswered, a.before = true, expected
	}
	return 0, err
}

// errBehind: another message was stored meanwhile, or is being stored.
var errBehind = errors.New("not the execution's last message")

// remember keeps what is now the execution's last message.
func (a *appending) remember(seq uint64) {
	a.w.last = stored{seq: seq, kind: a.m.Kind}
	a.w.known = a.m.Kind == core.Published // others change by purging, too
}

// pause waits before a try after so many and reports whether there is to be one.
func (b *Backplane) pause(ctx context.Context, tries int) bool {
	d := min(maxPause, 4*time.Millisecond<<min(tries, 10))
	t := time.NewTimer(d/2 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
	case <-b.ctx.Done():
		return true // for connected to say why
	}
	return false
}

func (b *Backplane) writer(executionID string) *writer {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.writers[executionID]
	if w == nil {
		for id, old := range b.writers { // any that nobody uses
			if len(b.writers) < maxWriters {
				break
			}
			if old.users == 0 {
				delete(b.writers, id)
			}
		}
		w = &writer{turn: make(chan struct{}, 1)}
		b.writers[executionID] = w
	}
	w.users++
	return w
}

func (b *Backplane) release(executionID string, w *writer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.users--; w.users == 0 && !w.known {
		delete(b.writers, executionID)
	}
}

// forgetWriters has the last message of every execution asked for again.
func (b *Backplane) forgetWriters() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, w := range b.writers {
		if w.users == 0 {
			delete(b.writers, id)
		}
	}
}
