package core

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Event is one thing that happened in an execution.
type Event struct {
	// ID is assigned by Publish, which refuses an event that has one. IDs rise
	// over all executions of a registry, are not contiguous, and stay below
	// 2^53, so that JavaScript can hold them as numbers.
	ID uint64
	// ExecutionID is for encoders: it names the execution in streams of
	// several, and is empty in streams of one, as it must be for Publish.
	ExecutionID string
	// Type is the SSE "event" field: one line, at most 256 bytes. "" reads as
	// "message". The types of the in-band signals below are refused, and so
	// are open and error, which EventSource uses for itself.
	Type string
	// Data is UTF-8, usually JSON. Line breaks of any kind arrive as LF.
	Data []byte
	// Key, if not empty, makes this event supersede the earlier one of the
	// execution with the same key: clients that have not been sent that one
	// yet may never be. At most 256 bytes; it is not sent.
	Key string
	// Traceparent is the trace the event belongs to, as W3C Trace Context
	// writes it: "00-", trace ID, "-", span ID, "-", flags, in lower-case
	// hexadecimal. "" is none, and leaves it to Options.Traceparent.
	Traceparent string
	// After, if not nil, is a fence: Publish appends the event only if this is
	// the ID of the execution's last one, 0 meaning that there is none, and
	// returns ErrConflict otherwise. With it a second orchestrator of the same
	// execution, or a retry of what has been stored already, does no harm.
	After *uint64
}

// Types of the events a registry itself sends in-band, without an ID.
const (
	// TypeGap says that events are missing here. Its data is an object:
	// "from", the last ID the viewer has (absent if it has none); "to", the
	// last ID that is gone; "count", how many events that is, where known.
	TypeGap = "stream-gap"
	// TypeEnd is the last event of a finished execution. Its data is {}. In a
	// stream of several executions, one more that names none of them is the
	// stream's last event.
	TypeEnd = "stream-end"
	// TypeHeartbeat is sent with each heartbeat if Options.HeartbeatEvents is
	// set. Its data is {}.
	TypeHeartbeat = "stream-heartbeat"
)

const maxNameBytes = 256 // execution IDs, event types and keys

var emptyObject = []byte("{}")

// checkExecutionID returns an error that wraps ErrExecutionID and says what is
// wrong with id, if anything is.
func checkExecutionID(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("%w: empty", ErrExecutionID)
	case len(id) > maxNameBytes:
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrExecutionID, len(id), maxNameBytes)
	case !utf8.ValidString(id):
		return fmt.Errorf("%w: %q is not UTF-8", ErrExecutionID, id)
	case strings.ContainsFunc(id, unicode.IsControl):
		return fmt.Errorf("%w: %q has control characters", ErrExecutionID, id)
	}
	return nil
}

// check returns an error for an event that must not be published.
func (e *Event) check(maxBytes int) error {
	if e.ID != 0 {
		return fmt.Errorf("%w: %d", ErrEventID, e.ID)
	}
	if e.ExecutionID != "" {
		return fmt.Errorf("%w: execution %q", ErrEventID, e.ExecutionID)
	}
	if err := checkType(e.Type); err != nil {
		return err
	}
	if len(e.Key) > maxNameBytes {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrEventKey, len(e.Key), maxNameBytes)
	}
	if !utf8.ValidString(e.Key) {
		return fmt.Errorf("%w: %q is not UTF-8", ErrEventKey, e.Key)
	}
	if len(e.Data) > maxBytes {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrEventTooLarge, len(e.Data), maxBytes)
	}
	if !utf8.Valid(e.Data) {
		return ErrEventData
	}
	if e.Traceparent != "" && !isTraceparent(e.Traceparent) {
		return fmt.Errorf("%w: %.100q", ErrTraceparent, e.Traceparent)
	}
	return nil
}

func checkType(t string) error {
	switch t {
	case "":
		return nil
	case TypeGap, TypeEnd, TypeHeartbeat, "open", "error":
		return fmt.Errorf("%w: %q", ErrReservedType, t)
	}
	switch {
	case len(t) > maxNameBytes:
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrEventType, len(t), maxNameBytes)
	case !utf8.ValidString(t):
		return fmt.Errorf("%w: %q is not UTF-8", ErrEventType, t)
	case strings.ContainsFunc(t, unicode.IsControl):
		return fmt.Errorf("%w: %q has control characters", ErrEventType, t)
	case t[0] == ' ' || t[len(t)-1] == ' ':
		return fmt.Errorf("%w: %q begins or ends with a space", ErrEventType, t)
	}
	return nil
}

// appendLF appends data with every CR and CRLF turned into LF: SSE cannot
// carry a CR, and viewers on different transports shall see the same event.
func appendLF(dst, data []byte) []byte {
	for {
		i := bytes.IndexByte(data, '\r')
		if i < 0 {
			return append(dst, data...)
		}
		dst = append(append(dst, data[:i]...), '\n')
		data = data[i+1:]
		if len(data) > 0 && data[0] == '\n' {
			data = data[1:]
		}
	}
}
