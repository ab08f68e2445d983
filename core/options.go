package core

import (
	"context"
	"log/slog"
	"math"
	"time"
)

// Options configures a Registry. Nil works; a zero field means its documented
// default, a negative one that the limit or feature is off.
type Options struct {
	// MaxEventBytes bounds one event's data. Default 256 KiB, at most 64 MiB.
	MaxEventBytes int
	// MaxEvents bounds the events one execution retains, and with that how far
	// a client may lag. Superseded events do not count. Default 4,096.
	MaxEvents int
	// MaxBytes bounds the bytes one execution retains: data, frames of every
	// encoding in use, keys, and about 100 bytes an event of bookkeeping. It
	// holds after each Publish, whose own event is always retained.
	// Default 4 MiB.
	MaxBytes int
	// MaxTotalBytes bounds the bytes of all executions together. Beyond it,
	// finished executions without viewers are forgotten, oldest first; after
	// those the executions with the most bytes lose their oldest events, down
	// to the last. Default 1 GiB.
	MaxTotalBytes int
	// MaxExecutions bounds the executions known at once. Beyond it, finished
	// ones without viewers are forgotten, oldest first; after those Publish
	// and Register return ErrTooManyExecutions. Default 100,000.
	MaxExecutions int
	// MaxClients bounds the clients of all executions. Default 100,000.
	MaxClients int
	// MaxExecutionClients bounds the clients of one execution. Default
	// 100,000.
	MaxExecutionClients int

	// Retention is how long a finished execution is remembered, for late
	// viewers, and in any case until its last client has left. Default 10 min.
	Retention time.Duration
	// Idle is how long an execution without viewers and publishes is
	// remembered. Default 24 h.
	Idle time.Duration
	// Heartbeat is the interval at which each client is sent a frame that
	// means nothing, which keeps proxies from closing the connection and finds
	// viewers that have gone. Default 15 s.
	Heartbeat time.Duration
	// HeartbeatEvents makes each heartbeat visible as an event of type
	// TypeHeartbeat, since JavaScript sees neither comments nor pings.
	HeartbeatEvents bool
	// MaxAge ends a client, resumably, when it has been connected for so long;
	// each somewhat earlier, by up to a tenth, so that clients that came
	// together do not leave together. Default: no maximum.
	MaxAge time.Duration
	// ShutdownSpread is the window over which Shutdown spreads the ends of
	// many clients, so that they do not all reconnect in the same moment.
	// Default 2 s.
	ShutdownSpread time.Duration

	// Lag says what becomes of a client that has fallen off the log's tail.
	// Default LagGap.
	Lag LagPolicy
	// AwaitUnknown makes Register accept a Last-Event-ID for an execution that
	// is not known, announce a gap if there may be one, and wait for its
	// events. By default it returns ErrUnknown, so that viewers of what is
	// long gone stop asking.
	AwaitUnknown bool

	// Traceparent, if set, is called by each Publish whose event has no
	// Traceparent and is otherwise in order, with Publish's ctx and no lock
	// held; what it returns becomes the event's. "" is none, as is anything
	// invalid: that is logged, since a fault in tracing is no reason to lose
	// an event.
	Traceparent func(context.Context) string

	// PublishDone, if set, is called at the end of each Publish, with the ID it
	// was given, how long it took, and what it returned. Unlike hooks it is
	// called at once, in the goroutine of the caller, several at a time; no
	// lock is held. One that panics is logged and counted.
	PublishDone func(executionID string, took time.Duration, err error)

	// Backplane, if set, is shared with the registries of other nodes: what
	// any of them publishes, the viewers of all of them see. The registry
	// then holds only the executions it has viewers of, as copies. Default:
	// none, the registry is all there is.
	Backplane Backplane

	// Hooks are called as things happen.
	Hooks Hooks
	// Logger gets what an operator must see: adapters that panic, limits
	// reached, clients cut off. Default slog.Default().
	Logger *slog.Logger
}

// LagPolicy is what becomes of a client that has fallen off its log's tail.
type LagPolicy int

const (
	// LagGap sends TypeGap and goes on from the oldest retained event.
	LagGap LagPolicy = iota
	// LagDisconnect ends the client with ErrSlowClient. What it missed is
	// announced when it reconnects.
	LagDisconnect
)

func (o *Options) withDefaults() Options {
	var r Options
	if o != nil {
		r = *o
	}
	limit(&r.MaxEventBytes, 256<<10)
	r.MaxEventBytes = min(r.MaxEventBytes, maxData)
	limit(&r.MaxEvents, 4096)
	limit(&r.MaxBytes, 4<<20)
	limit(&r.MaxTotalBytes, 1<<30)
	limit(&r.MaxExecutions, 100_000)
	limit(&r.MaxClients, 100_000)
	limit(&r.MaxExecutionClients, 100_000)
	period(&r.Retention, 10*time.Minute)
	period(&r.Idle, 24*time.Hour)
	period(&r.Heartbeat, 15*time.Second)
	period(&r.MaxAge, 0)
	period(&r.ShutdownSpread, 2*time.Second)
	if r.Logger == nil {
		r.Logger = slog.Default()
	}
	return r
}

// limit resolves a limit: afterwards it is positive.
func limit(v *int, byDefault int) {
	switch {
	case *v == 0:
		*v = byDefault
	case *v < 0:
		*v = math.MaxInt
	}
}

// period resolves a duration: afterwards zero means off.
func period(v *time.Duration, byDefault time.Duration) {
	switch {
	case *v == 0:
		*v = byDefault
	case *v < 0:
		*v = 0
	}
	*v = min(*v, 100*365*24*time.Hour) // so that sums do not overflow
}

// ClientOptions configures one client. Nil works.
type ClientOptions struct {
	// Encoder is the encoding of the client's transport. Default SSE.
	Encoder Encoder
	// LastEventID is the ID of the last event the viewer has, as it says; ""
	// if it has none. Anything may stand here: what is not an ID this registry
	// could have sent is answered with a gap.
	LastEventID string
	// Heartbeat overrides Options.Heartbeat if it is not zero.
	Heartbeat time.Duration
}
