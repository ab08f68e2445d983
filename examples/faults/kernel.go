package main

import (
	"encoding/hex"
	"net"
	"os"
	"strconv"
	"strings"
)

// socketState is what the kernel holds for a connection, in bytes.
type socketState struct {
	queued   int // written, not yet acknowledged by the peer
	received int // received, not yet read
}

const socketTable = "/proc/net/tcp"

// canSeeSockets says that this system tells.
var canSeeSockets = func() bool {
	_, err := os.Stat(socketTable)
	return err == nil
}()

// sockets returns the established IPv4 connections of a server that listens on
// addr, as the kernel sees them from the server's side (proc(5), /proc/net/tcp).
func sockets(addr string) (all []socketState) {
	table, err := os.ReadFile(socketTable)
	host, port, splitErr := net.SplitHostPort(addr)
	ip := net.ParseIP(host).To4()
	if err != nil || splitErr != nil || ip == nil {
		return nil
	}
	n, _ := strconv.Atoi(port)
	// The address is the four bytes as a little-endian number, on the systems
	// this is for; the port is in hexadecimal.
	local := strings.ToUpper(hex.EncodeToString([]byte{ip[3], ip[2], ip[1], ip[0]}) + ":" + strconv.FormatInt(1<<16|int64(n), 16)[1:])
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 5 || f[1] != local || f[3] != "01" {
			continue
		}
		tx, rx, _ := strings.Cut(f[4], ":")
		queued, _ := strconv.ParseInt(tx, 16, 64)
		received, _ := strconv.ParseInt(rx, 16, 64)
		all = append(all, socketState{int(queued), int(received)})
	}
	return all
}

// count returns how many there are the connections for which f is true.
func count(all []socketState, f func(socketState) bool) (n int) {
	for _, s := range all {
		if f(s) {
			n++
		}
	}
	return n
}
