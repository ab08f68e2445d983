package httpsse

import (
	"errors"
	"net/http"
	"time"

	"github.com/execcast/execcast/adapters/internal/socket"
	"github.com/execcast/execcast/core"
)

// stream is the connection of a viewer whose handler keeps running: the way of
// HTTP/2, of TLS, and of responses a middleware wants to see.
type stream struct {
	rc       *http.ResponseController
	w        http.ResponseWriter
	r        *http.Request
	timeout  time.Duration
	deadline time.Time // HTTP/1: the one set last
	failed   bool      // the last write failed
}

// begin sends the headers and the first bytes.
func (s *stream) begin(p []byte) error {
	if s.r.ProtoMajor == 1 {
		s.w.Header().Set("Connection", "close") // see End
	}
	_, err := s.Write(p)
	return err
}

// Write writes and flushes p, within the timeout. It replaces the server's
// WriteTimeout, which counts from the request's start.
func (s *stream) Write(p []byte) (int, error) {
	s.arm()
	n, err := s.w.Write(p)
	if err == nil {
		err = s.rc.Flush()
	}
	if s.r.ProtoMajor != 1 && err == nil {
		// An HTTP/2 stream whose deadline has passed cannot be written to
		// any more, not even with a new deadline.
		s.rc.SetWriteDeadline(time.Time{})
	}
	s.failed = err != nil
	return n, socket.Slow(err)
}

// arm sets the deadline for a write. A ResponseWriter that has none keeps the
// limits of its own.
func (s *stream) arm() {
	if s.timeout == 0 {
		if s.deadline.IsZero() {
			s.rc.SetWriteDeadline(time.Time{})
			s.deadline = s.deadline.Add(1)
		}
		return
	}
	now := time.Now()
	if s.r.ProtoMajor == 1 {
		if s.deadline.Sub(now) >= s.timeout {
			return
		}
		// Somewhat later than it need be, so that it need not be set for
		// every write.
		s.deadline = now.Add(s.timeout + min(s.timeout/8, time.Second))
		s.rc.SetWriteDeadline(s.deadline)
		return
	}
	s.rc.SetWriteDeadline(now.Add(s.timeout))
}

// End ends the response. On HTTP/1 net/http would close a connection on which
// the peer has sent something that nobody has read, which destroys what is
// still on its way: so the connection is taken over for the farewell.
func (s *stream) End(reason error) error {
	s.arm()
	if s.r.ProtoMajor != 1 || s.w.Header().Get("Content-Encoding") != "" {
		return nil // the server ends the response when the handler returns
	}
	conn, _, err := s.rc.Hijack()
	if err != nil {
		return nil
	}
	c := socket.Own(conn, s.timeout, 0)
	if s.failed || errors.Is(reason, core.ErrSlowClient) {
		return c.Abort()
	}
	if s.r.ProtoAtLeast(1, 1) {
		c.Write([]byte("0\r\n\r\n")) // the last chunk (RFC 9112, section 7.1)
	}
	return c.Finish()
}
