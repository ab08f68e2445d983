package core

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// eventStream is what a browser's EventSource makes of a stream: a
// transcription of WHATWG HTML, section 9.2.6, step by step, that shares
// nothing with the decoder under test.
type eventStream struct {
	messages    []message
	lastEventID string // of the event source, as the next request would send it
	retry       *big.Int
}

type message struct{ typ, data, lastEventID, traceparent string }

func interpret(stream []byte) (s eventStream) {
	// "Streams must be decoded using the UTF-8 decode algorithm", which strips
	// one leading byte order mark.
	text := strings.TrimPrefix(decodeUTF8(stream), "\ufeff")
	// Lines are ended by CRLF, LF or CR; a last line without an end is no line.
	text = strings.ReplaceAll(text, "\r\n", "\n")
	text = strings.ReplaceAll(text, "\r", "\n")
	lines := strings.Split(text, "\n")
	lines = lines[:len(lines)-1]

	data, eventType, idBuffer, traceparent := "", "", "", ""
	process := func(field, value string) {
		switch field {
		case "event":
			eventType = value
		case "data":
			data += value + "\n"
		case "id":
			if !strings.Contains(value, "\x00") {
				idBuffer = value
			}
		case "retry":
			if value != "" && strings.Trim(value, "0123456789") == "" {
				s.retry, _ = new(big.Int).SetString(value, 10)
			}
		case "traceparent": // not of the standard
			traceparent = value
		}
	}
	for _, line := range lines {
		switch colon := strings.Index(line, ":"); {
		case line == "":
			s.lastEventID = idBuffer
			if data == "" {
				eventType, traceparent = "", ""
				continue
			}
			m := message{"message", strings.TrimSuffix(data, "\n"), s.lastEventID, traceparent}
			if eventType != "" {
				m.typ = eventType
			}
			s.messages = append(s.messages, m)
			data, eventType, traceparent = "", "", ""
		case colon == 0: // a comment
		case colon > 0:
			process(line[:colon], strings.TrimPrefix(line[colon+1:], " "))
		default:
			process(line, "")
		}
	}
	return s
}

// decodeUTF8 is the decoder of the Encoding standard, section 8.1.1, byte by
// byte, with replacement.
func decodeUTF8(p []byte) string {
	var out []rune
	codePoint, seen, needed := rune(0), 0, 0
	lower, upper := byte(0x80), byte(0xBF)
	for i := 0; i < len(p); i++ {
		b := p[i]
		if needed == 0 {
			switch {
			case b <= 0x7F:
				out = append(out, rune(b))
			case b >= 0xC2 && b <= 0xDF:
				needed, codePoint = 1, rune(b&0x1F)
			case b >= 0xE0 && b <= 0xEF:
				if b == 0xE0 {
					lower = 0xA0
				}
				if b == 0xED {
					upper = 0x9F
				}
				needed, codePoint = 2, rune(b&0xF)
			case b >= 0xF0 && b <= 0xF4:
				if b == 0xF0 {
					lower = 0x90
				}
				if b == 0xF4 {
					upper = 0x8F
				}
				needed, codePoint = 3, rune(b&0x7)
			default:
				out = append(out, 0xFFFD)
			}
			continue
		}
		if b < lower || b > upper {
			codePoint, seen, needed, lower, upper = 0, 0, 0, 0x80, 0xBF
			out = append(out, 0xFFFD)
			i-- // "restore byte to ioQueue"
			continue
		}
		lower, upper = 0x80, 0xBF
		codePoint = codePoint<<6 | rune(b&0x3F)
		if seen++; seen == needed {
			out = append(out, codePoint)
			codePoint, seen, needed = 0, 0, 0
		}
	}
	if needed != 0 {
		out = append(out, 0xFFFD)
	}
	return string(out)
}

// fold makes of frames what an EventSource would have made of their stream.
func fold(frames []Frame) (s eventStream) {
	for _, f := range frames {
		if f.HasRetry {
			s.retry = big.NewInt(f.Retry.Milliseconds())
		}
		if f.HasID {
			s.lastEventID = f.ID
		}
		if f.Data == nil {
			continue
		}
		m := message{f.Type, string(f.Data), s.lastEventID, f.Traceparent}
		if m.typ == "" {
			m.typ = "message"
		}
		s.messages = append(s.messages, m)
	}
	return s
}

// splitReader gives out p in pieces whose lengths the bytes of cuts say, over
// and over.
type splitReader struct {
	p, cuts []byte
	n       int
	err     error // at the end, instead of io.EOF
}

