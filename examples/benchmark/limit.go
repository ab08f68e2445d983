//go:build linux

package main

import (
	"bufio"
	"net"
	"net/http"
	"sync"
	"syscall"
	"unsafe"

	"github.com/execcast/execcast/core"
)

// limit is what the kernel allows: a loop of write(2) over accepted sockets,
// with the bytes of ours. It knows nothing but the sockets.
type limit struct {
	mu     sync.Mutex
	groups map[string][]socket
	buf    []byte
}

type socket struct {
	conn net.Conn // keeps fd open
	fd   uintptr
}

func newLimit([]string) candidate { return &limit{groups: map[string][]socket{}} }

func (l *limit) serve(ln net.Listener) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		req, err := http.ReadRequest(bufio.NewReaderSize(conn, 512))
		if err != nil {
			conn.Close()
			continue
		}
		conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"))
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			return err
		}
		id := executionOf(req.URL.Path)
		raw.Control(func(fd uintptr) {
			l.mu.Lock()
			l.groups[id] = append(l.groups[id], socket{conn, fd})
			l.mu.Unlock()
		})
	}
}

func (l *limit) publish(execution string, id uint64, data []byte) {
	l.buf = frame(l.buf[:0], id, data)
	l.write(execution, l.buf)
}

// publishAll is the limit of what batching can reach: all events in one write.
func (l *limit) publishAll(execution string, id uint64, events [][]byte) {
	l.buf = l.buf[:0]
	for i, data := range events {
		l.buf = frame(l.buf, id+uint64(i), data)
	}
	l.write(execution, l.buf)
}

func frame(dst []byte, id uint64, data []byte) []byte {
	return core.SSE.AppendEvent(dst, core.Event{ID: id, Type: eventType, Data: data})
}

func (l *limit) write(execution string, p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.groups[execution] {
		for rest := p; len(rest) > 0; {
			n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, s.fd, uintptr(unsafe.Pointer(unsafe.SliceData(rest))), uintptr(len(rest)))
			switch errno {
			case 0:
				rest = rest[n:]
			case syscall.EINTR:
			case syscall.EAGAIN:
				// Full: the loop would stand still here.
				s.conn.Write(rest)
				rest = nil
			default:
				rest = nil
			}
		}
	}
}
