package coretest

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execcast/execcast/core"
)

// The reference adapters are as small as an adapter can be that passes the
// suite: what they show is that the suite can be passed, and what they do
// wrong when asked to is what it must notice.

func TestReference(t *testing.T) {
	t.Run("handler", func(t *testing.T) {
		Run(t, Adapter{Transport: SSE, SeesLeave: true, Serve: serve(serveHandler)})
	})
	t.Run("hijack", func(t *testing.T) {
		Run(t, Adapter{Transport: SSE, SeesLeave: true, Serve: serve(serveHijacked)})
	})
	t.Run("websocket", func(t *testing.T) {
		Run(t, Adapter{Transport: WebSocket, SeesLeave: true, Serve: serve(serveWebSocket)})
	})
}

// fault is what the reference adapters do wrong.
var fault = os.Getenv("EXECCAST_FAULT")

const (
	dropsLast          = "drops the last event on close"
	reorders           = "reorders two events"
	interleaves        = "writes a frame in two halves with another between"
	ignoresLastEventID = "ignores Last-Event-ID"
	neverFlushes       = "never flushes"
	closesUnread       = "closes with unread input"

	lateHeaders   = "sends no headers before the first event"
	noDeadline    = "sets no write deadline"
	keepsGone     = "keeps clients that have left"
	refusesBadID  = "answers 400 to a malformed Last-Event-ID"
	overloaded    = "answers 503 to whom it turns away"
	anyOrigin     = "lets pages of any origin in"
	noPreflight   = "answers no preflight"
	alwaysDone    = "closes every WebSocket as finished"
	mute          = "answers no pings"
	authorisesOne = "authorises the first of several executions only"
	hidesGaps     = "keeps gaps to itself"
	endsEarly     = "ends with the first of several executions"

	deaf = "believes in viewers that answer no pings"
)

func init() {
	if fault != "" {
		patience = time.Second // nobody waits for what will not come
	}
}

type handler func(w http.ResponseWriter, r *http.Request, c *core.Client, o Options)

func serve(h handler) func(t testing.TB, r *core.Registry, o Options) Server {
	return func(t testing.TB, r *core.Registry, o Options) Server {
		mux := http.NewServeMux()
		mux.HandleFunc(Pattern, func(w http.ResponseWriter, req *http.Request) { admit(w, req, r, o, h) })
		s := &http.Server{Handler: mux}
		l := Listen(t, o)
		go s.Serve(l)
		t.Cleanup(func() { s.Close() })
		return Server{Addr: l.Addr().String(), Shutdown: s.Shutdown}
	}
}

// admit answers a request that cannot be served, and else registers a client.
func admit(w http.ResponseWriter, r *http.Request, registry *core.Registry, o Options, h handler) {
	ws := r.Header.Get("Upgrade") == "websocket"
	id := r.PathValue("executionId")
	var ids []string
	origin := r.Header.Get("Origin")
	var err error
	switch {
	case o.Several && fault == authorisesOne:
		ids = r.URL.Query()["execution"]
		if len(ids) > 0 && o.Authorize != nil {
			err = o.Authorize(ids[0])
		}
	case o.Several:
		ids, err = o.ExecutionIDs(r.URL.Query())
	case o.Authorize != nil:
		err = o.Authorize(id)
	}
	switch {
	case r.Method == "OPTIONS" && slices.Contains(o.AllowedOrigins, origin) && fault != noPreflight:
		w.Header().Set("Vary", "Origin")
		w.Header().Set("Access-Control-Allow-Origin", origin)
		w.Header().Set("Access-Control-Allow-Methods", "GET")
		w.Header().Set("Access-Control-Allow-Headers", "authorization, last-event-id")
		w.Header().Set("Access-Control-Max-Age", "60")
		w.WriteHeader(http.StatusNoContent)
		return
	case r.Method != "GET" && (r.Method != "HEAD" || ws):
		w.Header().Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	case origin != "" && fault != anyOrigin && origin != "http://"+r.Host && !slices.Contains(o.AllowedOrigins, origin):
		w.WriteHeader(http.StatusForbidden)
		return
	case ws != equal(h, serveWebSocket), ws && (r.Header.Get("Sec-WebSocket-Version") != "13" || r.Header.Get("Sec-WebSocket-Key") == ""):
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.Header().Set("Access-Control-Allow-Origin", origin)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store, no-transform")
	w.Header().Set("X-Accel-Buffering", "no")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.Method == "HEAD" {
		return
	}
	opts := core.ClientOptions{Heartbeat: o.Heartbeat, LastEventID: r.Header.Get("Last-Event-ID")}
	if opts.LastEventID == "" {
		opts.LastEventID = r.URL.Query().Get("lastEventId")
	}
	if fault == ignoresLastEventID {
		opts.LastEventID = ""
	}
	if fault == refusesBadID && strings.Trim(opts.LastEventID, "0123456789") != "" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if ws {
		opts.Encoder = wsEncoder{}
	}
	var c *core.Client
	switch {
	case err != nil:
	case o.Several:
		c, err = registry.RegisterAll(ids, &opts)
	default:
		c, err = registry.Register(id, &opts)
	}
	switch {
	case errors.Is(err, core.ErrUnauthorized):
		w.WriteHeader(http.StatusUnauthorized)
	case errors.Is(err, core.ErrForbidden):
		w.WriteHeader(http.StatusForbidden)
	case errors.Is(err, core.ErrNotFound):
		w.WriteHeader(http.StatusNotFound)
	case errors.Is(err, core.ErrExecutionID), errors.Is(err, core.ErrExecutionIDs):
		w.WriteHeader(http.StatusBadRequest)
	case err != nil && fault == overloaded:
		w.WriteHeader(http.StatusServiceUnavailable)
	case err != nil && ws:
		if s, err2 := upgrade(w, r, o, func() {}); err2 == nil {
			s.End(err)
		}
	case errors.Is(err, core.ErrUnknown), errors.Is(err, core.ErrFinished):
		w.WriteHeader(http.StatusNoContent)
	case err != nil:
		fmt.Fprintf(w, ": %v\nretry: 2000\n\n", err)
	default:
		h(w, r, c, o)
	}
}

func equal(a, b handler) bool { return fmt.Sprintf("%p", a) == fmt.Sprintf("%p", b) }

// serveHandler serves c in the handler's goroutine.
func serveHandler(w http.ResponseWriter, r *http.Request, c *core.Client, o Options) {
	s := &response{w, http.NewResponseController(w), o.WriteTimeout}
	if _, err := s.Write([]byte("retry: 2000\n\n")); err != nil {
		c.Unregister()
	}
	c.Serve(r.Context(), plant(s))
}

type response struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	timeout time.Duration
}

