package coretest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// patience is how long something that must happen may take before it counts as
// a hang.
var patience = 20 * time.Second

// ViewerOptions says whom a viewer watches, and how.
type ViewerOptions struct {
	Transport   Transport
	Addr        string // host:port
	ExecutionID string
	// ExecutionIDs, if there are any, makes it a stream of several: they are
	// sent as query parameters "execution".
	ExecutionIDs []string
	// LastEventID is sent the way the transport's own clients send it: in the
	// header of that name, or by WebSocket, which has none, in the query.
	LastEventID string
	QueryID     string      // the query parameter lastEventId; "" for none
	Method      string      // default GET
	Header      http.Header // sent as well
	// ReceiveBuffer, if positive, is the size in bytes of the kernel's receive
	// buffer: what a viewer that does not read can still be sent.
	ReceiveBuffer int
	Record        bool // keep the bytes received, for Raw
	NoPong        bool // leave WebSocket pings unanswered
	// Patience is how long Next waits for more. Default 20 s.
	Patience time.Duration
}

// Event is one event as a viewer sees it.
type Event struct {
	Execution string // in a stream of several: which one's it is; "" if it is none's
	ID        string // of this event; "" if it has none
	Type      string // "message" if it has none
	Data      string // from a WebSocket, a JSON text

	Traceparent string // "" if it has none
}

// Value is the event's data as a page sees it: what JSON says, or the text if
// it is not JSON. It is the same over every transport. Numbers are
// json.Number.
func (e Event) Value() any {
	d := json.NewDecoder(strings.NewReader(e.Data))
	d.UseNumber()
	var v any
	if !json.Valid([]byte(e.Data)) || d.Decode(&v) != nil {
		return e.Data
	}
	return v
}

// Viewer is one connection of one viewer. It reads only while Next, All or
// Beat is called, by one goroutine at a time: a viewer that stops calling them
// stops reading. Send and SendRaw may be called meanwhile, by another.
type Viewer struct {
	// Of the response. Events come if Status is 200, or 101 for a WebSocket.
	Status int
	Header http.Header

	// What the stream has said so far; for whoever calls Next.
	LastEventID string        // to reconnect with
	Retry       time.Duration // SSE, 0 if it has not been said
	Beats       int           // SSE comments, or WebSocket pings
	Pong        string        // what the last WebSocket pong carried
	CloseCode   int           // of the WebSocket; 1005 if its close frame has none
	CloseReason string

	opts  ViewerOptions
	conn  net.Conn
	in    *bufio.Reader
	raw   bytes.Buffer
	sse   sseState
	queue []Event
	err   error // how it ended

	sending sync.Mutex
	closing bool // a close frame has been sent
}

// Connect sends a viewer's request and returns once it has the response's
// headers, whatever the status. The caller closes the viewer.
func Connect(o ViewerOptions) (*Viewer, error) {
	if o.Method == "" {
		o.Method = http.MethodGet
	}
	if o.Patience == 0 {
		o.Patience = patience
	}
	conn, err := net.DialTimeout("tcp", o.Addr, o.Patience)
	if err != nil {
		return nil, err
	}
	v := &Viewer{opts: o, conn: conn}
	if o.ReceiveBuffer > 0 {
		err = conn.(*net.TCPConn).SetReadBuffer(o.ReceiveBuffer)
	}
	if err == nil {
		err = v.request()
	}
	if err != nil {
		conn.Close()
		return nil, explain(err)
	}
	return v, nil
}

