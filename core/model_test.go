package core

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
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
)

// Seed returns what a model begins its random steps with, and says so: a new
// one, or that of EXECCAST_SEED. It is exported for core_test.
func Seed(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("EXECCAST_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("seed %d; EXECCAST_SEED=%[1]d repeats its steps", seed)
	return seed
}

// TestModel drives registries at random, from several goroutines at once, and
// holds what viewers got against a naive model of the promises:
//
//   - order, no duplicates, nothing foreign, nothing altered;
//   - every event without a key and the last of each key, unless a gap was
//     announced in its place, which is announced exactly where a bound has
//     evicted something;
//   - stream-end exactly once, last, with everything before it, and only for
//     executions that were closed;
//   - one caller at a time for each writer, End exactly once and last, the
//     rest of a partial TryWrite before any other byte;
//   - everybody whose connection takes bytes has everything once nobody is
//     running any more (no wake-up is lost);
//   - figures and hooks agree with what happened.
//
// A run is many small worlds, each with limits and habits of its own, in
// phases: drivers take steps at once, then all comes to rest and is checked.
// The seed fixes the steps, though not how goroutines interleave.
func TestModel(t *testing.T) {
	steps, worlds := 100_000, 50
	if testing.Short() || small {
		steps, worlds = 10_000, 10
	}
	seed := Seed(t)
	var sum tally
	for i := range worlds {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, i, rng)
			w.run(steps / worlds)
			sum.add(&w.tally)
		})
		if t.Failed() {
			return
		}
	}
	t.Log(sum.String())
	// A run that never came to what it is there for proves nothing.
	for i := range sum {
		if steps < 100_000 {
			break
		}
		require.NotZero(t, sum[i].Load(), tallied[i])
	}
}

// tally counts what happened.
type tally [len(tallied)]atomic.Int64

const (
	stepsTaken = iota
	published
	keyed
	superseded
	evicted
	received
	gapsSeen
	ends
	heartbeats
	registered
	resumed
	refusedFinished
	forgotten
	closes
	closesCut
	partial
	blocked
	failures
	panics
	lagged
	aged
	drainedByShutdown
)

var tallied = [...]string{"steps", "published", "with keys", "superseded", "evicted", "received", "gaps", "ends",
	"heartbeats", "registered", "resumed", "finished already", "forgotten", "closed", "closed with cuts",
	"partial writes", "blocked writes", "failed writes", "panics", "disconnected for lag", "aged", "ended by shutdown"}

func (s *tally) add(o *tally) {
	for i := range s {
		s[i].Add(o[i].Load())
	}
}

func (s *tally) String() string {
	var b strings.Builder
	for i := range s {
		fmt.Fprintf(&b, "%s %d, ", tallied[i], s[i].Load())
	}
	return strings.TrimSuffix(b.String(), ", ")
}

// world is one registry with what the model knows of it.
type world struct {
	t      *testing.T
	rng    *rand.Rand
	opts   Options
	r      *Registry
	exact  bool // only MaxEvents evicts: the model knows what is retained
	faulty bool // connections fail by themselves
	crowd  int  // viewers an execution is kept at, about
	runs   []*modelRun

	tally
	highest atomic.Uint64 // ID that any Publish has returned
	tooMany atomic.Int64  // ErrTooManyExecutionClients
	down    atomic.Bool   // Shutdown has been called
	downAt  uint64        // highest then
	cut     atomic.Bool   // and its ctx has been cancelled
	tickets atomic.Int64  // for data

	mu     sync.Mutex
	errors []string
	past   []*life // forgotten, with viewers not yet checked
}

func newWorld(t *testing.T, n int, rng *rand.Rand) *world {
	w := &world{t: t, rng: rng, exact: true, crowd: 3 + rng.IntN(10)}
	one := func(of int) bool { return rng.IntN(of) == 0 }
	w.opts = Options{
		MaxEvents:      []int{1, 2, 5, 16, 64, 500}[rng.IntN(6)],
		MaxBytes:       -1,
		Heartbeat:      -1,
		ShutdownSpread: time.Duration(rng.IntN(50)) * time.Millisecond,
		AwaitUnknown:   one(2),
		Logger:         slog.New(slog.DiscardHandler),
	}
	if one(4) {
		w.exact, w.opts.MaxBytes = false, 1000+rng.IntN(10_000)
	}
	if one(5) {
		w.exact, w.opts.MaxTotalBytes = false, 5000+rng.IntN(30_000)
	}
	if one(4) {
		w.opts.Lag = LagDisconnect
	}
	if one(3) {
		w.opts.Heartbeat, w.opts.HeartbeatEvents = time.Duration(1+rng.IntN(3))*time.Millisecond, one(2)
	}
	if one(5) {
		w.opts.MaxAge = time.Duration(3+rng.IntN(10)) * time.Millisecond
	}
	if one(4) {
		w.opts.MaxExecutionClients = 2 + rng.IntN(4)
	}
	w.faulty = one(2)
	executions := 1 + rng.IntN(5)
	if n == 1 && !small {
		// Enough viewers for several lanes.
		executions, w.crowd, w.opts.MaxExecutionClients = 1, 600, -1
	}
	w.runs = make([]*modelRun, executions)
	for i := range w.runs {
		w.runs[i] = &modelRun{w: w, id: "x" + strconv.Itoa(i), life: &life{}}
	}
	if one(2) {
		w.opts.Hooks = w.hooks()
	}
	w.r = New(&w.opts)
	return w
}

