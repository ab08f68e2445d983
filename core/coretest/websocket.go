package coretest

import (
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode/utf8"
)

// Opcodes of WebSocket frames (RFC 6455, section 5.2).
const (
	OpContinuation = 0x0
	OpText         = 0x1
	OpBinary       = 0x2
	OpClose        = 0x8
	OpPing         = 0x9
	OpPong         = 0xA
)

const maxFrame = 64 << 20 // more than any test sends

// askForWebSocket adds the headers of a handshake, and returns its key.
func askForWebSocket(h http.Header) (key string) {
	nonce := make([]byte, 16)
	rand.Read(nonce)
	key = base64.StdEncoding.EncodeToString(nonce)
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", "websocket")
	h.Set("Sec-WebSocket-Version", "13")
	h.Set("Sec-WebSocket-Key", key)
	return key
}

// checkWebSocket checks the answer to a handshake (RFC 6455, section 4.1).
func checkWebSocket(h http.Header, key string) error {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	switch {
	case !strings.EqualFold(h.Get("Upgrade"), "websocket"):
		return fmt.Errorf("WebSocket handshake: Upgrade is %q", h.Get("Upgrade"))
	case !strings.EqualFold(h.Get("Connection"), "upgrade"):
		return fmt.Errorf("WebSocket handshake: Connection is %q", h.Get("Connection"))
	case h.Get("Sec-WebSocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]):
		return fmt.Errorf("WebSocket handshake: Sec-WebSocket-Accept is %q", h.Get("Sec-WebSocket-Accept"))
	case h.Get("Sec-WebSocket-Extensions") != "" || h.Get("Sec-WebSocket-Protocol") != "":
		return errors.New("WebSocket handshake: an extension or protocol nobody asked for")
	}
	return nil
}

// readFrame reads one frame, or a whole message if it is fragmented, and does
// what it asks for.
func (v *Viewer) readFrame() error {
	op, final, payload, err := v.frame()
	if err != nil {
		return err
	}
	for op < OpClose && !final {
		nextOp, fin, more, err := v.frame()
		switch {
		case err != nil:
			return err
		case nextOp >= OpClose:
			if err := v.control(nextOp, more); err != nil {
				return err
			}
			continue
		case nextOp != OpContinuation:
			return fmt.Errorf("WebSocket: opcode %#x within a fragmented message", nextOp)
		}
		payload, final = append(payload, more...), fin
	}
	switch op {
	case OpText:
		return v.message(payload)
	case OpClose, OpPing, OpPong:
		return v.control(op, payload)
	}
	return fmt.Errorf("WebSocket: unexpected opcode %#x", op)
}

// frame reads one frame (RFC 6455, section 5.2).
func (v *Viewer) frame() (op byte, final bool, payload []byte, err error) {
	fail := func(format string, args ...any) (byte, bool, []byte, error) {
		return 0, false, nil, fmt.Errorf("WebSocket: "+format, args...)
	}
	var head [2]byte
	if n, err := io.ReadFull(v.in, head[:]); err != nil {
		if n == 0 && err == io.EOF {
			return fail("no close frame: %w", io.ErrUnexpectedEOF)
		}
		return 0, false, nil, err
	}
	op, final = head[0]&0x0F, head[0]&0x80 != 0
	size := uint64(head[1] & 0x7F)
	switch {
	case head[0]&0x70 != 0:
		return fail("reserved bits %#x", head[0]&0x70)
	case head[1]&0x80 != 0:
		return fail("a masked frame from a server")
	case op >= OpClose && (!final || size > 125):
		return fail("control frame %#x, final %v, length code %d", op, final, size)
	}
	var ext [8]byte
	switch size {
	case 126:
		_, err = io.ReadFull(v.in, ext[6:])
	case 127:
		_, err = io.ReadFull(v.in, ext[:])
	}
	if err != nil {
		return 0, false, nil, unexpected(err)
	}
	if size >= 126 {
		long := binary.BigEndian.Uint64(ext[:])
		if long < 126 || size == 127 && long <= 0xFFFF {
			return fail("length %d not in its shortest form", long)
		}
		if long > maxFrame {
			return fail("frame of %d bytes", long)
		}
		size = long
	}
	payload = make([]byte, size)
	_, err = io.ReadFull(v.in, payload)
	return op, final, payload, unexpected(err)
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// message takes a text message, which is one event.
func (v *Viewer) message(p []byte) error {
	if !utf8.Valid(p) {
		return errors.New("WebSocket: a text message that is not UTF-8")
	}
	var m struct {
		ID    *string         `json:"id"`
		Of    string          `json:"execution"`
		Event string          `json:"event"`
		Trace string          `json:"traceparent"`
		Data  json.RawMessage `json:"data"`
	}
	d := json.NewDecoder(strings.NewReader(string(p)))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return fmt.Errorf("WebSocket: message %.80q: %w", p, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("WebSocket: message %.80q is more than one JSON value", p)
	}
	if m.Event == "" || m.Data == nil || m.ID != nil && *m.ID == "" {
		return fmt.Errorf("WebSocket: message %.80q lacks an event, data, or a usable id", p)
	}
	if m.Of != "" && len(v.opts.ExecutionIDs) == 0 {
		return fmt.Errorf("WebSocket: message %.80q names an execution in a stream of one", p)
	}
	e := Event{Execution: m.Of, Type: m.Event, Data: string(m.Data), Traceparent: m.Trace}
	if m.ID != nil {
		e.ID = *m.ID
	}
	v.event(e)
	return nil
}

// control does what a control frame asks for.
func (v *Viewer) control(op byte, p []byte) error {
	switch op {
	case OpPing:
		v.Beats++
		if v.opts.NoPong {
			return nil
		}
		// A failure shows when reading.
		v.Send(OpPong, p)
		return nil
	case OpPong:
		v.Pong = string(p)
		return nil
	case OpClose:
		return v.closed(p)
	}
	return fmt.Errorf("WebSocket: unexpected opcode %#x", op)
}

// closed takes a close frame: it answers, and waits for the connection to end,
// as it must without another byte.
func (v *Viewer) closed(p []byte) error {
	v.CloseCode = 1005
	if len(p) == 1 || !utf8.Valid(p[min(2, len(p)):]) {
		return fmt.Errorf("WebSocket: close frame %q", p)
	}
	if len(p) >= 2 {
		v.CloseCode, v.CloseReason = int(binary.BigEndian.Uint16(p)), string(p[2:])
		switch c := v.CloseCode; {
		case c >= 1000 && c <= 1014 && c != 1004 && c != 1005 && c != 1006:
		case c >= 3000 && c <= 4999:
		default:
			return fmt.Errorf("WebSocket: close code %d", c)
		}
	}
	v.SendClose(v.CloseCode)
	n, err := io.Copy(io.Discard, v.in)
	if n > 0 {
		return fmt.Errorf("WebSocket: %d bytes behind the close frame", n)
	}
	if err != nil {
		return fmt.Errorf("WebSocket: behind the close frame: %w", err)
	}
	return io.EOF
}

// Send sends one masked, final frame.
func (v *Viewer) Send(op byte, payload []byte) error {
	v.sending.Lock()
	defer v.sending.Unlock()
	if v.closing {
		return errors.New("WebSocket: a close frame has been sent")
	}
	return v.send(AppendFrame(nil, op, payload))
}

// SendClose sends a close frame, unless one has been sent. Code 1005 stands for
// none.
func (v *Viewer) SendClose(code int) error {
	v.sending.Lock()
	defer v.sending.Unlock()
	if v.closing {
		return nil
	}
	v.closing = true
	var p []byte
	if code != 1005 {
		p = binary.BigEndian.AppendUint16(nil, uint16(code))
	}
	return v.send(AppendFrame(nil, OpClose, p))
}

// AppendFrame appends a frame as a viewer sends it: final and masked.
func AppendFrame(dst []byte, op byte, payload []byte) []byte {
	dst = append(dst, 0x80|op)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|byte(n))
	case n <= 0xFFFF:
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|127), uint64(n))
	}
	var mask [4]byte
	rand.Read(mask[:])
	dst = append(dst, mask[:]...)
	for i, c := range payload {
		dst = append(dst, c^mask[i%4])
	}
	return dst
}
