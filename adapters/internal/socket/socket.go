// Package socket is the part of the adapters that own a connection: writing
// within a time limit, letting go without losing what was written, and, on
// systems that allow it, writing without blocking and noticing a peer that has
// left without a goroutine each.
package socket

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/execcast/execcast/core"
)

// linger bounds how long letting go waits for a peer that has received
// everything to close its side. A variable for the tests.
var linger = 2 * time.Second

// discard bounds the input that is thrown away meanwhile, in bytes.
const discard = 256 << 10

// Conn is a connection that this process owns. It has one writer at a time,
// who is also the one to let go of it: the descriptor is used directly.
type Conn struct {
	net.Conn
	fd      int           // -1 where writes cannot be tried, and once let go
	partial bool          // the last write broke off within a frame
	timeout time.Duration // for one Write, 0 for none
	watched uint64        // in peers, 0 if not there
}

// Own returns conn as a Conn whose writes take at most timeout each, 0 for no
// limit. A peer that has vanished is given up after two heartbeats, where the
// system can do that: the next one is not acknowledged, and after the time of
// another the kernel reports an error.
func Own(conn net.Conn, timeout, heartbeat time.Duration) *Conn {
	c := &Conn{Conn: conn, fd: -1, timeout: timeout}
	conn.SetDeadline(time.Time{}) // the server's own no longer count
	if tcp, ok := conn.(*net.TCPConn); ok {
		setUserTimeout(tcp, heartbeat)
		c.fd = descriptor(tcp)
	}
	return c
}

// CanTry reports whether TryWrite works.
func (c *Conn) CanTry() bool { return c.fd >= 0 }

// Reader returns what reads from the connection, for one goroutine.
func (c *Conn) Reader() io.Reader { return newReader(c.Conn) }

// Write sends all of p, or returns an error: one that wraps ErrSlowClient if
// that took longer than the timeout.
func (c *Conn) Write(p []byte) (int, error) {
	if c.timeout > 0 {
		c.SetWriteDeadline(time.Now().Add(c.timeout))
		defer c.SetWriteDeadline(time.Time{})
	}
	n, err := c.Conn.Write(p)
	c.partial = err != nil
	return n, Slow(err)
}

// TryWrite sends as much of p as fits now.
func (c *Conn) TryWrite(p []byte) (int, error) {
	n, err := trySend(c.fd, p)
	c.partial = n < len(p)
	return n, err
}

// OnLeave has f called when the peer closes its side, from another goroutine.
// What the peer sends is never read, or thrown away.
func (c *Conn) OnLeave(f func()) {
	if c.fd >= 0 {
		var err error
		if c.watched, err = watchPeer(c.fd, f); err == nil {
			return
		}
	}
	go func() {
		io.Copy(io.Discard, onlyReader{c.Conn})
		f()
	}()
}

// Slow makes an error that says that a deadline was exceeded one that wraps
// core.ErrSlowClient.
func Slow(err error) error {
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: %w", core.ErrSlowClient, err)
	}
	return err
}

// Finish lets go of a connection to which everything has been written. Closing
// a socket with unread input would reset it, and destroy what is still on its
// way to the peer: so it closes the sending side, reads what the peer still
// sends until it closes too, and only then closes. It waits two seconds for
// that, or, while the peer has not received everything, as long as a write may
// take.
func (c *Conn) Finish() error {
	c.forget()
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		c.drain()
	}
	c.fd = -1
	return c.Conn.Close()
}

func (c *Conn) drain() {
	input := io.LimitedReader{R: onlyReader{c.Conn}, N: discard}
	for waited := time.Duration(0); ; {
		c.SetReadDeadline(time.Now().Add(linger))
		_, err := io.Copy(io.Discard, &input)
		if waited += linger; !errors.Is(err, os.ErrDeadlineExceeded) || waited >= c.timeout || unsent(c.fd) == 0 {
			return
		}
	}
}

// Abort lets go of a connection at once, with what is still on its way.
func (c *Conn) Abort() error {
	c.forget()
	c.fd = -1
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	return c.Conn.Close()
}

func (c *Conn) forget() {
	if c.watched != 0 {
		unwatchPeer(c.watched)
	}
	c.watched = 0
}

// End lets go as fits the reason a client has ended for: at once if nothing
// that follows would make sense to the peer.
func (c *Conn) End(reason error) error {
	if c.partial || errors.Is(reason, core.ErrSlowClient) {
		return c.Abort()
	}
	return c.Finish()
}

// onlyReader hides a connection's other methods from io.Copy.
type onlyReader struct{ io.Reader }