func (r *splitReader) Read(p []byte) (int, error) {
	if len(r.p) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		return 0, io.EOF
	}
	n := len(r.p)
	if len(r.cuts) > 0 {
		n = min(n, int(r.cuts[r.n%len(r.cuts)])) // none at all, too
		r.n++
		if r.n%64 == 0 {
			n = max(n, 1)
		}
	}
	n = copy(p, r.p[:min(n, len(r.p))])
	r.p = r.p[n:]
	return n, nil
}

func decodeAll(r io.Reader, limit int) (frames []Frame, err error) {
	for f, e := range Decode(r, limit) {
		if e != nil {
			if err != nil {
				return frames, errors.New("a second error")
			}
			err = e
			continue
		}
		if err != nil {
			return frames, errors.New("a frame after an error")
		}
		frames = append(frames, f)
	}
	return frames, err
}

// checkDecode holds the decoder's view of a stream against the standard's.
func checkDecode(stream, cuts []byte) error {
	frames, err := decodeAll(&splitReader{p: stream, cuts: cuts}, 0)
	if err != nil {
		return err
	}
	got, want := fold(frames), interpret(stream)
	if !slices.Equal(got.messages, want.messages) {
		return fmt.Errorf("messages %q, not %q", got.messages, want.messages)
	}
	if got.lastEventID != want.lastEventID {
		return fmt.Errorf("last event ID %q, not %q", got.lastEventID, want.lastEventID)
	}
	if year := big.NewInt(365 * 24 * 3600 * 1000); want.retry != nil && want.retry.Cmp(year) > 0 {
		want.retry = year
	}
	if (got.retry == nil) != (want.retry == nil) || got.retry != nil && got.retry.Cmp(want.retry) != 0 {
		return fmt.Errorf("retry %v, not %v", got.retry, want.retry)
	}
	// Where the stream was split makes no difference, comments included.
	whole, err := decodeAll(bytes.NewReader(stream), 0)
	if err != nil {
		return err
	}
	if !slices.EqualFunc(frames, whole, equalFrames) {
		return fmt.Errorf("in pieces %+v, whole %+v", frames, whole)
	}
	return nil
}

