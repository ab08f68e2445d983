package core

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"time"
	"unicode/utf8"
)

// Frame is one block of an event stream as it stands on the wire: the lines up
// to an empty line (WHATWG HTML, section 9.2.6). Unlike Event it carries IDs of
// any origin, reconnection times and comments.
type Frame struct {
	// ID is the id field. An id field that is present but empty resets the
	// viewer's last event ID, which an absent one does not: HasID tells them
	// apart and is implied by an ID that is not empty.
	ID    string
	HasID bool
	// Type is the event field; "" means that there is none.
	Type string
	// Data is the value of the data fields, lines joined by LF. Nil means that
	// there is none, and so no event; empty but not nil is an event without
	// content.
	Data []byte
	// Retry is the reconnection time, in whole milliseconds. Zero counts only
	// if HasRetry is set.
	Retry    time.Duration
	HasRetry bool
	// Traceparent is the traceparent field, which is none of the standard's:
	// other readers ignore it. Decode takes any text for one.
	Traceparent string
	// Comment is the text of the comment lines, joined by LF.
	Comment string
}

// FrameError says which field of a Frame cannot be encoded, and why.
type FrameError struct {
	Field  string // id, event, traceparent, data, retry or comment
	Reason string
}

func (e *FrameError) Error() string { return "execcast: frame field " + e.Field + " " + e.Reason }

// AppendFrame appends f to dst as text/event-stream, fields in the order
// comment, retry, id, event, traceparent, data. It returns dst unchanged and a
// *FrameError if a field would not arrive as it is: id, event and traceparent
// must be one line without NUL and outer spaces, retry whole milliseconds and
// not negative, and all of it UTF-8. Line breaks in data and comment may be CR,
// LF or CRLF; they arrive as LF.
func AppendFrame(dst []byte, f Frame) ([]byte, error) {
	if err := f.check(); err != nil {
		return dst, err
	}
	if f.Comment != "" {
		dst = appendLines(dst, ": ", f.Comment)
	}
	if f.HasRetry || f.Retry != 0 {
		dst = append(dst, "retry: "...)
		dst = strconv.AppendInt(dst, f.Retry.Milliseconds(), 10)
		dst = append(dst, '\n')
	}
	if f.HasID && f.ID == "" {
		dst = append(dst, "id\n"...)
	} else if f.ID != "" {
		dst = append(dst, "id: "...)
		dst = append(dst, f.ID...)
		dst = append(dst, '\n')
	}
	return appendEvent(dst, f.Type, f.Traceparent, f.Data), nil
}

func (f *Frame) check() error {
	if reason := badLine(f.ID); reason != "" {
		return &FrameError{"id", reason}
	}
	if reason := badLine(f.Type); reason != "" {
		return &FrameError{"event", reason}
	}
	if reason := badLine(f.Traceparent); reason != "" {
		return &FrameError{"traceparent", reason}
	}
	switch {
	case f.Retry < 0:
		return &FrameError{"retry", "is negative"}
	case f.Retry%time.Millisecond != 0:
		return &FrameError{"retry", "is not a whole number of milliseconds"}
	case !utf8.Valid(f.Data):
		return &FrameError{"data", "is not valid UTF-8"}
	case !utf8.ValidString(f.Comment):
		return &FrameError{"comment", "is not valid UTF-8"}
	}
	return nil
}

func badLine(s string) string {
	ascii := true
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\r' || c == '\n':
			return "has a line break"
		case c == 0:
			return "has a NUL"
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	switch {
	case s == "":
	case s[0] == ' ' || s[len(s)-1] == ' ':
		return "begins or ends with a space"
	case !ascii && !utf8.ValidString(s):
		return "is not valid UTF-8"
	}
	return ""
}

// appendEvent ends a frame: the event, traceparent and data fields and the
// empty line.
func appendEvent(dst []byte, typ, traceparent string, data []byte) []byte {
	dst = appendNames(dst, typ, traceparent)
	if data != nil {
		dst = appendLines(dst, "data: ", data)
	}
	return append(dst, '\n')
}

func appendNames(dst []byte, typ, traceparent string) []byte {
	if typ != "" {
		dst = append(dst, "event: "...)
		dst = append(dst, typ...)
		dst = append(dst, '\n')
	}
	if traceparent != "" {
		dst = append(dst, "traceparent: "...)
		dst = append(dst, traceparent...)
		dst = append(dst, '\n')
	}
	return dst
}

// appendLines appends each line of s behind prefix. The prefix ends in a
// space, since a decoder removes one (and no more).
func appendLines[T string | []byte](dst []byte, prefix string, s T) []byte {
	for {
		line, rest, more := cutLine(s)
		dst = append(dst, prefix...)
		dst = append(dst, line...)
		dst = append(dst, '\n')
		if !more {
			return dst
		}
		s = rest
	}
}

