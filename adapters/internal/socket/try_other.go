//go:build !linux || 386 || s390x

package socket

import (
	"errors"
	"net"
	"time"
)

// Supported says that this system can write without blocking, and notice peers
// that leave, without a goroutine for each.
const Supported = false

func setUserTimeout(*net.TCPConn, time.Duration) {}

// try is not available: clients on this system keep a goroutine each.
type try struct{}

func newTry(*net.TCPConn) *try         { return nil }
func (*try) write([]byte) (int, error) { return 0, errors.ErrUnsupported }
func (*try) onLeave(func()) error      { return errors.ErrUnsupported }
func (*try) close()                    {}
