package jetstream

import (
	"context"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// countTime is how long the other nodes have to answer. How many there are
	// is not known: one that was killed needs no noticing.
	countTime = 250 * time.Millisecond
	// maxNodes bounds the answers that are counted.
	maxNodes   = 1024
	headerNode = "Execcast-Node" // who asks, and knows its own count
)

// ClientCount implements core.Backplane. It takes a quarter of a second.
func (b *Backplane) ClientCount(ctx context.Context, executionID string) (int, error) {
	if err := b.connected(); err != nil {
		return 0, unreachable(err)
	}
	reply, answers := b.inbox.expect(maxNodes)
	defer b.inbox.forget(reply)
	question := nats.NewMsg(b.opts.Prefix + ".count")
	question.Reply = reply
	question.Data = []byte(executionID)
	question.Header.Set(headerNode, b.node)
	if err := b.nc.PublishMsg(question); err != nil {
		return 0, unreachable(err)
	}
	timer := time.NewTimer(countTime)
	defer timer.Stop()
	others := 0
	for {
		select {
		case m := <-answers:
			if n, err := strconv.Atoi(string(m.Data)); err == nil && n > 0 {
				others += n
			}
		case <-timer.C:
			return others + b.count(executionID), nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// answerCounts answers what other nodes ask.
func (b *Backplane) answerCounts() error {
	sub, err := b.nc.Subscribe(b.opts.Prefix+".count", func(m *nats.Msg) {
		if n := b.count(string(m.Data)); n > 0 && m.Header.Get(headerNode) != b.node {
			_ = m.Respond(strconv.AppendInt(nil, int64(n), 10)) // whoever asked counts without
		}
	})
	b.counts = sub
	return err
}

// count returns how many clients the execution has on this node.
func (b *Backplane) count(executionID string) int {
	b.mu.RLock()
	var topics []*topic
	for t := b.topics[token(executionID)]; t != nil; t = t.next {
		topics = append(topics, t)
	}
	b.mu.RUnlock()
	n := 0
	for _, t := range topics {
		n += t.f.ClientCount()
	}
	return n
}
