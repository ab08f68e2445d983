// Package gorillaws serves executions over WebSocket, with the handshake and
// the reading of gorilla/websocket. Each event is one text message:
//
//	{"id":"1700000000000001","event":"task-start","data":{"taskId":"a"}}
//
// In streams of several executions "execution" names the event's.
//
// A viewer resumes with the query parameter lastEventId. What it sends is read
// and thrown away, within limits. The connection ends with close code 1000 when
// the execution has finished, 1001 when the server goes away, 1013 when the
// viewer shall come again later, 1008 or 1009 when it sends too much.
package gorillaws

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/gorilla/websocket"

	"github.com/execcast/execcast/adapters/internal/endpoint"
	"github.com/execcast/execcast/adapters/internal/socket"
	"github.com/execcast/execcast/core"
)

// Options configures a Handler. Nil works; a zero field means its documented
// default, a negative one off.
type Options struct {
	// ExecutionID returns the execution a request wants to see, and decides
	// whether it may: core.ErrUnauthorized, core.ErrForbidden and
	// core.ErrNotFound, wrapped or not, are answered with 401, 403 and 404,
	// any other error with 500. Default: the path value "executionId".
	ExecutionID func(*http.Request) (string, error)
	// ExecutionIDs returns the executions a request wants to see in one stream,
	// in which each event names its execution, and decides about each whether
	// it may; errors are as those of ExecutionID, which is not asked if this is
	// set. See core.Registry.RegisterAll. None, or more than 1,000, is answered
	// with 400.
	ExecutionIDs func(*http.Request) ([]string, error)
	// AllowedOrigins lists the origins, as in "https://app.example.com", whose
	// pages may watch besides those of the server's own host; "*" means any.
	AllowedOrigins []string
	// WriteTimeout is how long a viewer's connection may take to accept what
	// is written to it. Default 10 s.
	WriteTimeout time.Duration
	// Heartbeat is the interval of pings. A viewer that has sent nothing, not
	// even a pong, for two of them is given up. Default: the registry's.
	Heartbeat time.Duration
	// KeepHandler gives each viewer a second goroutine, for writing. By
	// default, on plain TCP, it has only the one that reads. The handler
	// returns at once either way.
	KeepHandler bool
}

// Handler is an http.Handler that streams executions.
type Handler struct {
	registry *core.Registry
	opts     Options
	upgrader websocket.Upgrader
}

// NewHandler returns a handler that streams the executions of r.
func NewHandler(r *core.Registry, opts *Options) *Handler {
	h := &Handler{registry: r}
	if opts != nil {
		h.opts = *opts
	}
	if h.opts.ExecutionID == nil {
		h.opts.ExecutionID = func(r *http.Request) (string, error) { return r.PathValue("executionId"), nil }
	}
	h.opts.WriteTimeout = endpoint.Period(h.opts.WriteTimeout, endpoint.DefaultWriteTimeout)
	if h.opts.Heartbeat == 0 {
		h.opts.Heartbeat = r.Heartbeat()
	}
	h.upgrader = websocket.Upgrader{
		// A viewer has next to nothing to say, and gorilla writes only
		// control frames.
		ReadBufferSize:   128,
		WriteBufferSize:  256,
		WriteBufferPool:  &writeBuffers,
		HandshakeTimeout: h.opts.WriteTimeout,
		CheckOrigin: func(r *http.Request) bool {
			return endpoint.OriginAllowed(r.Header.Get("Origin"), r.Host, h.opts.AllowedOrigins)
		},
	}
	return h
}

// ServeHTTP streams the execution that Options.ExecutionID names, or those of
// Options.ExecutionIDs.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	target, err := endpoint.TargetOf(r, h.opts.ExecutionID, h.opts.ExecutionIDs)
	h.stream(w, r, target, err)
}

// ServeExecution streams the execution of that ID, for frameworks that keep
// path parameters where net/http does not look. Options.ExecutionID is not
// asked: the caller has authorised the request.
func (h *Handler) ServeExecution(w http.ResponseWriter, r *http.Request, executionID string) {
	h.stream(w, r, endpoint.One(executionID), nil)
}

// ServeExecutions streams several executions at once, as Options.ExecutionIDs
// has ServeHTTP do. The caller has authorised the request for each.
func (h *Handler) ServeExecutions(w http.ResponseWriter, r *http.Request, executionIDs []string) {
	h.stream(w, r, endpoint.Several(executionIDs), nil)
}

func (h *Handler) stream(w http.ResponseWriter, r *http.Request, target endpoint.Target, err error) {
	// The handshake is refused, as a plain HTTP answer, before anything is
	// registered.
	if !h.upgrader.CheckOrigin(r) {
		http.Error(w, "origin not allowed", http.StatusForbidden)
		return
	}
	var client *core.Client
	if err == nil {
		client, err = target.Register(h.registry, &core.ClientOptions{
			Encoder:     encoder{},
			LastEventID: endpoint.LastEventID("", r.URL.Query().Get("lastEventId")),
			Heartbeat:   h.opts.Heartbeat,
		})
	}
	if code, ok := endpoint.Status(err); err != nil && ok {
		http.Error(w, http.StatusText(code), code)
		return
	}
	c, upgradeErr := h.upgrade(w, r)
	switch {
	case upgradeErr != nil:
		if client != nil {
			client.Unregister()
		}
	case err != nil: // told by a close code, which a page can read
		go c.read(func() {})
		go c.End(err)
	default:
		go c.read(client.Unregister)
		if c.CanTry() && !h.opts.KeepHandler {
			client.Start(c)
		} else {
			go client.Serve(context.Background(), c)
		}
	}
}

// upgrade makes the handshake, in which the headers that middlewares have set
// go out.
func (h *Handler) upgrade(w http.ResponseWriter, r *http.Request) (*conn, error) {
	if !websocket.IsWebSocketUpgrade(r) {
		w.Header().Set("Upgrade", "websocket")
		http.Error(w, "a WebSocket handshake is needed", http.StatusUpgradeRequired)
		return nil, errors.New("not a handshake")
	}
	c := &conn{readDone: make(chan struct{})}
	header := w.Header().Clone()
	header.Del("Sec-Websocket-Extensions")
	ws, err := h.upgrader.Upgrade(hijacker{w, func(nc net.Conn) net.Conn {
		c.Conn = socket.Own(nc, h.opts.WriteTimeout, h.opts.Heartbeat)
		c.silence = 2 * h.opts.Heartbeat
		return &half{Conn: nc, c: c, in: c.Reader()}
	}}, r, header)
	if err != nil {
		return nil, err
	}
	c.take(ws)
	return c, nil
}

// hijacker lets gorilla hijack through middlewares, and puts the connection
// that wrap returns in the place of the one it would get.
type hijacker struct {
	http.ResponseWriter
	wrap func(net.Conn) net.Conn
}

func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return h.wrap(conn), rw, nil
}
