package coretest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
)

// What a backplane does wrong when asked to.
const (
	losesOne        = "loses a message"
	doublesOne      = "delivers a message twice"
	swapsTwo        = "delivers two messages in the wrong order"
	losesHistory    = "delivers no history"
	forgetsPrev     = "names no predecessor"
	altersLineBreak = "turns line breaks into LF"
	dropsKey        = "loses keys"
	ignoresFence    = "ignores the fence"
	ignoresEnd      = "stores events behind the end"
	endsNothing     = "stores an end of nothing"
	losesEndID      = "has no ID for an end that was stored before"
	keepsForgotten  = "delivers what was forgotten"
	takesPatterns   = "takes an execution ID for a pattern"
	foldsCase       = "takes executions for the same that differ in case"
	neverStops      = "delivers after stop"
	overlaps        = "delivers in two goroutines at once"
	hidesOutage     = "does not say that the engine is away"
	givesUp         = "gives up at once when the engine is away"
	storesTwice     = "stores what it tries again twice"
	waitsForever    = "waits for the engine beyond the context's end"
	countsOwn       = "counts the clients of one node only"
	waitsInStop     = "waits in stop for a delivery"
)

// TestBackplaneFaults has backplanes with one planted fault each fail in the
// case that is there for it; see TestFaults. TestMemory is without one.
func TestBackplaneFaults(t *testing.T) {
	if fault != "" {
		t.Skip("already in such a process")
	}
	binary, err := os.Executable()
	require.NoError(t, err)
	for _, f := range []struct{ fault, inCase string }{
		{losesOne, "HistoryAndTail"},
		{losesOne, "RegistriesHop"},
		{doublesOne, "HistoryAndTail"},
		{swapsTwo, "HistoryAndTail"},
		{losesHistory, "HistoryAndTail"},
		{forgetsPrev, "IDs"},
		{forgetsPrev, "Drop"},
		{altersLineBreak, "Content"},
		{dropsKey, "Content"},
		{ignoresFence, "Fence"},
		{ignoresEnd, "Finished"},
		{endsNothing, "Finished"},
		{losesEndID, "Finished"},
		{keepsForgotten, "Forgotten"},
		{takesPatterns, "HostileNames"},
		{foldsCase, "HostileNames"},
		{neverStops, "Stop"},
		{overlaps, "HistoryAndTail"},
		{hidesOutage, "Break"},
		{givesUp, "Break"},
		{storesTwice, "Break"},
		{waitsForever, "Cancelled"},
		{countsOwn, "ClientCount"},
		{waitsInStop, "Locks"},
	} {
		t.Run(f.fault+"/"+f.inCase, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, binary, "-test.v", "-test.run=^TestMemory$/^"+f.inCase+"$")
			cmd.Env = append(os.Environ(), "EXECCAST_FAULT="+f.fault)
			out, err := cmd.CombinedOutput()
			require.Error(t, err, "the suite does not notice a backplane that %s:\n%s", f.fault, out)
			require.Contains(t, string(out), "--- FAIL: TestMemory/"+f.inCase+" ", "a backplane that %s:\n%s", f.fault, out)
		})
	}
}

// plantShared returns b as one node has it, with the fault if there is one.
func plantShared(b *Memory) core.Backplane {
	if fault == "" {
		return b
	}
	return &faultyBackplane{Memory: b}
}

type faultyBackplane struct {
	*Memory
	mu    sync.Mutex
	first core.Follower
}

func (b *faultyBackplane) name(executionID string) string {
	if fault == foldsCase {
		return strings.ToLower(executionID)
	}
	return executionID
}

