//go:build linux

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// figure is what was measured of one contender in one phase: sums over the
// slices of each round.
type figure struct {
	rounds []sums
}

type sums struct {
	delivered, published int64
	lost, disorder       int64
	stalled              bool
	user, system         time.Duration
	mallocs              uint64
	slices               []float64 // CPU of each, µs a delivery
	publish, latency     histogram
	resident, heap       float64 // KiB a connection
	blocked              bool
}

func (s *sums) add(r *result) {
	s.delivered += r.Delivered
	s.published += r.Published
	s.lost += r.Lost
	s.disorder += r.Disorder
	s.stalled = s.stalled || r.Stalled || r.Err != ""
	s.user += r.Usage.User
	s.system += r.Usage.System
	s.mallocs += r.Usage.Mallocs
	if r.Delivered > 0 {
		s.slices = append(s.slices, float64((r.Usage.User+r.Usage.System).Nanoseconds())/1000/float64(r.Delivered))
	}
	s.blocked = s.blocked || r.Blocked
	if r.Usage.Publish != nil {
		s.publish.merge(r.Usage.Publish)
	}
	if r.Latency != nil {
		s.latency.merge(r.Latency)
	}
}

func (s *sums) merge(o *sums) {
	s.delivered += o.delivered
	s.published += o.published
	s.lost += o.lost
	s.disorder += o.disorder
	s.stalled = s.stalled || o.stalled
	s.user += o.user
	s.system += o.system
	s.mallocs += o.mallocs
	s.slices = append(s.slices, o.slices...)
	s.publish.merge(&o.publish)
}

// Phases of the scenarios.
const (
	fewOne     = "few clients, 1 in flight"
	manyOne    = "many clients, 1 in flight"
	mostOne    = "most clients, 1 in flight"
	many64     = "many clients, 64 in flight"
	manyRate   = "many clients, steady rate"
	fewRate    = "few clients, steady rate"
	mostRate   = "most clients, steady rate"
	spreadOne  = "one client each"
	mostMemory = "most clients, idle"
	stuckRate  = "stuck"
)

type tally struct {
	figures map[string]map[string]*figure // phase, contender
}

func newTally() *tally { return &tally{map[string]map[string]*figure{}} }

// of returns the sums of a round.
func (t *tally) of(phase, contender string, round int) *sums {
	if t.figures[phase] == nil {
		t.figures[phase] = map[string]*figure{}
	}
	f := t.figures[phase][contender]
	if f == nil {
		f = &figure{}
		t.figures[phase][contender] = f
	}
	for len(f.rounds) <= round {
		f.rounds = append(f.rounds, sums{})
	}
	return &f.rounds[round]
}

func (c *config) runs(scenario string) bool { return slices.Contains(c.scenarios, scenario) }

// chosen returns the contenders to measure; batches tells whether there is
// something to batch.
func (c *config) chosen(batches bool) (list []*contender) {
	for i := range contenders {
		k := &contenders[i]
		if k.name == limitName || c.only.MatchString(k.name) && (batches || !k.batches) || k.batches && batches {
			list = append(list, k)
		}
	}
	return list
}

func (c *config) round(t *tally, round int) error {
	if c.runs("few") {
		pairs, err := c.start(c.chosen(false), 1, c.clients[0], round)
		if err != nil {
			return err
		}
		c.turns(t, round, pairs, fewOne, c.slices, c.flight(1))
		c.turns(t, round, pairs, fewRate, 1, rate(slow.events, slow.every))
		stopAll(pairs)
	}
	if c.runs("many") {
		pairs, err := c.start(c.chosen(true), 1, c.clients[1], round)
		if err != nil {
			return err
		}
		c.turns(t, round, pairs, manyOne, c.slices, c.flight(1))
		c.turns(t, round, pairs, many64, c.slices, c.flight(64))
		c.turns(t, round, pairs, manyRate, 1, rate(40, 50*time.Millisecond))
		stopAll(pairs)
	}
	if c.runs("spread") {
		pairs, err := c.start(c.chosen(false), c.clients[1], c.clients[1], round)
		if err != nil {
			return err
		}
		c.turns(t, round, pairs, spreadOne, c.slices, c.flight(1))
		stopAll(pairs)
	}
	if c.runs("most") {
		if err := c.most(t, round); err != nil {
			return err
		}
	}
	if c.runs("stuck") && round == 0 {
		return c.stuck(t)
	}
	return nil
}

