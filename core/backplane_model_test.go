package core_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
	"github.com/execcast/execcast/core/coretest"
)

// TestBackplaneModel drives two or three nodes at random over one backplane,
// which fails, stalls and loses messages meanwhile, with viewers that hop from
// node to node, and holds what they got against all that was stored:
//
//   - order, nothing doubled, nothing foreign, nothing altered, over all hops;
//   - nothing lost but where a gap covers it, and a gap only where the
//     backplane or a bound has lost something, or the execution runs anew;
//   - stream-end only for what was finished, with everything before it;
//   - ErrFinished, ErrUnknown and ErrUnavailable only where they are due;
//   - once all is quiet, every viewer has everything, the nodes agree on how
//     many there are, and nothing is followed that nobody watches.
//
// The seed fixes the steps, though not how goroutines interleave. Time is
// synctest's: it passes once nothing else can happen, so that a sleep costs
// nothing and says what the step has to come behind.
func TestBackplaneModel(t *testing.T) {
	worlds := 300
	if testing.Short() || runtime.GOARCH == "wasm" {
		worlds = 20
	}
	seed := core.Seed(t)
	sum := map[string]int{}
	for i := range worlds {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		synctest.Test(t, func(t *testing.T) {
			w := newCluster(t, rng)
			w.run()
			for k, n := range w.tally {
				sum[k] += n
			}
		})
		if t.Failed() {
			t.Logf("world %d", i)
			return
		}
	}
	t.Log(sum)
	if worlds < 100 {
		return
	}
	// A run that never came to what it is there for proves nothing.
	for _, what := range []string{"published", "unavailable", "received", "gaps", "ends", "hops", "finished already",
		"unknown", "closed", "forgotten", "dropped", "held", "broken", "resumed", "ran again", "waited", "no longer followed"} {
		require.NotZero(t, sum[what], what)
	}
}

// nodes is one backplane with its nodes, and what the model knows of them.
type nodes struct {
	t       *testing.T
	rng     *rand.Rand
	shared  *coretest.Memory
	r       []*core.Registry
	bounded bool // nodes keep few events
	runs    []*sharedRun

	mu     sync.Mutex
	tally  map[string]int
	errors []string
}

// sharedRun is an execution ID.
type sharedRun struct {
	w    *nodes
	id   string
	gate gate // shut while the execution is changed as a whole

	mu      sync.Mutex
	events  map[uint64]string // data by ID, of all lives
	dropped map[uint64]bool   // those the backplane has lost
	lost    uint64            // the highest of them
	begun   []uint64          // of each life, an ID below its first
	marked  bool              // the backplane's first message is the one that forgets
	closed  bool              // Close of this life has been called
	viewers []*hopper
}

// gate is a lock to be waited for while time goes on: synctest's does not while
// a goroutine waits for a mutex.
type gate chan struct{}

const passers = 8

func (g gate) pass()  { g <- struct{}{} }
func (g gate) leave() { <-g }

func (g gate) shut() (open func()) {
	for range passers {
		g.pass()
	}
	return func() {
		for range passers {
			g.leave()
		}
	}
}

// hopper is a viewer that hops between nodes.
type hopper struct {
	run *sharedRun

	mu      sync.Mutex // all below
	rng     *rand.Rand
	buf     []byte
	client  *core.Client
	node    int
	conn    int    // counts connections: what comes over an old one is not read
	seen    uint64 // ID of the last event
	covered uint64 // that, or what a gap has announced since
	gap     bool   // has come since
	ended   bool   // has seen the end
	told    bool   // ErrFinished
	open    bool
	life    int
	items   []item // since they were checked last
}

// item is an event or a gap that a viewer has got.
type item struct {
	gap      bool
	seen     uint64 // the event before, 0 if there was none
	node     int
	covered  uint64 // for an event: what was covered by a gap before it
	afterGap bool
	id       uint64 // or the gap's to
	data     string
}