func (w *world) fail(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.errors) < 5 {
		w.errors = append(w.errors, fmt.Sprintf(format, args...))
	}
}

// modelRun is an execution ID and its present life.
type modelRun struct {
	w    *world
	id   string
	gate sync.RWMutex // written to forget: what is under way belongs to the old life or to the new
	life *life
	hook hookState
}

// life is what the model knows of an execution from its creation until it is
// forgotten.
type life struct {
	after   uint64 // an ID below the execution's first
	closing atomic.Bool
	cutting atomic.Bool // Close's ctx has been cancelled
	gone    atomic.Bool // forgotten

	mu       sync.Mutex
	news     []modelEvent // of this phase, in no order
	viewers  []*modelViewer
	finished []uint64 // IDs for which Register said ErrFinished

	// Of the goroutine that checks.
	events  []modelEvent
	index   map[uint64]int
	byKey   map[string]int
	live    []int // what is retained, if only MaxEvents evicts
	evicted []uint64
	killed  bool
}

type modelEvent struct {
	id             uint64
	key, typ, data string
	superseded     bool
}

func (l *life) known() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.news) > 0 || len(l.events) > 0
}

func (l *life) last() uint64 {
	if len(l.events) == 0 {
		return 0
	}
	return l.events[len(l.events)-1].id
}

// settle takes over the events of a phase.
func (l *life) settle(w *world) {
	if l.index == nil {
		l.index, l.byKey = map[uint64]int{}, map[string]int{}
	}
	slices.SortFunc(l.news, func(a, b modelEvent) int { return cmp.Compare(a.id, b.id) })
	for _, e := range l.news {
		if e.id <= l.last() || e.id <= l.after {
			w.fail("ID %d after %d and %d", e.id, l.last(), l.after)
		}
		i := len(l.events)
		if e.key != "" {
			w.tally[keyed].Add(1)
			if old, ok := l.byKey[e.key]; ok {
				w.tally[superseded].Add(1)
				l.events[old].superseded = true
				l.killed = true // or was evicted before
				if at := slices.Index(l.live, old); at >= 0 {
					l.live = slices.Delete(l.live, at, at+1)
				}
			}
			l.byKey[e.key] = i
		}
		for len(l.live) >= w.opts.MaxEvents {
			w.tally[evicted].Add(1)
			l.evicted = append(l.evicted, l.events[l.live[0]].id)
			l.live = l.live[1:]
		}
		l.events = append(l.events, e)
		l.live = append(l.live, i)
		l.index[e.id] = i
	}
	l.news = nil
}

// from returns the index of the first event above id.
func (l *life) from(id uint64) int {
	i, ok := slices.BinarySearchFunc(l.events, id, func(e modelEvent, id uint64) int { return cmp.Compare(e.id, id) })
	if ok {
		i++
	}
	return i
}

// modelViewer is a viewer and its connection. Its fields have no lock: the
// race detector sees whether two owners touch it.
type modelViewer struct {
	w       *world
	run     *modelRun
	life    *life
	c       *Client
	rng     *rand.Rand
	lastID  string
	json    bool
	started bool // given to Start

	busy    atomic.Int32
	stall   atomic.Pointer[chan struct{}] // its connection is full until this is closed
	fault   atomic.Int32                  // what the next write does
	serving atomic.Bool                   // given to Serve
	cutOff  atomic.Bool                   // unregistered, or its context cancelled
	ended   atomic.Bool
	cancel  context.CancelFunc

	// The owner's.
	buf    []byte
	rest   []byte // what a partial TryWrite left
	broken error
	reason error

	// Of Serve's goroutine.
	returned bool
	served   error

	// Of the goroutine that checks.
	checked bool
	walked  bool // something has been seen
	pos     uint64
	next    int    // index of the first event not passed
	hasPos  bool   // pos is a place
	seen    uint64 // the last ID it has, 0 if none
	mustGap bool
	sawEnd  bool
}

const (
	noFault = iota
	faultError
	faultPanic
	faultShort
)

var errConnection = errors.New("connection reset")

func (v *modelViewer) enter(what string) {
	if v.busy.Add(1) != 1 {
		v.w.fail("%s while another call is running", what)
	}
	if v.ended.Load() {
		v.w.fail("%s after End", what)
	}
	if v.broken != nil && what != "End" {
		v.w.fail("%s after an error", what)
	}
	if v.rng.IntN(4) == 0 {
		runtime.Gosched()
	}
}

func (v *modelViewer) leave() { v.busy.Add(-1) }