func equalFrames(a, b Frame) bool {
	return a.ID == b.ID && a.HasID == b.HasID && a.Type == b.Type && (a.Data == nil) == (b.Data == nil) &&
		bytes.Equal(a.Data, b.Data) && a.Retry == b.Retry && a.HasRetry == b.HasRetry && a.Comment == b.Comment &&
		a.Traceparent == b.Traceparent
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		"", "\n", "data", "data\n", "data\n\n", "data:\n\n", "data: \n\n", "data:  x\n\n", "data\n\ndata\ndata\n\ndata:",
		"data: YHOO\ndata: +2\ndata: 10\n\n",
		": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
		"\ufeffdata: a\n\n", "\ufeff\ufeffdata: a\n\n", "data: a\n\n\ufeffdata: b\n\n", "\xef\xbbdata: a\n\n", "\ufeff\n\ndata: b\n\n",
		"data: a\r\rdata: b\r\n\r\ndata: c\n\n", "data: a\r\n\rdata: b\n\r\n", "data: a\r", "data: a\r\n", "\r\n\r\n\r",
		"id: 1\n\nid: a\x00b\ndata: x\n\n", "id\ndata: x\n\n", "id:\n\n", "id: 1\n", "id: 1\ndata: x", "id:  1 \n\n",
		"retry: 10\n\n", "retry: -1\n", "retry: 1e3\n", "retry:\n", "retry: 99999999999999999999999\n\n", "retry: 007\n", "retry: 5", "retry: +5\n", "retry: 5 \n",
		"event: open\ndata: x\n\n", "event: x\n\ndata: y\n\n", "event\ndata\n\n", "event: a\nevent\ndata: x\n\n",
		"Data: x\n\n", " data: x\n\n", "data : x\n\n", "datax: y\n\n", ":\n\n", "::\n:data: x\n\n", ": a\n:b\n:\n\n",
		"data: \xff\n\n", "data: \xed\xa0\x80\n\n", "data: \xf4\x90\x80\x80\n\n", "data: \xe2\x82\n\n", "data: \xf0\x9f\x98\n\n", "event: \xc0\x80\ndata:\n\n",
		"d\xffata: x\n\n", "data: a\u2028b\u0085c\vd\n\n", "traceparent: a\n\ndata: b\n\n", "traceparent\ndata\n\n", "traceparent:b\ndata\ntraceparent:  c\n\ndata\n\n", "id: \xff\ndata: \xe2\x82", ": \xe2\x82\n\n", "data:\x00\n\n",
	} {
		f.Add([]byte(s), []byte(nil))
		f.Add([]byte(s), []byte{1})
		f.Add([]byte(s), []byte{2, 0, 3})
	}
	f.Fuzz(func(t *testing.T, stream, cuts []byte) {
		if err := checkDecode(stream, cuts); err != nil {
			t.Fatalf("%q: %v", stream, err)
		}
		// A reader's error comes last, and changes nothing of what was whole.
		broken := errors.New("broken")
		whole, _ := decodeAll(bytes.NewReader(stream), 0)
		frames, err := decodeAll(&splitReader{p: stream, cuts: cuts, err: broken}, 0)
		if err != broken || len(frames) > len(whole) || !slices.EqualFunc(frames, whole[:len(frames)], equalFrames) {
			t.Fatalf("%q: %v, %+v", stream, err, frames)
		}
		// Small limits hold: what is kept of the stream is bounded by them.
		for _, limit := range []int{1, 10, 40} {
			frames, err := decodeAll(&splitReader{p: stream, cuts: cuts}, limit)
			if err != nil && !errors.Is(err, ErrFrameTooLarge) || err == nil && !slices.EqualFunc(frames, whole, equalFrames) ||
				len(frames) > len(whole) || err != nil && len(stream) <= limit {
				t.Fatalf("%q, at most %d: %v, %+v", stream, limit, err, frames)
			}
			again, errAgain := decodeAll(bytes.NewReader(stream), limit)
			if (err == nil) != (errAgain == nil) || !slices.EqualFunc(frames, again, equalFrames) {
				t.Fatalf("%q, at most %d: in pieces %+v %v, whole %+v %v", stream, limit, frames, err, again, errAgain)
			}
			for _, f := range frames {
				if len(f.ID)+len(f.Type)+len(f.Data)+len(f.Comment)+len(f.Traceparent) > 3*limit { // each invalid byte becomes three
					t.Fatalf("%q, at most %d: %+v", stream, limit, f)
				}
			}
		}
	})
}

// normal is what arrives of data: line breaks as LF.
func normal(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
}

