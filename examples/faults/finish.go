package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/execcast/execcast/core"
	"github.com/execcast/execcast/core/coretest"
)

// Finish: the last event is published and the execution closed at once. Every
// viewer gets it, stream-end, and a clean end of the connection, also one that
// has sent what nobody reads, and one that comes while it happens.

const (
	finishViewers = 4 // each run
	finishEvents  = 4
	finishAtOnce  = 16 // runs
)

// finishData is the data of an event. In some runs the last one is so large
// that much of it is still on its way when the connection ends.
func finishData(run, n int) string {
	if n == finishEvents-1 && run%5 == 1 {
		return fmt.Sprintf(`{"n":%d,"text":%q}`, n, strings.Repeat("x", 250<<10))
	}
	return fmt.Sprintf(`{"n":%d}`, n)
}

type finishJob struct {
	Target   target
	Runs     int
	Seed     uint64
	Prefix   string
	Patience time.Duration
}

type finishResult struct {
	Clean    int // runs in which every viewer saw everything and a clean end
	Junk     int // bytes sent by viewers
	Problems []string
}

func runFinish(c *config) error {
	return c.overEach(func(v variant) error { return c.finishOver(v) })
}

// whole hides that a connection can be half-closed.
type whole struct{ net.Conn }

func (c *config) finishOver(v variant) (err error) {
	o := serverOptions{}
	if c.sabotage == "half-close" {
		o.wrap = func(conn net.Conn) net.Conn { return whole{conn} }
	}
	r := registry(core.Options{})
	defer r.Shutdown(c.ctx) // it remembers all those executions
	s, err := v.start(r, o)
	if err != nil {
		return err
	}
	defer s.close()
	p, err := c.start("finish", finishJob{s.target, c.runs, c.seed, v.name, c.patience})
	if err != nil {
		return err
	}
	defer p.stop(&err)

	// The viewers say when those of a run are there; the last message is the
	// result.
	type message struct {
		Run    *int
		Result *finishResult
	}
	var res finishResult
	var closed, sampled, unread atomic.Int64
	var runs sync.WaitGroup
	for {
		var m message
		if err := p.receive(&m); err != nil {
			return fmt.Errorf("%s: viewers: %w", v.name, err)
		}
		if m.Result != nil {
			res = *m.Result
			break
		}
		runs.Go(func() {
			id := fmt.Sprintf("%s %d", v.name, *m.Run)
			if *m.Run%50 == 0 {
				sampled.Add(1)
				unread.Add(int64(count(sockets(s.Addr), func(s socketState) bool { return s.received > 0 })))
			}
			ctx, cancel := context.WithTimeout(c.ctx, c.patience)
			defer cancel()
			for n := range finishEvents {
				if _, err := r.Publish(ctx, id, core.Event{Type: "step", Data: []byte(finishData(*m.Run, n))}); err != nil {
					return
				}
			}
			if c.sabotage == "forget" {
				r.Forget(id)
				return
			}
			if r.Close(ctx, id) == nil {
				closed.Add(1)
			}
		})
	}
	runs.Wait()
	c.figure("finish", v.name, "%d/%d runs of %d viewers: last event, stream-end, clean end; Close returned nil %d/%d; "+
		"viewers sent %d KiB; %d connections with unread input in %d samples",
		res.Clean, c.runs, finishViewers, closed.Load(), c.runs, res.Junk>>10, unread.Load(), sampled.Load())
	var ok checks
	ok.that(res.Clean == c.runs, "%s: %d of %d runs were clean", v.name, res.Clean, c.runs)
	ok.that(int(closed.Load()) == c.runs || c.sabotage != "", "%s: Close failed %d times", v.name, c.runs-int(closed.Load()))
	if canSeeSockets && v.transport == coretest.SSE {
		ok.that(unread.Load() > 0, "%s: no input was unread", v.name)
	}
	for _, problem := range res.Problems {
		ok.that(false, "%s: for example: %s", v.name, problem)
	}
	return ok.err()
}

