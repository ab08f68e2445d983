package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/execcast/execcast/core"
	"github.com/execcast/execcast/core/coretest"
)

// Isolation: as many viewers that never read, or read a byte a second, as
// healthy ones, of the same execution. The healthy ones lose nothing, Publish
// waits for nobody, and the stuck ones cost little until the write timeout cuts
// them.

// maxStuckBytes is what a stuck viewer may cost the server, in heap and
// goroutine stack.
const maxStuckBytes = 64 << 10

const (
	// isolationEvents are enough to fill the buffers of stuck viewers.
	isolationEvents = 160
	// isolationBurst is how many events are published without a pause.
	isolationBurst = 40
)

type isolationJob struct {
	Target    target
	Execution string
	Seed      uint64
	Beside    int
	Patience  time.Duration
}

// isolationPayloads are short, all of about the same size.
func isolationPayloads() []string {
	all := make([]string, isolationEvents)
	for i := range all {
		all[i] = fmt.Sprintf(`{"n":%d,"text":"%s"}`, i, strings.Repeat("x", 1000))
	}
	return all
}

func runIsolation(c *config) error {
	return c.overEach(func(v variant) error { return c.isolationOver(v) })
}

func (c *config) isolationOver(v variant) (err error) {
	// Loopback swallows megabytes before anything blocks: the buffers are
	// made small, here and by the viewers.
	so := serverOptions{writeTimeout: c.writeTimeout, sendBuffer: 16 << 10}
	var o core.Options
	if c.sabotage == "no-timeout" {
		so.writeTimeout = -1
	}
	if c.sabotage == hoard {
		hoarded := make(chan []byte, 2*c.beside)
		defer close(hoarded)
		o.Hooks.Registered = func(string) { hoarded <- make([]byte, 96<<10) }
	}
	before := memory()
	r := registry(o)
	s, err := v.start(r, so)
	if err != nil {
		return err
	}
	defer s.close()
	job := isolationJob{s.target, v.name, c.seed, c.beside, c.patience}
	p, err := c.start("isolation", job)
	if err != nil {
		return err
	}
	defer p.stop(&err)
	fail := func(err error) error { return fmt.Errorf("%s: viewers: %w", v.name, err) }
	var ready bool
	if err := p.receive(&ready); err != nil {
		return fail(err)
	}
	var ok checks
	ok.that(c.await(func() bool { return r.ClientCount(job.Execution) == 2*c.beside }),
		"%s: %d clients of %d viewers", v.name, r.ClientCount(job.Execution), 2*c.beside)
	connected := memory()

	start := time.Now()
	var took []time.Duration
	for n, data := range isolationPayloads() {
		t := time.Now()
		if _, err := r.Publish(c.ctx, job.Execution, core.Event{Type: "step", Data: []byte(data)}); err != nil {
			return fmt.Errorf("%s: publish: %w", v.name, err)
		}
		took = append(took, time.Since(t))
		if n++; n%isolationBurst == 0 || n == isolationEvents {
			// The healthy viewers keep up; that is all the pace there is.
			if err := p.send(n); err != nil {
				return fail(err)
			}
			if err := p.receive(&ready); err != nil {
				return fail(err)
			}
		}
	}
	slices.Sort(took)
	var queues []socketState
	blocked := 0
	c.await(func() bool { // the last acknowledgements of the healthy ones may be on their way
		queues = sockets(s.Addr)
		blocked = count(queues, func(s socketState) bool { return s.queued > 8<<10 })
		return blocked <= c.beside
	})
	slow := int(r.Stats().Slow)
	atPeak := memory()
	history := r.Stats().Bytes
	cost := (connected - before) / int64(2*c.beside)
	cost += (atPeak - connected - history) / int64(max(1, c.beside-slow))
	kernel := 0
	for _, s := range queues {
		kernel += s.queued
	}

	cut := c.await(func() bool { return r.ClientCount(job.Execution) <= c.beside })
	since := time.Since(start)
	left := r.ClientCount(job.Execution)
	patience := c.patience
	if !cut {
		patience = time.Second
	}
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	r.Close(ctx, job.Execution)
	var t tally
	if err := p.receive(&t); err != nil {
		return fail(err)
	}
	st := r.Stats()
	c.figure("isolation", v.name, "%d healthy viewers beside %d stuck ones, %d events: healthy ones lost %d, doubled %d, gaps %d; "+
		"Publish took %v at the median, %v at the 99th percentile, %v at most",
		t.Viewers, c.beside, len(took), t.Lost, t.Doubled, t.Gaps, took[len(took)/2].Round(100*time.Nanosecond),
		took[len(took)*99/100].Round(time.Microsecond), took[len(took)-1].Round(time.Microsecond))
	// Memory can be told apart only where nothing else goes on, and while they
	// are stuck.
	alone := !c.together || len(c.variants) == 1
	measured := "not measured"
	if alone && slow <= c.beside/2 {
		measured = fmt.Sprintf("%.1f KiB each", float64(cost)/1024)
		ok.that(cost <= maxStuckBytes, "%s: %d KiB a stuck viewer, more than %d", v.name, cost>>10, maxStuckBytes>>10)
	} else {
		ok.that(c.together, "%s: %d stuck viewers had been cut before they were measured", v.name, slow)
	}
	c.figure("isolation", v.name, "stuck: %d blocked, heap and stack %s, in the kernel's send queue %.1f KiB each; %d cut as too slow, the last %.1f s after the first event",
		blocked, measured, float64(kernel)/1024/float64(max(1, blocked)), st.Slow, since.Seconds())
	t.verify(&ok, v.name)
	ok.that(t.Gaps == 0, "%s: healthy viewers were told of %d gaps", v.name, t.Gaps)
	// Where the variants run side by side, some are cut while this is counted;
	// that all of them are cut as too slow is what tells then.
	if canSeeSockets && !c.together {
		ok.that(blocked+slow >= c.beside, "%s: only %d stuck viewers were blocked", v.name, blocked)
	}
	ok.that(cut && left == c.beside && int(st.Slow) == c.beside, "%s: %d of %d stuck viewers were cut, %d clients left",
		v.name, st.Slow, c.beside, left)
	return ok.err()
}

