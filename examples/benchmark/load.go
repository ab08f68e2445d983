//go:build linux

package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
)

// order is what the main process asks a load generator to do.
type order struct {
	Do        string        // connect, flight, rate, memory, check
	Window    int           `json:",omitempty"` // flight: events that each viewer has not yet got
	For       time.Duration `json:",omitempty"` // flight
	Events    int           `json:",omitempty"` // rate
	Every     time.Duration `json:",omitempty"` // rate
	Profile   int           `json:",omitempty"`
	Clients   int           `json:",omitempty"` // connect
	Stuck     bool          `json:",omitempty"` // connect: one more, who never reads
	WebSocket bool          `json:",omitempty"`
	Addr      string        `json:",omitempty"`
	Spread    int           `json:",omitempty"` // executions
}

// result is the answer.
type result struct {
	Err       string `json:",omitempty"`
	Stalled   bool   `json:",omitempty"` // not everything has come in time
	Delivered int64
	Published int64
	Lost      int64
	Disorder  int64
	Usage     usage
	Latency   *histogram `json:",omitempty"`
	Memory    memory
	Blocked   bool `json:",omitempty"` // the stuck viewer's connection has been full
}

// patience is how long nothing may come before the rest counts as lost.
const patience = 3 * time.Second

var errStalled = errors.New("the server does not answer")

// load connects to one server, reads all that it sends, and measures. It is
// one goroutine around epoll: it shares the machine with what it measures.
type load struct {
	server net.Conn // the server's control connection
	main   *os.File // ours
	epfd   int
	buf    []byte
	events []syscall.EpollEvent

	viewers []viewer
	stuck   int // descriptor, 0 if there is none

	// Of the measurement that runs.
	target   int64 // the sequence number all shall reach
	missing  int   // viewers that have not
	timing   bool
	now      int64
	latency  *histogram
	seen     func([]byte)
	progress bool
}

func runLoad(server net.Conn, main *os.File) error {
	runtime.LockOSThread()
	l := &load{server: server, main: main, buf: make([]byte, 256<<10), events: make([]syscall.EpollEvent, 256)}
	l.seen = func(p []byte) {
		if l.timing {
			l.latency.add(time.Duration(l.now - due(p)))
		}
	}
	var err error
	if l.epfd, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return err
	}
	fd := int(main.Fd())
	ev := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: -1}
	if err := syscall.EpollCtl(l.epfd, syscall.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return err
	}
	in := json.NewDecoder(main)
	out := json.NewEncoder(main)
	for {
		// Between two orders, read on: heartbeats, and what is to be answered.
		for ordered := false; !ordered; {
			if ordered, err = l.poll(-1); err != nil {
				return err
			}
		}
		var o order
		if err := in.Decode(&o); err != nil {
			return nil
		}
		r, err := l.do(&o)
		if err != nil {
			r.Err = err.Error()
			r.Stalled = r.Stalled || errors.Is(err, errStalled)
		}
		if err := out.Encode(&r); err != nil {
			return err
		}
	}
}

func (l *load) do(o *order) (r result, err error) {
	switch o.Do {
	case "connect":
		return r, l.connect(o)
	case "memory":
		l.send(cmdMemory, 0)
		return r, l.receive(&r.Memory)
	case "flight":
		return l.flight(o)
	case "rate":
		return l.rate(o)
	}
	return r, fmt.Errorf("order %q", o.Do)
}

func (l *load) send(cmd byte, arg int) {
	var p [8]byte
	p[0] = cmd
	binary.LittleEndian.PutUint32(p[4:], uint32(arg))
	l.server.Write(p[:])
}

func (l *load) receive(v any) error {
	l.server.SetReadDeadline(time.Now().Add(patience))
	var size [4]byte
	if _, err := io.ReadFull(l.server, size[:]); err != nil {
		return fmt.Errorf("%w: %w", errStalled, err)
	}
	p := make([]byte, binary.LittleEndian.Uint32(size[:]))
	if _, err := io.ReadFull(l.server, p); err != nil {
		return fmt.Errorf("%w: %w", errStalled, err)
	}
	return json.Unmarshal(p, v)
}

// connect connects the viewers, and has events published until each has got
// one: some servers answer with nothing before.
func (l *load) connect(o *order) error {
	l.viewers = make([]viewer, o.Clients)
	for i := range l.viewers {
		fd, err := dial(o, i%max(o.Spread, 1), 0)
		if err != nil {
			return err
		}
		l.viewers[i] = viewer{fd: int32(fd), websocket: o.WebSocket}
		ev := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(i)}
		if err := syscall.EpollCtl(l.epfd, syscall.EPOLL_CTL_ADD, fd, &ev); err != nil {
			return err
		}
		if i%64 == 63 { // the server's backlog is finite
			if _, err := l.poll(2); err != nil {
				return err
			}
		}
	}
	if o.Stuck {
		fd, err := dial(o, 0, 4096)
		if err != nil {
			return err
		}
		l.stuck = fd
	}
	for range 100 {
		if err := l.idle(100 * time.Millisecond); err != nil {
			return err
		}
		l.send(cmdPublish, 1)
		if err := l.idle(200 * time.Millisecond); err != nil {
			return err
		}
		missing := 0
		for i := range l.viewers {
			if l.viewers[i].seq == 0 {
				missing++
			}
		}
		if missing == 0 {
			for i := range l.viewers {
				v := &l.viewers[i]
				v.events, v.lost, v.disorder = 0, 0, 0
			}
			return nil
		}
	}
	return errors.New("not all viewers are served")
}

