//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// contender is a kind of server.
type contender struct {
	name      string
	ours      bool
	websocket bool
	batches   bool // only measured where there is something to batch
	make      func(executions []string) candidate
}

// The limits come first: the rest is compared with them.
var contenders = []contender{
	{name: limitName, make: newLimit},
	{name: limit64Name, make: newLimit, batches: true},
	{name: "httpsse", ours: true, make: overHTTP(false)},
	{name: "httpsse, KeepHandler", ours: true, make: overHTTP(true)},
	{name: "fasthttpsse", ours: true, make: overFastHTTP(false)},
	{name: "fasthttpsse, KeepHandler", ours: true, make: overFastHTTP(true)},
	{name: "gorillaws", ours: true, websocket: true, make: overWebSocket(false)},
	{name: "gorillaws, KeepHandler", ours: true, websocket: true, make: overWebSocket(true)},
	{name: "tmaxmax/go-sse", make: newGoSSE},
	{name: "r3labs/sse", make: newR3},
	{name: "olahol/melody", websocket: true, make: newMelody},
	{name: "lxzan/gws", websocket: true, make: newGWS},
	{name: "map of ResponseWriters", make: newNaive},
}

const (
	limitName   = "write(2) loop"
	limit64Name = "write(2) loop, 64 events a write"
)

// pair is a server and its load generator, each a process.
type pair struct {
	contender *contender
	server    *exec.Cmd
	load      *exec.Cmd
	control   *os.File
	in        *json.Decoder
	out       *json.Encoder
	addr      string
	spread    int
	stuck     bool // has a viewer who never reads
	dead      bool
}

// Descriptors of the processes that start begins.
const (
	fdControl  = 3
	fdListener = 4 // the server's
	fdMain     = 4 // the load generator's
)

// start starts a contender with that many executions, and its load generator.
// sendBuffer, if not 0, is what the kernel takes for a viewer who does not
// read.
func start(c *contender, executions, sendBuffer int, profile string) (*pair, error) {
	listen := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			if sendBuffer > 0 {
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, sendBuffer)
			}
		})
	}}
	ln, err := listen.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	listener, err := ln.(*net.TCPListener).File()
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	serverEnd, loadEnd, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer serverEnd.Close()
	defer loadEnd.Close()
	mainEnd, orders, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer orders.Close()
	p := &pair{contender: c, addr: ln.Addr().String(), spread: executions, control: mainEnd}
	p.in, p.out = json.NewDecoder(p.control), json.NewEncoder(p.control)
	p.server, err = child([]*os.File{serverEnd, listener}, "-role", "server", "-name", c.name, "-executions", strconv.Itoa(executions), "-profile", profile)
	if err != nil {
		return nil, err
	}
	p.load, err = child([]*os.File{loadEnd, orders}, "-role", "load")
	if err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func socketpair() (a, b *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "socketpair"), os.NewFile(uintptr(fds[1]), "socketpair"), nil
}

func child(files []*os.File, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, args...)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, cmd.Start()
}

// stop ends both processes.
func (p *pair) stop() {
	p.control.Close()
	for _, cmd := range []*exec.Cmd{p.load, p.server} {
		if cmd != nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	p.dead = true
}

// do gives the load generator an order. A pair that has failed is stopped.
func (p *pair) do(o order) (r result) {
	if p.dead {
		return result{Err: "stopped", Stalled: true}
	}
	p.control.SetDeadline(time.Now().Add(2*time.Minute + o.For))
	err := p.out.Encode(o)
	if err == nil {
		err = p.in.Decode(&r)
	}
	if err == nil && r.Err != "" {
		err = errors.New(r.Err)
	}
	if err != nil {
		beside := ""
		if p.stuck {
			beside = ", beside a stuck viewer"
		}
		fmt.Fprintf(os.Stderr, "%s: %s%s: %v\n", p.contender.name, o.Do, beside, err)
		r.Err = err.Error()
		p.stop()
	}
	return r
}

func (p *pair) connect(clients int, stuck bool) result {
	p.stuck = stuck
	return p.do(order{
		Do: "connect", Clients: clients, Stuck: stuck, WebSocket: p.contender.websocket, Addr: p.addr, Spread: p.spread,
	})
}

// childServer and childLoad are what the started processes do.

func childServer(name string, executions int, profile string) error {
	ids := executionIDs(executions)
	control, err := net.FileConn(os.NewFile(fdControl, "control"))
	if err != nil {
		return err
	}
	ln, err := net.FileListener(os.NewFile(fdListener, "listener"))
	if err != nil {
		return err
	}
	for i := range contenders {
		if c := &contenders[i]; c.name == name {
			made := c.make(ids)
			if !c.batches {
				made = retail{made}
			}
			return server(made, ids, ln, control, profile)
		}
	}
	return fmt.Errorf("no contender is called %q", name)
}

// retail hides publishAll.
type retail struct{ candidate }

func childLoad() error {
	control, err := net.FileConn(os.NewFile(fdControl, "control"))
	if err != nil {
		return err
	}
	return runLoad(control, os.NewFile(fdMain, "main"))
}
