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
	// event has none. It keeps nothing of e.Data.
	AppendEvent(dst []byte, e Event) []byte
	// AppendHeartbeat appends a frame that a viewer ignores.
	AppendHeartbeat(dst []byte) []byte
}

var (
	// SSE encodes events as a text/event-stream (WHATWG HTML, section 9.2).
	SSE Encoder = sseEncoder{}
	// JSON encodes an event as one JSON object,
	//
	//	{"id":"1700000000000001","event":"task-start","data":{"taskId":"a"}}
	//
	// where data that is itself JSON is embedded unchanged and anything else
	// becomes a string. The object is not delimited: transports that carry
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
	dst = append(dst, `"event":`...)
	if e.Type == "" {
		dst = append(dst, `"message"`...)
	} else {
		dst = appendJSONString(dst, e.Type)
	}
	dst = append(dst, `,"data":`...)
	if json.Valid(e.Data) {
		dst = append(dst, e.Data...)
	} else {
		dst = appendJSONString(dst, e.Data)
	}
	return append(dst, '}')
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
