package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/execcast/execcast/core"
	"github.com/execcast/execcast/core/coretest"
)

// Faults: viewers whose connections are cut, reset, stalled and split at random
// positions see every event once and in order, and are told of what a short
// history does not hold any more.

type faultsJob struct {
	Targets         []target // viewers hop between them
	Execution       string
	Seed            uint64
	Viewers, Events int
	Faults          int   // over all viewers
	Bytes           int64 // of the stream: where faults strike
	MaxStall        time.Duration
	MaxPause        time.Duration // before a viewer reconnects
	MaxLate         time.Duration // before it connects at first
	Buffer          int
	Patience        time.Duration
	Sabotage        string
}

type faultsResult struct {
	Tally  tally
	Struck struck
}

func runFaults(c *config) error {
	err := c.overEach(func(v variant) error { return c.faultsOver([]variant{v}, false) })
	if len(c.variants) > 1 {
		err = errors.Join(err, c.faultsOver(c.variants, false))
	}
	if c.together {
		return errors.Join(err, c.faultsOver(c.variants, true))
	}
	return errors.Join(err, c.overEach(func(v variant) error { return c.faultsOver([]variant{v}, true) }))
}

func (c *config) faultsOver(variants []variant, shortHistory bool) (err error) {
	name := variants[0].name
	if len(variants) > 1 {
		name = "hopping between all"
	}
	o := core.Options{}
	so := serverOptions{}
	job := faultsJob{Execution: name, Seed: c.seedOf(name, shortHistory), Viewers: c.viewers, Events: c.events, Faults: c.faults,
		MaxStall: 200 * time.Millisecond, MaxPause: 20 * time.Millisecond, Patience: c.patience, Sabotage: c.sabotage}
	duration := time.Duration(c.events) * 2500 * time.Microsecond
	if shortHistory {
		name += ", short history"
		o.MaxEvents = 32
		so.sendBuffer, job.Buffer = 4<<10, 4<<10
		job.MaxStall, job.MaxPause = 400*time.Millisecond, 400*time.Millisecond
	}
	job.MaxLate = duration / 2
	data := payloads(job.Seed, c.events, true)
	for _, p := range data {
		job.Bytes += int64(len(p)) + 40 // or more, in both encodings
	}
	if shortHistory {
		job.Bytes /= 4 // of what is left of the stream
	}

	r := registry(o)
	servers, targets, err := startAll(variants, r, so)
	if err != nil {
		return err
	}
	defer closeAll(servers)
	job.Targets = targets
	start := time.Now()
	p, err := c.start("faults", job)
	if err != nil {
		return err
	}
	defer p.stop(&err)
	var ready bool
	if err := p.receive(&ready); err != nil {
		return fmt.Errorf("%s: viewers: %w", name, err)
	}
	if err := c.publish(r, job.Execution, data, duration); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.patience)
	defer cancel()
	closed := r.Close(ctx, job.Execution)
	var res faultsResult
	if err := p.receive(&res); err != nil {
		return fmt.Errorf("%s: viewers: %w", name, err)
	}

	t, s := &res.Tally, &res.Struck
	line := ""
	for k, n := range s.Kinds {
		line += fmt.Sprintf("%s %d, ", faultNames[k], n)
	}
	c.figure("faults", name, "%d viewers, %d events, %d faults: %s%d within an event, %d in the response's head; %d connections",
		t.Viewers, c.events, s.total(), line, s.InFrame, s.InHead, t.Connections)
	c.figure("faults", name, "lost %d, doubled %d, reordered %d, damaged %d; gaps %d (%d of them in mid-stream) for %d events  [%.1f s]",
		t.Lost, t.Doubled, t.Reordered, t.Damaged, t.Gaps, t.LagGaps, t.Announced, time.Since(start).Seconds())
	var ok checks
	t.verify(&ok, name)
	ok.that(closed == nil, "%s: Close: %v", name, closed)
	ok.that(s.total() >= c.faults || shortHistory, "%s: only %d of %d faults struck", name, s.total(), c.faults)
	for k, n := range s.Kinds {
		ok.that(n > 0, "%s: no connection was %s", name, faultNames[k])
	}
	ok.that(s.InFrame > 0, "%s: no fault struck within an event", name)
	if shortHistory {
		ok.that(t.Announced > 0, "%s: no gap", name)
	} else {
		ok.that(t.Gaps == 0, "%s: %d gaps, although the history holds everything", name, t.Gaps)
	}
	return ok.err()
}

// seedOf makes every run different.
func (c *config) seedOf(name string, shortHistory bool) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, c.seed, name, shortHistory)
	return h.Sum64()
}

