//go:build linux && amd64 && !race

package gorillaws_test

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
)

// An idle viewer's goroutine keeps the 2 KiB of stack it began with, also once
// it has read something. Twice as much, which is the next size, would be half
// as much again for each viewer.
func TestIdleConnection(t *testing.T) {
	const conns = 500
	s := serve(t, core.New(&core.Options{Heartbeat: -1}), nil)
	for range 100 { // what the server and its first ones cost
		raw(t, s)
	}
	// Goroutines that have ended leave stacks behind: let others have those.
	end := make(chan struct{})
	defer close(end)
	for range 2000 {
		go func() { <-end }()
	}
	stacks := func() int {
		var m runtime.MemStats
		for range 2 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int(m.StackInuse)
	}
	before := stacks()
	for range conns {
		conn := raw(t, s)
		for _, opcode := range []byte{0x8A, 0x89, 0x81} { // pong, ping, text
			_, err := conn.Write(masked(opcode, []byte("hello")))
			require.NoError(t, err)
		}
		require.EqualValues(t, 10, readFrame(t, conn).opcode)
	}
	each := (stacks() - before) / conns
	t.Logf("%d bytes of stack a connection", each)
	require.Less(t, each, 7<<9)
}
