package main

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/execcast/execcast/core/coretest"
)

// A fault strikes when a number of bytes, added up over all connections of a
// viewer, have passed on to it.
type fault struct {
	at   int64
	kind faultKind
}

type faultKind int

const (
	cut      faultKind = iota // the connection is closed
	reset                     // the connection is reset
	stallCut                  // nothing passes for a while, then the connection is closed
	stall                     // nothing passes for a while
	split                     // the next bytes pass a few at a time
	faultKinds
)

var faultNames = [faultKinds]string{"cut", "reset", "stalled and cut", "stalled", "split"}

// struck counts the faults of each kind, and where they struck.
type struck struct {
	Kinds                    [faultKinds]int
	InHead, InFrame, Between int // of the response, an event, or between events
}

func (s *struck) add(t struck) {
	for i, n := range t.Kinds {
		s.Kinds[i] += n
	}
	s.InHead += t.InHead
	s.InFrame += t.InFrame
	s.Between += t.Between
}

func (s *struck) total() (n int) {
	for _, k := range s.Kinds {
		n += k
	}
	return n
}

// proxy is what stands between one viewer and the servers.
type proxy struct {
	listener net.Listener
	target   atomic.Pointer[target] // of the next connection
	buffer   int                    // the kernel's receive buffer towards the server; 0 for what it wants
	maxStall time.Duration
	frozen   atomic.Bool   // nothing passes any more, and nobody is told
	done     chan struct{} // closed by close

	mu     sync.Mutex
	rng    *rand.Rand
	faults []fault // still to strike
	passed int64
	struck struck
}

func newProxy(rng *rand.Rand, faults []fault, maxStall time.Duration) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, maxStall: maxStall, done: make(chan struct{}), rng: rng, faults: faults}
	go p.serve()
	return p, nil
}

// plan draws n faults anywhere in a stream of that many bytes. Some strike soon
// after the one before, which is often in the head of the next response.
func plan(rng *rand.Rand, n int, bytes int64) []fault {
	faults := make([]fault, n)
	for i := range faults {
		faults[i] = fault{rng.Int64N(bytes), faultKind(rng.IntN(int(faultKinds)))}
	}
	slices.SortFunc(faults, func(a, b fault) int { return int(a.at - b.at) })
	for i := 1; i < n; i++ {
		if rng.IntN(8) == 0 {
			faults[i].at = min(faults[i].at, faults[i-1].at+rng.Int64N(200))
		}
	}
	return faults
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

func (p *proxy) close() {
	close(p.done)
	p.listener.Close()
}

func (p *proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		t := p.target.Load()
		server, err := net.Dial("tcp", t.Addr)
		if err != nil {
			client.Close()
			continue
		}
		if p.buffer > 0 {
			server.(*net.TCPConn).SetReadBuffer(p.buffer)
		}
		go p.copyUp(server, client)
		go p.copyDown(client, server, t.Transport)
	}
}

// pass reports whether bytes may still pass; if not, it waits until nobody
// cares.
func (p *proxy) pass() bool {
	if p.frozen.Load() {
		<-p.done
		return false
	}
	return true
}

func (p *proxy) copyUp(server, client net.Conn) {
	defer server.Close()
	buf := make([]byte, 4<<10)
	for {
		n, err := client.Read(buf)
		if !p.pass() || err != nil {
			return
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// copyDown passes on what the server sends, and has the faults strike.
func (p *proxy) copyDown(client, server net.Conn, transport coretest.Transport) {
	defer client.Close()
	defer server.Close()
	where := position{transport: transport}
	buf := make([]byte, 16<<10)
	splitting := 0
	for {
		n, err := server.Read(buf)
		if !p.pass() {
			return
		}
		for b := buf[:n]; len(b) > 0; {
			k, f, due := p.until(len(b))
			for part := b[:k]; len(part) > 0; {
				size := len(part)
				if splitting > 0 {
					size = min(size, 1+p.intN(7))
					splitting -= size
				}
				if _, err := client.Write(part[:size]); err != nil {
					return
				}
				where.pass(part[:size])
				part = part[size:]
			}
			b = b[k:]
			if !due {
				continue
			}
			p.count(f, &where)
			if f.kind == stall || f.kind == stallCut {
				select {
				case <-time.After(time.Duration(p.intN(int(p.maxStall)))):
				case <-p.done:
					return
				}
			}
			switch f.kind {
			case reset:
				client.(*net.TCPConn).SetLinger(0)
				server.(*net.TCPConn).SetLinger(0)
				return
			case cut, stallCut:
				return
			case split:
				splitting = 256
			}
		}
		if err != nil {
			return
		}
	}
}

// until returns how many of the next n bytes may pass, and the fault that is
// due then, if one is.
func (p *proxy) until(n int) (k int, f fault, due bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.faults) > 0 {
		if left := max(0, p.faults[0].at-p.passed); left <= int64(n) {
			f, p.faults = p.faults[0], p.faults[1:]
			p.passed += left
			return int(left), f, true
		}
	}
	p.passed += int64(n)
	return n, f, false
}

func (p *proxy) count(f fault, where *position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.struck.Kinds[f.kind]++
	switch {
	case where.inHead():
		p.struck.InHead++
	case where.inFrame():
		p.struck.InFrame++
	default:
		p.struck.Between++
	}
}

func (p *proxy) intN(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rng.IntN(n)
}

// position knows where in a response the bytes that have passed end.
type position struct {
	transport coretest.Transport
	body      bool
	tail      []byte // the last bytes of the head, or of an event stream
	header    []byte // of a WebSocket frame, as far as it has passed
	payload   uint64 // bytes of a WebSocket frame still to pass
}

var (
	headEnd = regexp.MustCompile(`\r\n\r\n$`)
	// between matches the end of an event, in a chunk or not, and what may
	// stand before the next one.
	between = regexp.MustCompile(`\n\n(\r(\n([0-9a-f]+(\r\n?)?)?)?)?$`)
)

func (p *position) inHead() bool { return !p.body }

func (p *position) inFrame() bool {
	if p.transport == coretest.WebSocket {
		return len(p.header) > 0 || p.payload > 0
	}
	return len(p.tail) > 0 && !between.Match(p.tail)
}

func (p *position) pass(b []byte) {
	for i, c := range b {
		if p.body && p.transport == coretest.WebSocket {
			p.passFrames(b[i:])
			return
		}
		if p.tail = append(p.tail, c); len(p.tail) > 32 {
			p.tail = p.tail[1:]
		}
		if !p.body && headEnd.Match(p.tail) {
			p.body, p.tail = true, nil
		}
	}
}

func (p *position) passFrames(b []byte) {
	for len(b) > 0 {
		if p.payload > 0 {
			n := min(p.payload, uint64(len(b)))
			p.payload -= n
			b = b[n:]
			continue
		}
		p.header = append(p.header, b[0])
		b = b[1:]
		if len(p.header) < 2 {
			continue
		}
		switch size := uint64(p.header[1]); {
		case size < 126:
			p.payload = size
		case size == 126 && len(p.header) == 4:
			p.payload = uint64(binary.BigEndian.Uint16(p.header[2:]))
		case size == 127 && len(p.header) == 10:
			p.payload = binary.BigEndian.Uint64(p.header[2:])
		default:
			continue
		}
		p.header = nil
	}
}
