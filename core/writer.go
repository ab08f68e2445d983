package core

import (
	"fmt"
	"io"
	"runtime/debug"
)

// Writer is the sending half of a client's connection.
//
// An implementation
//   - is called by one goroutine at a time;
//   - sends all of p or returns an error, after which only End is called;
//   - flushes: when Write returns, the operating system has the bytes;
//   - bounds itself: nothing but its own deadline can interrupt a blocked
//     Write, and when that strikes the error wraps ErrSlowClient;
//   - keeps and changes nothing of p, which other clients share;
//   - returns io.EOF or net.ErrClosed alike for a peer that has gone: any
//     error ends this client and no other.
type Writer interface {
	Write(p []byte) (n int, err error)
}

// Ender is a Writer that can say goodbye and let go of its connection.
type Ender interface {
	// End is called exactly once, last, also after a failed Write. It may
	// block for a bounded time, to let the peer take what was written.
	//
	// The reason is nil when the execution finished and everything has been
	// written; otherwise ErrShutdown, ErrSlowClient, ErrMaxAge,
	// ErrUnregistered, the cause of the context given to Serve, or the error
	// of the failed write.
	End(reason error) error
}

// TryWriter is a Writer that can also write without blocking, and so be served
// without a goroutine of its own; see [Client.Start].
type TryWriter interface {
	Writer
	Ender
	// TryWrite writes as much of p as fits now. n < len(p) with a nil error
	// means that the connection is full; the rest then goes through Write,
	// before any other byte.
	TryWrite(p []byte) (n int, err error)
}

// panicError is what becomes of a panic in an adapter's code: the end of one
// client.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("execcast: writer panicked: %v", e.value) }

func catch(err *error) {
	if v := recover(); v != nil {
		*err = &panicError{v, debug.Stack()}
	}
}

func write(w Writer, p []byte) (err error) {
	defer catch(&err)
	n, err := w.Write(p)
	if err == nil && n != len(p) {
		err = io.ErrShortWrite
	}
	return err
}

func tryWrite(w TryWriter, p []byte) (n int, err error) {
	defer catch(&err)
	n, err = w.TryWrite(p)
	if err == nil && (n < 0 || n > len(p)) {
		err = fmt.Errorf("execcast: TryWrite of %d bytes returned %d", len(p), n)
	}
	return n, err
}

func end(w Writer, reason error) (err error) {
	defer catch(&err)
	if ender, ok := w.(Ender); ok {
		return ender.End(reason)
	}
	return nil
}
