// Command corpus prints frames, hostile ones included, with what core makes of
// them here: a line of JSON each, for the wasm build to be compared with.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/execcast/execcast/core"
)

func main() {
	n := flag.Int("n", 20_000, "frames")
	seed := flag.Uint64("seed", 1, "seed")
	flag.Parse()
	out := bufio.NewWriterSize(os.Stdout, 1<<20)
	g := generator{rand.New(rand.NewPCG(*seed, 0))}
	for range *n {
		if _, err := out.Write(g.line()); err != nil {
			os.Exit(1)
		}
	}
	if err := out.Flush(); err != nil {
		os.Exit(1)
	}
}

type generator struct{ *rand.Rand }

// line makes a frame and encodes it:
//
//	{"class":"…","frame":{…},"bytes":"base64"} or {…,"field":"id","reason":"…"}
func (g generator) line() []byte {
	var f core.Frame
	class := g.fill(&f)
	p, err := core.AppendFrame(nil, f)

	var b strings.Builder
	fmt.Fprintf(&b, `{"class":%s,"frame":{`, quote(class))
	comma := ""
	field := func(name, value string) {
		fmt.Fprintf(&b, `%s"%s":%s`, comma, name, value)
		comma = ","
	}
	if f.HasID || f.ID != "" {
		field("id", quote(f.ID))
	}
	if f.Type != "" {
		field("event", quote(f.Type))
	}
	if f.Traceparent != "" {
		field("traceparent", quote(f.Traceparent))
	}
	if f.Data != nil {
		field("data", quote(string(f.Data)))
	}
	if f.HasRetry {
		ms, _ := json.Marshal(float64(f.Retry) / float64(time.Millisecond))
		field("retry", string(ms))
	}
	if f.Comment != "" {
		field("comment", quote(f.Comment))
	}
	b.WriteString("}")
	var refused *core.FrameError
	if errors.As(err, &refused) {
		fmt.Fprintf(&b, `,"field":%s,"reason":%s`, quote(refused.Field), quote(refused.Reason))
	} else {
		fmt.Fprintf(&b, `,"bytes":"%s"`, base64.StdEncoding.EncodeToString(p))
	}
	b.WriteString("}\n")
	return []byte(b.String())
}

