//go:build linux

package main

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"

	"github.com/lxzan/gws"
	"github.com/olahol/melody"
	r3labs "github.com/r3labs/sse/v2"
	gosse "github.com/tmaxmax/go-sse"
)

// The peers, each as its README shows it, with its defaults. None compresses,
// so that all send equal bytes.

// goSSE is tmaxmax/go-sse with Joe, its default provider, and a topic for each
// execution.
type goSSE struct{ server gosse.Server }

func newGoSSE([]string) candidate {
	return &goSSE{server: gosse.Server{
		OnSession: func(_ http.ResponseWriter, r *http.Request) ([]string, bool) {
			return []string{executionOf(r.URL.Path)}, true
		},
	}}
}

func (c *goSSE) serve(ln net.Listener) error { return http.Serve(ln, &c.server) }

func (c *goSSE) publish(execution string, id uint64, data []byte) {
	m := &gosse.Message{ID: gosse.ID(strconv.FormatUint(id, 10)), Type: gosse.Type(eventType)}
	m.AppendData(string(data))
	c.server.Publish(m, execution)
}

// r3 is r3labs/sse, which numbers events by itself.
type r3 struct{ server *r3labs.Server }

func newR3(executions []string) candidate {
	c := &r3{server: r3labs.New()}
	for _, id := range executions {
		c.server.CreateStream(id)
	}
	return c
}

func (c *r3) serve(ln net.Listener) error {
	return http.Serve(ln, http.HandlerFunc(c.server.ServeHTTP))
}

func (c *r3) publish(execution string, _ uint64, data []byte) {
	c.server.Publish(execution, &r3labs.Event{Event: []byte(eventType), Data: data})
}

// mel is olahol/melody, over gorilla/websocket.
type mel struct {
	melody *melody.Melody
	single bool
}

func newMelody(executions []string) candidate {
	return &mel{melody: melody.New(), single: len(executions) == 1}
}

func (c *mel) serve(ln net.Listener) error {
	return http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.melody.HandleRequest(w, r) }))
}

func (c *mel) publish(execution string, id uint64, data []byte) {
	msg := message(id, data)
	if c.single {
		c.melody.Broadcast(msg)
		return
	}
	path := pathOf(execution)
	c.melody.BroadcastFilter(msg, func(s *melody.Session) bool { return s.Request.URL.Path == path })
}

// gw is lxzan/gws with its broadcaster.
type gw struct {
	gws.BuiltinEventHandler
	upgrader *gws.Upgrader
	mu       sync.Mutex
	groups   map[string]map[*gws.Conn]struct{}
}

func newGWS([]string) candidate {
	c := &gw{groups: map[string]map[*gws.Conn]struct{}{}}
	c.upgrader = gws.NewUpgrader(c, &gws.ServerOption{ParallelEnabled: true, Recovery: gws.Recovery})
	return c
}

func (c *gw) serve(ln net.Listener) error {
	return http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := c.upgrader.Upgrade(w, r)
		if err != nil {
			return
		}
		id := executionOf(r.URL.Path)
		conn.Session().Store("execution", id)
		c.mu.Lock()
		if c.groups[id] == nil {
			c.groups[id] = map[*gws.Conn]struct{}{}
		}
		c.groups[id][conn] = struct{}{}
		c.mu.Unlock()
		go conn.ReadLoop()
	}))
}

func (c *gw) OnClose(conn *gws.Conn, _ error) {
	id, _ := conn.Session().Load("execution")
	c.mu.Lock()
	delete(c.groups[id.(string)], conn)
	c.mu.Unlock()
}

func (c *gw) publish(execution string, id uint64, data []byte) {
	b := gws.NewBroadcaster(gws.OpcodeText, message(id, data))
	defer b.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.groups[execution] {
		b.Broadcast(conn)
	}
}

// naive is what people write first.
type naive struct {
	mu      sync.Mutex
	streams map[string][]http.ResponseWriter
}

func newNaive([]string) candidate { return &naive{streams: map[string][]http.ResponseWriter{}} }

func (c *naive) serve(ln net.Listener) error {
	return http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := executionOf(r.URL.Path)
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-cache")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		c.mu.Lock()
		c.streams[id] = append(c.streams[id], w)
		c.mu.Unlock()
		<-r.Context().Done()
		c.mu.Lock()
		defer c.mu.Unlock()
		for i, other := range c.streams[id] {
			if other == w {
				c.streams[id] = append(c.streams[id][:i], c.streams[id][i+1:]...)
				return
			}
		}
	}))
}

func (c *naive) publish(execution string, id uint64, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.streams[execution] {
		fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", id, eventType, data)
		w.(http.Flusher).Flush()
	}
}