// fails lets the connection fail in the middle of p, if it is to.
func (v *modelViewer) fails(p []byte) (int, error) {
	fault := v.fault.Load()
	if v.w.faulty && v.rng.IntN(300) == 0 {
		fault = 1 + v.rng.Int32N(3)
	}
	if fault == noFault {
		return 0, nil
	}
	n := v.rng.IntN(len(p))
	v.buf = append(v.buf, p[:n]...)
	switch fault {
	case faultPanic:
		v.w.tally[panics].Add(1)
		v.broken = errors.New("panic")
		panic("connection")
	case faultShort:
		v.broken = io.ErrShortWrite
		return n, nil
	}
	v.w.tally[failures].Add(1)
	v.broken = errConnection
	return n, errConnection
}

func (v *modelViewer) Write(p []byte) (int, error) {
	v.enter("Write")
	defer v.leave()
	if len(p) == 0 {
		v.w.fail("Write of nothing")
	}
	if v.rest != nil && !bytes.Equal(v.rest, p) {
		v.w.fail("Write of %q, where %q was left", p, v.rest)
	}
	v.rest = nil
	if stall := v.stall.Load(); stall != nil {
		v.w.tally[blocked].Add(1)
		<-*stall
	}
	if n, err := v.fails(p); v.broken != nil {
		return n, err
	}
	v.buf = append(v.buf, p...)
	return len(p), nil
}

func (v *modelViewer) TryWrite(p []byte) (int, error) {
	v.enter("TryWrite")
	defer v.leave()
	if len(p) == 0 {
		v.w.fail("TryWrite of nothing")
	}
	if v.rest != nil {
		v.w.fail("TryWrite while %q is left", v.rest)
	}
	n, err := v.fails(p)
	if v.broken == io.ErrShortWrite {
		v.broken = nil // a full connection, and no fault
	} else if v.broken != nil {
		return n, err
	} else {
		n = len(p)
		if stalled := v.stall.Load() != nil; stalled || v.rng.IntN(8) == 0 {
			n = v.rng.IntN(n)
		}
		v.buf = append(v.buf, p[:n]...)
	}
	if n < len(p) {
		v.w.tally[partial].Add(1)
		v.rest = bytes.Clone(p[n:])
	}
	return n, nil
}

func (v *modelViewer) End(reason error) error {
	v.enter("End")
	defer v.leave()
	v.reason = reason
	panicking := v.w.faulty && len(v.buf) > 0 && v.rng.IntN(50) == 0
	if v.rng.IntN(4) == 0 {
		// The checks may run meanwhile.
		time.Sleep(time.Duration(v.rng.IntN(100)) * time.Microsecond)
	}
	v.ended.Store(true)
	if panicking {
		v.w.tally[panics].Add(1)
		panic("end")
	}
	return nil
}

func (v *modelViewer) release() {
	if stall := v.stall.Swap(nil); stall != nil {
		close(*stall)
	}
}

// run takes so many steps, in phases, and shuts the registry down in the last.
func (w *world) run(steps int) {
	const drivers, perPhase = 4, 50
	phases := max(2, steps/(drivers*perPhase))
	for range w.crowd / 2 {
		w.runs[0].register(w.rng)
	}
	var down <-chan error
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for phase := range phases {
		last := phase == phases-1
		if last {
			w.downAt = w.highest.Load()
			w.down.Store(true)
			down = result(func() error { return w.r.Shutdown(ctx) })
		}
		var wg sync.WaitGroup
		for range drivers {
			rng := rand.New(rand.NewPCG(w.rng.Uint64(), w.rng.Uint64()))
			wg.Go(func() {
				for range steps / phases / drivers {
					w.step(rng)
				}
			})
		}
		wg.Wait()
		if last {
			break
		}
		w.check()
		if len(w.errors) > 0 {
			cancel()
			break
		}
	}
	if down == nil {
		w.down.Store(true)
		down = result(func() error { return w.r.Shutdown(ctx) })
	}
	if w.rng.IntN(3) == 0 {
		synctest.Wait()
		w.cut.Store(true)
		cancel()
		synctest.Wait()
	}
	for _, l := range w.lives() {
		for _, v := range l.viewers {
			v.release()
		}
	}
	err := <-down
	var drain *DrainError
	if err != nil && (!w.cut.Load() && len(w.errors) == 0 || !errors.As(err, &drain) || drain.Cut < 1 || !errors.Is(err, context.Canceled)) {
		w.fail("Shutdown: %v", err)
	}
	w.check()
	for _, l := range w.lives() {
		if len(l.viewers) > 0 {
			w.fail("%d clients have survived Shutdown", len(l.viewers))
		}
	}
	for _, run := range w.runs {
		if _, err := w.r.Publish(context.Background(), run.id, Event{}); !errors.Is(err, ErrShutdown) {
			w.fail("Publish after Shutdown: %v", err)
		}
	}
	s := w.r.Stats()
	if s.Executions != 0 || s.Clients != 0 || s.Bytes != 0 || w.r.pumps.running != 0 || len(w.r.hooks.queues) != 0 || w.r.finished.Len() != 0 {
		w.fail("left behind: %+v", s)
	}
	require.Empty(w.t, w.errors, "%+v", w.opts)
}

