// Package execcastprom exposes what a registry counts to Prometheus.
// dashboard.json beside it shows that in Grafana.
//
// No metric has a label for the execution: IDs are without bound, and so would
// be the time series.
package execcastprom

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/execcast/execcast/core"
)

// New returns a registry, as core.New makes it, and the collector of its
// metrics:
//
//	execcast_executions               known now, finished ones included
//	execcast_clients                  connected now
//	execcast_retained_bytes           held in all logs
//	execcast_published_events_total
//	execcast_delivered_events_total   accepted by connections, added up over clients
//	execcast_delivered_bytes_total    of those events, heartbeats and other signals
//	execcast_evicted_events_total     dropped because of a limit on events or bytes
//	execcast_gaps_total               announced to clients
//	execcast_slow_clients_total       cut off
//	execcast_panics_total             of writers and hooks
//	execcast_refused_total            by a limit, by reason
//	execcast_publish_seconds          how long Publish took its caller, failed ones
//	                                  included; a histogram
//	execcast_publish_errors_total     by reason: invalid, too_large,
//	                                  too_many_executions, finished, shutdown,
//	                                  conflict, unavailable (the backplane),
//	                                  cancelled (its context), other
//	execcast_drain_seconds            from Close to the end of the last client; a
//	                                  histogram, without executions nobody watched
//
// The hooks of opts and its PublishDone are called as well, after the
// collector's. A program with several registries tells them apart with
// prometheus.WrapRegistererWith.
func New(opts *core.Options) (*core.Registry, prometheus.Collector) {
	var o core.Options
	if opts != nil {
		o = *opts
	}
	c := &collector{
		drain: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "execcast_drain_seconds",
			Help:    "Time from closing a watched execution until its last client has ended.",
			Buckets: []float64{.001, .01, .1, .5, 1, 2.5, 5, 10, 30, 60},
		}),
		publish: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "execcast_publish_seconds",
			Help:    "Time Publish took its caller, failed ones included.",
			Buckets: []float64{1e-6, 1e-5, 1e-4, .001, .01, .1, 1, 10},
		}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "execcast_publish_errors_total",
			Help: "Publishes that failed.",
		}, []string{"reason"}),
		watched: map[string]time.Time{},
	}
	for _, f := range failures {
		c.failed.WithLabelValues(f.reason) // so that it is there before the first
	}
	c.failed.WithLabelValues(otherFailure)
	o.Hooks.FirstViewer = both(c.firstViewer, o.Hooks.FirstViewer)
	o.Hooks.LastViewer = both(c.lastViewer, o.Hooks.LastViewer)
	o.Hooks.Finished = both(c.finished, o.Hooks.Finished)
	theirs := o.PublishDone
	o.PublishDone = func(executionID string, took time.Duration, err error) {
		c.published(took, err)
		if theirs != nil {
			theirs(executionID, took, err)
		}
	}
	r := core.New(&o)
	c.stats = r.Stats
	return r, c
}

func both(ours, theirs func(string)) func(string) {
	if theirs == nil {
		return ours
	}
	return func(executionID string) {
		ours(executionID)
		theirs(executionID)
	}
}

type collector struct {
	stats   func() core.Stats
	drain   prometheus.Histogram
	publish prometheus.Histogram
	failed  *prometheus.CounterVec

	mu      sync.Mutex
	watched map[string]time.Time // executions with clients, and when they were closed
}

func (c *collector) firstViewer(executionID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watched[executionID] = time.Time{}
}

func (c *collector) finished(executionID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.watched[executionID]; ok {
		c.watched[executionID] = time.Now()
	}
}

func (c *collector) lastViewer(executionID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if closed := c.watched[executionID]; !closed.IsZero() {
		c.drain.Observe(time.Since(closed).Seconds())
	}
	delete(c.watched, executionID)
}

