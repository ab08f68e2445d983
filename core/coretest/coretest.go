// Package coretest is the conformance suite of execcast's adapters, and the
// viewers it watches them with.
//
// An adapter's test describes the adapter and has the suite run against it:
//
//	func TestConformance(t *testing.T) {
//		coretest.Run(t, coretest.Adapter{
//			Transport: coretest.SSE,
//			Serve: func(t testing.TB, r *core.Registry, o coretest.Options) coretest.Server {
//				h := myadapter.NewHandler(r, &myadapter.Options{WriteTimeout: o.WriteTimeout, …})
//				mux := http.NewServeMux()
//				mux.Handle(coretest.Pattern, h)
//				s := &http.Server{Handler: mux}
//				l := coretest.Listen(t, o)
//				go s.Serve(l)
//				t.Cleanup(func() { s.Close() })
//				return coretest.Server{Addr: l.Addr().String(), Shutdown: s.Shutdown}
//			},
//		})
//	}
//
// Each case says which rule it checks, and why the rule is there. The servers
// are real, on loopback; a [Viewer] decodes what arrives with code of its own,
// which shares nothing with core or with any library an adapter may use.
//
// Nothing is measured against the clock. Short periods are configured where
// something has to happen after one; what does not happen at all fails as a
// hang.
package coretest

import (
	"context"
	"net"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/execcast/execcast/core"
)

// Transport is what an adapter speaks to its viewers.
type Transport int

const (
	SSE       Transport = iota // text/event-stream over HTTP/1.1
	WebSocket                  // RFC 6455
)

func (t Transport) String() string {
	if t == WebSocket {
		return "WebSocket"
	}
	return "SSE"
}

// Pattern is the path at which a server under test has the adapter's handler,
// for requests of every method, as http.ServeMux writes it.
const Pattern = "/api/executions/{executionId}/events"

// Adapter is what the suite has to know of an adapter.
type Adapter struct {
	Transport Transport
	// SeesLeave says that the adapter notices a viewer that closes its
	// connection without writing to it. Without it, heartbeats have to find
	// out.
	SeesLeave bool
	// Serve starts a server on a loopback address, with the adapter's handler
	// for r at Pattern, and has t.Cleanup stop it by force. It is called
	// several times, by one goroutine, and servers it has started run side by
	// side.
	Serve func(t testing.TB, r *core.Registry, o Options) Server
}

// Options are those that all adapters share and a case may set; the zero value
// of each means the adapter's default.
type Options struct {
	// Authorize is part of the adapter's ExecutionID option: if it returns an
	// error for the execution ID of the path, so does that option.
	Authorize func(executionID string) error
	// Several has the adapter serve several executions in one stream: its
	// option ExecutionIDs returns what the method ExecutionIDs does.
	Several bool
	// AllowedOrigins, WriteTimeout and Heartbeat are the adapter's options of
	// the same name.
	AllowedOrigins []string
	WriteTimeout   time.Duration
	Heartbeat      time.Duration
	// SendBuffer, if positive, is the size in bytes of the kernel's send
	// buffer of each accepted connection; see Listen.
	SendBuffer int
}

// ExecutionIDs returns the executions that a request with this query wants to
// see, or the error that its answer tells of.
func (o Options) ExecutionIDs(query url.Values) ([]string, error) {
	ids := query["execution"]
	if o.Authorize != nil {
		for _, id := range ids {
			if err := o.Authorize(id); err != nil {
				return nil, err
			}
		}
	}
	return ids, nil
}

// Server is a server that Serve has started.
type Server struct {
	Addr string // host:port
	// Shutdown is the server's own graceful end, such as
	// http.Server.Shutdown: it is called while the registry shuts down, and
	// must then return.
	Shutdown func(context.Context) error
}

// Listen returns a listener on a loopback port for a server under test.
func Listen(t testing.TB, o Options) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &listener{l, o.SendBuffer}
}

type listener struct {
	net.Listener
	sendBuffer int
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil && l.sendBuffer > 0 {
		err = conn.(*net.TCPConn).SetWriteBuffer(l.sendBuffer)
	}
	return conn, err
}

// Run checks an adapter, one subtest a case.
func Run(t *testing.T, a Adapter) {
	for _, c := range cases {
		if c.only != nil && *c.only != a.Transport {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("%s: %s", c.name, c.why)
				}
			})
			c.run(&suite{T: t, Adapter: a})
		})
	}
}

// A testCase checks one rule.
type testCase struct {
	name string
	why  string     // the rule, and what it is good for
	only *Transport // nil for all
	run  func(s *suite)
}

func only(t Transport) *Transport { return &t }

var cases = slices.Concat(deliveryCases, resumeCases, finishCases, isolationCases, severalCases, requestCases, webSocketCases)
