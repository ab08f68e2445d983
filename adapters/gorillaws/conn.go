package gorillaws

import (
	"errors"
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

var errFlood = errors.New("execcast: viewer sends too much")

// writeBuffers has gorilla keep no write buffer for a connection.
var writeBuffers sync.Pool

// conn is a viewer's connection. Two sides write to it: the client's owner
// writes frames of events, whole or in parts; the goroutine that reads owes
// pongs and a close. mu keeps the one's frames out of the other's.
type conn struct {
	*socket.Conn
	ws       *websocket.Conn
	silence  time.Duration // how long the peer may send nothing, 0 for ever
	readDone chan struct{}
	readErr  error       // why reading ended, once readDone is closed
	leaving  atomic.Bool // reading has the time that Finish gives it
	taken    atomic.Bool // the handshake is over: gorilla's writes are control frames

	mu     sync.Mutex
	within bool   // the owner is writing, or has left a frame unfinished
	owed   []byte // goes out before the next frame: the rest of a control frame, or the newest that had to wait
	begun  bool   // owed is a rest, which nothing may replace
	closed bool   // a close frame is out or owed: nothing may follow
}

// take takes the connection over from the handshake.
func (c *conn) take(ws *websocket.Conn) {
	c.ws = ws
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
func (c *conn) read(gone func()) {
	defer gone()
	defer close(c.readDone)
	for {
		if _, _, c.readErr = c.ws.NextReader(); c.readErr != nil {
			if errors.Is(c.readErr, errFlood) {
				c.control(closeFrame(websocket.ClosePolicyViolation, "too much input"))
			}
			return
		}
	}
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
	vanished := false
	select {
	case <-c.readDone:
		var timeout net.Error // gorilla hides os.ErrDeadlineExceeded
		vanished = errors.As(c.readErr, &timeout) && timeout.Timeout()
	default:
	}
	c.mu.Lock()
	broken, last := c.within || vanished, c.owed
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
	c.leaving.Store(true)
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
	input int
	since time.Time
}

// Read bounds what the peer may send, and how long it may send nothing.
func (h *half) Read(p []byte) (int, error) {
	if h.c.silence > 0 && !h.c.leaving.Load() {
		h.Conn.SetReadDeadline(time.Now().Add(h.c.silence))
	}
	n, err := h.Conn.Read(p)
	if now := time.Now(); now.Sub(h.since) > inputWindow {
		h.since, h.input = now, 0
	}
	if h.input += n; h.input > maxInput {
		return 0, errFlood
	}
	return n, err
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
