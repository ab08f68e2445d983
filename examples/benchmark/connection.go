//go:build linux

package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"unsafe"
)

// dial opens one connection and sends the request.
func dial(o *order, execution, receiveBuffer int) (fd int, err error) {
	addr, err := net.ResolveTCPAddr("tcp4", o.Addr)
	if err != nil {
		return 0, err
	}
	fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	if receiveBuffer > 0 {
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, receiveBuffer)
	}
	syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	sa := &syscall.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}
	if err := syscall.Connect(fd, sa); err != nil {
		return 0, os.NewSyscallError("connect", err)
	}
	id := executionID(execution)
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s?stream=%s HTTP/1.1\r\nHost: %s\r\n", pathOf(id), id, o.Addr)
	if o.WebSocket {
		b.WriteString("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	} else {
		b.WriteString("Accept: text/event-stream\r\n\r\n")
	}
	_, err = syscall.Write(fd, []byte(b.String()))
	return fd, os.NewSyscallError("write", err)
}

// recv reads what is there.
func recv(fd int32, p []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), syscall.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// queued returns how many bytes of a connection within this machine wait to be
// read from fd, and how many of those sent to it wait at the other end.
func queued(fd int) (in, out int, err error) {
	here, err := syscall.Getsockname(fd)
	if err != nil {
		return 0, 0, os.NewSyscallError("getsockname", err)
	}
	there, err := syscall.Getpeername(fd)
	if err != nil {
		return 0, 0, os.NewSyscallError("getpeername", err)
	}
	table, err := os.Open("/proc/net/tcp")
	if err != nil {
		return 0, 0, err
	}
	defer table.Close()
	client, server := hexPort(here), hexPort(there)
	found := 0
	for lines := bufio.NewScanner(table); lines.Scan(); {
		f := strings.Fields(lines.Text()) // sl local remote st tx:rx …
		if len(f) < 5 {
			continue
		}
		var tx, rx int
		if _, err := fmt.Sscanf(f[4], "%x:%x", &tx, &rx); err != nil {
			continue
		}
		switch {
		case strings.HasSuffix(f[1], client) && strings.HasSuffix(f[2], server):
			in = rx
			found++
		case strings.HasSuffix(f[1], server) && strings.HasSuffix(f[2], client):
			out = tx
			found++
		}
	}
	if found != 2 {
		return 0, 0, fmt.Errorf("%d of 2 ends found in /proc/net/tcp", found)
	}
	return in, out, nil
}

func hexPort(sa syscall.Sockaddr) string {
	in4, _ := sa.(*syscall.SockaddrInet4)
	return fmt.Sprintf(":%04X", in4.Port)
}
