//go:build linux

package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/execcast/execcast/core"
)

// candidate is a server under measurement.
type candidate interface {
	// serve accepts viewers, who name their execution in the path.
	serve(net.Listener) error
	// publish sends an event to all viewers of an execution, in order. It
	// may keep data, which nobody changes.
	publish(execution string, id uint64, data []byte)
}

// wholesaler is a candidate that sends several events as one.
type wholesaler interface {
	publishAll(execution string, id uint64, events [][]byte)
}

const (
	eventType = "progress"
	firstID   = 1_700_000_000_000_000 // as long as an ID of ours
)

func pathOf(execution string) string { return "/executions/" + execution + "/events" }

func executionOf(path string) string {
	id, _, _ := strings.Cut(strings.TrimPrefix(path, "/executions/"), "/")
	return id
}

func executionIDs(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = executionID(i)
	}
	return ids
}

func executionID(i int) string { return "run-" + strconv.Itoa(i) }

// message is a WebSocket message of the same content as ours.
func message(id uint64, data []byte) []byte {
	return core.JSON.AppendEvent(nil, core.Event{ID: id, Type: eventType, Data: data})
}

// Commands of the load generator to the server: a byte and an argument of four
// bytes. Only cmdStop and cmdMemory are answered: with JSON, its length in
// four bytes in front.
const (
	cmdPublish = 'P' // that many events to each execution
	cmdRate    = 'R' // as many, at a steady rate: a second argument, in µs between two
	cmdStart   = 'S' // begin measuring
	cmdStop    = 'E'
	cmdMemory  = 'M' // what the process holds now, garbage collected
)

// usage is the answer to cmdStop: what has been spent since cmdStart.
type usage struct {
	User, System time.Duration
	Mallocs      uint64
	Publish      *histogram // how long publishing one event blocked
}

// memory is the answer to cmdMemory, in bytes.
type memory struct {
	Resident int64 // of the process
	Heap     int64 // in use, with the stacks
}

// server runs a candidate until the load generator leaves.
func server(c candidate, executions []string, ln net.Listener, control net.Conn, profile string) error {
	go func() {
		fmt.Fprintln(os.Stderr, c.serve(ln))
		os.Exit(1)
	}()
	s := &publisher{c: c, executions: executions, blocked: new(histogram)}
	var begin syscall.Rusage
	var mallocs uint64
	var cmd [8]byte
	for {
		if _, err := io.ReadFull(control, cmd[:]); err != nil {
			return nil
		}
		arg := int(binary.LittleEndian.Uint32(cmd[4:]))
		switch cmd[0] {
		case cmdPublish:
			s.publish(arg)
		case cmdRate:
			var every [4]byte
			if _, err := io.ReadFull(control, every[:]); err != nil {
				return nil
			}
			s.publishEvery(arg, time.Duration(binary.LittleEndian.Uint32(every[:]))*time.Microsecond)
		case cmdStart:
			mallocs = allocations()
			*s.blocked = histogram{}
			if profile != "" && arg != 0 {
				if err := startProfile(profile, arg); err != nil {
					return err
				}
			}
			begin = cpu()
		case cmdStop:
			end := cpu()
			pprof.StopCPUProfile()
			answer(control, usage{
				User:    time.Duration(end.Utime.Nano() - begin.Utime.Nano()),
				System:  time.Duration(end.Stime.Nano() - begin.Stime.Nano()),
				Mallocs: allocations() - mallocs,
				Publish: s.blocked,
			})
		case cmdMemory:
			answer(control, held())
		}
	}
}

func startProfile(name string, n int) error {
	f, err := os.Create(filepath.Clean(fmt.Sprintf("%s-%d.pprof", name, n)))
	if err != nil {
		return err
	}
	return pprof.StartCPUProfile(f)
}

func answer(w io.Writer, v any) {
	p, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	w.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(p))), p...))
}

func cpu() (r syscall.Rusage) {
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return r
}

func allocations() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

func held() memory {
	for range 3 {
		runtime.GC() // the first also shrinks stacks and empties half of each pool
		time.Sleep(50 * time.Millisecond)
	}
	debug.FreeOSMemory()
	time.Sleep(100 * time.Millisecond)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	var pages, resident int64
	statm, err := os.ReadFile("/proc/self/statm")
	if err == nil {
		fmt.Sscan(string(statm), &pages, &resident)
	}
	return memory{Resident: resident * int64(os.Getpagesize()), Heap: int64(m.HeapInuse + m.StackInuse)}
}

type publisher struct {
	c          candidate
	executions []string
	seq        int64
	blocked    *histogram
}

// publish publishes n events to each execution at once.
func (p *publisher) publish(n int) {
	now := time.Now().UnixNano()
	all, ok := p.c.(wholesaler)
	if !ok || n == 1 {
		for range n {
			p.one(now)
		}
		return
	}
	events := make([][]byte, n)
	for i := range events {
		events[i] = event(p.seq+1+int64(i), now)
	}
	for _, id := range p.executions {
		all.publishAll(id, firstID+uint64(p.seq)+1, events)
	}
	p.seq += int64(n)
}

// one publishes one event to each execution.
func (p *publisher) one(due int64) {
	p.seq++
	data := event(p.seq, due)
	if len(p.executions) == 1 {
		start := time.Now()
		p.c.publish(p.executions[0], firstID+uint64(p.seq), data)
		p.blocked.add(time.Since(start))
		return
	}
	for _, id := range p.executions {
		p.c.publish(id, firstID+uint64(p.seq), data)
	}
}

// publishEvery publishes n events to each execution at a steady rate.
func (p *publisher) publishEvery(n int, period time.Duration) {
	for next := time.Now(); n > 0; n-- {
		time.Sleep(time.Until(next))
		p.one(next.UnixNano())
		next = next.Add(period)
	}
}
