package coretest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// sseState is what the WHATWG HTML standard, section 9.2.6, keeps while it
// interprets an event stream. It is a transcription of that text, as naive as
// possible, but for what the standard tolerates and a server of ours never
// sends: that is an error; and for the one field that only ours sends.
type sseState struct {
	begun       bool // a byte order mark can no longer come
	skipLF      bool // a LF would belong to the CR before
	inBlock     bool // some line has come since the last empty one
	data        []byte
	eventType   string
	traceparent string
	lastEventID string
	id          string // lastEventID, if this block has set it
}

// readLine reads one line and interprets it.
func (v *Viewer) readLine() error {
	s := &v.sse
	var b []byte
	for {
		c, err := v.in.ReadByte()
		if err == io.EOF && (len(b) > 0 || s.inBlock) {
			return fmt.Errorf("the stream ends within a frame: %w", io.ErrUnexpectedEOF)
		}
		if err != nil {
			return err
		}
		if s.skipLF && c == '\n' {
			s.skipLF = false
			continue
		}
		s.skipLF = c == '\r'
		if c == '\r' || c == '\n' {
			break
		}
		b = append(b, c)
	}
	if !utf8.Valid(b) {
		return fmt.Errorf("SSE line %.80q is not UTF-8", b)
	}
	line := string(b)
	if !s.begun {
		s.begun = true
		line = strings.TrimPrefix(line, "\ufeff")
	}
	// If the line is empty: dispatch the event.
	if line == "" {
		s.inBlock = false
		return v.dispatch()
	}
	s.inBlock = true
	// If the line starts with a colon: ignore the line.
	if line[0] == ':' {
		v.Beats++
		return nil
	}
	// If the line contains a colon: the field is what is before it, the value
	// what is behind it, without a leading space. Otherwise: the whole line is
	// the field, and the value is empty.
	field, value, _ := strings.Cut(line, ":")
	value = strings.TrimPrefix(value, " ")
	switch field {
	case "event":
		s.eventType = value
	case "data":
		s.data = append(append(s.data, value...), '\n')
	case "traceparent": // ours
		s.traceparent = value
	case "id":
		if strings.Contains(value, "\x00") {
			return errors.New("SSE id contains NUL")
		}
		s.lastEventID, s.id = value, value
	case "retry":
		ms, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return fmt.Errorf("SSE retry: %w", err)
		}
		v.Retry = time.Duration(ms) * time.Millisecond
	default:
		return fmt.Errorf("SSE field %.80q is unknown", field)
	}
	return nil
}

// dispatch dispatches the event.
func (v *Viewer) dispatch() error {
	s := &v.sse
	e := Event{ID: s.id, Type: s.eventType, Data: strings.TrimSuffix(string(s.data), "\n"), Traceparent: s.traceparent}
	v.LastEventID = s.lastEventID
	nothing := len(s.data) == 0
	s.data, s.eventType, s.id, s.traceparent = nil, "", "", ""
	if nothing {
		return nil
	}
	if e.Type == "" {
		e.Type = "message"
	}
	if len(v.opts.ExecutionIDs) == 0 {
		v.event(e)
		return nil
	}
	// Ours: in a stream of several executions data names the event's.
	var m struct {
		Of   string          `json:"execution"`
		Data json.RawMessage `json:"data"`
	}
	d := json.NewDecoder(strings.NewReader(e.Data))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil || m.Data == nil {
		return fmt.Errorf("SSE: data %.80q of several executions: %v", e.Data, err)
	}
	e.Execution, e.Data = m.Of, string(m.Data)
	v.event(e)
	return nil
}