func (w *world) step(rng *rand.Rand) {
	w.tally[stepsTaken].Add(1)
	run := w.runs[rng.IntN(len(w.runs))]
	switch n := rng.IntN(1000); {
	case n < 600:
		run.publish(rng)
	case n < 740:
		run.register(rng)
	case n < 880:
		if v := run.viewer(rng); v != nil {
			v.strike(rng)
		}
	case n < 884:
		run.close(rng)
	case n < 887:
		run.forget()
	case n < 900:
		if n := w.r.ClientCount(run.id); n < 0 || n > w.crowd+8 {
			w.fail("ClientCount %d", n)
		}
		w.r.Stats()
	case n < 950:
		time.Sleep(time.Duration(rng.IntN(2000)) * time.Microsecond)
	default:
		runtime.Gosched()
	}
}

func (run *modelRun) publish(rng *rand.Rand) {
	w := run.w
	n := w.tickets.Add(1)
	data := "n" + strconv.FormatInt(n, 10)
	raw := data
	switch rng.IntN(20) {
	case 0:
		data = fmt.Sprintf(`{"n":%d}`, n)
		raw = data
	case 1:
		raw, data = data+"\r\n\rend\r", data+"\n\nend\n"
	case 2:
		data += strings.Repeat("x", rng.IntN(9000))
		raw = data
	case 3:
		data, raw = "", ""
	}
	e := modelEvent{data: data, typ: []string{"", "t"}[rng.IntN(2)]}
	if rng.IntN(3) == 0 {
		e.key = "k" + strconv.Itoa(rng.IntN(6))
	}
	run.gate.RLock()
	defer run.gate.RUnlock()
	l := run.life
	id, err := w.r.Publish(context.Background(), run.id, Event{Type: e.typ, Data: []byte(raw), Key: e.key})
	switch {
	case err == nil:
		w.tally[published].Add(1)
		e.id = id
		for old := w.highest.Load(); old < id && !w.highest.CompareAndSwap(old, id); old = w.highest.Load() {
		}
		l.mu.Lock()
		l.news = append(l.news, e)
		l.mu.Unlock()
	case errors.Is(err, ErrFinished) && l.closing.Load():
	case errors.Is(err, ErrShutdown) && w.down.Load():
	default:
		w.fail("Publish: %v", err)
	}
}

// resumeFrom returns what a viewer may claim to have seen.
func (run *modelRun) resumeFrom(rng *rand.Rand) string {
	l := run.life
	l.mu.Lock()
	defer l.mu.Unlock()
	switch n := rng.IntN(20); {
	case n < 7:
		return ""
	case n < 8:
		return []string{"9007199254740991", "x", "0", "-1", "18446744073709551616", "1\n", "007"}[rng.IntN(7)]
	case n < 9:
		return strconv.FormatUint(run.w.highest.Load(), 10) // perhaps of another execution
	case n < 10:
		return strconv.FormatUint(l.after-rng.Uint64N(l.after+1), 10) // of an earlier life
	case n < 15 && len(l.viewers) > 0:
		if v := l.viewers[rng.IntN(len(l.viewers))]; v.pos > 0 { // what another has seen
			return strconv.FormatUint(v.pos, 10)
		}
	case n < 18 && len(l.events) > 0:
		return strconv.FormatUint(l.events[rng.IntN(len(l.events))].id, 10)
	}
	if n := len(l.news); n > 0 {
		return strconv.FormatUint(l.news[n-1].id, 10)
	}
	return ""
}

func (run *modelRun) register(rng *rand.Rand) {
	w := run.w
	run.gate.RLock()
	l := run.life
	l.mu.Lock()
	full := len(l.viewers) >= w.crowd
	l.mu.Unlock()
	if full {
		run.gate.RUnlock()
		return
	}
	v := &modelViewer{w: w, run: run, life: l, lastID: run.resumeFrom(rng), json: rng.IntN(5) == 0}
	v.rng = rand.New(rand.NewPCG(rng.Uint64(), 0))
	ctx, cancel := context.WithCancel(context.Background())
	v.cancel = cancel
	opts := ClientOptions{LastEventID: v.lastID}
	if v.json {
		opts.Encoder = lines
	}
	known := l.known()
	c, err := w.r.Register(run.id, &opts)
	if err == nil {
		v.c = c
		v.start()
		l.mu.Lock()
		l.viewers = append(l.viewers, v)
		l.mu.Unlock()
	}
	run.gate.RUnlock()
	id, ok := parseID(v.lastID)
	switch {
	case err == nil:
	case errors.Is(err, ErrUnknown) && !known && v.lastID != "" && !w.opts.AwaitUnknown:
	case errors.Is(err, ErrFinished) && l.closing.Load() && ok:
		w.tally[refusedFinished].Add(1)
		l.mu.Lock()
		l.finished = append(l.finished, id)
		l.mu.Unlock()
	case errors.Is(err, ErrShutdown) && w.down.Load():
	case errors.Is(err, ErrTooManyExecutionClients) && w.opts.MaxExecutionClients > 0:
		w.tooMany.Add(1)
	default:
		w.fail("Register with %q: %v", v.lastID, err)
	}
	if err != nil {
		cancel()
		return
	}
	w.tally[registered].Add(1)
	if v.lastID != "" {
		w.tally[resumed].Add(1)
	}
	switch rng.IntN(20) {
	case 0:
		v.cutOff.Store(true)
		c.Unregister()
	case 1:
		time.Sleep(time.Millisecond)
	}
	if v.started = rng.IntN(2) == 0; v.started {
		c.Start(v)
		return
	}
	if rng.IntN(30) == 0 {
		v.cutOff.Store(true)
		cancel()
	}
	v.serving.Store(true)
	go func() {
		defer cancel()
		v.served = c.Serve(ctx, v)
		v.returned = true
	}()
}

