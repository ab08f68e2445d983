package jetstream

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strconv"

	"github.com/execcast/execcast/core"
	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
)

// The headers of a stored message, beside those that the server defines. The
// sequence of the execution's message before is among these: it is what the
// append expected.
const (
	headerKind  = "Execcast-Kind" // absent for an event
	headerType  = "Execcast-Type" // like the key percent-encoded: a header holds no line breaks, nor outer spaces
	headerKey   = "Execcast-Key"
	headerTrace = "traceparent" // as W3C Trace Context names it: the server knows it, too
)

var kinds = map[core.Kind]string{core.Published: "", core.Finished: "finished", core.Forgotten: "forgotten"}

// token is an execution's ID as a part of a subject: an ID may hold dots, spaces
// and wildcards.
func token(executionID string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(executionID))
}

// stored is a message of the stream.
type stored struct {
	seq   uint64
	prev  uint64 // sequence of the execution's message before, 0 if there was none
	msgID string
	kind  core.Kind
	event core.Event
}

// encode makes the message that stores m behind the one with the sequence prev.
func encode(subject, msgID string, prev uint64, m *core.Message) *nats.Msg {
	h := nats.Header{}
	h.Set(js.MsgIDHeader, msgID)
	h.Set(js.ExpectedLastSubjSeqHeader, strconv.FormatUint(prev, 10))
	if m.Kind != core.Published {
		h.Set(headerKind, kinds[m.Kind])
	}
	if m.Kind == core.Forgotten {
		h.Set(js.MsgRollup, js.MsgRollupSubject)
	}
	if m.Event.Type != "" {
		h.Set(headerType, url.QueryEscape(m.Event.Type))
	}
	if m.Event.Key != "" {
		h.Set(headerKey, url.QueryEscape(m.Event.Key))
	}
	if m.Event.Traceparent != "" {
		h.Set(headerTrace, m.Event.Traceparent)
	}
	return &nats.Msg{Subject: subject, Header: h, Data: m.Event.Data}
}

// decode reads what the server has republished, or answered to a direct get.
func decode(m *nats.Msg) (stored, error) {
	seq, err := strconv.ParseUint(m.Header.Get(js.SequenceHeader), 10, 64)
	if err != nil {
		return stored{}, fmt.Errorf("execcast: message without sequence: %w", err)
	}
	return decodeAt(seq, m.Header, m.Data)
}

func decodeAt(seq uint64, h nats.Header, data []byte) (s stored, err error) {
	s = stored{seq: seq, msgID: h.Get(js.MsgIDHeader)}
	if s.prev, err = strconv.ParseUint(h.Get(js.ExpectedLastSubjSeqHeader), 10, 64); err != nil {
		return s, fmt.Errorf("execcast: message %d is not from a backplane: %w", seq, err)
	}
	for k, name := range kinds {
		if name == h.Get(headerKind) {
			s.kind = k
		}
	}
	s.event.Data, s.event.Traceparent = data, h.Get(headerTrace)
	if s.event.Type, err = url.QueryUnescape(h.Get(headerType)); err != nil {
		return s, fmt.Errorf("execcast: message %d: %w", seq, err)
	}
	if s.event.Key, err = url.QueryUnescape(h.Get(headerKey)); err != nil {
		return s, fmt.Errorf("execcast: message %d: %w", seq, err)
	}
	return s, nil
}

// message is s as the stream of that base tells it.
func (s *stored) message(base uint64) core.Message {
	m := core.Message{ID: base + s.seq, Kind: s.kind, Event: s.event}
	if s.prev > 0 {
		m.Prev = base + s.prev
	}
	return m
}
