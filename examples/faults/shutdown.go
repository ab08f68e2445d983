package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/execcast/execcast/core"
	"github.com/execcast/execcast/core/coretest"
)

// Shutdown: a server with many streams shuts down, together with its HTTP
// server, while events are being published. Every stream ends cleanly, with all
// that had been published when the shutdown began, and its viewer goes on at
// another server. That one, another process, has been given the same events
// under IDs of its own, since nothing connects the two: it says stream-gap, and
// sends all it has.

type shutdownJob struct {
	Targets    []target
	Streams    int
	Executions int
	Before     int // events of each execution before the shutdown
	Seed       uint64
	Patience   time.Duration
}

// shutdownGoOn says where viewers go on, and how many events each execution
// has had.
type shutdownGoOn struct {
	Targets []target
	Events  int
}

type shutdownResult struct {
	Elsewhere    tally
	Clean        int // ends
	Short        int // viewers that had not everything published before
	Gaps         int // announced elsewhere, with the viewer's last ID
	Retried      int // requests the server answered while it was going down
	ServerErrors int // answered 5xx
	Last         time.Time
	Problems     []string
}

const (
	shutdownExecutions = 30
	shutdownBefore     = 20
	// shutdownEvents bounds the events of an execution; the history holds them.
	shutdownEvents = 4000
)

func shutdownExecution(i int) string { return "shutdown " + strconv.Itoa(i) }

func shutdownData(n int) string { return fmt.Sprintf(`{"n":%d}`, n) }

func runShutdown(c *config) error {
	if c.together || len(c.variants) == 1 {
		return c.shutdownOver(c.variants)
	}
	var ok checks
	for i := range c.variants {
		ok.add(c.shutdownOver(c.variants[i : i+1]))
	}
	return ok.err()
}

func (c *config) shutdownOver(variants []variant) (err error) {
	name := variants[0].name
	if len(variants) > 1 {
		name = "all together"
	}
	streams := min(c.streams, maxConnections())
	job := shutdownJob{Streams: streams, Executions: shutdownExecutions, Before: shutdownBefore, Patience: c.patience}

	r := registry(core.Options{})
	made := time.Now()
	var so serverOptions
	var down atomic.Bool
	if c.sabotage == "refuse" {
		so.middleware = func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if down.Load() {
					http.Error(w, "going down", http.StatusServiceUnavailable)
					return
				}
				h.ServeHTTP(w, r)
			})
		}
	}
	servers, targets, err := startAll(variants, r, so)
	if err != nil {
		return err
	}
	defer closeAll(servers)
	job.Targets = targets
	p, err := c.start("shutdown", job)
	if err != nil {
		return err
	}
	defer p.stop(&err)
	fail := func(err error) error { return fmt.Errorf("%s: viewers: %w", name, err) }
	var ready bool
	if err := p.receive(&ready); err != nil {
		return fail(err)
	}

	// IDs begin with the clock, in microseconds, at each server's start. Later
	// by as many of those as there are events, the two cannot be confused.
	time.Sleep(time.Until(made.Add(shutdownEvents * shutdownExecutions * time.Microsecond)))
	elsewhere, err := c.start("elsewhere", elsewhereJob{names(variants, func(v variant) string { return v.name })})
	if err != nil {
		return err
	}
	defer elsewhere.stop(&err)
	var others []target
	if err := elsewhere.receive(&others); err != nil {
		return fmt.Errorf("%s: the other server: %w", name, err)
	}

	// publish publishes the next event of all executions: elsewhere, and here,
	// if that is still possible.
	next, here := 0, true
	publish := func() error {
		for i := 0; here && i < job.Executions; i++ {
			_, err := r.Publish(c.ctx, shutdownExecution(i), core.Event{Type: "step", Data: []byte(shutdownData(next))})
			if here = err == nil; !here && !errors.Is(err, core.ErrShutdown) {
				return fmt.Errorf("%s: publish: %w", name, err)
			}
		}
		next++
		return elsewhere.send(true)
	}
	for range shutdownBefore {
		if err := publish(); err != nil {
			return err
		}
	}
	if n := r.Stats().Clients; n != streams {
		return fmt.Errorf("%s: %d clients of %d viewers", name, n, streams)
	}

	ctx, cancel := context.WithTimeout(c.ctx, c.patience)
	defer cancel()
	shutdownCtx := ctx
	if c.sabotage == "cut" {
		done, cancel := context.WithCancel(ctx)
		cancel()
		shutdownCtx = done
	}
	start := time.Now()
	down.Store(true)
	errs := make([]error, 2+len(servers))
	var all sync.WaitGroup
	all.Go(func() {
		errs[0] = r.Shutdown(shutdownCtx)
		errs[0] = wrap(errs[0], "Registry.Shutdown")
	})
	cameBack := make(chan struct{})
	all.Go(func() {
		defer close(cameBack)
		var answered bool
		errs[1] = p.receive(&answered)
	})
	for i, s := range servers {
		all.Go(func() {
			// Only now, so that somebody who comes back too early can still be
			// answered.
			<-cameBack
			c.await(func() bool { return r.Stats().Clients <= streams/2 })
			errs[2+i] = wrap(s.shutdown(ctx), variants[i].name+": the server's Shutdown")
		})
	}
	for ; here && next < shutdownEvents; time.Sleep(20 * time.Millisecond) {
		if err := publish(); err != nil {
			return err
		}
	}
	all.Wait()
	took := time.Since(start)
	for range 3 {
		if err := publish(); err != nil {
			return err
		}
	}
	if err := elsewhere.send(false); err != nil {
		return err
	}
	if err := p.send(shutdownGoOn{others, next}); err != nil {
		return fail(err)
	}
	var res shutdownResult
	if err := p.receive(&res); err != nil {
		return fail(err)
	}

	note := ""
	if streams < c.streams {
		note = fmt.Sprintf(" (not %d: descriptor limit)", c.streams)
	}
	c.figure("shutdown", name, "%d streams%s of %d executions: %d ended cleanly, %d without an event published before; "+
		"both shutdowns returned after %.1f s, last viewer's end after %.1f s",
		streams, note, job.Executions, res.Clean, res.Short, took.Seconds(), res.Last.Sub(start).Seconds())
	c.figure("shutdown", name, "elsewhere: %d of %d saw the end, gap announced to %d, lost %d, doubled %d, reordered %d; %d came back too early and were answered, %d of them 5xx",
		res.Elsewhere.Finished, streams, res.Gaps, res.Elsewhere.Lost, res.Elsewhere.Doubled, res.Elsewhere.Reordered, res.Retried, res.ServerErrors)
	var ok checks
	ok.add(errors.Join(errs...))
	ok.that(res.Clean == streams, "%s: %d of %d streams ended cleanly", name, res.Clean, streams)
	ok.that(res.Short == 0, "%s: %d viewers lack events published before the shutdown", name, res.Short)
	ok.that(res.Gaps == streams, "%s: %d of %d viewers were told of the gap elsewhere", name, res.Gaps, streams)
	ok.that(res.Retried > 0, "%s: nobody came back too early", name)
	ok.that(res.ServerErrors == 0, "%s: %d requests answered 5xx", name, res.ServerErrors)
	res.Elsewhere.verify(&ok, name+", elsewhere")
	for _, problem := range res.Problems {
		ok.that(false, "%s: for example: %s", name, problem)
	}
	return ok.err()
}

