package socket

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
)

const hang = 20 * time.Second

// pair returns both ends of a connection over loopback.
func pair(t *testing.T, receiveBuffer int) (own, peer *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	peer = conn.(*net.TCPConn)
	if receiveBuffer > 0 {
		require.NoError(t, peer.SetReadBuffer(receiveBuffer))
	}
	conn, err = ln.Accept()
	require.NoError(t, err)
	own = conn.(*net.TCPConn)
	t.Cleanup(func() { own.Close(); peer.Close() })
	require.NoError(t, own.SetWriteBuffer(1<<20))
	require.NoError(t, peer.SetDeadline(time.Now().Add(hang)))
	return own, peer
}

// A peer that has not received everything is waited for: closing would destroy
// the rest as soon as it sends something.
func TestFinishWaitsForWhatIsUnsent(t *testing.T) {
	defer func(d time.Duration) { linger = d }(linger)
	linger = 10 * time.Millisecond
	conn, peer := pair(t, 32<<10)
	c := Own(conn, hang, 0)
	sent := bytes.Repeat([]byte("x"), 256<<10)
	_, err := c.Write(sent)
	require.NoError(t, err)
	finished := make(chan error, 1)
	go func() { finished <- c.Finish() }()
	<-time.After(20 * linger) // it must not have been enough
	_, err = peer.Write([]byte("late"))
	require.NoError(t, err)
	got, err := io.ReadAll(peer)
	require.NoError(t, err)
	require.Equal(t, len(sent), len(got))
	require.NoError(t, peer.Close())
	require.NoError(t, <-finished)
}

func TestWriteTimeout(t *testing.T) {
	conn, peer := pair(t, 0)
	c := Own(conn, 50*time.Millisecond, 0)
	_, err := c.Write(make([]byte, 16<<20))
	require.ErrorIs(t, err, core.ErrSlowClient)
	require.NoError(t, c.End(err))
	_, err = io.Copy(io.Discard, peer)
	require.Error(t, err, "the end of a broken frame must not look like the end of the stream")
}

func TestTryWrite(t *testing.T) {
	conn, peer := pair(t, 0)
	c := Own(conn, hang, 0)
	if !c.CanTry() {
		require.False(t, Supported)
		return
	}
	p := bytes.Repeat([]byte("0123456789"), 1<<20)
	n, err := c.TryWrite(p)
	require.NoError(t, err)
	require.Positive(t, n)
	require.Less(t, n, len(p), "the connection never was full")
	full, err := c.TryWrite(p[n:])
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := c.Write(p[n+full:])
		done <- err
	}()
	got := make([]byte, len(p))
	_, err = io.ReadFull(peer, got)
	require.NoError(t, err)
	require.True(t, bytes.Equal(p, got))
	require.NoError(t, <-done)
	require.NoError(t, peer.Close())
	require.NoError(t, c.End(nil))
	_, err = c.TryWrite(p)
	require.Error(t, err)
}

// OnLeave tells of each peer that leaves, once, and of no other; the goroutine
// behind it ends with the last connection.
func TestOnLeave(t *testing.T) {
	left := make(chan int, 100)
	var peers []*net.TCPConn
	var own []*Conn
	for i := range 20 {
		conn, peer := pair(t, 0)
		c := Own(conn, hang, 0)
		c.OnLeave(func() { left <- i })
		own, peers = append(own, c), append(peers, peer)
	}
	for i := 0; i < 20; i += 2 {
		require.NoError(t, peers[i].Close())
		require.Equal(t, i, <-left)
		require.NoError(t, own[i].End(core.ErrUnregistered))
	}
	for i := 1; i < 20; i += 2 {
		require.NoError(t, own[i].Abort())
	}
	if Supported {
		require.Empty(t, left)
	}
}