// cutLine splits s behind its first line, which CR, LF or CRLF may end.
func cutLine[T string | []byte](s T) (line, rest T, more bool) {
	i := lineBreak(s)
	switch {
	case i < 0:
		return s, s[len(s):], false
	case s[i] == '\r' && i+1 < len(s) && s[i+1] == '\n':
		return s[:i], s[i+2:], true
	}
	return s[:i], s[i+1:], true
}

// lineBreak returns the index of the first CR or LF in s, or -1. It looks at
// eight bytes at a time: a byte of v-ones&^v has its high bit set if that of v
// is zero (the lowest such is exact, and that is all that is asked here).
func lineBreak[T string | []byte](s T) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(s); i += 8 {
		v := uint64(s[i]) | uint64(s[i+1])<<8 | uint64(s[i+2])<<16 | uint64(s[i+3])<<24 |
			uint64(s[i+4])<<32 | uint64(s[i+5])<<40 | uint64(s[i+6])<<48 | uint64(s[i+7])<<56
		lf, cr := v^(ones*'\n'), v^(ones*'\r')
		if ((lf-ones)&^lf|(cr-ones)&^cr)&highs != 0 {
			break
		}
	}
	for ; i < len(s); i++ {
		if s[i] == '\n' || s[i] == '\r' {
			return i
		}
	}
	return -1
}

// sseEncoder has, for clients of several executions, a second value that wraps
// all data, also that of events which name no execution.
type sseEncoder struct{ several bool }

func (s sseEncoder) AppendEvent(dst []byte, e Event) []byte {
	if e.ID != 0 {
		dst = append(dst, "id: "...)
		dst = strconv.AppendUint(dst, e.ID, 10)
		dst = append(dst, '\n')
	}
	if s.several || e.ExecutionID != "" {
		return appendNamed(dst, e)
	}
	data := e.Data
	if data == nil {
		data = []byte{}
	}
	return appendEvent(dst, e.Type, e.Traceparent, data)
}

// appendNamed ends a frame as appendEvent does, with data that is an object:
// it names the execution and holds the event's data.
func appendNamed(dst []byte, e Event) []byte {
	dst = appendNames(dst, e.Type, e.Traceparent)
	dst = append(dst, "data: {"...)
	if e.ExecutionID != "" {
		dst = append(dst, `"execution":`...)
		dst = appendJSONString(dst, e.ExecutionID)
		dst = append(dst, ',')
	}
	dst = append(dst, `"data":`...)
	if isJSON(e.Data) {
		for data, more := e.Data, true; more; {
			var line []byte
			line, data, more = cutLine(data)
			dst = append(dst, line...)
			if more {
				dst = append(dst, "\ndata: "...)
			}
		}
	} else {
		dst = appendJSONString(dst, e.Data)
	}
	return append(dst, "}\n\n"...)
}

// AppendHeartbeat appends a comment.
func (sseEncoder) AppendHeartbeat(dst []byte) []byte { return append(dst, ":\n\n"...) }

// ErrFrameTooLarge is returned by a decoder for a frame larger than it may be.
var ErrFrameTooLarge = errors.New("execcast: event stream frame too large")

// DefaultMaxFrameBytes bounds a frame while it is decoded, unless another
// bound is given: an event of the default maximum size, every byte of it a
// line break, fits.
const DefaultMaxFrameBytes = 4 << 20

// Decode reads r as text/event-stream and yields its frames as the WHATWG
// HTML standard, section 9.2.6, interprets them: every block that has a field
// or a comment is a frame; those with Data are events. A block that the end of
// r leaves incomplete is dropped, but for its retry field, which counts at
// once. Decode ends at io.EOF without an error; any other error of r, and
// ErrFrameTooLarge for a frame of more than maxBytes (zero means
// DefaultMaxFrameBytes), is yielded last.
//
// A frame is yielded as soon as its last byte is read; its Data is the
// caller's.
func Decode(r io.Reader, maxBytes int) iter.Seq2[Frame, error] {
	if maxBytes <= 0 {
		maxBytes = DefaultMaxFrameBytes
	}
	return func(yield func(Frame, error) bool) {
		d := decoder{max: maxBytes}
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			if !d.feed(buf[:n], func(f Frame) bool { return yield(f, nil) }) {
				if d.tooLarge {
					yield(Frame{}, fmt.Errorf("%w: more than %d bytes", ErrFrameTooLarge, maxBytes))
				}
				return
			}
			if err == io.EOF {
				if d.frame.HasRetry {
					yield(Frame{Retry: d.frame.Retry, HasRetry: true}, nil)
				}
				return
			}
			if err != nil {
				yield(Frame{}, err)
				return
			}
		}
	}
}