func wrap(err error, what string) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// maxConnections is how many connections a process can hold, from proc(5)
// where there is one.
func maxConnections() int {
	const reserve = 200
	limits, _ := os.ReadFile("/proc/self/limits")
	for line := range strings.Lines(string(limits)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if n, err := strconv.Atoi(strings.Fields(rest)[1]); err == nil { // the hard limit, which Go raises the soft one to
				return n - reserve
			}
		}
	}
	return 1 << 20
}

func watchShutdown(ch *channel) error {
	var job shutdownJob
	if err := ch.receive(&job); err != nil {
		return err
	}
	viewers := make([]*coretest.Viewer, job.Streams)
	var failed atomic.Pointer[error]
	each(job.Streams, 128, func(i int) {
		t := job.Targets[i%len(job.Targets)]
		v, err := coretest.Connect(coretest.ViewerOptions{
			Transport: t.Transport, Addr: t.Addr, ExecutionID: shutdownExecution(i % job.Executions), Patience: job.Patience,
		})
		if err != nil {
			failed.Store(&err)
			return
		}
		viewers[i] = v
	})
	if err := failed.Load(); err != nil {
		return *err
	}
	var mu sync.Mutex
	var sum shutdownResult
	lastIDs := make([]string, job.Streams)
	var answered sync.Once // tells that somebody came back too early and was answered, or that nobody was
	var all sync.WaitGroup
	for i, v := range viewers {
		all.Go(func() {
			defer v.Close()
			res := job.here(v)
			lastIDs[i] = v.LastEventID
			if i%7 == 0 {
				job.tooEarly(i, lastIDs[i], &res)
			}
			if res.Retried > 0 {
				answered.Do(func() { ch.send(true) })
			}
			mu.Lock()
			defer mu.Unlock()
			sum.add(res)
		})
	}
	ch.send(true)
	all.Wait()
	answered.Do(func() { ch.send(false) })
	var on shutdownGoOn
	if err := ch.receive(&on); err != nil {
		return err
	}
	data := make([]string, on.Events)
	for n := range data {
		data[n] = shutdownData(n)
	}
	each(job.Streams, 128, func(i int) {
		res := job.elsewhere(i, on.Targets, data, lastIDs[i])
		mu.Lock()
		defer mu.Unlock()
		sum.add(res)
	})
	return ch.send(sum)
}

