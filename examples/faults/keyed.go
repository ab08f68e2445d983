package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/execcast/execcast/core"
	"github.com/execcast/execcast/core/coretest"
)

// Keyed: many ticks of progress with keys and some results without, in a
// history far too short for all of them. A late viewer gets every result and
// each key's last tick, in order.

type keyedJob struct {
	Targets   []target
	Execution string
	Patience  time.Duration
}

// keyedResult is what the viewers of one target saw: the numbers of events.
type keyedResult struct {
	Live     []int // one that was there from the beginning
	Late     []int // one that came when everything had been published
	Resumed  []int // one that came then, left and came back over the next transport
	Problems []string
}

func runKeyed(c *config) (err error) {
	r := registry(core.Options{MaxEvents: 2 * c.results})
	servers, targets, err := startAll(c.variants, r, serverOptions{})
	if err != nil {
		return err
	}
	defer closeAll(servers)
	job := keyedJob{targets, "keyed", c.patience}
	p, err := c.start("keyed", job)
	if err != nil {
		return err
	}
	defer p.stop(&err)
	var ready bool
	if err := p.receive(&ready); err != nil {
		return fmt.Errorf("viewers: %w", err)
	}

	// As many keys as fit beside the results.
	rng := rand.New(rand.NewPCG(c.seed, 0))
	keys := make([]string, c.ticks+c.results)
	last := map[string]int{}
	for n, results := 0, c.results; n < len(keys); n++ {
		if rng.IntN(len(keys)-n) < results {
			results--
			continue
		}
		keys[n] = "step " + strconv.Itoa(rng.IntN(c.results))
		last[keys[n]] = n
	}
	var due []int
	for n, key := range keys {
		if key == "" || last[key] == n {
			due = append(due, n)
		}
		if c.sabotage == "no-keys" {
			key = ""
		}
		if _, err := r.Publish(c.ctx, job.Execution, core.Event{Type: "tick", Data: []byte(strconv.Itoa(n)), Key: key}); err != nil {
			return err
		}
	}

	p.send(true)
	if err := p.receive(&ready); err != nil { // the late ones have come
		return fmt.Errorf("viewers: %w", err)
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.patience)
	defer cancel()
	closed := r.Close(ctx, job.Execution)
	var ok checks
	ok.that(closed == nil, "Close: %v", closed)
	for _, v := range c.variants {
		var res keyedResult
		if err := p.receive(&res); err != nil {
			return fmt.Errorf("viewers: %w", err)
		}
		late, resumed := compareKeyed(res.Late, due), compareKeyed(res.Resumed, due)
		live := coversKeyed(res.Live, due)
		c.figure("keyed", v.name, "%d ticks with %d keys, %d results, history %d: late viewer got %d events, wrong %d; resumed %d, wrong %d; live %d, wrong %d",
			c.ticks, len(last), c.results, 2*c.results, len(res.Late), late, len(res.Resumed), resumed, len(res.Live), live)
		ok.that(late == 0, "%s: late viewer: %d of %d events missing or in the wrong place", v.name, late, len(due))
		ok.that(resumed == 0, "%s: resumed viewer: %d of %d events missing or in the wrong place", v.name, resumed, len(due))
		ok.that(live == 0, "%s: live viewer: %d of %d events missing or out of order", v.name, live, len(due))
		for _, problem := range res.Problems {
			ok.that(false, "%s: %s", v.name, problem)
		}
	}
	return ok.err()
}

// compareKeyed counts where got is not due.
func compareKeyed(got, due []int) (wrong int) {
	for i := range max(len(got), len(due)) {
		if i >= len(got) || i >= len(due) || got[i] != due[i] {
			wrong++
		}
	}
	return wrong
}

// coversKeyed counts what is missing of due in got, which may hold events that
// were superseded later, and what is out of order there.
func coversKeyed(got, due []int) (wrong int) {
	last := -1
	for _, n := range got {
		if n <= last {
			wrong++
		}
		last = n
		if len(due) > 0 && n == due[0] {
			due = due[1:]
		}
	}
	return wrong + len(due)
}

func watchKeyed(ch *channel) error {
	var job keyedJob
	if err := ch.receive(&job); err != nil {
		return err
	}
	connect := func(t target, lastID string) (*coretest.Viewer, error) {
		return coretest.Connect(coretest.ViewerOptions{
			Transport: t.Transport, Addr: t.Addr, ExecutionID: job.Execution, LastEventID: lastID, Patience: job.Patience,
		})
	}
	results := make([]keyedResult, len(job.Targets))
	var live sync.WaitGroup
	for i, t := range job.Targets {
		v, err := connect(t, "")
		if err != nil {
			return err
		}
		live.Go(func() { results[i].Live = readKeyed(v, -1, &results[i].Problems) })
	}
	ch.send(true)
	var published bool
	if err := ch.receive(&published); err != nil {
		return err
	}
	late := make([]*coretest.Viewer, len(job.Targets))
	resumed := make([]*coretest.Viewer, len(job.Targets))
	lateResults := make([]keyedResult, len(job.Targets))
	for i, t := range job.Targets {
		v, err := connect(t, "")
		if err != nil {
			return err
		}
		late[i] = v
		before, err := connect(t, "")
		if err != nil {
			return err
		}
		lateResults[i].Resumed = readKeyed(before, 50, &lateResults[i].Problems)
		before.Close()
		if resumed[i], err = connect(job.Targets[(i+1)%len(job.Targets)], before.LastEventID); err != nil {
			return err
		}
	}
	ch.send(true)
	each(len(job.Targets), len(job.Targets), func(i int) {
		res := &lateResults[i]
		res.Late = readKeyed(late[i], -1, &res.Problems)
		res.Resumed = append(res.Resumed, readKeyed(resumed[i], -1, &res.Problems)...)
	})
	live.Wait()
	for i, res := range lateResults {
		res.Live = results[i].Live
		res.Problems = append(res.Problems, results[i].Problems...)
		ch.send(res)
	}
	return nil
}

// readKeyed reads n events, or, if n is negative, to the end.
func readKeyed(v *coretest.Viewer, n int, problems *[]string) (events []int) {
	if n < 0 {
		defer v.Close()
	}
	ended := false
	for len(events) != n {
		e, err := v.Next()
		switch {
		case err == io.EOF && ended:
			return events
		case err != nil:
			*problems = append(*problems, err.Error())
			return events
		case e.Type == "stream-end":
			ended = true
		case e.Type != "tick":
			*problems = append(*problems, fmt.Sprintf("a %s %s", e.Type, e.Data))
		default:
			number, err := strconv.Atoi(e.Data)
			if err != nil {
				*problems = append(*problems, err.Error())
			}
			events = append(events, number)
		}
	}
	return events
}