func (s *response) Write(p []byte) (int, error) {
	if s.timeout > 0 && fault != noDeadline {
		s.rc.SetWriteDeadline(time.Now().Add(s.timeout))
		defer s.rc.SetWriteDeadline(time.Time{})
	}
	n, err := s.w.Write(p)
	isHead := strings.HasPrefix(string(p), "retry")
	if err == nil && (fault != neverFlushes || isHead) && (fault != lateHeaders || !isHead) {
		err = s.rc.Flush()
	}
	return n, slow(err)
}

func slow(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: %w", core.ErrSlowClient, err)
	}
	return err
}

// socket is a hijacked connection.
type socket struct {
	net.Conn
	in       *bufio.Reader
	out      *bufio.Writer // only if it never flushes
	timeout  time.Duration
	readDone chan struct{}
	goodbye  func(reason error)

	mu     sync.Mutex // held for whole frames
	closed bool       // nothing may follow
}

func hijack(w http.ResponseWriter, o Options, head string) (*socket, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	s := &socket{Conn: conn, in: rw.Reader, timeout: o.WriteTimeout, readDone: make(chan struct{})}
	if _, err := s.Write([]byte(head)); err != nil {
		conn.Close()
		return nil, err
	}
	if fault == neverFlushes {
		s.out = bufio.NewWriter(conn)
	}
	return s, nil
}

func (s *socket) Write(p []byte) (int, error) { return s.write(p, false) }

// write writes p, if nothing has been written that is the last.
func (s *socket) write(p []byte, last bool) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	s.closed = last
	if s.timeout > 0 && fault != noDeadline {
		s.SetWriteDeadline(time.Now().Add(s.timeout))
		defer s.SetWriteDeadline(time.Time{})
	}
	if s.out != nil {
		return s.out.Write(p)
	}
	n, err := s.Conn.Write(p)
	s.closed = s.closed || err != nil
	return n, slow(err)
}

// End says goodbye, lets the viewer take what was written, and closes.
func (s *socket) End(reason error) error {
	if fault != closesUnread && !errors.Is(reason, os.ErrDeadlineExceeded) {
		s.goodbye(reason)
		select {
		case <-s.readDone:
		case <-time.After(2 * time.Second):
		}
	}
	return s.Close()
}

// serveHijacked serves c on the connection itself.
func serveHijacked(w http.ResponseWriter, r *http.Request, c *core.Client, o Options) {
	w.Header().Set("Connection", "close")
	var head strings.Builder
	head.WriteString("HTTP/1.1 200 OK\r\n")
	w.Header().Write(&head)
	head.WriteString("\r\nretry: 2000\n\n")
	s, err := hijack(w, o, head.String())
	if err != nil {
		c.Unregister()
		return
	}
	s.goodbye = func(error) { s.Conn.(*net.TCPConn).CloseWrite() }
	if fault != closesUnread {
		go func() {
			if fault != keepsGone {
				defer c.Unregister()
			}
			defer close(s.readDone)
			io.Copy(io.Discard, s.in)
		}()
	}
	c.Serve(context.Background(), plant(s))
}