func FuzzAppendFrame(f *testing.F) {
	f.Add("1", false, "task-start", "a\nb", true, int64(0), false, "", "")
	f.Add("", true, "", "", true, int64(2000), true, "why", "")
	f.Add("", false, "", "", false, int64(0), true, "", "")
	f.Add("x\r", false, "y\n", "\xff", true, int64(-1), false, "\xff", "")
	f.Add("é", true, "a:b", " \r\n\r \r", true, int64(86_400_000), false, "\n\r", "")
	f.Add("\ufeff", false, "\ufeff", "\ufeff", true, int64(1), false, "\ufeff:", "")
	f.Add(" a", false, " ", "id: 1\n\ndata: forged", true, int64(1), false, "\n\ndata: forged\n\n", "")
	f.Add("a\x00", false, "b\x00", "\x00", true, int64(0), false, "\x00", "")
	f.Add("\t", false, "\v", ":", true, int64(0), false, " x", "")
	f.Add("1", true, "t", "a", true, int64(0), false, "", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("", false, "", "", false, int64(0), false, "", "a")
	f.Add("", false, "", "a", true, int64(0), false, "", "a\ndata: forged")
	f.Fuzz(func(t *testing.T, id string, hasID bool, typ, data string, hasData bool, ms int64, hasRetry bool, comment, traceparent string) {
		frame := Frame{ID: id, HasID: hasID, Type: typ, Retry: time.Duration(ms%31_536_000_000) * time.Millisecond, HasRetry: hasRetry,
			Comment: comment, Traceparent: traceparent}
		if hasData {
			frame.Data = []byte(data)
		}
		prefix := []byte("data: before\n\n")
		got, err := AppendFrame(slices.Clone(prefix), frame)
		field := ""
		bad := func(s string) bool {
			return !utf8.ValidString(s) || strings.ContainsAny(s, "\r\n\x00") || s != strings.Trim(s, " ")
		}
		switch {
		case bad(id):
			field = "id"
		case bad(typ):
			field = "event"
		case bad(traceparent):
			field = "traceparent"
		case frame.Retry < 0:
			field = "retry"
		case hasData && !utf8.ValidString(data):
			field = "data"
		case !utf8.ValidString(comment):
			field = "comment"
		}
		if field != "" {
			var e *FrameError
			if !errors.As(err, &e) || e.Field != field || e.Reason == "" || !bytes.Equal(got, prefix) {
				t.Fatalf("%+v: %v, not an error of %s; appended %q", frame, err, field, got[len(prefix):])
			}
			return
		}
		if err != nil {
			t.Fatalf("%+v: %v", frame, err)
		}
		// The frame arrives as it was, through both decoders, with nothing
		// before or behind it disturbed.
		got = append(got, "data: after\n\n"...)
		if err := checkDecode(got, []byte{1}); err != nil {
			t.Fatalf("%q: %v", got, err)
		}
		frames, err := decodeAll(bytes.NewReader(got), len(got))
		if err != nil {
			t.Fatalf("%q: %v", got, err)
		}
		want := frame
		want.HasID = hasID || id != ""
		want.HasRetry = hasRetry || frame.Retry != 0
		want.Comment = normal(comment)
		if hasData {
			want.Data = []byte(normal(data))
		}
		before, after := Frame{Data: []byte("before")}, Frame{Data: []byte("after")}
		all := []Frame{before, want, after}
		if !want.HasID && !want.HasRetry && want.Type == "" && want.Data == nil && want.Comment == "" && want.Traceparent == "" {
			all = []Frame{before, after} // an empty line is no frame
		}
		if !slices.EqualFunc(frames, all, equalFrames) {
			t.Fatalf("%q: %+v, not %+v", got, frames, all)
		}
		stream := interpret(got)
		if n := len(stream.messages); stream.messages[n-1].data != "after" || stream.messages[0].data != "before" || hasData != (n == 3) {
			t.Fatalf("%q: %q", got, stream.messages)
		}
	})
}

// What Publish accepts reaches an EventSource, and a JSON viewer, as it was.
func FuzzPublish(f *testing.F) {
	for _, s := range []string{"", "x", `{"a":[1,2.5e3,null]}`, "1", `"x"`, "a\r\nb\rc\n", " \n ", "\x00\x1f\x7f", "\u2028\u2029", "\ufeff{}", "\xff",
		`{"a":1}{}`, "[", `"\ud800"`, "\\\"", "\t1\n", strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000), "é€😀", "id: 1\n\n: x"} {
		f.Add("t", "k", s, "")
		f.Add(s, s, "x", s)
		f.Add("t", "k", s, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	}
	f.Fuzz(func(t *testing.T, typ, key, data, traceparent string) {
		e := Event{Type: typ, Key: key, Data: []byte(data), Traceparent: traceparent}
		if e.check(1<<20) != nil {
			return
		}
		data = normal(data)
		e.ID, e.Data = 42, appendLF(nil, e.Data)
		frame := SSE.AppendEvent([]byte("data: before\n\n"), e)
		if typ == "" {
			typ = "message"
		}
		stream := interpret(append(frame, "data: after\n\n"...))
		want := []message{{"message", "before", "", ""}, {typ, data, "42", traceparent}, {"message", "after", "42", ""}}
		if !slices.Equal(stream.messages, want) {
			t.Fatalf("%q: %q, not %q", frame, stream.messages, want)
		}
		checkJSON(t, e, typ, data)
	})
}

// checkJSON reads a message as a browser does.
func checkJSON(t *testing.T, e Event, typ, data string) {
	p := JSON.AppendEvent([]byte("before"), e)
	p, ok := bytes.CutPrefix(p, []byte("before"))
	if !ok || !json.Valid(p) || !utf8.Valid(p) {
		t.Fatalf("not a JSON text: %q", p)
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(p, &m); err != nil {
		t.Fatalf("%q: %v", p, err)
	}
	str := func(raw json.RawMessage) string {
		s, err := unquote(string(raw))
		if err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		return s
	}
	keys := 2
	if e.ID != 0 {
		keys = 3
		if str(m["id"]) != strconv.FormatUint(e.ID, 10) {
			t.Fatalf("%q: ID", p)
		}
	}
	if e.Traceparent != "" {
		keys++
		if str(m["traceparent"]) != e.Traceparent {
			t.Fatalf("%q: traceparent, not %q", p, e.Traceparent)
		}
	}
	if len(m) != keys || str(m["event"]) != typ {
		t.Fatalf("%q: type, not %q", p, typ)
	}
	if json.Valid([]byte(data)) {
		if string(m["data"]) != strings.Trim(data, " \t\r\n") {
			t.Fatalf("%q: data is not embedded unchanged", p)
		}
	} else if str(m["data"]) != data {
		t.Fatalf("%q: data, not %q", p, data)
	}
}

// unquote reads a JSON string as RFC 8259 defines it, escapes as they come.
func unquote(s string) (string, error) {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return "", errors.New("not a string")
	}
	s = s[1 : len(s)-1]
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c < ' ' || c == '"':
			return "", fmt.Errorf("%q unescaped", c)
		case c != '\\':
			out.WriteByte(c)
		case s[i+1] == 'u':
			n, err := strconv.ParseUint(s[i+2:i+6], 16, 16)
			if err != nil {
				return "", err
			}
			out.WriteRune(rune(n))
			i += 5
		default:
			i++
			at := strings.IndexByte(`"\/bfnrt`, s[i])
			if at < 0 {
				return "", fmt.Errorf("escape %q", s[i])
			}
			out.WriteByte("\"\\/\b\f\n\r\t"[at])
		}
	}
	return out.String(), nil
}