// publish publishes everything in bursts, over about that time.
func (c *config) publish(r *core.Registry, execution string, data []string, duration time.Duration) error {
	rng := rand.New(rand.NewPCG(c.seed, 1))
	if c.sabotage == "swap" {
		data = slices.Clone(data)
		i := len(data) / 2
		data[i], data[i+1] = data[i+1], data[i]
	}
	start := time.Now()
	for i, p := range data {
		if _, err := r.Publish(c.ctx, execution, core.Event{Type: "step", Data: []byte(p)}); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		if rng.IntN(4) == 0 {
			time.Sleep(time.Until(start.Add(duration * time.Duration(i) / time.Duration(len(data)))))
		}
	}
	return nil
}

// watchFaults runs the viewers, each behind a proxy of its own.
func watchFaults(ch *channel) error {
	var job faultsJob
	if err := ch.receive(&job); err != nil {
		return err
	}
	data := payloads(job.Seed, job.Events, true)
	var first atomic.Int64
	results := make([]faultsResult, job.Viewers)
	each(job.Viewers, job.Viewers, func(i int) {
		rng := rand.New(rand.NewPCG(job.Seed, uint64(i)+2))
		late := i%2 == 1
		if late {
			time.Sleep(time.Duration(rng.Int64N(int64(job.MaxLate))))
		}
		n := job.Faults * (i + 1) / job.Viewers
		n -= job.Faults * i / job.Viewers
		results[i] = job.view(rng, data, n, func() {
			if !late && first.Add(1) == int64(job.Viewers+1)/2 {
				ch.send(true)
			}
		})
	})
	var sum faultsResult
	for _, r := range results {
		sum.Tally.add(r.Tally)
		sum.Struck.add(r.Struck)
	}
	return ch.send(sum)
}

// view is one viewer: it reconnects until the execution has finished. It calls
// connected once.
func (job *faultsJob) view(rng *rand.Rand, data []string, faults int, connected func()) (res faultsResult) {
	w := newWatcher(data)
	w.hideGaps = job.Sabotage == "hide-gap"
	defer func() { res.Tally = w.end() }()
	p, err := newProxy(rand.New(rand.NewPCG(rng.Uint64(), 0)), plan(rng, faults, job.Bytes), job.MaxStall)
	if err != nil {
		w.problem("proxy: %v", err)
		return res
	}
	defer func() {
		p.close()
		p.mu.Lock()
		res.Struck = p.struck
		p.mu.Unlock()
	}()
	p.buffer = job.Buffer
	deadline := time.Now().Add(job.Patience)
	for i := 0; time.Now().Before(deadline); i++ {
		t := &job.Targets[rng.IntN(len(job.Targets))]
		p.target.Store(t)
		v, err := coretest.Connect(coretest.ViewerOptions{
			Transport: t.Transport, Addr: p.addr(), ExecutionID: job.Execution, LastEventID: job.resumeFrom(w),
		})
		if i == 0 {
			connected()
		}
		if err == nil {
			if w.connection(v) {
				w.Finished = 1
				return res
			}
		} else if hung(err) {
			w.Violations++
			w.problem("connecting: %v", err)
		} // else a head that was cut off, which the viewer may well find malformed
		time.Sleep(time.Duration(rng.Int64N(int64(job.MaxPause))))
	}
	w.problem("not finished after %v, at event %d, ID %s", job.Patience, w.next, w.lastText)
	return res
}

// resumeFrom is the last event ID with which a viewer reconnects.
func (job *faultsJob) resumeFrom(w *watcher) string {
	switch {
	case job.Sabotage == "forget-id":
		return ""
	case job.Sabotage == "skip-id" && w.lastID > 0:
		return fmt.Sprint(w.lastID + 1)
	case job.Sabotage == "false-gap" && w.lastID > 0:
		return "1" // of another life of the server, says the viewer
	}
	return w.lastText
}

// connection takes a connection to its end, and reports whether the execution
// has finished.
func (w *watcher) connection(v *coretest.Viewer) (finished bool) {
	defer v.Close()
	switch {
	case v.Status == http.StatusNoContent:
		return true
	case v.Status >= 500:
		w.ServerErrors++
		return false
	case v.Status != http.StatusOK && v.Status != http.StatusSwitchingProtocols:
		w.Violations++
		w.problem("status %d", v.Status)
		return false
	}
	finished, err := w.follow(v, nil)
	if err != nil && !broken(err) {
		w.Violations++
		w.problem("connection: %v", err)
	}
	return finished || err == nil && v.CloseCode == 1000
}