func newCluster(t *testing.T, rng *rand.Rand) *nodes {
	w := &nodes{t: t, rng: rng, shared: coretest.NewMemory(), tally: map[string]int{}, bounded: rng.IntN(3) == 0}
	for range 2 + rng.IntN(2) {
		o := core.Options{Backplane: w.shared, Heartbeat: -1, Logger: slog.New(slog.DiscardHandler)}
		if w.bounded {
			o.MaxEvents = 2 + rng.IntN(10)
		}
		if rng.IntN(3) == 0 {
			o.Retention = -1
		}
		w.r = append(w.r, core.New(&o))
	}
	for i := range 1 + rng.IntN(3) {
		run := &sharedRun{w: w, id: fmt.Sprint("x", i), gate: make(gate, passers), events: map[uint64]string{}, dropped: map[uint64]bool{}, begun: []uint64{0}}
		for range 1 + rng.IntN(5) {
			run.viewers = append(run.viewers, &hopper{run: run, rng: rand.New(rand.NewPCG(rng.Uint64(), 0))})
		}
		w.runs = append(w.runs, run)
	}
	return w
}

func (w *nodes) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tally[what]++
}

func (w *nodes) fail(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.errors) < 5 {
		w.errors = append(w.errors, fmt.Sprintf(format, args...))
	}
}

func (w *nodes) run() {
	for range 3 {
		var wg sync.WaitGroup
		for i := range 4 {
			rng := rand.New(rand.NewPCG(w.rng.Uint64(), w.rng.Uint64()))
			wg.Go(func() {
				for range 60 {
					w.step(rng, i == 0)
				}
			})
		}
		wg.Wait()
		w.settle()
		if len(w.errors) > 0 {
			break
		}
	}
	for _, run := range w.runs {
		for _, v := range run.viewers {
			v.leave()
		}
	}
	time.Sleep(time.Minute) // more than followLinger
	synctest.Wait()
	for _, run := range w.runs {
		if n := w.shared.Followers(run.id); !run.closed && n != 0 {
			w.fail("%d nodes follow %s, which nobody watches", n, run.id)
		} else if n == 0 {
			w.count("no longer followed")
		}
	}
	for _, r := range w.r {
		if err := r.Shutdown(context.Background()); err != nil {
			w.fail("Shutdown: %v", err)
		}
		if s := r.Stats(); s.Executions != 0 || s.Clients != 0 || s.Bytes != 0 {
			w.fail("left behind: %+v", s)
		}
	}
	synctest.Wait()
	for _, run := range w.runs {
		if n := w.shared.Followers(run.id); n != 0 {
			w.fail("%d nodes follow %s after Shutdown", n, run.id)
		}
	}
	require.Empty(w.t, w.errors)
}

// step does something at random; one driver alone disturbs the others.
func (w *nodes) step(rng *rand.Rand, disturbs bool) {
	run := w.runs[rng.IntN(len(w.runs))]
	n := rng.IntN(100)
	if disturbs && n < 30 {
		switch {
		case n < 10:
			run.drop(rng)
		case n < 14:
			run.close(rng)
		case n < 18:
			run.forget(rng)
		case n < 24: // a node may lag for less than Register's patience
			w.count("held")
			resume := w.shared.Hold()
			time.Sleep(time.Duration(rng.IntN(2900)) * time.Millisecond)
			resume()
		default:
			w.count("broken")
			w.shared.Break(errors.New("away"))
			time.Sleep(time.Duration(rng.IntN(10)) * time.Second)
			w.shared.Break(nil)
		}
		time.Sleep(time.Millisecond)
		return
	}
	switch {
	case n < 55:
		run.publish(rng)
	case n < 80:
		run.viewers[rng.IntN(len(run.viewers))].hop()
	case n < 90:
		time.Sleep(time.Duration(rng.IntN(1000)) * time.Microsecond)
	case n < 95:
		time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond)
	case n < 96:
		time.Sleep(time.Duration(rng.IntN(40)) * time.Second)
	default:
		runtime.Gosched()
	}
}

