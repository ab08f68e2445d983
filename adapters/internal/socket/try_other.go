//go:build !linux || 386 || s390x

package socket

import (
	"errors"
	"io"
	"net"
	"time"
)

// Supported says that this system can write without blocking, and notice peers
// that leave, without a goroutine for each.
const Supported = false

func setUserTimeout(*net.TCPConn, time.Duration) {}

func descriptor(*net.TCPConn) int { return -1 }

func trySend(int, []byte) (int, error) { return 0, errors.ErrUnsupported }

func newReader(conn net.Conn) io.Reader { return conn }

func unsent(int) int { return -1 }

func watchPeer(int, func()) (uint64, error) { return 0, errors.ErrUnsupported }

func unwatchPeer(uint64) {}