func FuzzJSON(f *testing.F) {
	f.Add(uint64(0), "", []byte(nil))
	f.Add(uint64(1<<53-1), "task-start", []byte(`{"taskId":"a"}`))
	f.Add(uint64(1), "a\"b\\c", []byte("\x00\x01\x1f\x7f\"\\\n\t\r\b\f/"))
	f.Add(uint64(1), "</script>", []byte("<!--\u2028\u2029"))
	f.Add(uint64(1), "t", []byte(" [1, 2] "))
	f.Add(uint64(1), "t", []byte("01"))
	f.Add(uint64(1), "t", []byte("NaN"))
	f.Fuzz(func(t *testing.T, id uint64, typ string, data []byte) {
		if !utf8.ValidString(typ) || !utf8.Valid(data) {
			return
		}
		want := typ
		if typ == "" {
			want = "message"
		}
		checkJSON(t, Event{ID: id, Type: typ, Data: data}, want, string(data))
	})
}

// Whatever a viewer claims to have seen costs it a gap at most: never an error,
// a panic, or an event it has not asked for.
func FuzzLastEventID(f *testing.F) {
	for _, s := range []string{"", "0", "1", "-1", "+1", "01", " 1", "1 ", "1.0", "1e9", "0x10", "9007199254740991", "9007199254740992", "9007199254740993",
		"18446744073709551615", "18446744073709551616", "99999999999999999999999999", "abc", "a\r\nb", "\x00", "\xff", "１", "1_000", "stream-gap", "{}"} {
		f.Add(s, uint8(0))
		f.Add(s, uint8(3))
	}
	f.Add("@0", uint8(0)) // the ID of that event
	f.Add("@2", uint8(2))
	f.Add("@4", uint8(4))
	f.Add("@1+", uint8(4)) // one higher
	f.Add("@0-", uint8(0)) // one lower
	f.Fuzz(func(t *testing.T, last string, retained uint8) {
		const events = 5
		r := New(&Options{MaxEvents: 1 + int(retained)%events, Heartbeat: -1})
		first := r.lastID + 1
		var want []string
		for i := range events {
			id, err := r.Publish(t.Context(), "x", Event{Data: []byte{'a' + byte(i)}})
			if err != nil || id != first+uint64(i) {
				t.Fatal(id, err)
			}
		}
		floor := first + uint64(events-1-int(retained)%events) - 1 // the last ID evicted, or the one before the first
		if len(last) >= 2 && last[0] == '@' && last[1] < '0'+events && last[1] >= '0' {
			id := first + uint64(last[1]-'0')
			switch {
			case strings.HasSuffix(last, "+"):
				id++
			case strings.HasSuffix(last, "-"):
				id--
			}
			last = strconv.FormatUint(id, 10)
		}
		// The naive reading of what is due.
		n, ok := new(big.Int).SetString(last, 10)
		ok = ok && n.String() == last && n.Sign() > 0 && n.BitLen() <= 53
		pos, gap := floor, true
		switch {
		case last == "":
			gap = floor >= first
		case ok && n.Uint64() >= floor && n.Uint64() < first+events:
			pos, gap = n.Uint64(), false
		}
		if gap {
			data := fmt.Sprintf(`"to":"%d"`, floor)
			if ok {
				data = fmt.Sprintf(`"from":"%s",`, last) + data
			}
			if last == "" {
				data += fmt.Sprintf(`,"count":%d`, floor-first+1)
			}
			want = append(want, "stream-gap {"+data+"}")
		}
		for id := pos + 1; id < first+events; id++ {
			want = append(want, string('a'+rune(id-first)))
		}
		c, err := r.Register("x", &ClientOptions{LastEventID: last})
		if err != nil {
			t.Fatalf("%q: %v", last, err)
		}
		v := newViewer()
		done := make(chan error)
		go func() { done <- c.Serve(t.Context(), v) }()
		if err := r.Close(t.Context(), "x"); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := v.text(t); !slices.Equal(got, append(want, "stream-end {}")) {
			t.Fatalf("%q: %q, not %q", last, got, want)
		}
		// And once more, when it is finished.
		c, err = r.Register("x", &ClientOptions{LastEventID: last})
		if all := !gap && pos == first+events-1; all != errors.Is(err, ErrFinished) || !all && err != nil {
			t.Fatalf("%q: %v", last, err)
		}
		if c != nil {
			c.Unregister()
		}
	})
}

