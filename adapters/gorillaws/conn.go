package gorillaws

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/execcast/execcast/adapters/internal/endpoint"
	"github.com/execcast/execcast/adapters/internal/socket"
	"github.com/execcast/execcast/core"
)

const (
	// maxMessage bounds one message of a viewer, in bytes.
	maxMessage = 4 << 10
	// maxInput bounds what a viewer sends in inputWindow, in bytes.
	maxInput    = 64 << 10
	inputWindow = 10 * time.Second
	// closeWait bounds the wait for the peer's half of the closing handshake.
	closeWait = 2 * time.Second
)

var (
	errFlood    = errors.New("execcast: viewer sends too much")
	errVanished = errors.New("execcast: viewer answers no pings")
)

// start is what now counts from: in an int64, unlike a time.Time, it is small
// and can be shared.
var start = time.Now()

func now() time.Duration { return time.Since(start) }

// writeBuffers has gorilla keep no write buffer for a connection.
var writeBuffers sync.Pool

// conn is a viewer's connection. Two sides write to it: the client's owner
// writes frames of events, whole or in parts; the goroutine that reads owes
// pongs and a close. mu keeps the one's frames out of the other's.
type conn struct {
	*socket.Conn
	ws       *websocket.Conn
	readDone chan struct{} // closed when reading has ended
	taken    atomic.Bool   // the handshake is over: gorilla's writes are control frames
	heard    atomic.Int64  // when the peer last sent something, as now

	// The owner's.
	silence time.Duration // how long the peer may send nothing, not positive for ever
	pinged  time.Duration // when the last ping was written, as now

	mu     sync.Mutex
	within bool   // the owner is writing, or has left a frame unfinished
	owed   []byte // goes out before the next frame: the rest of a control frame, or the newest that had to wait
	begun  bool   // owed is a rest, which nothing may replace
	closed bool   // a close frame is out or owed: nothing may follow
}

// take takes the connection over from the handshake.
func (c *conn) take(ws *websocket.Conn) {
	c.ws = ws
	c.heard.Store(int64(now()))
	c.taken.Store(true)
	ws.SetReadLimit(maxMessage)
	ws.SetPingHandler(func(data string) error {
		c.control(append([]byte{finPong, byte(len(data))}, data...))
		return nil
	})
	ws.SetPongHandler(func(string) error { return nil })
	ws.SetCloseHandler(func(code int, _ string) error {
		if code == websocket.CloseNoStatusReceived {
			code = websocket.CloseNormalClosure
		}
		c.control(closeFrame(code, ""))
		return nil
	})
}

// read reads and throws away what the peer sends, which is how its pongs and
// its close are noticed, until the connection ends. Then it calls gone.
//
// This goroutine is most of what an idle viewer costs. What it calls until it
// waits fits in the 2 KiB of stack it begins with, which is why that neither
// sets deadlines nor goes through net.Conn: see TestIdleConnection.
func (c *conn) read(gone func()) {
	for {
		if _, _, err := c.ws.NextReader(); err != nil {
			if errors.Is(err, errFlood) {
				c.control(closeFrame(websocket.ClosePolicyViolation, "too much input"))
			}
			close(c.readDone)
			gone()
			return
		}
	}
}

// vanished reports, when the owner is about to write p, whether the peer is to
// be given up: it has left a ping without an answer, and been silent for long.
func (c *conn) vanished(p []byte) bool {
	if c.silence <= 0 || len(p) == 0 || p[0] != finPing {
		return false
	}
	before, heard := c.pinged, time.Duration(c.heard.Load())
	c.pinged = now()
	// Heartbeats may come an eighth of their interval early.
	return heard < before && c.pinged-heard >= c.silence-c.silence/8
}

// control sends a control frame of the reading side between the owner's
// frames, now or as soon as those allow.
func (c *conn) control(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = frame[0] == finStop
	if c.begun {
		if c.closed {
			c.owed = append(c.owed, frame...)
		}
		return // a pong can be left out: the newest is what counts
	}
	c.owed = frame
	if !c.within {
		c.flush()
	}
}

