package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
)

const (
	pageMessages = 256
	pageBytes    = 1 << 20
	endStatus    = "204" // of the message that ends the answer to a batched direct get
)

// get is a request for messages, to the leader or, direct, to any replica.
type get struct {
	Seq       uint64   `json:"seq,omitempty"`
	NextFor   string   `json:"next_by_subj,omitempty"`
	LastFor   string   `json:"last_by_subj,omitempty"`
	MultiLast []string `json:"multi_last,omitempty"`
	Batch     int      `json:"batch,omitempty"`
	MaxBytes  int      `json:"max_bytes,omitempty"`
}

// last returns the last message of a subject, as the leader has it: its sequence
// is 0 if there is none.
func (b *Backplane) last(ctx context.Context, subject string) (stored, error) {
	return b.ask(ctx, get{LastFor: subject})
}

// next returns the first message of a subject with that sequence or a higher
// one, as the leader has it: its sequence is 0 if there is none.
func (b *Backplane) next(ctx context.Context, subject string, seq uint64) (stored, error) {
	return b.ask(ctx, get{NextFor: subject, Seq: seq})
}

func (b *Backplane) ask(ctx context.Context, g get) (stored, error) {
	req, err := json.Marshal(g)
	if err != nil {
		return stored{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	m, err := b.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+b.opts.Stream, req)
	if err != nil {
		return stored{}, err
	}
	var answer struct {
		Error   *js.APIError `json:"error"`
		Message *struct {
			Seq  uint64 `json:"seq"`
			Hdrs []byte `json:"hdrs"`
			Data []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return stored{}, err
	}
	switch {
	case answer.Error != nil && answer.Error.ErrorCode == js.JSErrCodeMessageNotFound:
		return stored{}, nil
	case answer.Error != nil:
		return stored{}, answer.Error
	case answer.Message == nil:
		return stored{}, errors.New("execcast: empty answer")
	}
	h, err := nats.DecodeHeadersMsg(answer.Message.Hdrs)
	if err != nil {
		return stored{}, err
	}
	return decodeAt(answer.Message.Seq, h, answer.Message.Data)
}

// page returns some of a subject's messages, from a sequence on, as a replica
// has them, and whether this one has more.
func (b *Backplane) page(ctx context.Context, subject string, seq uint64) (page []*nats.Msg, more bool, err error) {
	page, end, err := b.direct(ctx, get{NextFor: subject, Seq: seq, Batch: pageMessages, MaxBytes: pageBytes}, pageMessages)
	return page, end != nil && end.Get(headerPending) != "0", err
}

// lasts returns the last messages of some subjects whose sequence is seq or
// higher, as a replica has them, and up to which sequence that was all, 0 if it
// does not say.
func (b *Backplane) lasts(ctx context.Context, subjects []string, seq uint64) (lasts []*nats.Msg, upTo uint64, err error) {
	for {
		g := get{MultiLast: subjects, Seq: seq, MaxBytes: pageBytes}
		page, end, err := b.direct(ctx, g, len(subjects))
		if err != nil {
			return lasts, 0, err
		}
		lasts = append(lasts, page...)
		if end == nil {
			return lasts, 0, nil
		}
		upTo, err = strconv.ParseUint(end.Get(headerUpTo), 10, 64)
		if err != nil {
			return lasts, 0, fmt.Errorf("execcast: unexpected end of a direct get: %w", err)
		}
		if len(page) == 0 || end.Get(headerPending) == "0" {
			return lasts, upTo, nil
		}
		if seq, err = sequence(page[len(page)-1]); err != nil {
			return lasts, 0, err
		}
		seq++
	}
}

// Headers of a direct get's answer that the client library does not name.
const (
	headerLast    = "Nats-Last-Sequence" // of the message before, in the same answer
	headerPending = "Nats-Num-Pending"
	headerSubject = "Nats-Subject"
	headerUpTo    = "Nats-UpTo-Sequence"
)

func sequence(m *nats.Msg) (uint64, error) {
	return strconv.ParseUint(m.Header.Get(js.SequenceHeader), 10, 64)
}

// direct asks a replica for several messages. It returns those that have come
// without a hole, with an error if there may be more, and the message that
// ended them, nil if there were none to send.
func (b *Backplane) direct(ctx context.Context, g get, most int) (page []*nats.Msg, end nats.Header, err error) {
	req, err := json.Marshal(g)
	if err != nil {
		return nil, nil, err
	}
	reply, answers := b.inbox.expect(most + 1)
	defer b.inbox.forget(reply)
	if err := b.nc.PublishRequest("$JS.API.DIRECT.GET."+b.opts.Stream, reply, req); err != nil {
		return nil, nil, err
	}
	patience := time.NewTimer(attemptTime)
	defer patience.Stop()
	before := "0"
	for {
		select {
		case m := <-answers:
			switch status := m.Header.Get("Status"); status {
			case "":
				if m.Header.Get(headerLast) != before {
					return page, nil, errors.New("execcast: part of a direct get's answer is lost")
				}
				before = m.Header.Get(js.SequenceHeader)
				page = append(page, m)
				patience.Reset(attemptTime)
			case endStatus:
				if m.Header.Get(headerLast) != before {
					return page, nil, errors.New("execcast: the end of a direct get's answer is lost")
				}
				return page, m.Header, nil
			case "404":
				return page, nil, nil
			case "503":
				return page, nil, nats.ErrNoResponders
			default:
				return page, nil, fmt.Errorf("execcast: direct get: %s %s", status, m.Header.Get("Description"))
			}
		case <-patience.C:
			return page, nil, fmt.Errorf("execcast: direct get: %w", nats.ErrTimeout)
		case <-ctx.Done():
			return page, nil, ctx.Err()
		}
	}
}

// inbox receives the answers to requests that have several, through one
// subscription: making one a request would race with the answers where these
// come from another server.
type inbox struct {
	sub    *nats.Subscription
	prefix string

	mu      sync.Mutex
	count   uint64
	waiting map[string]chan *nats.Msg
}

func (i *inbox) open(nc *nats.Conn) (err error) {
	i.prefix = nc.NewRespInbox() + "."
	i.waiting = map[string]chan *nats.Msg{}
	i.sub, err = nc.Subscribe(i.prefix+"*", func(m *nats.Msg) {
		i.mu.Lock()
		c := i.waiting[m.Subject]
		i.mu.Unlock()
		select {
		case c <- m:
		default: // nobody waits any more
		}
	})
	return err
}

func (i *inbox) close() {
	if i.sub != nil {
		_ = i.sub.Unsubscribe() // or the connection has gone
	}
}

// expect returns a subject for answers, at most so many of which wait in the
// channel.
func (i *inbox) expect(most int) (reply string, answers chan *nats.Msg) {
	answers = make(chan *nats.Msg, most)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.count++
	reply = i.prefix + strconv.FormatUint(i.count, 36)
	i.waiting[reply] = answers
	return reply, answers
}

func (i *inbox) forget(reply string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.waiting, reply)
}