// idle reads for a while.
func (l *load) idle(d time.Duration) error {
	for end := time.Now().Add(d); time.Now().Before(end); {
		if _, err := l.poll(5); err != nil {
			return err
		}
	}
	return nil
}

// poll waits for input, up to timeout milliseconds, and takes it. ordered reports that the main process
// wants something.
func (l *load) poll(timeout int) (ordered bool, err error) {
	n, err := syscall.EpollWait(l.epfd, l.events, timeout)
	if err != nil && err != syscall.EINTR {
		return false, os.NewSyscallError("epoll_wait", err)
	}
	for _, ev := range l.events[:max(n, 0)] {
		if ev.Fd == -1 {
			ordered = true
			continue
		}
		if err := l.read(&l.viewers[ev.Fd]); err != nil {
			return ordered, err
		}
	}
	return ordered, nil
}

func (l *load) read(v *viewer) error {
	kept := copy(l.buf, v.rest)
	n, errno := recv(v.fd, l.buf[kept:])
	if errno == syscall.EAGAIN || errno == syscall.EINTR {
		return nil
	}
	if errno != 0 || n == 0 {
		return fmt.Errorf("a viewer was cut off: %w", errno)
	}
	l.progress = true
	if l.timing {
		l.now = time.Now().UnixNano()
	}
	behind := v.seq < l.target
	p := l.buf[:kept+n]
	done := v.feed(p, l.seen)
	v.rest = append(v.rest[:0], p[done:]...)
	if behind && v.seq >= l.target {
		l.missing--
	}
	for ; v.pings > 0; v.pings-- {
		syscall.Write(int(v.fd), []byte{0x8a, 0x80, 0, 0, 0, 0})
	}
	return nil
}

// aim sets what all viewers are to reach.
func (l *load) aim(target int64) {
	l.target, l.missing = target, 0
	for i := range l.viewers {
		if l.viewers[i].seq < target {
			l.missing++
		}
	}
}

// await reads until all have what they are to reach, or nothing comes any
// more.
func (l *load) await() (complete bool, err error) {
	const wait = 100 // ms
	for quiet := 0; l.missing > 0; quiet++ {
		l.progress = false
		if _, err := l.poll(wait); err != nil {
			return false, err
		}
		if l.progress {
			quiet = 0
		}
		if quiet*wait > int(patience/time.Millisecond) {
			return false, nil
		}
	}
	return true, nil
}

// highest returns the newest sequence number anyone has.
func (l *load) highest() (seq int64) {
	for i := range l.viewers {
		seq = max(seq, l.viewers[i].seq)
	}
	return seq
}

func (l *load) counted() (events, lost, disorder int64) {
	for i := range l.viewers {
		v := &l.viewers[i]
		events += v.events
		lost += v.lost
		disorder += v.disorder
	}
	return
}

// flight keeps a window of events in flight: the next are published when all
// viewers have these.
func (l *load) flight(o *order) (r result, err error) {
	seq := l.highest()
	step := func(window int) (bool, error) {
		seq += int64(window)
		l.aim(seq)
		l.send(cmdPublish, window)
		return l.await()
	}
	for range 2 { // warm the caches
		if complete, err := step(1); err != nil || !complete {
			r.Stalled = true
			return r, err
		}
	}
	events, lost, disorder := l.counted()
	l.send(cmdStart, o.Profile)
	for end := time.Now().Add(o.For); time.Now().Before(end); {
		complete, err := step(o.Window)
		if err != nil {
			return r, err
		}
		r.Published += int64(o.Window)
		if !complete {
			r.Stalled = true
			r.Lost += l.give(seq)
		}
	}
	l.sum(&r, events, lost, disorder)
	l.send(cmdStop, 0)
	return r, l.receive(&r.Usage)
}

// give gives up on what has not come, and counts it.
func (l *load) give(seq int64) (lost int64) {
	for i := range l.viewers {
		if v := &l.viewers[i]; v.seq < seq {
			lost += seq - v.seq
			v.seq = seq
		}
	}
	return lost
}

func (l *load) sum(r *result, events, lost, disorder int64) {
	e, lo, d := l.counted()
	r.Delivered, r.Lost, r.Disorder = e-events, r.Lost+lo-lost, d-disorder
}

// rate has events published at a steady rate, and times their arrival.
func (l *load) rate(o *order) (r result, err error) {
	l.latency, l.timing = new(histogram), true
	defer func() { l.timing = false }()
	events, lost, disorder := l.counted()
	seq := l.highest() + int64(o.Events)
	l.aim(seq)
	l.send(cmdStart, o.Profile)
	var p [12]byte
	p[0] = cmdRate
	binary.LittleEndian.PutUint32(p[4:], uint32(o.Events))
	binary.LittleEndian.PutUint32(p[8:], uint32(o.Every/time.Microsecond))
	l.server.Write(p[:])
	complete, err := l.await()
	if err != nil {
		return r, err
	}
	if !complete {
		r.Stalled = true
		r.Lost = l.give(seq)
	}
	r.Published, r.Latency = int64(o.Events), l.latency
	if l.stuck != 0 {
		r.Blocked = l.full(o)
	}
	l.sum(&r, events, lost, disorder)
	l.send(cmdStop, 0)
	return r, l.receive(&r.Usage)
}

// full reports whether the stuck viewer's connection holds less than it was
// sent: the rest must have had to wait in the server.
func (l *load) full(o *order) bool {
	in, out, err := queued(l.stuck)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return err == nil && in+out < o.Events*eventBytes
}
