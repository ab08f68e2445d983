//go:build js && wasm

//lint:file-ignore U1000 JavaScript calls what go:wasmexport exports.

package main

import (
	"errors"
	"io"
	"iter"
	"math"
	"time"

	"github.com/execcast/execcast/core"
)

// Bits of a frame's flags: which fields it has.
const (
	hasID = 1 << iota
	hasData
	hasRetry
	hasType
	hasComment
	hasTraceparent
)

// encode encodes the frame in the input buffer and returns how many bytes
// output has; or, if core refuses it, the negative number of those of its
// error: field, NUL, reason.
//
//go:wasmexport encode
func encode(flags, id, typ, comment, traceparent, data uint32, retry float64) int32 {
	a := newArgs()
	f := core.Frame{
		ID:          a.view(id),
		HasID:       flags&hasID != 0,
		Type:        a.view(typ),
		Comment:     a.view(comment),
		Traceparent: a.view(traceparent),
		HasRetry:    flags&hasRetry != 0,
	}
	if flags&hasData != 0 {
		f.Data = a.bytes(data)
	}
	switch whole := math.Trunc(retry); {
	case retry < 0:
		f.Retry = -1
	case retry != whole:
		f.Retry = 1 // any fraction of a millisecond, also one that a Duration cannot hold
	default:
		f.Retry = time.Duration(whole) * time.Millisecond
	}
	p, err := core.AppendFrame(reuse(), f)
	if err != nil {
		return refuse(err)
	}
	give(p)
	return int32(len(p))
}

func refuse(err error) int32 {
	field, reason := "", err.Error()
	var frame *core.FrameError
	if errors.As(err, &frame) {
		field, reason = frame.Field, frame.Reason
	}
	p := append(append(append(reuse(), field...), 0), reason...)
	give(p)
	return int32(-len(p))
}

// decoder is a core.Decode that is pulled for as long as there are bytes.
type decoder struct {
	next func() (step, bool)
	stop func()
	p    []byte // not yet read
	end  bool   // nothing follows p
}

// step is a frame, the error that ends the stream, or neither: more bytes are
// wanted.
type step struct {
	frame *core.Frame
	err   error
}

var decoders = handles[*decoder]{}

//go:wasmexport decoderNew
func decoderNew(maxBytes float64) uint32 {
	d := &decoder{}
	d.next, d.stop = iter.Pull(func(yield func(step) bool) {
		read := readerFunc(func(p []byte) (int, error) {
			for len(d.p) == 0 {
				if d.end || !yield(step{}) {
					return 0, io.EOF
				}
			}
			n := copy(p, d.p)
			d.p = d.p[n:]
			return n, nil
		})
		for f, err := range core.Decode(read, int(maxBytes)) {
			if !yield(step{&f, err}) {
				return
			}
		}
	})
	return decoders.add(d)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// decoderFeed takes the next n bytes of a stream, and puts the frames they
// complete into output. It returns 0, or 1 if the stream has ended: then the
// last of them may be an error, and the decoder is no more.
//
//go:wasmexport decoderFeed
func decoderFeed(handle, n, end uint32) uint32 {
	d := decoders[handle]
	if d == nil {
		give(nil)
		return 1
	}
	a := newArgs()
	d.p, d.end = a.bytes(n), end != 0
	p := reuse()
	for {
		s, ok := d.next()
		switch {
		case !ok:
			give(p)
			decoderFree(handle)
			return 1
		case s.err != nil:
			p = appendFrame(p, hasError, &core.Frame{Comment: s.err.Error()})
		case s.frame == nil:
			give(p)
			return 0
		default:
			p = appendFrame(p, 0, s.frame)
		}
	}
}

const hasError = 1 << 7 // the comment is the error that ended the stream

func appendFrame(dst []byte, flags uint32, f *core.Frame) []byte {
	for _, has := range []struct {
		bit uint32
		is  bool
	}{{hasID, f.HasID}, {hasData, f.Data != nil}, {hasRetry, f.HasRetry}, {hasType, f.Type != ""},
		{hasComment, f.Comment != ""}, {hasTraceparent, f.Traceparent != ""}} {
		if has.is {
			flags |= has.bit
		}
	}
	dst = appendUint32(dst, flags)
	for _, n := range []int{len(f.ID), len(f.Type), len(f.Comment), len(f.Traceparent), len(f.Data)} {
		dst = appendUint32(dst, uint32(n))
	}
	dst = appendFloat(dst, float64(f.Retry/time.Millisecond))
	dst = append(append(dst, f.ID...), f.Type...)
	return append(append(append(dst, f.Comment...), f.Traceparent...), f.Data...)
}

//go:wasmexport decoderFree
func decoderFree(handle uint32) {
	if d := decoders[handle]; d != nil {
		d.stop()
		delete(decoders, handle)
	}
}