// failures are what Publish may return, by reason; the first that fits counts.
var failures = []struct {
	reason string
	errs   []error
}{
	{"invalid", []error{core.ErrExecutionID, core.ErrEventType, core.ErrReservedType, core.ErrEventKey, core.ErrEventData, core.ErrEventID,
		core.ErrTraceparent}},
	{"too_large", []error{core.ErrEventTooLarge}},
	{"too_many_executions", []error{core.ErrTooManyExecutions}},
	{"finished", []error{core.ErrFinished}},
	{"shutdown", []error{core.ErrShutdown}},
	{"conflict", []error{core.ErrConflict}},
	{"unavailable", []error{core.ErrUnavailable}}, // wraps the context's error as well
	{"cancelled", []error{context.Canceled, context.DeadlineExceeded}},
}

const otherFailure = "other"

func (c *collector) published(took time.Duration, err error) {
	c.publish.Observe(took.Seconds())
	if err != nil {
		c.failed.WithLabelValues(reason(err)).Inc()
	}
}

func reason(err error) string {
	for _, f := range failures {
		for _, e := range f.errs {
			if errors.Is(err, e) {
				return f.reason
			}
		}
	}
	return otherFailure
}

// metric is a figure of core.Stats.
type metric struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	value  func(s *core.Stats) float64
	labels []string // values
}

func gauge(name, help string, value func(s *core.Stats) float64) metric {
	return metric{prometheus.NewDesc("execcast_"+name, help, nil, nil), prometheus.GaugeValue, value, nil}
}

func counter(name, help string, value func(s *core.Stats) uint64) metric {
	return metric{prometheus.NewDesc("execcast_"+name+"_total", help, nil, nil), prometheus.CounterValue,
		func(s *core.Stats) float64 { return float64(value(s)) }, nil}
}

var refusedDesc = prometheus.NewDesc("execcast_refused_total", "Events and clients refused by a limit.", []string{"reason"}, nil)

func refused(reason string, value func(s *core.Stats) uint64) metric {
	return metric{refusedDesc, prometheus.CounterValue,
		func(s *core.Stats) float64 { return float64(value(s)) }, []string{reason}}
}

var metrics = []metric{
	gauge("executions", "Executions known, finished ones included.", func(s *core.Stats) float64 { return float64(s.Executions) }),
	gauge("clients", "Clients connected.", func(s *core.Stats) float64 { return float64(s.Clients) }),
	gauge("retained_bytes", "Bytes held in the logs of all executions.", func(s *core.Stats) float64 { return float64(s.Bytes) }),
	counter("published_events", "Events published.", func(s *core.Stats) uint64 { return s.Published }),
	counter("delivered_events", "Events accepted by connections, added up over clients.", func(s *core.Stats) uint64 { return s.Delivered }),
	counter("delivered_bytes", "Bytes accepted by connections, heartbeats and other signals included.", func(s *core.Stats) uint64 { return s.DeliveredBytes }),
	counter("evicted_events", "Events dropped because of a limit on events or bytes.", func(s *core.Stats) uint64 { return s.Evicted }),
	counter("gaps", "Gaps announced to clients.", func(s *core.Stats) uint64 { return s.Gaps }),
	counter("slow_clients", "Clients cut off because they were too slow.", func(s *core.Stats) uint64 { return s.Slow }),
	counter("panics", "Panics of writers and hooks.", func(s *core.Stats) uint64 { return s.Panics }),
	refused("event_too_large", func(s *core.Stats) uint64 { return s.TooLarge }),
	refused("too_many_executions", func(s *core.Stats) uint64 { return s.TooManyExecutions }),
	refused("too_many_clients", func(s *core.Stats) uint64 { return s.TooManyClients }),
	refused("too_many_execution_clients", func(s *core.Stats) uint64 { return s.TooManyExecutionClients }),
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.stats()
	for _, m := range metrics {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(&s), m.labels...)
	}
	c.drain.Collect(ch)
	c.publish.Collect(ch)
	c.failed.Collect(ch)
}