// serveWebSocket serves c as a WebSocket.
func serveWebSocket(w http.ResponseWriter, r *http.Request, c *core.Client, o Options) {
	s, err := upgrade(w, r, o, c.Unregister)
	if err != nil {
		c.Unregister()
		return
	}
	c.Serve(context.Background(), plant(s))
}

type webSocket struct {
	*socket
	heard chan struct{} // a frame has come
	pings int           // since then
}

func upgrade(w http.ResponseWriter, r *http.Request, o Options, gone func()) (*webSocket, error) {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	c, err := hijack(w, o, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Accept: "+base64.StdEncoding.EncodeToString(sum[:])+"\r\n\r\n")
	if err != nil {
		return nil, err
	}
	s := &webSocket{socket: c, heard: make(chan struct{}, 1)}
	s.goodbye = func(reason error) {
		switch {
		case reason == nil, fault == alwaysDone, errors.Is(reason, core.ErrFinished), errors.Is(reason, core.ErrUnknown):
			s.close(1000)
		case errors.Is(reason, core.ErrShutdown), errors.Is(reason, core.ErrMaxAge), errors.Is(reason, core.ErrUnregistered):
			s.close(1001)
		default:
			s.close(1013)
		}
	}
	if fault != closesUnread {
		go s.read(gone)
	}
	return s, nil
}

func (s *webSocket) close(code int) {
	s.write([]byte{0x80 | OpClose, 2, byte(code >> 8), byte(code)}, true)
}

// Write counts the pings that pass.
func (s *webSocket) Write(p []byte) (int, error) {
	select {
	case <-s.heard:
		s.pings = 0
	default:
	}
	if p[0] == 0x80|OpPing {
		s.pings++
	}
	if s.pings > 2 && fault != deaf {
		return 0, errors.New("no pongs")
	}
	return s.socket.Write(p)
}

// read reads frames until the connection has to end.
func (s *webSocket) read(gone func()) {
	if fault != keepsGone {
		defer gone()
	}
	defer close(s.readDone)
	if code := s.frames(); code != 0 {
		s.close(code)
	}
	s.Conn.(*net.TCPConn).CloseWrite()
	s.SetReadDeadline(time.Now().Add(2 * time.Second))
	io.CopyN(io.Discard, s.in, 1<<20)
}

// frames reads frames, and returns the code to close with, 0 for none.
func (s *webSocket) frames() int {
	started := false
	for {
		var head [6]byte
		if _, err := io.ReadFull(s.in, head[:2]); err != nil {
			return 0
		}
		op, final, n := head[0]&15, head[0]&0x80 != 0, int(head[1]&127)
		switch {
		case head[0]&0x70 != 0, head[1]&0x80 == 0, op > OpBinary && op < OpClose, op > OpPong,
			op >= OpClose && (!final || n > 125), (op == OpContinuation) != started && op < OpClose:
			return 1002
		case n > 126:
			return 1009
		case n == 126:
			var size [2]byte
			if _, err := io.ReadFull(s.in, size[:]); err != nil {
				return 0
			}
			if n = int(binary.BigEndian.Uint16(size[:])); n > 4096 {
				return 1009
			}
		}
		if op < OpClose {
			started = !final
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(s.in, head[2:6]); err != nil {
			return 0
		}
		if _, err := io.ReadFull(s.in, payload); err != nil {
			return 0
		}
		for i := range payload {
			payload[i] ^= head[2+i%4]
		}
		select {
		case s.heard <- struct{}{}:
		default:
		}
		switch {
		case op == OpPing && fault == mute:
		case op == OpPing:
			s.socket.Write(append([]byte{0x80 | OpPong, byte(n)}, payload...))
		case op == OpClose && n == 0:
			return 1000
		case op == OpClose && binary.BigEndian.Uint16(payload) < 1000:
			return 1002
		case op == OpClose:
			return int(binary.BigEndian.Uint16(payload))
		}
	}
}

type wsEncoder struct{}

func (wsEncoder) AppendEvent(dst []byte, e core.Event) []byte {
	p := core.JSON.AppendEvent(nil, e)
	dst = append(dst, 0x80|OpText)
	switch n := len(p); {
	case n < 126:
		dst = append(dst, byte(n))
	case n <= 0xFFFF:
		dst = binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
	}
	return append(dst, p...)
}

func (wsEncoder) AppendHeartbeat(dst []byte) []byte { return append(dst, 0x80|OpPing, 0) }
