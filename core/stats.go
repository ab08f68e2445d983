package core

import (
	"errors"
	"sync/atomic"
)

// Stats is a moment's view of a registry: what it holds, and counters since it
// was made.
type Stats struct {
	Executions int   // known now, finished ones included
	Clients    int   // registered now
	Bytes      int64 // retained now, as MaxTotalBytes counts them

	Published uint64 // events published
	Delivered uint64 // events written to connections, added up over clients; a batch that is cut off counts whole
	Gaps      uint64 // gaps announced
	Slow      uint64 // clients ended with ErrSlowClient
	Evicted   uint64 // events dropped because of MaxEvents, MaxBytes or MaxTotalBytes
	Panics    uint64 // of writers, each of which ended one client, and of hooks
	// DeliveredBytes are those of Delivered, and of the frames that are no
	// events of an execution: heartbeats, gaps, the end.
	DeliveredBytes uint64

	// Refused by a limit.
	TooLarge                uint64 // ErrEventTooLarge
	TooManyExecutions       uint64 // ErrTooManyExecutions
	TooManyClients          uint64 // ErrTooManyClients
	TooManyExecutionClients uint64 // ErrTooManyExecutionClients
}

type counters struct {
	published, delivered, deliveredBytes, gaps, slow, evicted, panics, shrunk, untraced atomic.Uint64
	tooLarge, tooManyExecutions, tooManyClients, tooManyExecutionClients                atomic.Uint64
}

// Stats returns the registry's figures. Each is exact; together they may be of
// slightly different moments.
func (r *Registry) Stats() Stats {
	r.mu.Lock()
	s := Stats{Executions: len(r.executions), Clients: r.clients}
	r.mu.Unlock()
	s.Bytes = r.bytes.Load()
	c := &r.counters
	s.Published = c.published.Load()
	s.Delivered = c.delivered.Load()
	s.DeliveredBytes = c.deliveredBytes.Load()
	s.Gaps = c.gaps.Load()
	s.Slow = c.slow.Load()
	s.Evicted = c.evicted.Load()
	s.Panics = c.panics.Load()
	s.TooLarge = c.tooLarge.Load()
	s.TooManyExecutions = c.tooManyExecutions.Load()
	s.TooManyClients = c.tooManyClients.Load()
	s.TooManyExecutionClients = c.tooManyExecutionClients.Load()
	return s
}

// refused counts what a limit has refused and logs it: the first time, and
// then whenever the count has doubled, so that a flood does not flood the log.
// Other errors it leaves alone. No lock is held: a log handler is foreign code.
func (r *Registry) refused(executionID string, err error) {
	c := &r.counters
	var count *atomic.Uint64
	switch {
	case errors.Is(err, ErrEventTooLarge):
		count = &c.tooLarge
	case errors.Is(err, ErrTooManyExecutions):
		count = &c.tooManyExecutions
	case errors.Is(err, ErrTooManyClients):
		count = &c.tooManyClients
	case errors.Is(err, ErrTooManyExecutionClients):
		count = &c.tooManyExecutionClients
	default:
		return
	}
	if n := count.Add(1); n&(n-1) == 0 {
		r.opts.Logger.Warn("execcast: refused", "error", err.Error(), "execution", executionID, "times", n)
	}
}
