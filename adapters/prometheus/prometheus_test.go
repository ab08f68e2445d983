package execcastprom

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
)

func TestLint(t *testing.T) {
	_, metrics := New(nil)
	problems, err := testutil.CollectAndLint(metrics)
	require.NoError(t, err)
	require.Empty(t, problems)
	require.NoError(t, prometheus.NewPedanticRegistry().Register(metrics))
}

// Each figure of core.Stats is exposed, once.
func TestEveryFigure(t *testing.T) {
	var s core.Stats
	v := reflect.ValueOf(&s).Elem()
	for i := range v.NumField() {
		v.Field(i).Set(reflect.ValueOf(i + 1).Convert(v.Field(i).Type()))
	}
	seen := map[float64]bool{}
	for _, m := range metrics {
		require.NotContains(t, seen, m.value(&s), m.desc)
		seen[m.value(&s)] = true
	}
	require.Len(t, seen, v.NumField())
}

// connection takes its time for each write; like all time here it is synctest's,
// exact and soon over.
type connection struct {
	time  time.Duration
	bytes *atomic.Int64
}

func (c connection) Write(p []byte) (int, error) {
	time.Sleep(c.time)
	c.bytes.Add(int64(len(p)))
	return len(p), nil
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		var theirs []string
		note := func(hook string) func(string) {
			return func(id string) { theirs = append(theirs, hook+" "+id) }
		}
		told := 0
		r, metrics := New(&core.Options{MaxExecutions: 1, MaxEventBytes: 100, Heartbeat: -1, Logger: slog.New(slog.DiscardHandler),
			Hooks:       core.Hooks{FirstViewer: note("first"), LastViewer: note("last"), Finished: note("finished")},
			Traceparent: func(context.Context) string { time.Sleep(20 * time.Millisecond); return "" }, // what takes time
			PublishDone: func(string, time.Duration, error) { told++ },
		})
		var bytes atomic.Int64
		slow, fast := connection{time.Second, &bytes}, connection{0, &bytes}
		publish := func(id, data string) error {
			_, err := r.Publish(ctx, id, core.Event{Data: []byte(data)})
			return err
		}
		require.NoError(t, publish("x", "1"))
		require.ErrorIs(t, publish("y", "1"), core.ErrTooManyExecutions)
		require.ErrorIs(t, publish("x", strings.Repeat("1", 101)), core.ErrEventTooLarge)

		watch := func(w core.Writer, lastEventID string) {
			c, err := r.Register("x", &core.ClientOptions{LastEventID: lastEventID})
			require.NoError(t, err)
			go c.Serve(context.Background(), w)
			synctest.Wait()
		}
		watch(slow, "")
		watch(fast, "1")        // a gap
		time.Sleep(time.Minute) // both have what there is
		require.NoError(t, publish("x", "2"))
		synctest.Wait() // the event is being written
		closed := time.Now()
		require.NoError(t, r.Close(ctx, "x"))
		require.Equal(t, 2*time.Second, time.Since(closed), "the event, and the end")
		watch(fast, "") // too late to count as drained

		require.ErrorIs(t, publish("x", "3"), core.ErrFinished)
		_, err := r.PublishJSON(ctx, "x", "error", "")
		require.ErrorIs(t, err, core.ErrReservedType)
		_, err = r.Publish(cancelled(ctx), "x", core.Event{})
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 7, told)

		require.Equal(t, []string{"first x", "finished x", "last x", "first x", "last x"}, theirs)
		require.NoError(t, testutil.CollectAndCompare(metrics, strings.NewReader(`
# HELP execcast_executions Executions known, finished ones included.
# TYPE execcast_executions gauge
execcast_executions 1
# HELP execcast_clients Clients connected.
# TYPE execcast_clients gauge
execcast_clients 0
# HELP execcast_published_events_total Events published.
# TYPE execcast_published_events_total counter
execcast_published_events_total 2
# HELP execcast_delivered_events_total Events accepted by connections, added up over clients.
# TYPE execcast_delivered_events_total counter
execcast_delivered_events_total 6
# HELP execcast_delivered_bytes_total Bytes accepted by connections, heartbeats and other signals included.
# TYPE execcast_delivered_bytes_total counter
execcast_delivered_bytes_total `+fmt.Sprint(bytes.Load())+`
# HELP execcast_publish_seconds Time Publish took its caller, failed ones included.
# TYPE execcast_publish_seconds histogram
execcast_publish_seconds_bucket{le="1e-06"} 3
execcast_publish_seconds_bucket{le="1e-05"} 3
execcast_publish_seconds_bucket{le="0.0001"} 3
execcast_publish_seconds_bucket{le="0.001"} 3
execcast_publish_seconds_bucket{le="0.01"} 3
execcast_publish_seconds_bucket{le="0.1"} 7
execcast_publish_seconds_bucket{le="1"} 7
execcast_publish_seconds_bucket{le="10"} 7
execcast_publish_seconds_bucket{le="+Inf"} 7
execcast_publish_seconds_sum 0.08
execcast_publish_seconds_count 7
# HELP execcast_publish_errors_total Publishes that failed.
# TYPE execcast_publish_errors_total counter
execcast_publish_errors_total{reason="cancelled"} 1
execcast_publish_errors_total{reason="conflict"} 0
execcast_publish_errors_total{reason="finished"} 1
execcast_publish_errors_total{reason="invalid"} 1
execcast_publish_errors_total{reason="other"} 0
execcast_publish_errors_total{reason="shutdown"} 0
execcast_publish_errors_total{reason="too_large"} 1
execcast_publish_errors_total{reason="too_many_executions"} 1
execcast_publish_errors_total{reason="unavailable"} 0
# HELP execcast_gaps_total Gaps announced to clients.
# TYPE execcast_gaps_total counter
execcast_gaps_total 1
# HELP execcast_refused_total Events and clients refused by a limit.
# TYPE execcast_refused_total counter
execcast_refused_total{reason="event_too_large"} 1
execcast_refused_total{reason="too_many_clients"} 0
execcast_refused_total{reason="too_many_execution_clients"} 0
execcast_refused_total{reason="too_many_executions"} 1
# HELP execcast_drain_seconds Time from closing a watched execution until its last client has ended.
# TYPE execcast_drain_seconds histogram
execcast_drain_seconds_bucket{le="0.001"} 0
execcast_drain_seconds_bucket{le="0.01"} 0
execcast_drain_seconds_bucket{le="0.1"} 0
execcast_drain_seconds_bucket{le="0.5"} 0
execcast_drain_seconds_bucket{le="1"} 0
execcast_drain_seconds_bucket{le="2.5"} 1
execcast_drain_seconds_bucket{le="5"} 1
execcast_drain_seconds_bucket{le="10"} 1
execcast_drain_seconds_bucket{le="30"} 1
execcast_drain_seconds_bucket{le="60"} 1
execcast_drain_seconds_bucket{le="+Inf"} 1
execcast_drain_seconds_sum 2
execcast_drain_seconds_count 1
`), "execcast_executions", "execcast_clients", "execcast_published_events_total", "execcast_delivered_events_total",
			"execcast_gaps_total", "execcast_refused_total", "execcast_drain_seconds",
			"execcast_delivered_bytes_total", "execcast_publish_seconds", "execcast_publish_errors_total"))
		require.Empty(t, metrics.(*collector).watched)
	})
}