// start places the viewer where its Last-Event-ID says.
func (v *modelViewer) start() {
	id, ok := parseID(v.lastID)
	switch {
	case v.lastID == "":
	case ok && id < 1<<53-1:
		v.pos, v.seen, v.hasPos = id, id, true
		v.mustGap = id < v.life.after
	default:
		v.mustGap, v.seen = true, id
	}
}

func (run *modelRun) viewer(rng *rand.Rand) *modelViewer {
	run.gate.RLock()
	defer run.gate.RUnlock()
	run.life.mu.Lock()
	defer run.life.mu.Unlock()
	if len(run.life.viewers) == 0 {
		return nil
	}
	return run.life.viewers[rng.IntN(len(run.life.viewers))]
}

// strike does something to a viewer's connection.
func (v *modelViewer) strike(rng *rand.Rand) {
	switch n := rng.IntN(20); {
	case n < 8:
		stall := make(chan struct{})
		if !v.stall.CompareAndSwap(nil, &stall) {
			v.release()
		}
	case n < 16:
		v.release()
	case n < 18:
		v.cutOff.Store(true)
		v.cancel() // which only Serve knows of
		if n == 17 || !v.serving.Load() {
			v.c.Unregister()
		}
	case n < 19 && v.w.faulty:
		v.fault.Store(1 + rng.Int32N(3))
	}
}

// sealing is a context that tells when Close has sealed the log: that is when
// it first asks for the context's end.
type sealing struct {
	context.Context
	sealed func()
}

func (s sealing) Done() <-chan struct{} {
	s.sealed()
	return s.Context.Done()
}

func (run *modelRun) close(rng *rand.Rand) {
	w := run.w
	if w.opts.MaxTotalBytes > 0 {
		return // what is finished could be forgotten at any time
	}
	ctx, cancel := context.WithCancel(context.Background())
	bounded := rng.IntN(2) == 0
	wait := time.Duration(rng.IntN(1000)) * time.Microsecond
	run.gate.RLock()
	l := run.life
	l.mu.Lock()
	viewers := slices.Clone(l.viewers)
	l.mu.Unlock()
	if l.closing.Swap(true) {
		viewers = nil // Close waits for those of the first Close only
	}
	if bounded {
		l.cutting.Store(true)
	}
	sealed := sync.OnceFunc(run.gate.RUnlock)
	w.tally[closes].Add(1)
	done := make(chan struct{})
	if bounded {
		go func() {
			select {
			case <-time.After(wait):
			case <-done:
			}
			cancel()
		}()
	}
	go func() {
		defer cancel()
		defer close(done)
		err := w.r.Close(sealing{ctx, sealed}, run.id)
		sealed()
		var drain *DrainError
		switch {
		case err == nil && !bounded:
			for _, v := range viewers {
				if !v.ended.Load() && v.c.state.Load() != abandoned {
					w.fail("Close returned before a client had ended")
				}
			}
		case err == nil:
		case bounded && errors.As(err, &drain) && drain.Cut > 0 && errors.Is(err, context.Canceled):
			w.tally[closesCut].Add(1)
		default:
			w.fail("Close: %v", err)
		}
	}()
}

func (run *modelRun) forget() {
	w := run.w
	run.gate.Lock()
	defer run.gate.Unlock()
	old := run.life
	old.gone.Store(true)
	before := w.highest.Load() // afterwards others may have published more
	w.r.Forget(run.id)
	w.tally[forgotten].Add(1)
	run.life = &life{after: old.after}
	if old.known() {
		run.life.after = before
	}
	// The model goes on checking the viewers of the old one.
	w.mu.Lock()
	w.past = append(w.past, old)
	w.mu.Unlock()
}

func (w *world) lives() []*life {
	all := slices.Clone(w.past)
	for _, run := range w.runs {
		all = append(all, run.life)
	}
	return all
}

