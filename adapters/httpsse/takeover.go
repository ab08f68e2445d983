package httpsse

import (
	"bytes"
	"context"
	"net/http"
	"time"

	"github.com/execcast/execcast/adapters/internal/endpoint"
	"github.com/execcast/execcast/adapters/internal/socket"
	"github.com/execcast/execcast/core"
)

// takeOver serves c on the request's connection without its handler, if that
// can be, and reports whether it has.
func (h *Handler) takeOver(w http.ResponseWriter, r *http.Request, c *core.Client) bool {
	if !socket.Supported || r.ProtoMajor != 1 || r.TLS != nil ||
		w.Header().Get("Content-Encoding") != "" || w.Header().Get("Transfer-Encoding") != "" {
		return false
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	s := socket.Own(conn, h.opts.WriteTimeout, h.opts.Heartbeat)
	if _, err := s.Write(h.head(w.Header())); err != nil {
		c.Unregister()
		s.Abort()
		return true
	}
	s.OnLeave(c.Unregister)
	if s.CanTry() {
		c.Start(s)
	} else {
		go c.Serve(context.Background(), s)
	}
	return true
}

// head is the beginning of a response whose body ends with the connection
// (RFC 9112, section 6.3).
func (h *Handler) head(header http.Header) []byte {
	header.Del("Content-Length")
	header.Set("Connection", "close")
	if header.Get("Date") == "" {
		header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	}
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 200 OK\r\n")
	header.Write(&b) // replaces line breaks in values
	b.WriteString("\r\n")
	b.Write(endpoint.SSEPreamble(h.opts.Retry, nil))
	return b.Bytes()
}