func (v *Viewer) request() error {
	o := &v.opts
	header := o.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	query := url.Values{}
	if len(o.ExecutionIDs) > 0 {
		query["execution"] = o.ExecutionIDs
	}
	if o.QueryID != "" {
		query.Set("lastEventId", o.QueryID)
	}
	var key string
	switch {
	case o.Transport == WebSocket:
		if o.LastEventID != "" {
			query.Set("lastEventId", o.LastEventID)
		}
		key = askForWebSocket(header)
	default:
		header.Set("Accept", "text/event-stream")
		if o.LastEventID != "" {
			header.Set("Last-Event-ID", o.LastEventID)
		}
	}
	var b bytes.Buffer
	target := url.PathEscape(o.ExecutionID) + "/events"
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	fmt.Fprintf(&b, "%s /api/executions/%s HTTP/1.1\r\nHost: %s\r\n", o.Method, target, o.Addr)
	header.Write(&b)
	b.WriteString("\r\n")
	if err := v.SendRaw(b.Bytes()); err != nil {
		return err
	}

	v.conn.SetReadDeadline(time.Now().Add(o.Patience))
	v.in = bufio.NewReader(v.conn)
	res, err := http.ReadResponse(v.in, &http.Request{Method: o.Method})
	if err != nil {
		return fmt.Errorf("response: %w", err)
	}
	v.Status, v.Header = res.StatusCode, res.Header
	var body io.Reader = v.in
	switch {
	case v.Status != v.streaming():
		v.err = fmt.Errorf("no stream: HTTP status %d", v.Status)
		return nil
	case o.Transport == WebSocket:
		if err := checkWebSocket(res.Header, key); err != nil {
			return err
		}
	default:
		body = res.Body // which may be chunked, or end with the connection
	}
	if o.Record {
		body = io.TeeReader(body, &v.raw)
	}
	if body != v.in {
		v.in = bufio.NewReader(body)
	}
	return nil
}

// streaming is the status of a response that is a stream.
func (v *Viewer) streaming() int {
	if v.opts.Transport == WebSocket {
		return http.StatusSwitchingProtocols
	}
	return http.StatusOK
}

// Next returns the next event. Its error is io.EOF when the stream ended as
// the transport wants it: an SSE body properly terminated and not within a
// frame, a WebSocket by a close frame and then the connection's end; see
// CloseCode. It is io.ErrUnexpectedEOF when the stream was cut off otherwise,
// wraps os.ErrDeadlineExceeded when nothing came any more, and else tells of a
// reset connection or of a violation of the protocol. It stays the same.
func (v *Viewer) Next() (Event, error) {
	for len(v.queue) == 0 {
		if v.err != nil {
			return Event{}, v.err
		}
		v.step()
	}
	e := v.queue[0]
	v.queue = v.queue[1:]
	return e, nil
}

// All reads to the end of the stream. It returns the events, and nil instead of
// io.EOF.
func (v *Viewer) All() (events []Event, err error) {
	for {
		e, err := v.Next()
		switch {
		case err == io.EOF:
			return events, nil
		case err != nil:
			return events, err
		}
		events = append(events, e)
	}
}

// Beat waits for the next heartbeat: an SSE comment or a WebSocket ping. Next
// still returns the events that came before it.
func (v *Viewer) Beat() error {
	for n := v.Beats; v.Beats == n; v.step() {
		if v.err != nil {
			return v.err
		}
	}
	return nil
}

// step reads one line of SSE or one frame of a WebSocket.
func (v *Viewer) step() {
	v.conn.SetReadDeadline(time.Now().Add(v.opts.Patience))
	var err error
	if v.opts.Transport == WebSocket {
		err = v.readFrame()
	} else {
		err = v.readLine()
	}
	if err != nil {
		v.err = explain(err)
		v.conn.Close()
	}
}

func explain(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("hang: nothing more came: %w", err)
	}
	return err
}

// event takes an event that has arrived.
func (v *Viewer) event(e Event) {
	if e.ID != "" {
		v.LastEventID = e.ID
	}
	v.queue = append(v.queue, e)
}

// Raw returns what the stream has consisted of so far, if Record was set: the
// bytes of the SSE body, or the WebSocket's frames. It is for whoever calls
// Next.
func (v *Viewer) Raw() []byte { return v.raw.Bytes() }

// SendRaw sends p as it is.
func (v *Viewer) SendRaw(p []byte) error {
	v.sending.Lock()
	defer v.sending.Unlock()
	return v.send(p)
}

func (v *Viewer) send(p []byte) error {
	v.conn.SetWriteDeadline(time.Now().Add(v.opts.Patience))
	_, err := v.conn.Write(p)
	return err
}

// Close leaves, as a browser does whose page is closed: without a word.
func (v *Viewer) Close() error { return v.conn.Close() }

// Reset leaves by resetting the connection.
func (v *Viewer) Reset() error {
	if tcp, ok := v.conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	return v.conn.Close()
}