// check compares what has come to be with the model. Nothing else is running.
func (w *world) check() {
	time.Sleep(time.Millisecond) // for End
	synctest.Wait()
	// What a timer starts later comes after this: the race detector cannot know.
	defer func() {
		pass := func(mu *sync.Mutex) {
			mu.Lock()
			defer mu.Unlock()
		}
		for _, x := range w.r.executions {
			pass(&x.mu)
		}
		pass(&w.r.mu)
		pass(&w.r.hooks.mu)
		pass(&w.r.pumps.mu)
	}()
	clients, writing := 0, false
	for _, run := range w.runs {
		if x := w.r.executions[run.id]; !w.down.Load() && (x == nil || !x.sealed) {
			run.life.closing.Store(false) // there was nothing to close
		}
	}
	for _, l := range w.lives() {
		l.settle(w)
		for _, v := range l.viewers {
			v.check()
			writing = writing || v.busy.Load() != 0
		}
		l.viewers = slices.DeleteFunc(l.viewers, func(v *modelViewer) bool { return v.checked })
		clients += len(l.viewers)
		for _, id := range l.finished {
			if id < l.last() {
				w.fail("finished for one that has %d of %d", id, l.last())
			}
		}
	}
	w.past = slices.DeleteFunc(w.past, func(l *life) bool { return len(l.viewers) == 0 })
	for _, run := range w.runs {
		run.check()
	}

	s := w.r.Stats()
	bytes := 0
	for _, x := range w.r.executions {
		bytes += x.log.bytes
	}
	switch {
	case s.Clients != clients:
		w.fail("%d clients are registered, %d are connected", s.Clients, clients)
	case s.Bytes != int64(bytes):
		w.fail("Stats.Bytes %d, the logs have %d", s.Bytes, bytes)
	case w.opts.MaxTotalBytes > 0 && bytes > w.opts.MaxTotalBytes+10_000*len(w.runs):
		w.fail("%d bytes", bytes) // late viewers' frames are reclaimed at the next Publish
	case int64(s.Published) != w.tally[published].Load():
		w.fail("Stats.Published %d, not %d", s.Published, w.tally[published].Load())
	case w.exact && int64(s.Evicted) != w.tally[evicted].Load():
		w.fail("Stats.Evicted %d, not %d", s.Evicted, w.tally[evicted].Load())
	case int64(s.Delivered) < w.tally[received].Load() && !w.faulty:
		w.fail("Stats.Delivered %d, received %d", s.Delivered, w.tally[received].Load())
	case int64(s.Gaps) < w.tally[gapsSeen].Load():
		w.fail("Stats.Gaps %d, seen %d", s.Gaps, w.tally[gapsSeen].Load())
	case clients == 0 && int64(s.Panics) != w.tally[panics].Load():
		w.fail("Stats.Panics %d, not %d", s.Panics, w.tally[panics].Load())
	case clients == 0 && int64(s.Slow) != w.tally[lagged].Load():
		w.fail("Stats.Slow %d, not %d", s.Slow, w.tally[lagged].Load())
	case int64(s.TooManyExecutionClients) != w.tooMany.Load():
		w.fail("Stats.TooManyExecutionClients %d, not %d", s.TooManyExecutionClients, w.tooMany.Load())
	case w.r.pumps.running != 0 || w.r.pumps.head != len(w.r.pumps.queue):
		w.fail("%d pumps run, %d lanes wait", w.r.pumps.running, len(w.r.pumps.queue)-w.r.pumps.head)
	case len(w.r.hooks.queues) != 0 && !writing:
		w.fail("hooks are waiting") // but for a gap's, until it is written
	}
	if w.opts.Hooks.Registered != nil && len(w.r.hooks.queues) == 0 {
		sum := hookState{}
		for _, run := range w.runs {
			sum.registered += run.hook.registered
			sum.left += run.hook.left
			sum.published += run.hook.published
			sum.delivered += run.hook.delivered
			sum.bytes += run.hook.bytes
			sum.gaps += run.hook.gaps
			sum.slow += run.hook.slow
		}
		if sum.registered-sum.left != clients || sum.published != int(s.Published) || sum.delivered != int(s.Delivered) || sum.bytes != int(s.DeliveredBytes) ||
			sum.gaps != int(s.Gaps) || sum.slow != int(s.Slow) {
			w.fail("hooks %+v, Stats %+v", sum, s)
		}
	}
}

// check compares an execution with the model.
func (run *modelRun) check() {
	w, l := run.w, run.life
	x := w.r.executions[run.id]
	if n := w.r.ClientCount(run.id); n != len(l.viewers) {
		w.fail("ClientCount %d, %d are connected", n, len(l.viewers))
	}
	if run.hook.watched != (len(l.viewers) > 0) && w.opts.Hooks.Registered != nil {
		w.fail("watched %t with %d viewers", run.hook.watched, len(l.viewers))
	}
	if x == nil {
		if len(l.events) > 0 && !w.down.Load() {
			w.fail("an execution with events was forgotten")
		}
		return
	}
	if len(l.events) == 0 && len(l.viewers) == 0 && !l.closing.Load() {
		w.fail("an execution without events and viewers is remembered")
	}
	if err := x.log.invariants(); err != nil {
		w.fail("log: %v", err)
	}
	if w.exact && len(l.events) > 0 {
		var ids, want []uint64
		for i := range x.log.n {
			if r := x.log.at(i); !r.dead {
				ids = append(ids, r.id)
			}
		}
		for _, i := range l.live {
			want = append(want, l.events[i].id)
		}
		if !slices.Equal(ids, want) || x.log.lost != uint64(len(l.evicted)) ||
			len(l.evicted) > 0 && x.log.floor != l.evicted[len(l.evicted)-1] || x.log.floor < l.after {
			w.fail("retained %d, not %d; floor %d, %d lost", ids, want, x.log.floor, x.log.lost)
		}
	}
	size, using := 0, 0
	for _, lane := range x.lanes {
		size += lane.size
		if lane.state.Load() != idle || len(lane.members) > lane.size || len(lane.arrivals)+len(lane.pokes) > 0 {
			w.fail("a lane is not at rest")
		}
	}
	for _, n := range x.using {
		using += n
	}
	if size != len(x.clients) || using != len(x.clients) {
		w.fail("%d clients, %d in lanes, %d with encoders", len(x.clients), size, using)
	}
}

