//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"strconv"
)

// An event is 160 bytes of JSON for every candidate:
//
//	{"seq":"~000000000042","t":"1700000000000000000","pad":"xxx…x^"}
//
// The load generator finds it by its first mark, and knows by the second that
// all of it has come. Nothing else that a server sends contains the first, but
// for the headers of WebSocket frames, which it skips.
const (
	eventBytes = 160
	first      = '~'
	last       = '^'
	seqAt      = len(`{"seq":"~`)
	seqDigits  = 12
	timeAt     = seqAt + seqDigits + len(`","t":"`)
	timeDigits = 19
	lastAt     = eventBytes - len(`^"}`)
	firstAt    = seqAt - 1
)

// event returns a new event with a sequence number and the time it was due, in
// Unix nanoseconds.
func event(seq, due int64) []byte {
	p := make([]byte, 0, eventBytes)
	p = append(p, `{"seq":"~`...)
	p = appendPadded(p, seq, seqDigits)
	p = append(p, `","t":"`...)
	p = appendPadded(p, due, timeDigits)
	p = append(p, `","pad":"`...)
	for len(p) < lastAt {
		p = append(p, 'x')
	}
	return append(p, `^"}`...)
}

func appendPadded(dst []byte, v int64, digits int) []byte {
	s := strconv.FormatInt(v, 10)
	for range digits - len(s) {
		dst = append(dst, '0')
	}
	return append(dst, s...)
}

func number(p []byte) (n int64) {
	for _, c := range p {
		n = n*10 + int64(c-'0')
	}
	return n
}

// viewer is what the load generator knows of one connection: which event it
// had last, and how far the bytes have come.
type viewer struct {
	fd        int32
	websocket bool
	streaming bool   // the response's head has passed
	rest      []byte // what could not be judged without more bytes
	seq       int64  // of the last event, 0 before the first
	events    int64
	lost      int64
	disorder  int64
	pings     int // to be answered
}

// feed takes what has arrived, the rest of the last time in front of it, and
// returns how many of its bytes it is done with. seen is called with the time
// that each event was due.
func (v *viewer) feed(p []byte, seen func(event []byte)) (done int) {
	if !v.streaming {
		end := bytes.Index(p, []byte("\r\n\r\n"))
		if end < 0 {
			return 0
		}
		done = end + 4
		v.streaming = true
	}
	if v.websocket {
		return done + v.frames(p[done:], seen)
	}
	for {
		i := bytes.IndexByte(p[done:], first)
		if i < 0 {
			return len(p)
		}
		start := done + i - firstAt
		if start+lastAt >= len(p) {
			return done + i
		}
		v.event(p[done+i:], seen)
		done += i + lastAt - firstAt
	}
}

// frames takes WebSocket frames as a server sends them (RFC 6455, section
// 5.2).
func (v *viewer) frames(p []byte, seen func([]byte)) (done int) {
	for len(p)-done >= 2 {
		head, size := 2, int(p[done+1])
		switch size {
		case 126:
			if len(p)-done < 4 {
				return done
			}
			head, size = 4, int(binary.BigEndian.Uint16(p[done+2:]))
		case 127:
			panic("a frame of more than 64 KiB")
		}
		if len(p)-done < head+size {
			return done
		}
		switch payload := p[done+head : done+head+size]; p[done] & 0xf {
		case 9:
			v.pings++
		case 1, 2:
			if i := bytes.IndexByte(payload, first); i >= 0 {
				v.event(payload[i:], seen)
			}
		}
		done += head + size
	}
	return done
}

// event takes one event, from its first mark on.
func (v *viewer) event(p []byte, seen func([]byte)) {
	if len(p) <= lastAt-firstAt || p[lastAt-firstAt] != last {
		v.disorder++ // torn
		return
	}
	seq := number(p[1 : 1+seqDigits])
	switch {
	case v.seq == 0 || seq == v.seq+1:
	case seq > v.seq:
		v.lost += seq - v.seq - 1
	default:
		v.disorder++
		return
	}
	v.seq = seq
	v.events++
	seen(p)
}

// due returns when an event was due, given from its first mark on.
func due(p []byte) int64 { return number(p[timeAt-firstAt : timeAt-firstAt+timeDigits]) }
