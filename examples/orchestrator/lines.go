package main

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// maxLine bounds the bytes of one line. Longer lines arrive in pieces. JSON
// makes at most six bytes of one, which stays below the registry's bound on an
// event.
const maxLine = 32 << 10

// A lineWriter cuts what is written to it into lines and passes on each,
// without its LF or CRLF and as valid UTF-8. It is for one goroutine at a time.
type lineWriter struct {
	emit func(line string)
	rest []byte // the line that has not ended yet
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	rest := w.rest
	for {
		end := bytes.IndexByte(rest, '\n')
		line := bytes.TrimSuffix(rest[:max(0, end)], []byte("\r"))
		if end >= 0 && len(line) <= maxLine {
			w.pass(line)
			rest = rest[end+1:]
		} else if len(rest) > maxLine && string(rest[maxLine:]) != "\r" { // which may be half a CRLF
			cut := wholeRunes(rest[:maxLine])
			w.pass(rest[:cut])
			rest = rest[cut:]
		} else {
			break
		}
	}
	w.rest = append(w.rest[:0], rest...)
	return len(p), nil
}

// flush passes on a last line that had no line end.
func (w *lineWriter) flush() {
	if len(w.rest) > 0 {
		w.pass(w.rest)
		w.rest = nil
	}
}

func (w *lineWriter) pass(line []byte) {
	w.emit(strings.ToValidUTF8(string(line), "\uFFFD"))
}

// wholeRunes is the length of p without a character that p cuts in two.
func wholeRunes(p []byte) int {
	for i := len(p) - 1; i >= max(0, len(p)-utf8.UTFMax); i-- {
		if utf8.RuneStart(p[i]) {
			if !utf8.FullRune(p[i:]) {
				return i
			}
			break
		}
	}
	return len(p)
}
