//go:build js && wasm

//lint:file-ignore U1000 JavaScript calls what go:wasmexport exports.

// Command wasm is core for JavaScript: what package.json's module calls through
// linear memory. It is built by build.mjs.
//
// JavaScript calls the exported functions, which take numbers; strings and
// bytes lie one behind the other in the buffer that input returns, and come
// back in output. An exported function must not block, and the goroutines it
// wakes run when JavaScript next calls resume, which runs all of them until
// they wait. Go calls the three imported functions; JavaScript may call the
// exported ones from within.
package main

import (
	"math"
	"time"
	"unsafe"
)

func main() { select {} }

var (
	in  []byte // arguments of the call that JavaScript makes next
	out []byte // results of the one it made last
	// result tells JavaScript where out is. Its own address never changes.
	result struct{ ptr, len uint32 }
)

// keep is how much of a buffer survives a call that needed more.
const keep = 1 << 20

//go:wasmexport input
func input(size uint32) uint32 {
	if int(size) > len(in) || len(in) > keep {
		in = make([]byte, max(int(size), 4096))
	}
	return address(in)
}

//go:wasmexport output
func output() uint32 { return uint32(uintptr(unsafe.Pointer(&result))) }

func address(p []byte) uint32 { return uint32(uintptr(unsafe.Pointer(unsafe.SliceData(p)))) }

// give makes p the result of a call.
func give(p []byte) {
	out = p
	result.ptr, result.len = address(p), uint32(len(p))
}

// reuse returns the memory of the last result, for the next.
func reuse() []byte {
	if cap(out) > keep {
		out = nil
	}
	return out[:0]
}

// args reads the call's arguments from the input buffer.
type args struct{ rest []byte }

func newArgs() args { return args{in} }

func (a *args) bytes(n uint32) []byte {
	p := a.rest[:n:n]
	a.rest = a.rest[n:]
	return p
}

func (a *args) string(n uint32) string { return string(a.bytes(n)) }

// view is string without the copy: it changes with the next call.
func (a *args) view(n uint32) string {
	p := a.bytes(n)
	return unsafe.String(unsafe.SliceData(p), len(p))
}

func appendUint32(dst []byte, n uint32) []byte {
	return append(dst, byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
}

func appendFloat(dst []byte, f float64) []byte {
	n := math.Float64bits(f)
	return appendUint32(appendUint32(dst, uint32(n)), uint32(n>>32))
}

// milliseconds reads a duration. JavaScript has made sure that it is not NaN;
// what Go cannot hold becomes the longest duration it can.
func milliseconds(ms float64) time.Duration {
	switch ns := ms * float64(time.Millisecond); {
	case ns >= math.MaxInt64:
		return math.MaxInt64
	case ns <= math.MinInt64:
		return math.MinInt64
	default:
		return time.Duration(ns)
	}
}