func TestDecodeStops(t *testing.T) {
	stream := "data: a\n\ndata: b\n\ndata: c\n\n"
	n := 0
	for f, err := range Decode(strings.NewReader(stream), 0) {
		require.NoError(t, err)
		require.Equal(t, []byte{'a' + byte(n)}, f.Data)
		if n++; n == 2 {
			break
		}
	}
	require.Equal(t, 2, n)
}

// The limit is one of bytes of a frame, however they come.
func TestDecodeLimit(t *testing.T) {
	for _, cuts := range [][]byte{nil, {1}, {7}} {
		frames := func(in string, limit int) (int, error) {
			frames, err := decodeAll(&splitReader{p: []byte(in), cuts: cuts}, limit)
			return len(frames), err
		}
		for _, end := range []string{"\n\n", "\r\r"} {
			in := "data: " + strings.Repeat("x", 92) + end // 100 bytes
			n, err := frames(strings.Repeat(in, 10), 100)
			require.NoError(t, err)
			require.Equal(t, 10, n)
			n, err = frames(strings.Repeat(in, 10), 99)
			require.ErrorIs(t, err, ErrFrameTooLarge)
			require.Zero(t, n)
		}
		for _, in := range []string{
			strings.Repeat("x", 101),              // a line without an end
			strings.Repeat("data\n", 21),          // lines without an event
			strings.Repeat(":\n", 51),             // comments
			"id: 1\n" + strings.Repeat(" \n", 60), // lines that mean nothing
		} {
			_, err := frames("data: first\n\n"+in, 100)
			require.ErrorIs(t, err, ErrFrameTooLarge, "%q", in)
			require.EqualError(t, err, "execcast: event stream frame too large: more than 100 bytes")
		}
		n, err := frames(strings.Repeat("\n", 1000)+"data\n\n", 100) // empty lines begin anew
		require.NoError(t, err)
		require.Equal(t, 1, n)
	}
	// An event of the default maximum size fits the default limit, at its worst.
	worst := SSE.AppendEvent(nil, Event{ID: 1, Type: "t", Data: bytes.Repeat([]byte{'\n'}, 256<<10)})
	frames, err := decodeAll(bytes.NewReader(worst), 0)
	require.NoError(t, err)
	require.Len(t, frames[0].Data, 256<<10)
}

// Each frame's data is the receiver's own.
func TestDecodeDataIsTheCallers(t *testing.T) {
	var all [][]byte
	for f, err := range Decode(strings.NewReader(strings.Repeat("data: abc\n\n", 1000)), 0) {
		require.NoError(t, err)
		all = append(all, append(f.Data, "xyz"...)[:3])
	}
	for _, data := range all {
		require.Equal(t, "abc", string(data))
	}
}

// Line breaks are found eight bytes at a time: at every place, beside every
// byte.
func TestLineBreak(t *testing.T) {
	for n := range 20 {
		for at := range n {
			for beside := range 256 {
				for _, end := range []byte{'\r', '\n'} {
					p := bytes.Repeat([]byte{byte(beside)}, n)
					p[at] = end
					if lineBreak(p) != bytes.IndexAny(p, "\r\n") {
						require.Fail(t, "wrong", "%q: %d", p, lineBreak(p))
					}
				}
			}
		}
	}
}