func cancelled(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}

func TestReasons(t *testing.T) {
	for _, f := range failures {
		for _, err := range f.errs {
			require.Equal(t, f.reason, reason(fmt.Errorf("wrapped: %w", err)))
		}
	}
	require.Equal(t, "unavailable", reason(fmt.Errorf("%w: %w", core.ErrUnavailable, context.DeadlineExceeded)))
	require.Equal(t, otherFailure, reason(io.EOF))
}

// The dashboard is valid JSON, asks for nothing that is not collected, and
// leaves nothing out.
func TestDashboard(t *testing.T) {
	data, err := os.ReadFile("dashboard.json")
	require.NoError(t, err)
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(data, &dashboard))
	asked := map[string]bool{}
	for _, p := range dashboard.Panels {
		require.NotEmpty(t, p.Targets, p.Title)
		for _, target := range p.Targets {
			for _, name := range regexp.MustCompile(`execcast_\w+`).FindAllString(target.Expr, -1) {
				asked[strings.TrimSuffix(name, "_bucket")] = true
			}
		}
	}
	_, metrics := New(nil)
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics)
	families, err := registry.Gather()
	require.NoError(t, err)
	collected := map[string]bool{}
	for _, f := range families {
		collected[f.GetName()] = true
	}
	require.Equal(t, collected, asked)
}