func (s *shutdownResult) add(t shutdownResult) {
	s.Elsewhere.add(t.Elsewhere)
	s.Clean += t.Clean
	s.Short += t.Short
	s.Gaps += t.Gaps
	s.Retried += t.Retried
	s.ServerErrors += t.ServerErrors
	if t.Last.After(s.Last) {
		s.Last = t.Last
	}
	if len(s.Problems) < 5 {
		s.Problems = append(s.Problems, t.Problems...)
	}
}

// tooEarly has a viewer come back to the server that is going down. It must be
// asked to come again, if it is answered at all.
func (job *shutdownJob) tooEarly(i int, lastID string, res *shutdownResult) {
	t := job.Targets[i%len(job.Targets)]
	v, err := coretest.Connect(coretest.ViewerOptions{
		Transport: t.Transport, Addr: t.Addr, ExecutionID: shutdownExecution(i % job.Executions), LastEventID: lastID, Patience: job.Patience,
	})
	if err != nil {
		return // nobody listens any more
	}
	defer v.Close()
	res.Retried++
	if v.Status >= 500 {
		res.ServerErrors++
		return
	}
	events, err := v.All()
	if err != nil || len(events) > 0 || v.Retry == 0 && v.CloseCode != 1001 {
		res.Problems = append(res.Problems, fmt.Sprintf("too early: status %d, retry %v, close code %d, %v, %v", v.Status, v.Retry, v.CloseCode, events, err))
	}
}

// here watches until the server shuts down.
func (job *shutdownJob) here(v *coretest.Viewer) (res shutdownResult) {
	for n := 0; ; n++ {
		e, err := v.Next()
		if err == nil && e.Type == "step" && e.Data == shutdownData(n) {
			continue
		}
		res.Last = time.Now()
		if err == io.EOF && (v.CloseCode == 0 || v.CloseCode == 1001) {
			res.Clean = 1
		} else {
			res.Problems = append(res.Problems, fmt.Sprintf("at event %d: %+v, close code %d, %v", n, e, v.CloseCode, err))
		}
		if n < job.Before {
			res.Short = 1
			res.Problems = append(res.Problems, fmt.Sprintf("only %d events of %d published before", n, job.Before))
		}
		return res
	}
}

// elsewhere has a viewer go on at the other server.
func (job *shutdownJob) elsewhere(i int, targets []target, data []string, lastID string) (res shutdownResult) {
	w := newWatcher(data)
	t := targets[i%len(targets)]
	v, err := coretest.Connect(coretest.ViewerOptions{
		Transport: t.Transport, Addr: t.Addr, ExecutionID: shutdownExecution(i % job.Executions), LastEventID: lastID, Patience: job.Patience,
	})
	if err == nil {
		defer v.Close()
		var e coretest.Event
		if e, err = v.Next(); e.Type == "stream-gap" && strings.HasPrefix(e.Data, `{"from":"`+lastID+`"`) {
			res.Gaps = 1
			var finished bool
			if finished, err = w.follow(v, nil); finished && err == nil {
				w.Finished = 1
			}
		}
	}
	if err != nil {
		w.problem("%v", err)
	}
	res.Elsewhere = w.end()
	return res
}

type elsewhereJob struct{ Variants []string }

// serveElsewhere is the other server. It is told true for one more event of
// each execution, false when they are finished.
func serveElsewhere(ch *channel) error {
	var job elsewhereJob
	if err := ch.receive(&job); err != nil {
		return err
	}
	r := registry(core.Options{})
	chosen := slices.DeleteFunc(slices.Clone(variants), func(v variant) bool { return !slices.Contains(job.Variants, v.name) })
	_, targets, err := startAll(chosen, r, serverOptions{})
	if err != nil {
		return err
	}
	ch.send(targets)
	for published := 0; ; published++ {
		var more bool
		if err := ch.receive(&more); err != nil {
			return err
		}
		for i := range shutdownExecutions {
			id := shutdownExecution(i)
			if !more {
				go r.Close(context.Background(), id)
				continue
			}
			if _, err := r.Publish(context.Background(), id, core.Event{Type: "step", Data: []byte(shutdownData(published))}); err != nil {
				return err
			}
		}
	}
}