func watchFinish(ch *channel) error {
	var job finishJob
	if err := ch.receive(&job); err != nil {
		return err
	}
	var mu sync.Mutex
	var res finishResult
	each(job.Runs, finishAtOnce, func(run int) {
		junk, err := job.run(run, func() { ch.send(map[string]int{"Run": run}) })
		mu.Lock()
		defer mu.Unlock()
		res.Junk += junk
		if err == nil {
			res.Clean++
		} else if len(res.Problems) < 5 {
			res.Problems = append(res.Problems, fmt.Sprintf("run %d: %v", run, err))
		}
	})
	return ch.send(map[string]finishResult{"Result": res})
}

// run has the viewers of one run watch, and calls ready in between: when all
// but the last are connected.
func (job *finishJob) run(run int, ready func()) (junk int, err error) {
	rng := rand.New(rand.NewPCG(job.Seed, uint64(run)))
	connect := func() (*coretest.Viewer, error) {
		return coretest.Connect(coretest.ViewerOptions{
			Transport: job.Target.Transport, Addr: job.Target.Addr, ExecutionID: fmt.Sprintf("%s %d", job.Prefix, run),
			Patience: job.Patience,
		})
	}
	viewers := make([]*coretest.Viewer, finishViewers)
	defer func() {
		for _, v := range viewers {
			if v != nil {
				v.Close()
			}
		}
	}()
	for i := range viewers[:finishViewers-1] {
		if viewers[i], err = connect(); err != nil {
			ready() // for whoever counts
			return 0, fmt.Errorf("viewer %d: %w", i, err)
		}
	}
	// The first only watches, the second has sent something, the third is at
	// it all the time, the fourth comes late.
	junk += job.send(viewers[1], rng)
	var errs [finishViewers]error
	var all sync.WaitGroup
	over := make(chan struct{})
	sent := make(chan int)
	go func() {
		n := 0
		for more := true; more && n < 40<<10; {
			n += job.send(viewers[2], rng)
			select {
			case <-over:
				more = false
			default:
			}
		}
		sent <- n
	}()
	for i := range viewers {
		all.Go(func() {
			if i == finishViewers-1 {
				if viewers[i], errs[i] = connect(); errs[i] != nil {
					return
				}
			}
			errs[i] = seesAll(viewers[i], job.Target.Transport, run)
			if i == 2 {
				close(over)
			}
		})
	}
	ready()
	all.Wait()
	junk += <-sent
	for i, err := range errs {
		if err != nil {
			return junk, fmt.Errorf("viewer %d: %w", i, err)
		}
	}
	return junk, nil
}

// send sends something that nobody waits for, and returns its size.
func (job *finishJob) send(v *coretest.Viewer, rng *rand.Rand) int {
	if job.Target.Transport == coretest.SSE {
		p := []byte(strings.Repeat("junk\r\n", 1+rng.IntN(500)))
		v.SendRaw(p)
		return len(p)
	}
	n := 0
	for range 1 + rng.IntN(20) {
		p := []byte(strings.Repeat("x", rng.IntN(100)))
		v.Send(coretest.OpText, p)
		v.Send(coretest.OpPing, p)
		n += 2 * (len(p) + 6)
	}
	return n
}

// seesAll returns an error unless a viewer sees every event, stream-end, and a
// clean end.
func seesAll(v *coretest.Viewer, t coretest.Transport, run int) error {
	for n := 0; ; n++ {
		e, err := v.Next()
		switch {
		case err == io.EOF && n == finishEvents+1 && (t == coretest.SSE || v.CloseCode == 1000):
			return nil
		case err != nil:
			return fmt.Errorf("status %d, behind %d of %d events: close code %d, %w", v.Status, n, finishEvents+1, v.CloseCode, err)
		case n < finishEvents && e.Data == finishData(run, n):
		case n == finishEvents && e.Type == "stream-end":
		default:
			return fmt.Errorf("event %.300q where number %d was due", e, n)
		}
	}
}
