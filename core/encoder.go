package core

import (
	"encoding/json"
	"strconv"
)

// Encoder turns events into frames: self-delimiting byte sequences that can be
// concatenated. It cannot fail, because Publish has validated the event.
//
// An implementation is a comparable value, and equal values encode alike:
// clients whose encoders are equal share the encoded bytes. There is one
// encoder per encoding, never one per request. Its methods are called
// concurrently, with locks held, and must not call back into the registry.
type Encoder interface {
	// AppendEvent appends e's frame to dst. An ID of zero means that the
	// event has none; so does an empty ExecutionID, which is set only in
	// streams of several executions. It keeps nothing of e.Data.
	AppendEvent(dst []byte, e Event) []byte
	// AppendHeartbeat appends a frame that a viewer ignores.
	AppendHeartbeat(dst []byte) []byte
}

var (
	// SSE encodes events as a text/event-stream (WHATWG HTML, section 9.2).
	// A Traceparent becomes a field of that name, which an EventSource ignores.
	// In streams of several executions (Registry.RegisterAll) each event's data
	// is an object that names the execution,
	//
	//	{"execution":"x","data":{"taskId":"a"}}
	//
	// with the event's data as in JSON, and without "execution" for events of
	// none: TypeHeartbeat, and the TypeEnd of the whole stream.
	SSE Encoder = sseEncoder{}
	// JSON encodes an event as one JSON object,
	//
	//	{"id":"1700000000000001","event":"task-start","data":{"taskId":"a"}}
	//
	// where data that is itself JSON is embedded unchanged and anything else
	// becomes a string. An event with a Traceparent has a member of that name
	// before the data; in streams of several executions "execution", behind the
	// ID, names the event's. The object is not delimited: transports that carry
	// messages, like WebSocket, wrap it in an encoder of their own.
	JSON Encoder = jsonEncoder{}
)

type jsonEncoder struct{}

func (jsonEncoder) AppendEvent(dst []byte, e Event) []byte {
	dst = append(dst, '{')
	if e.ID != 0 {
		dst = append(dst, `"id":"`...)
		dst = strconv.AppendUint(dst, e.ID, 10)
		dst = append(dst, `",`...)
	}
	if e.ExecutionID != "" {
		dst = append(dst, `"execution":`...)
		dst = appendJSONString(dst, e.ExecutionID)
		dst = append(dst, ',')
	}
	dst = append(dst, `"event":`...)
	if e.Type == "" {
		dst = append(dst, `"message"`...)
	} else {
		dst = appendJSONString(dst, e.Type)
	}
	if e.Traceparent != "" {
		dst = append(dst, `,"traceparent":"`...)
		dst = append(dst, e.Traceparent...)
		dst = append(dst, '"')
	}
	dst = append(dst, `,"data":`...)
	if isJSON(e.Data) {
		dst = append(dst, e.Data...)
	} else {
		dst = appendJSONString(dst, e.Data)
	}
	return append(dst, '}')
}

// isJSON reports whether data is JSON. Most text shows by its first byte that
// it is not, which json.Valid takes an error's allocations to say.
func isJSON(data []byte) bool {
	if len(data) == 0 {
		return false
	}
	switch c := data[0]; {
	case c == '{', c == '[', c == '"', c == '-', '0' <= c && c <= '9', c == 't', c == 'f', c == 'n', c == ' ', c == '\t', c == '\n', c == '\r':
		return json.Valid(data)
	}
	return false
}

// AppendHeartbeat appends nothing: JSON has no frame that a viewer ignores.
func (jsonEncoder) AppendHeartbeat(dst []byte) []byte { return dst }

// appendJSONString appends s, which is UTF-8, as a JSON string (RFC 8259,
// section 7).
func appendJSONString[T string | []byte](dst []byte, s T) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}
