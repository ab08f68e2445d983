//go:build linux && !386 && !s390x

package socket

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Supported says that this system can write without blocking, and notice peers
// that leave, without a goroutine for each.
const Supported = true

const (
	tcpUserTimeout = 18 // TCP_USER_TIMEOUT, tcp(7)
	epollRDHUP     = 0x2000
)

func setUserTimeout(conn *net.TCPConn, d time.Duration) {
	raw, err := conn.SyscallConn()
	if err != nil || d <= 0 {
		return
	}
	raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(d/time.Millisecond))
	})
}

// descriptor returns conn's, which is valid until conn is closed, or -1.
func descriptor(conn *net.TCPConn) int {
	fd := -1
	if raw, err := conn.SyscallConn(); err == nil {
		raw.Control(func(d uintptr) { fd = int(d) })
	}
	return fd
}

// trySend sends what fits now. It spares a write the locks and look-ups that a
// net.Conn makes for others who may use it, and the kernel some of its own.
func trySend(fd int, p []byte) (int, error) {
	for {
		n, err := sendto(fd, p)
		switch err {
		case 0:
			return n, nil
		case syscall.EAGAIN:
			return 0, nil
		case syscall.EINTR:
		default:
			return 0, os.NewSyscallError("sendto", err)
		}
	}
}

// reader reads from a socket like its net.Conn, but needs half of the stack to
// wait, which counts where a goroutine waits for each viewer. It is made for
// one goroutine.
type reader struct {
	raw  syscall.RawConn
	read func(fd uintptr) bool // once: a method value is an allocation
	p    []byte
	n    int
	err  syscall.Errno
}

func newReader(conn net.Conn) io.Reader {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return conn
	}
	r := &reader{raw: raw}
	r.read = r.readNow
	return r
}

func (r *reader) Read(p []byte) (int, error) {
	r.p = p
	if err := r.raw.Read(r.read); err != nil {
		return 0, err
	}
	switch {
	case r.err != 0:
		return 0, os.NewSyscallError("read", r.err)
	case r.n == 0:
		return 0, io.EOF
	}
	return r.n, nil
}

// readNow reads what has come, and reports whether anything has.
func (r *reader) readNow(fd uintptr) bool {
	for {
		n, _, err := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(r.p))), uintptr(len(r.p)))
		switch err {
		case syscall.EAGAIN:
			return false
		case syscall.EINTR:
		default:
			r.n, r.err = int(n), err
			return true
		}
	}
}

// unsent returns how many bytes the peer has not acknowledged, negative if that
// is not known (SIOCOUTQ, tcp(7)).
func unsent(fd int) int {
	var n int32
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return -1
	}
	return int(n)
}

func watchPeer(fd int, f func()) (id uint64, err error) { return peers.add(fd, f) }

func unwatchPeer(id uint64) { peers.remove(id) }

// peers notices peers that close their connections: one epoll set and one
// goroutine for all of them, which lives while there are any.
var peers watch

type watch struct {
	mu     sync.Mutex
	file   *os.File // the epoll set; the runtime waits for it like for a socket
	raw    syscall.RawConn
	lastID uint64
	onGone map[uint64]func()
}

func (w *watch) add(fd int, f func()) (id uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		if err := w.start(); err != nil {
			return 0, err
		}
	}
	w.lastID++
	id = w.lastID
	w.onGone[id] = f
	// Neither EPOLLIN, since what a viewer sends does not matter, nor more
	// than one report: a descriptor leaves the set when it is closed.
	ev := syscall.EpollEvent{Events: epollRDHUP | syscall.EPOLLONESHOT, Fd: int32(uint32(id)), Pad: int32(uint32(id >> 32))}
	cerr := w.raw.Control(func(epfd uintptr) { err = syscall.EpollCtl(int(epfd), syscall.EPOLL_CTL_ADD, fd, &ev) })
	if cerr != nil {
		err = cerr
	}
	if err != nil {
		delete(w.onGone, id)
		return 0, os.NewSyscallError("epoll_ctl", err)
	}
	return id, nil
}

func (w *watch) remove(id uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.onGone, id)
	if len(w.onGone) == 0 && w.file != nil {
		w.file.Close() // ends run
		w.file, w.raw, w.onGone = nil, nil, nil
	}
}

func (w *watch) start() error {
	epfd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.SetNonblock(epfd, true); err != nil {
		syscall.Close(epfd)
		return err
	}
	w.file = os.NewFile(uintptr(epfd), "epoll")
	if w.raw, err = w.file.SyscallConn(); err != nil {
		w.file.Close()
		w.file = nil
		return err
	}
	w.onGone = map[uint64]func(){}
	go w.run(w.raw)
	return nil
}

// run reports those who have gone until the set is closed.
func (w *watch) run(raw syscall.RawConn) {
	events := make([]syscall.EpollEvent, 128)
	for {
		n := 0
		err := raw.Read(func(epfd uintptr) bool {
			var err error
			n, err = syscall.EpollWait(int(epfd), events, 0)
			return n > 0 || err != nil && err != syscall.EINTR
		})
		if err != nil {
			return
		}
		for _, ev := range events[:max(n, 0)] {
			id := uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32
			w.mu.Lock()
			f := w.onGone[id]
			w.mu.Unlock()
			if f != nil {
				f()
			}
		}
	}
}
