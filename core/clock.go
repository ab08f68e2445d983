package core

import "time"

// clock is the one source of time of a registry, so that a browser test's fake
// timers can drive it.
type clock interface {
	// now is the time since a fixed moment; it never goes back.
	now() time.Duration
	// unix is the time since the Unix epoch.
	unix() time.Duration
	// afterFunc calls f in a goroutine of its own after d, once; reset starts
	// it again.
	afterFunc(d time.Duration, f func()) timer
}

type timer interface {
	Reset(d time.Duration) bool
	Stop() bool
}

// systemClock is the runtime's clock.
type systemClock struct{ start time.Time }

func (c systemClock) now() time.Duration  { return time.Since(c.start) }
func (c systemClock) unix() time.Duration { return time.Duration(time.Now().UnixNano()) }
func (c systemClock) afterFunc(d time.Duration, f func()) timer {
	return time.AfterFunc(d, f)
}