// slow is a rate that does not load the machine even with most clients.
var slow = struct {
	events int
	every  time.Duration
}{16, 200 * time.Millisecond}

// beside names the phase in which a contender is measured next to the limit
// alone.
func beside(phase, contender string) string { return phase + ", " + contender }

func (c *config) flight(window int) order {
	return order{Do: "flight", Window: window, For: c.slice}
}

func rate(events int, every time.Duration) order {
	return order{Do: "rate", Events: events, Every: every}
}

// start starts and connects contenders, at another place in the list each
// round.
func (c *config) start(list []*contender, executions, clients, round int) ([]*pair, error) {
	var pairs []*pair
	for i := range list {
		k := list[(i+round)%len(list)]
		p, err := start(k, executions, 0, c.profileOf(k))
		if err != nil {
			stopAll(pairs)
			return nil, err
		}
		pairs = append(pairs, p)
		if r := p.connect(clients, false); r.Err != "" && k.ours {
			stopAll(pairs)
			return nil, fmt.Errorf("%s: %s", k.name, r.Err)
		}
	}
	return pairs, nil
}

func (c *config) profileOf(k *contender) string {
	if c.profile == "" {
		return ""
	}
	return c.profile + "-" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, k.name)
}

func stopAll(pairs []*pair) {
	for _, p := range pairs {
		p.stop()
	}
}

// turns measures the pairs in turn, several times.
func (c *config) turns(t *tally, round int, pairs []*pair, phase string, turns int, o order) {
	for turn := range turns {
		for _, p := range pairs {
			if p.contender.batches && o.Window < 2 {
				continue
			}
			if t.of(phase, p.contender.name, round).stalled {
				continue
			}
			if c.profile != "" {
				o.Profile = profileNumber(phase, turn)
			}
			r := p.do(o)
			t.of(phase, p.contender.name, round).add(&r)
		}
	}
}

// profileNumber names a profile: the phase, and the turn.
func profileNumber(phase string, turn int) int {
	phases := []string{fewOne, manyOne, many64, manyRate, fewRate, mostRate, spreadOne}
	return (slices.Index(phases, phase)+1)*100 + turn // 0 for mostOne
}

// most measures with as many clients as a process can have: each contender
// next to the limit, since not all fit.
func (c *config) most(t *tally, round int) error {
	list := c.chosen(false)
	first, err := start(list[0], 1, 0, c.profileOf(list[0]))
	if err != nil {
		return err
	}
	defer first.stop()
	c.connectMost(t, first, round)
	others := list[1:]
	for i := range others {
		k := others[(i+round)%len(others)]
		p, err := start(k, 1, 0, c.profileOf(k))
		if err != nil {
			return err
		}
		c.connectMost(t, p, round)
		// A slice must hold several events.
		wide := *c
		wide.slice *= 2
		wide.turns(t, round, []*pair{first, p}, beside(mostOne, k.name), c.slices, wide.flight(1))
		for _, name := range []string{limitName, k.name} {
			t.of(mostOne, name, round).merge(t.of(beside(mostOne, k.name), name, round))
		}
		c.turns(t, round, []*pair{p}, mostRate, 1, rate(slow.events, slow.every))
		p.stop()
	}
	return nil
}

// connectMost connects the clients and notes what an idle one costs.
func (c *config) connectMost(t *tally, p *pair, round int) {
	before := p.do(order{Do: "memory"})
	p.connect(c.clients[2], false)
	after := p.do(order{Do: "memory"})
	s := t.of(mostMemory, p.contender.name, round)
	s.stalled = after.Err != ""
	s.resident = float64(after.Memory.Resident-before.Memory.Resident) / 1024 / float64(c.clients[2])
	s.heap = float64(after.Memory.Heap-before.Memory.Heap) / 1024 / float64(c.clients[2])
}

// stuck measures what others notice of one viewer who never reads.
func (c *config) stuck(t *tally) error {
	for _, k := range c.chosen(false) {
		p, err := start(k, 1, 16<<10, "")
		if err != nil {
			return err
		}
		p.connect(c.clients[1]-1, true)
		events, every := 250, 20*time.Millisecond
		r := p.do(order{Do: "rate", Events: events, Every: every, For: time.Duration(events) * every})
		t.of(stuckRate, k.name, 0).add(&r)
		p.stop()
		if k.ours && !r.Blocked {
			fmt.Fprintf(os.Stderr, "%s: the stuck viewer's connection did not fill up: that proves nothing\n", k.name)
		}
	}
	return nil
}