// fill gives f some of its fields, of which one may be hostile: the class says
// which, and how.
func (g generator) fill(f *core.Frame) (class string) {
	if g.IntN(3) > 0 {
		f.ID = g.word(g.IntN(12))
		f.HasID = true
	}
	if g.IntN(3) > 0 {
		f.Type = g.word(g.IntN(12))
	}
	if g.IntN(8) > 0 {
		f.Data = []byte(g.text(g.IntN(40)))
	}
	if g.IntN(5) == 0 {
		f.Retry, f.HasRetry = time.Duration(g.IntN(100_000))*time.Millisecond, true
	}
	if g.IntN(5) == 0 {
		f.Comment = g.text(g.IntN(10))
	}
	if g.IntN(5) == 0 {
		f.Traceparent = g.word(g.IntN(12))
	}
	pick := func(s []string) string { return s[g.IntN(len(s))] }
	lines := []string{"\n", "\r", "\r\n", "\n\r", "\r\r\n"}
	switch g.IntN(14) {
	case 0:
		f.ID, class = g.insert(f.ID, pick(lines)), "line break in id"
	case 1:
		f.Type, class = g.insert(f.Type, pick(lines)), "line break in event"
	case 2:
		f.Data, class = []byte(g.insert(string(f.Data), pick(lines))), "line break in data"
		for g.IntN(3) > 0 {
			f.Data = []byte(g.insert(string(f.Data), pick(lines)))
		}
	case 3:
		f.Comment, class = g.insert(f.Comment, pick(lines)), "line break in comment"
	case 4:
		class = "lone surrogate"
		s := "a" + string([]byte{0xED, byte(0xA0 + g.IntN(32)), byte(0x80 + g.IntN(64))}) + "b"
		switch g.IntN(4) {
		case 0:
			f.ID += s
		case 1:
			f.Type += s
		case 2:
			f.Data = append(f.Data, s...)
		case 3:
			f.Comment += s
		}
	case 5:
		class = "NUL"
		switch g.IntN(4) {
		case 0:
			f.ID = g.insert(f.ID, "\x00")
		case 1:
			f.Type = g.insert(f.Type, "\x00")
		case 2:
			f.Data = []byte(g.insert(string(f.Data), "\x00"))
		case 3:
			f.Comment = g.insert(f.Comment, "\x00")
		}
	case 6:
		class = "outer space"
		s := pick([]string{" x", "x ", " ", " : "})
		switch g.IntN(4) {
		case 0:
			f.ID = s
		case 1:
			f.Type = s
		case 2:
			f.Data = []byte(s)
		case 3:
			f.Comment = s
		}
	case 7:
		class = "retry"
		f.HasRetry = true
		f.Retry = []time.Duration{0, -time.Millisecond, time.Millisecond / 2, -1, time.Microsecond, 1 << 52,
			9_007_199_254_740 * time.Millisecond}[g.IntN(7)]
	case 8:
		class = "field names in data"
		f.Data = []byte(pick(lines) + pick([]string{"data: x", "id: 1", "event: forged", ": c", "retry: 1", "", "\n"}) + pick(lines) + string(f.Data))
	case 9:
		class = "byte order mark"
		f.Data, f.Comment = append([]byte("\ufeff"), f.Data...), "\ufeff"
	case 10:
		class = "empty fields"
		*f = core.Frame{HasID: g.IntN(2) == 0}
		if g.IntN(2) == 0 {
			f.Data = []byte{}
		}
	case 11:
		f.Traceparent, class = g.insert(f.Traceparent, pick(lines)), "line break in traceparent"
	case 12:
		class = "plain"
		if g.IntN(50) == 0 {
			class = "large"
			f.Data = []byte(strings.Repeat(g.text(100), 100+g.IntN(100)))
		}
	default:
		class = "plain"
	}
	return class
}

func (g generator) insert(s, what string) string {
	at := g.IntN(len(s) + 1)
	for at > 0 && at < len(s) && !utf8.RuneStart(s[at]) {
		at--
	}
	return s[:at] + what + s[at:]
}

// word is one line without outer spaces.
func (g generator) word(n int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz-_.:/0123456789\u00e9\u65e5\U0001F600\u2028\u0085"
	r := []rune(letters)
	var b strings.Builder
	for range n {
		b.WriteRune(r[g.IntN(len(r))])
	}
	return b.String()
}

func (g generator) text(n int) string {
	var b strings.Builder
	for range n {
		switch g.IntN(20) {
		case 0:
			b.WriteRune(rune(0x20 + g.IntN(0xD800-0x20)))
		case 1:
			b.WriteRune(rune(0xE000 + g.IntN(0x110000-0xE000)))
		case 2:
			b.WriteByte("{}[]\",: \t\x7f\x1b"[g.IntN(11)])
		default:
			b.WriteByte(byte('a' + g.IntN(26)))
		}
	}
	return b.String()
}

// quote returns s as a JSON string in ASCII. The bytes that would be a
// surrogate, if UTF-8 had them, become one, as JavaScript has them.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for len(s) > 0 {
		if len(s) >= 3 && s[0] == 0xED && s[1] >= 0xA0 {
			fmt.Fprintf(&b, `\u%04x`, 0xD000|int(s[1]&63)<<6|int(s[2]&63))
			s = s[3:]
			continue
		}
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r >= 0x10000:
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xD800+(r-0x10000)>>10, 0xDC00+(r-0x10000)&0x3FF)
		case r < ' ' || r > '~' || r == '"' || r == '\\':
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteByte(s[0])
		}
		s = s[n:]
	}
	b.WriteByte('"')
	return b.String()
}