// memory returns the bytes of live heap and goroutine stacks.
func memory() int64 {
	runtime.GC()
	runtime.GC() // empties the pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func watchIsolation(ch *channel) error {
	var job isolationJob
	if err := ch.receive(&job); err != nil {
		return err
	}
	data := isolationPayloads()
	at := make([]atomic.Int64, job.Beside)
	results := make([]tally, job.Beside)
	var all sync.WaitGroup
	var failed atomic.Pointer[string]
	each(job.Beside, 64, func(i int) {
		v, err := coretest.Connect(coretest.ViewerOptions{
			Transport: job.Target.Transport, Addr: job.Target.Addr, ExecutionID: job.Execution, Patience: job.Patience,
		})
		if err == nil {
			rng := rand.New(rand.NewPCG(job.Seed, uint64(i)))
			err = job.stuck(rng, i%20 == 0)
		}
		if err != nil {
			s := err.Error()
			failed.Store(&s)
			return
		}
		all.Go(func() {
			defer v.Close()
			w := newWatcher(data)
			finished, err := w.follow(v, func() { at[i].Add(1) })
			if finished && err == nil {
				w.Finished = 1
			} else {
				w.problem("ended with %v", err)
			}
			results[i] = w.end()
		})
	})
	if s := failed.Load(); s != nil {
		return fmt.Errorf("connecting: %s", *s)
	}
	ch.send(true)
	for n := 0; n < isolationEvents; {
		if err := ch.receive(&n); err != nil {
			return err
		}
		deadline := time.Now().Add(job.Patience)
		for i := range at {
			for at[i].Load() < int64(n) && time.Now().Before(deadline) {
				time.Sleep(time.Millisecond)
			}
		}
		ch.send(true)
	}
	all.Wait()
	var sum tally
	for _, t := range results {
		sum.add(t)
	}
	return ch.send(sum)
}

// stuck connects a viewer that never reads, or one byte a second. It lives as
// long as the process.
func (job *isolationJob) stuck(rng *rand.Rand, byteASecond bool) error {
	conn, err := net.Dial("tcp", job.Target.Addr)
	if err != nil {
		return err
	}
	// Of different sizes, so that they get stuck at different events.
	conn.(*net.TCPConn).SetReadBuffer(4<<10 + rng.IntN(32<<10))
	keepAlive.Store(conn, true)
	if byteASecond {
		go func() {
			for b := make([]byte, 1); ; time.Sleep(time.Second) {
				if _, err := conn.Read(b); err != nil {
					return
				}
			}
		}()
	}
	path := strings.Replace(coretest.Pattern, "{executionId}", strings.ReplaceAll(job.Execution, " ", "%20"), 1)
	handshake := ""
	if job.Target.Transport == coretest.WebSocket {
		handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	}
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", path, job.Target.Addr, handshake)
	return err
}

// keepAlive keeps connections of stuck viewers from being collected, which
// would close them.
var keepAlive sync.Map
