package coretest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/execcast/execcast/core"
)

// Memory is a core.Backplane in memory, for tests of several nodes in one
// process: give it to the registry of each.
//
//	shared := coretest.NewMemory()
//	a := core.New(&core.Options{Backplane: shared})
//	b := core.New(&core.Options{Backplane: shared})
//
// It keeps everything until it is told otherwise. All methods may be called
// concurrently.
type Memory struct {
	mu      sync.Mutex
	last    uint64
	down    error
	held    int
	changed chan struct{} // closed, and made anew, when anything has changed
	logs    map[string]*memoryLog
}

type memoryLog struct {
	head      uint64    // ID of the last message, dropped or not
	kind      core.Kind // of that
	messages  []core.Message
	followers map[*memoryFollower]bool
}

type memoryFollower struct {
	core.Follower
	stop chan struct{}
}

// NewMemory returns an empty backplane.
func NewMemory() *Memory {
	return &Memory{last: uint64(time.Now().UnixMicro()), changed: make(chan struct{}), logs: map[string]*memoryLog{}}
}

// Break makes the backplane unavailable, for the reason given, until it is
// called with nil: Append waits, and nothing is delivered.
func (m *Memory) Break(reason error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = reason
	m.announce()
}

// Hold has nothing delivered, though messages are stored, until resume is
// called: followers are behind without knowing it, and new ones wait.
func (m *Memory) Hold() (resume func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held++
	return sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.held--
		m.announce()
	})
}

// Drop loses an execution's oldest messages, as an engine does that has a bound:
// n of them, or all there are.
func (m *Memory) Drop(executionID string, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.log(executionID)
	l.messages = l.messages[min(n, len(l.messages)):]
}

// Followers returns how many nodes follow the execution.
func (m *Memory) Followers(executionID string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.log(executionID).followers)
}

// announce wakes all that wait. m.mu is held, as in log.
func (m *Memory) announce() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *Memory) log(executionID string) *memoryLog {
	l := m.logs[executionID]
	if l == nil {
		l = &memoryLog{followers: map[*memoryFollower]bool{}}
		m.logs[executionID] = l
	}
	return l
}

// Append is core.Backplane's.
func (m *Memory) Append(ctx context.Context, executionID string, message core.Message) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.down != nil || ctx.Err() != nil {
		if err := ctx.Err(); err != nil {
			return 0, fmt.Errorf("%w: %w", core.ErrUnavailable, err)
		}
		changed := m.changed
		m.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		m.mu.Lock()
	}
	l := m.log(executionID)
	last := l.head
	if l.kind == core.Forgotten {
		last = 0
	}
	switch {
	case message.Kind == core.Forgotten:
		l.messages = nil
	case message.Kind == core.Finished && (l.kind == core.Finished || last == 0):
		return last, nil
	case l.kind == core.Finished:
		return 0, core.ErrFinished
	case message.After != nil && *message.After != last:
		return 0, fmt.Errorf("%w: that is %d, not %d", core.ErrConflict, last, *message.After)
	}
	m.last++
	message.ID, message.Prev, message.After = m.last, l.head, nil
	message.Event.Data = append([]byte(nil), message.Event.Data...)
	l.head, l.kind = m.last, message.Kind
	l.messages = append(l.messages, message)
	m.announce()
	return m.last, nil
}

// Follow is core.Backplane's.
func (m *Memory) Follow(executionID string, f core.Follower) (stop func()) {
	follower := &memoryFollower{f, make(chan struct{})}
	m.mu.Lock()
	m.log(executionID).followers[follower] = true
	m.mu.Unlock()
	go m.deliver(executionID, follower)
	return func() { close(follower.stop) }
}

func (m *Memory) deliver(executionID string, f *memoryFollower) {
	var seen uint64
	var told error // what Synced was last called with
	synced := false
	for {
		m.mu.Lock()
		changed, down, held := m.changed, m.down, m.held > 0
		var messages []core.Message // never changed, only appended to
		if down == nil && !held {
			messages = m.log(executionID).messages
			i, _ := slices.BinarySearchFunc(messages, seen+1, func(m core.Message, id uint64) int { return cmp.Compare(m.ID, id) })
			messages = messages[i:]
		}
		m.mu.Unlock()
		if len(messages) > 0 {
			f.Deliver(messages)
			seen = messages[len(messages)-1].ID
		}
		if (!synced || down != told) && (!held || down != nil) {
			f.Synced(down)
			synced, told = true, down
		}
		select {
		case <-changed:
		case <-f.stop:
			m.mu.Lock()
			delete(m.log(executionID).followers, f)
			m.mu.Unlock()
			return
		}
	}
}

// ClientCount is core.Backplane's.
func (m *Memory) ClientCount(ctx context.Context, executionID string) (int, error) {
	m.mu.Lock()
	down, followers := m.down, make([]core.Follower, 0)
	for f := range m.log(executionID).followers {
		followers = append(followers, f)
	}
	m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if down != nil {
		return 0, fmt.Errorf("%w: %w", core.ErrUnavailable, down)
	}
	n := 0
	for _, f := range followers {
		n += f.ClientCount()
	}
	return n, nil
}