// modelFrame is a frame of either encoding.
type modelFrame struct {
	id, typ, data string
	beat          bool
}

// take decodes the whole frames that have come since it was called last.
func (v *modelViewer) take() (frames []modelFrame) {
	delimiter := []byte("\n\n")
	if v.json {
		delimiter = delimiter[:1]
	}
	n := bytes.LastIndex(v.buf, delimiter)
	if n < 0 {
		return nil
	}
	n += len(delimiter)
	whole := v.buf[:n]
	v.buf = bytes.Clone(v.buf[n:])
	if !v.json {
		for f, err := range Decode(bytes.NewReader(whole), 0) {
			if err != nil {
				v.w.fail("decoding: %v", err)
			}
			frames = append(frames, modelFrame{id: f.ID, typ: f.Type, data: string(f.Data), beat: f.Data == nil})
		}
		return frames
	}
	for line := range bytes.Lines(whole) {
		var m struct {
			ID    string
			Event string
			Data  json.RawMessage
		}
		err := json.Unmarshal(line, &m)
		f := modelFrame{id: m.ID, typ: m.Event, data: string(m.Data)}
		if err == nil && f.data[0] == '"' {
			err = json.Unmarshal(m.Data, &f.data)
		}
		if err != nil {
			v.w.fail("%q: %v", line, err)
		}
		if f.typ == "message" {
			f.typ = ""
		}
		frames = append(frames, f)
	}
	return frames
}

func (v *modelViewer) fail(format string, args ...any) {
	v.w.fail("viewer of %s, started %t, json %t, Last-Event-ID %q, at %d, of %d events: %s",
		v.run.id, v.started, v.json, v.lastID, v.pos, len(v.life.events), fmt.Sprintf(format, args...))
}

// check walks along what has come and, if the client has ended, asks why.
func (v *modelViewer) check() {
	w, l := v.w, v.life
	if !v.walked && v.hasPos {
		v.next = l.from(v.pos)
	}
	for _, f := range v.take() {
		v.walk(f)
		v.walked = true
	}
	if v.busy.Load() != 0 && v.stall.Load() == nil {
		return // in End
	}
	if !v.ended.Load() {
		if v.stall.Load() == nil {
			switch {
			case l.closing.Load() || l.gone.Load() || v.cutOff.Load():
				v.fail("has not ended")
			case v.mustGap:
				v.fail("has not been told of a gap")
			case v.next != len(l.events):
				v.fail("has not got everything: %+v", l.events[v.next])
			}
		}
		return
	}
	v.checked = true
	var panicked *panicError
	switch reason := v.reason; {
	case (reason == nil) != v.sawEnd:
		v.fail("end seen %t, reason %v", v.sawEnd, reason)
	case reason == nil && len(v.buf) > 0:
		v.fail("%q after the end", v.buf)
	case v.broken != nil:
		if !errors.Is(reason, v.broken) && !errors.As(reason, &panicked) {
			v.fail("reason %v after %v", reason, v.broken)
		}
	case reason == nil:
		w.tally[ends].Add(1)
	case reason == ErrUnregistered && (v.cutOff.Load() || l.gone.Load()):
	case reason == context.Canceled && (v.cutOff.Load() || l.cutting.Load()):
	case reason == ErrMaxAge && w.opts.MaxAge > 0:
		w.tally[aged].Add(1)
	case reason == ErrSlowClient && w.opts.Lag == LagDisconnect:
		w.tally[lagged].Add(1)
		if n := len(l.evicted); w.exact && (n == 0 || l.evicted[n-1] <= v.pos) {
			v.fail("disconnected for a lag that is none")
		}
	case reason == ErrShutdown && w.down.Load():
		w.tally[drainedByShutdown].Add(1)
		if w.cut.Load() {
			break
		}
		if v.mustGap {
			v.fail("has not been told of a gap before the end")
		}
		for _, e := range l.events[v.next:] {
			if e.id <= w.downAt && !e.superseded {
				v.fail("ended by Shutdown without %+v", e)
				break
			}
		}
	default:
		v.fail("reason %v", reason)
	}
	if !v.started && (!v.returned || v.served != v.reason) {
		v.fail("Serve returned %t %v, End got %v", v.returned, v.served, v.reason)
	}
}