func (b *faultyBackplane) Append(ctx context.Context, executionID string, m core.Message) (uint64, error) {
	switch fault {
	case ignoresFence:
		m.After = nil
	case altersLineBreak:
		m.Event.Data = []byte(strings.ReplaceAll(strings.ReplaceAll(string(m.Event.Data), "\r\n", "\n"), "\r", "\n"))
	case dropsKey:
		m.Event.Key = ""
	case givesUp:
		now, cancel := context.WithTimeout(ctx, time.Nanosecond)
		defer cancel()
		if b.away() {
			return b.Memory.Append(now, executionID, m)
		}
	case waitsForever:
		if ctx.Err() != nil {
			select {}
		}
	}
	executionID = b.name(executionID)
	away, before := b.away(), b.stored(executionID)
	id, err := b.Memory.Append(ctx, executionID, m)
	switch {
	case fault == storesTwice && away && err == nil:
		return b.Memory.Append(ctx, executionID, m)
	case fault == ignoresEnd && errors.Is(err, core.ErrFinished):
		return b.force(executionID, m), nil
	case fault == endsNothing && id == 0 && err == nil:
		return b.force(executionID, m), nil
	case fault == losesEndID && m.Kind == core.Finished && id == before:
		return 0, err
	}
	return id, err
}

func (b *faultyBackplane) away() bool {
	b.Memory.mu.Lock()
	defer b.Memory.mu.Unlock()
	return b.down != nil
}

// force appends whatever the rules are.
func (b *faultyBackplane) force(executionID string, m core.Message) uint64 {
	b.Memory.mu.Lock()
	defer b.Memory.mu.Unlock()
	l := b.log(executionID)
	b.last++
	m.ID, m.Prev = b.last, l.head
	l.head = m.ID
	l.messages = append(l.messages, m)
	b.announce()
	return m.ID
}

func (b *faultyBackplane) Follow(executionID string, f core.Follower) func() {
	executionID = b.name(executionID)
	b.mu.Lock()
	if b.first == nil {
		b.first = f
	}
	b.mu.Unlock()
	g := &faultyFollower{Follower: f, began: b.stored(executionID)}
	stop := b.Memory.Follow(executionID, g)
	switch fault {
	case takesPatterns:
		if executionID == "*" {
			b.Memory.Follow("a", g)
		}
	case neverStops:
		return func() {}
	case waitsInStop:
		return func() {
			stop()
			g.mu.Lock() // as long as a delivery runs
			defer g.mu.Unlock()
		}
	}
	return stop
}

func (b *faultyBackplane) stored(executionID string) uint64 {
	b.Memory.mu.Lock()
	defer b.Memory.mu.Unlock()
	return b.log(executionID).head
}

func (b *faultyBackplane) ClientCount(ctx context.Context, executionID string) (int, error) {
	if fault == countsOwn {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.first != nil {
			return b.first.ClientCount(), nil
		}
	}
	return b.Memory.ClientCount(ctx, executionID)
}

// faultyFollower stands between the backplane and a follower.
type faultyFollower struct {
	core.Follower
	mu    sync.Mutex
	began uint64 // what was stored when it began
	n     int
	kept  *core.Message
}

func (f *faultyFollower) Deliver(messages []core.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range messages {
		f.n++
		odd := f.n%100 == 99
		switch {
		case fault == losesOne && odd:
			continue
		case fault == losesHistory && m.ID <= f.began:
			continue
		case fault == keepsForgotten && m.Kind == core.Forgotten && m.ID <= f.began:
			m = core.Message{ID: m.Prev} // what was before
		case fault == forgetsPrev:
			m.Prev = 0
		case fault == doublesOne && odd:
			f.Follower.Deliver([]core.Message{m})
		case fault == swapsTwo && odd:
			f.kept = &m
			continue
		case fault == overlaps && odd:
			go f.Follower.Deliver([]core.Message{m})
			continue
		}
		f.Follower.Deliver([]core.Message{m})
		if f.kept != nil {
			f.Follower.Deliver([]core.Message{*f.kept})
			f.kept = nil
		}
	}
}

func (f *faultyFollower) Synced(err error) {
	if fault != hidesOutage || err == nil {
		f.Follower.Synced(err)
	}
}
