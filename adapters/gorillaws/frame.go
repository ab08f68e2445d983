package gorillaws

import (
	"encoding/binary"

	"github.com/gorilla/websocket"

	"github.com/execcast/execcast/core"
)

// encoder wraps core.JSON in WebSocket frames as a server sends them:
// unmasked, one text message each (RFC 6455, section 5.2). They are made once
// for all viewers, and several go out in one write.
type encoder struct{}

const (
	finText = 0x80 | websocket.TextMessage
	finPing = 0x80 | websocket.PingMessage
	finPong = 0x80 | websocket.PongMessage
	finStop = 0x80 | websocket.CloseMessage
)

func (encoder) AppendEvent(dst []byte, e core.Event) []byte {
	// Most events need a header of four bytes; the message moves where one
	// needs another.
	start := len(dst)
	dst = append(dst, finText, 126, 0, 0)
	dst = core.JSON.AppendEvent(dst, e)
	switch n := len(dst) - start - 4; {
	case n < 126:
		copy(dst[start+2:], dst[start+4:])
		dst = dst[:len(dst)-2]
		dst[start+1] = byte(n)
	case n < 1<<16:
		binary.BigEndian.PutUint16(dst[start+2:], uint16(n))
	default:
		dst = append(dst, 0, 0, 0, 0, 0, 0)
		copy(dst[start+10:], dst[start+4:])
		dst[start+1] = 127
		binary.BigEndian.PutUint64(dst[start+2:], uint64(n))
	}
	return dst
}

// AppendHeartbeat appends a ping.
func (encoder) AppendHeartbeat(dst []byte) []byte { return append(dst, finPing, 0) }

// closeFrame returns a close frame. A control frame's payload is at most 125
// bytes, two of which are the code.
func closeFrame(code int, reason string) []byte {
	reason = reason[:min(len(reason), 123)]
	return append([]byte{finStop, byte(2 + len(reason)), byte(code >> 8), byte(code)}, reason...)
}