func (run *sharedRun) node(rng *rand.Rand) *core.Registry { return run.w.r[rng.IntN(len(run.w.r))] }

func (run *sharedRun) publish(rng *rand.Rand) {
	run.gate.pass()
	defer run.gate.leave()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+rng.IntN(5000))*time.Millisecond)
	defer cancel()
	data := strconv.FormatUint(rng.Uint64(), 36)
	id, err := run.node(rng).Publish(ctx, run.id, core.Event{Data: []byte(data)})
	run.mu.Lock()
	defer run.mu.Unlock()
	switch {
	case err == nil:
		run.w.count("published")
		if len(run.begun) > 1 {
			run.w.count("ran again")
		}
		if run.closed {
			run.w.fail("published behind the end")
		}
		run.events[id] = data
	case errors.Is(err, core.ErrUnavailable):
		run.w.count("unavailable") // Memory has not stored it then
	case errors.Is(err, core.ErrFinished) && run.closed:
	default:
		run.w.fail("Publish: %v", err)
	}
}

// ids returns those between two others, the second one excluded. run.mu is held.
func (run *sharedRun) ids(from, to uint64) (ids []uint64) {
	for id := range run.events {
		if id > from && id < to {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

const endless = 1 << 53

// life returns the ID below the first of the life that an ID belongs to.
func (run *sharedRun) life(id uint64) uint64 {
	i, _ := slices.BinarySearch(run.begun, id)
	return run.begun[i-1]
}

func (run *sharedRun) present() uint64 { return run.begun[len(run.begun)-1] }

// last returns the highest ID of this life, 0 if there is none. run.mu is held.
func (run *sharedRun) last() uint64 {
	ids := run.ids(run.present(), endless)
	if len(ids) == 0 {
		return 0
	}
	return ids[len(ids)-1]
}

// drop has the backplane lose events, though not all: that an execution has
// begun it must know.
func (run *sharedRun) drop(rng *rand.Rand) {
	defer run.gate.shut()()
	run.mu.Lock()
	defer run.mu.Unlock()
	ids := run.ids(max(run.lost, run.present()), endless)
	if len(ids) < 2 {
		return
	}
	run.w.count("dropped")
	n := 1 + rng.IntN(len(ids)-1)
	if run.marked {
		run.w.shared.Drop(run.id, 1)
		run.marked = false
	}
	run.w.shared.Drop(run.id, n)
	for _, id := range ids[:n] {
		run.dropped[id], run.lost = true, id
	}
}

func (run *sharedRun) close(rng *rand.Rand) {
	defer run.gate.shut()()
	run.mu.Lock()
	begun := run.last() != 0
	again := run.closed
	run.closed = begun
	run.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	node := rng.IntN(len(run.w.r))
	if err := run.w.r[node].Close(ctx, run.id); err != nil {
		run.w.fail("Close: %v", err)
	}
	if !begun || again { // Close waits for the clients of the moment it ends the execution
		return
	}
	run.w.count("closed")
	for _, v := range run.viewers {
		v.mu.Lock()
		v.read()
		if v.open && v.node == node && v.life == len(run.begun) {
			v.fail("has not ended, though Close has returned")
		}
		v.mu.Unlock()
	}
}

func (run *sharedRun) forget(rng *rand.Rand) {
	defer run.gate.shut()()
	run.node(rng).Forget(run.id)
	run.w.count("forgotten")
	time.Sleep(time.Millisecond) // all nodes have heard of it
	run.mu.Lock()
	defer run.mu.Unlock()
	if ids := run.ids(0, endless); len(ids) > 0 {
		if last := ids[len(ids)-1]; last > run.present() {
			run.begun = append(run.begun, last)
		}
	}
	run.closed, run.marked = false, true
	for _, v := range run.viewers {
		v.mu.Lock()
		v.told = false
		v.mu.Unlock()
	}
}

// settle waits until nothing happens any more and checks what viewers have.
func (w *nodes) settle() {
	time.Sleep(time.Second)
	synctest.Wait()
	for _, run := range w.runs {
		for _, v := range run.viewers {
			for range 2 { // one may have to begin anew
				v.mu.Lock()
				v.read()
				out := !v.open && !v.told
				v.mu.Unlock()
				if out {
					v.hop()
				}
			}
		}
	}
	time.Sleep(time.Second)
	synctest.Wait()
	for _, run := range w.runs {
		open := 0
		run.mu.Lock()
		last := run.last()
		for _, v := range run.viewers {
			v.mu.Lock()
			v.read()
			v.check()
			if v.open {
				open++
			}
			switch {
			case run.closed && v.open:
				v.fail("has not ended")
			case run.closed && !v.ended && !v.told:
				v.fail("has not been told of the end")
			case !run.closed && !v.open:
				v.fail("is not connected")
			case v.covered < last && !v.told:
				v.fail("has not got %d", last)
			}
			v.mu.Unlock()
		}
		run.mu.Unlock()
		for _, r := range w.r {
			if n, err := r.ClusterClientCount(context.Background(), run.id); err != nil || n != open {
				w.fail("ClusterClientCount %d, %v; %d are connected", n, err, open)
			}
		}
	}
}

// check holds what has come against all that was published. Locks are held.
func (v *hopper) check() {
	run := v.run
	for _, it := range v.items {
		if it.gap {
			anew, lost := it.seen != 0 && it.seen <= run.present(), false
			from := it.seen
			if from == 0 && it.id != 0 {
				from = run.life(it.id)
			}
			for _, id := range run.ids(from, it.id+1) {
				lost = lost || run.dropped[id] || run.w.bounded
			}
			if !anew && !lost {
				v.fail("node %d: gap from %d to %d, where nothing was lost", it.node, it.seen, it.id)
			}
			continue
		}
		if data, ok := run.events[it.id]; !ok || data != it.data {
			v.fail("altered or foreign: %d %q, not %q", it.id, it.data, data)
			continue
		}
		from := max(it.seen, it.covered)
		if it.seen == 0 || it.afterGap { // a gap covers all earlier lives
			from = max(from, run.life(it.id))
		}
		if missed := run.ids(from, it.id); len(missed) > 0 {
			v.fail("node %d: %d after %d (gap %t, up to %d): lost %d", it.node, it.id, it.seen, it.afterGap, it.covered, missed)
		}
	}
	v.items = nil
}

type hopperConn struct {
	v    *hopper
	conn int
	over atomic.Bool
}

func (c *hopperConn) Write(p []byte) (int, error) {
	c.v.mu.Lock()
	defer c.v.mu.Unlock()
	if c.over.Load() {
		c.v.run.w.fail("written after End")
	}
	if c.v.conn == c.conn {
		c.v.buf = append(c.v.buf, p...)
	}
	return len(p), nil
}

func (c *hopperConn) TryWrite(p []byte) (int, error) { return c.Write(p) }

func (c *hopperConn) End(reason error) error {
	c.v.mu.Lock()
	defer c.v.mu.Unlock()
	if c.over.Swap(true) {
		c.v.run.w.fail("ended twice")
	}
	if v := c.v; v.conn == c.conn {
		v.read()
		v.open = false
		switch {
		case (reason == nil) != v.ended:
			v.fail("end seen %t, reason %v", v.ended, reason)
		case reason != nil && !errors.Is(reason, core.ErrUnregistered):
			v.fail("ended: %v", reason)
		}
	}
	return nil
}

func (v *hopper) fail(format string, args ...any) {
	v.run.w.fail("viewer of %s on node %d, which has %d: %s", v.run.id, v.node, v.seen, fmt.Sprintf(format, args...))
}

func (v *hopper) leave() {
	v.mu.Lock()
	v.read()
	v.conn++ // what comes now is lost on the way
	v.open, v.ended = false, false
	c := v.client
	v.client = nil
	v.mu.Unlock()
	if c != nil {
		c.Unregister()
	}
}

// hop has the viewer leave its node, if it is at one, and come to another.
func (v *hopper) hop() {
	run := v.run
	w := run.w
	v.leave()
	run.gate.pass()
	defer run.gate.leave()
	run.mu.Lock()
	last, begun, closed := run.last(), run.present(), run.closed
	life := len(run.begun)
	run.mu.Unlock()
	v.mu.Lock()
	if v.open { // another driver was faster
		v.mu.Unlock()
		return
	}
	opts := core.ClientOptions{}
	if v.seen != 0 {
		opts.LastEventID = fmt.Sprint(v.seen)
	}
	node, serve, seen, conn := v.rng.IntN(len(w.r)), v.rng.IntN(2) == 0, v.seen, v.conn
	v.mu.Unlock()
	start := time.Now()
	c, err := w.r[node].Register(run.id, &opts)
	took := time.Since(start)
	if took > 3*time.Second {
		w.fail("Register took %v", took)
	}
	if took > 0 {
		w.count("waited")
	}
	w.count("hops")
	v.mu.Lock()
	if v.conn != conn { // likewise
		v.mu.Unlock()
		if c != nil {
			c.Unregister()
		}
		return
	}
	switch {
	case err == nil:
		v.conn++
		v.open, v.client, v.node, v.life, v.told = true, c, node, life, false
		v.buf, v.gap, v.covered = nil, false, v.seen
		if seen != 0 {
			w.count("resumed")
		}
	case errors.Is(err, core.ErrUnavailable):
	case errors.Is(err, core.ErrUnknown) && seen != 0 && (last == 0 || seen <= begun):
		w.count("unknown")
		v.seen, v.covered = 0, 0 // it begins anew
		v.conn++
	case errors.Is(err, core.ErrFinished) && closed && seen >= last:
		w.count("finished already")
		v.told = true
	default:
		v.fail("Register: %v; the execution began behind %d, is at %d, closed %t", err, begun, last, closed)
	}
	to := &hopperConn{v: v, conn: v.conn}
	v.mu.Unlock()
	if err != nil {
		return
	}
	if serve {
		go c.Serve(context.Background(), to)
	} else {
		c.Start(to)
	}
}

// read takes over what has come. v.mu is held.
func (v *hopper) read() {
	n := bytes.LastIndex(v.buf, []byte("\n\n")) + 1
	if n <= 0 {
		return
	}
	p := v.buf[:n+1]
	v.buf = v.buf[n+1:]
	for f, err := range core.Decode(bytes.NewReader(p), 0) {
		if err != nil {
			v.fail("decoding: %v", err)
		}
		switch {
		case v.ended:
			v.fail("%+v after the end", f)
		case f.Type == core.TypeEnd:
			v.ended = true
			v.run.w.count("ends")
		case f.Type == core.TypeGap:
			var g struct{ From, To string }
			if err := json.Unmarshal(f.Data, &g); err != nil {
				v.fail("%s: %v", f.Data, err)
			}
			to, _ := strconv.ParseUint(g.To, 10, 64)
			if from := strings.TrimPrefix(fmt.Sprint(v.seen), "0"); g.From != from && !(g.From == "" && v.gap) { // a second gap after an unusable ID
				v.fail("gap %s", f.Data)
			}
			v.run.w.count("gaps")
			v.items = append(v.items, item{gap: true, seen: v.seen, node: v.node, id: to})
			v.gap, v.covered = true, max(v.covered, to)
		case f.Data != nil:
			id, _ := strconv.ParseUint(f.ID, 10, 64)
			v.run.w.count("received")
			if id <= v.covered {
				v.fail("%d behind %d: doubled, or out of order", id, v.covered)
			}
			v.items = append(v.items, item{seen: v.seen, covered: v.covered, afterGap: v.gap, node: v.node, id: id, data: string(f.Data)})
			v.seen, v.covered, v.gap = id, id, false
		}
	}
}