// flush sends what is owed, as far as it can without waiting for long, and
// reports whether that was all. c.mu is held.
func (c *conn) flush() bool {
	if len(c.owed) == 0 {
		return true
	}
	n, err := 0, error(nil)
	if c.CanTry() {
		n, err = c.Conn.TryWrite(c.owed)
	} else {
		n, err = c.Conn.Write(c.owed)
	}
	if err != nil {
		n = len(c.owed) // the owner will find out for itself
	}
	c.owed, c.begun = c.owed[n:], n > 0 && n < len(c.owed)
	return len(c.owed) == 0
}

// TryWrite sends as much of p, whole frames or the rest of one, as fits now.
func (c *conn) TryWrite(p []byte) (int, error) {
	if c.vanished(p) {
		return 0, errVanished
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.flush() {
		return 0, nil
	}
	if c.closed {
		return 0, net.ErrClosed
	}
	n, err := c.Conn.TryWrite(p)
	c.within = n < len(p)
	return n, err
}

// Write sends all of p: whole frames, or the rest that TryWrite left.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	if !c.within && c.vanished(p) {
		c.mu.Unlock()
		return 0, errVanished
	}
	var first []byte
	if !c.within {
		first = c.owed
		c.owed, c.begun = nil, false
		if c.closed && first == nil {
			c.mu.Unlock()
			return 0, net.ErrClosed
		}
	}
	c.within = true
	c.mu.Unlock()
	if len(first) > 0 {
		if _, err := c.Conn.Write(first); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Write(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.within = false
		c.flush()
	}
	return n, err
}

// End makes the closing handshake, as far as the connection still allows, and
// lets go of it.
func (c *conn) End(reason error) error {
	c.mu.Lock()
	broken, last := c.within || errors.Is(reason, errVanished), c.owed
	if !c.closed {
		last = append(last, closeFrame(closeCode(reason))...)
	}
	c.owed, c.closed, c.within = nil, true, true // the reading side writes no more
	c.mu.Unlock()
	if broken {
		return c.Abort()
	}
	if len(last) > 0 {
		if _, err := c.Conn.Write(last); err != nil {
			c.Abort()
			return err
		}
	}
	patience := time.NewTimer(closeWait)
	defer patience.Stop()
	select {
	case <-c.readDone:
	case <-patience.C:
	}
	return c.Finish()
}

// closeCode returns what a client that ended for a reason is told (RFC 6455,
// section 7.4.1, and the IANA registry for 1013).
func closeCode(reason error) (code int, text string) {
	switch {
	case reason == nil, endpoint.Done(reason):
		return websocket.CloseNormalClosure, "finished"
	case errors.Is(reason, core.ErrShutdown), errors.Is(reason, core.ErrMaxAge):
		return websocket.CloseGoingAway, "reconnect"
	case errors.Is(reason, core.ErrSlowClient), endpoint.Retry(reason):
		return websocket.CloseTryAgainLater, reason.Error()
	}
	return websocket.CloseGoingAway, ""
}

// half is the connection as gorilla sees it.
type half struct {
	net.Conn
	c     *conn
	in    io.Reader
	since time.Duration // when the window began
	input int           // bytes in it
}

// Read bounds what the peer may send.
func (h *half) Read(p []byte) (int, error) {
	n, err := h.in.Read(p)
	if !h.count(n) {
		return 0, errFlood
	}
	return n, err
}

// count notes that the peer has sent n bytes, and reports whether it may go on.
//
//go:noinline
func (h *half) count(n int) bool {
	t := now()
	h.c.heard.Store(int64(t))
	if t-h.since > inputWindow {
		h.since, h.input = t, 0
	}
	h.input += n
	return h.input <= maxInput
}

// Write sends the handshake; afterwards all that gorilla writes by itself are
// control frames, one a call.
func (h *half) Write(p []byte) (int, error) {
	if !h.c.taken.Load() {
		return h.Conn.Write(p)
	}
	h.c.control(append([]byte(nil), p...))
	return len(p), nil
}

// SetWriteDeadline leaves the deadlines to the owner once the handshake is
// over.
func (h *half) SetWriteDeadline(t time.Time) error {
	if !h.c.taken.Load() {
		return h.Conn.SetWriteDeadline(t)
	}
	return nil
}

var _ core.TryWriter = (*conn)(nil)