// decoder is Decode's state between two reads.
type decoder struct {
	max      int
	size     int    // bytes of the frame so far
	line     []byte // the line so far, if it spans reads
	started  bool   // a byte order mark can no longer come
	skipLF   bool   // the last byte was the CR of what may be a CRLF
	any      bool   // frame has a field or a comment
	comments bool   // comment holds at least one line
	comment  []byte
	tooLarge bool
	frame    Frame
}

// feed takes the next bytes of the stream. It returns false when emit did, or
// when the frame is too large.
func (d *decoder) feed(p []byte, emit func(Frame) bool) bool {
	for len(p) > 0 {
		if d.skipLF {
			d.skipLF = false
			if p[0] == '\n' {
				p = p[1:]
				continue
			}
		}
		i := bytes.IndexAny(p, "\r\n")
		n := i
		if i < 0 {
			n = len(p)
		}
		d.size += n
		if i >= 0 {
			d.size++
		}
		if d.size > d.max {
			d.tooLarge = true
			return false
		}
		if i < 0 {
			d.line = append(d.line, p...)
			return true
		}
		line := p[:i]
		if len(d.line) > 0 {
			d.line = append(d.line, line...)
			line = d.line
		}
		d.skipLF = p[i] == '\r'
		p = p[i+1:]
		ok := d.endLine(line, emit)
		d.line = d.line[:0]
		if !ok {
			return false
		}
	}
	return true
}

func (d *decoder) endLine(line []byte, emit func(Frame) bool) bool {
	if !d.started {
		d.started = true
		line = bytes.TrimPrefix(line, []byte("\ufeff"))
	}
	if len(line) == 0 {
		f, any := d.frame, d.any
		f.Comment = string(d.comment)
		d.frame, d.any, d.comments, d.size = Frame{}, false, false, 0
		d.comment = d.comment[:0]
		return !any || emit(f)
	}
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	if !utf8.Valid(value) {
		value = appendReplaced(nil, value)
	}
	switch string(name) {
	case "":
		if d.comments {
			d.comment = append(d.comment, '\n')
		}
		d.comment = append(d.comment, value...)
		d.comments, d.any = true, true
	case "data":
		if d.frame.Data == nil {
			d.frame.Data = []byte{}
		} else {
			d.frame.Data = append(d.frame.Data, '\n')
		}
		d.frame.Data = append(d.frame.Data, value...)
		d.any = true
	case "event":
		d.frame.Type, d.any = string(value), true
	case "traceparent":
		d.frame.Traceparent, d.any = string(value), true
	case "id":
		if bytes.IndexByte(value, 0) < 0 {
			d.frame.ID, d.frame.HasID, d.any = string(value), true, true
		}
	case "retry":
		if ms, ok := digits(value); ok {
			d.frame.Retry, d.frame.HasRetry, d.any = ms, true, true
		}
	}
	return true
}

// digits reads a reconnection time, which is digits only; one beyond a year is
// as good as a year.
func digits(p []byte) (time.Duration, bool) {
	const year = 365 * 24 * time.Hour
	ms := time.Duration(0)
	for _, c := range p {
		if c < '0' || c > '9' {
			return 0, false
		}
		ms = min(ms*10+time.Duration(c-'0'), year.Round(time.Millisecond)/time.Millisecond)
	}
	return ms * time.Millisecond, len(p) > 0
}

// appendReplaced appends p with each maximal subpart of an ill-formed sequence
// replaced by U+FFFD, as the Encoding standard's UTF-8 decoder does.
func appendReplaced(dst, p []byte) []byte {
	for len(p) > 0 {
		r, n := utf8.DecodeRune(p)
		if r == utf8.RuneError && n == 1 {
			n = subpart(p)
		}
		dst = utf8.AppendRune(dst, r)
		p = p[n:]
	}
	return dst
}

// subpart returns how many bytes at the start of p, which is not well-formed
// there, could have begun a character (Unicode, section 3.9, table 3-7).
func subpart(p []byte) int {
	lo, hi, need := byte(0x80), byte(0xBF), 0
	switch c := p[0]; {
	case c >= 0xC2 && c <= 0xDF:
		need = 1
	case c >= 0xE0 && c <= 0xEF:
		need = 2
		if c == 0xE0 {
			lo = 0xA0
		} else if c == 0xED {
			hi = 0x9F
		}
	case c >= 0xF0 && c <= 0xF4:
		need = 3
		if c == 0xF0 {
			lo = 0x90
		} else if c == 0xF4 {
			hi = 0x8F
		}
	}
	n := 1
	for ; n <= need && n < len(p) && p[n] >= lo && p[n] <= hi; n++ {
		lo, hi = 0x80, 0xBF
	}
	return n
}