func (v *modelViewer) walk(f modelFrame) {
	w, l := v.w, v.life
	switch {
	case v.sawEnd:
		v.fail("%+v after the end", f)
	case f.beat || f.typ == TypeHeartbeat:
		w.tally[heartbeats].Add(1)
		if w.opts.Heartbeat < 0 || f.typ == TypeHeartbeat && !w.opts.HeartbeatEvents || f.id != "" {
			v.fail("heartbeat %+v", f)
		}
	case f.typ == TypeGap:
		w.tally[gapsSeen].Add(1)
		v.gap(f)
	case f.typ == TypeEnd:
		v.sawEnd = true
		if !l.closing.Load() || f.id != "" || f.data != "{}" {
			v.fail("end %+v, closing %t", f, l.closing.Load())
		}
		if v.mustGap || v.next != len(l.events) {
			v.fail("end before everything")
		}
	default:
		w.tally[received].Add(1)
		id, err := strconv.ParseUint(f.id, 10, 64)
		i, ok := l.index[id]
		switch {
		case err != nil || !ok:
			v.fail("no such event: %+v", f)
			return
		case v.mustGap:
			v.fail("%+v before the gap was announced", f)
		case i < v.next:
			v.fail("doubled or out of order: %+v", f)
		case l.events[i].data != f.data || l.events[i].typ != f.typ:
			v.fail("altered: %+v, not %+v", f, l.events[i])
		}
		for _, e := range l.events[v.next:max(i, v.next)] {
			if !e.superseded {
				v.fail("lost %+v before %+v", e, f)
			}
		}
		v.next, v.pos, v.seen = i+1, id, id
	}
}

func (v *modelViewer) gap(f modelFrame) {
	w, l := v.w, v.life
	var g struct {
		From  *string
		To    string
		Count *int
	}
	d := json.NewDecoder(strings.NewReader(f.data))
	d.DisallowUnknownFields()
	if err := d.Decode(&g); err != nil || f.id != "" {
		v.fail("gap %+v: %v", f, err)
		return
	}
	to, err := strconv.ParseUint(g.To, 10, 64)
	if err != nil {
		v.fail("gap to %q", g.To)
	}
	first := uint64(1) << 53
	if len(l.events) > 0 {
		first = l.events[0].id
	}
	// What was lost was either evicted, or before this life.
	_, gone := l.index[to]
	if w.exact {
		_, gone = slices.BinarySearch(l.evicted, to)
	}
	before := (v.mustGap || v.hasPos) && to >= l.after && to < first
	switch {
	case w.opts.Lag == LagDisconnect && v.walked:
		v.fail("gap %s instead of an end", f.data)
	case !gone && !before:
		v.fail("gap %s, where nothing was evicted: %d", f.data, l.evicted)
	case !v.mustGap && to <= v.pos:
		v.fail("gap %s behind the viewer", f.data)
	case (g.From == nil) != (v.seen == 0), v.seen != 0 && *g.From != strconv.FormatUint(v.seen, 10):
		v.fail("gap %s, the viewer has %d", f.data, v.seen)
	}
	if g.Count != nil {
		// Superseded events were not lost.
		lost := l.from(to) - l.from(v.pos)
		if w.exact {
			i, _ := slices.BinarySearch(l.evicted, v.pos+1)
			j, _ := slices.BinarySearch(l.evicted, to+1)
			lost = j - i
		}
		if *g.Count != lost && (w.exact || !l.killed) {
			v.fail("gap %s, %d were lost", f.data, lost)
		}
	}
	if v.mustGap && !v.hasPos {
		v.seen = 0 // no ID of this registry
	}
	v.next, v.pos, v.mustGap, v.hasPos = l.from(to), to, false, true
}

// hookState is what an execution's hooks have said. It has no lock: hooks of
// one execution do not overlap.
type hookState struct {
	watched                                            bool
	last                                               uint64
	registered, left, published, delivered, gaps, slow int
	bytes                                              int
}

func (w *world) hooks() Hooks {
	state := func(id string) *hookState {
		for _, run := range w.runs {
			if run.id == id {
				return &run.hook
			}
		}
		panic("a hook of an unknown execution")
	}
	watched := func(id string, now bool) {
		h := state(id)
		if h.watched == now {
			w.fail("FirstViewer and LastViewer do not alternate")
		}
		h.watched = now
		w.r.ClientCount(id)
	}
	return Hooks{
		FirstViewer: func(id string) { watched(id, true) },
		LastViewer:  func(id string) { watched(id, false) },
		Registered:  func(id string) { state(id).registered++ },
		Left: func(id string, _ error) {
			h := state(id)
			if h.left++; h.left > h.registered {
				w.fail("more have left than came")
			}
		},
		Delivered: func(id string, events, bytes int) {
			h := state(id)
			h.delivered += events
			h.bytes += bytes
		},
		Gap:  func(id string) { state(id).gaps++ },
		Slow: func(id string) { state(id).slow++ },
		Published: func(id string, e Event) {
			h := state(id)
			if h.published++; e.ID <= h.last {
				w.fail("Published hooks out of order")
			}
			h.last = e.ID
		},
	}
}
