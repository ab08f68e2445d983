package coretest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
)

// suite is what a case works with.
type suite struct {
	*testing.T
	Adapter
}

// room is one server of a case, with its registry.
type room struct {
	*suite
	*core.Registry
	server Server
	left   chan error // the reasons for which clients have ended
}

// room starts a server. Heartbeats are off unless the options ask for them.
func (s *suite) room(ro core.Options, o Options) *room {
	r := &room{suite: s, left: make(chan error, 4096)}
	if ro.Heartbeat == 0 {
		ro.Heartbeat = -1
	}
	if ro.Logger == nil {
		ro.Logger = slog.New(slog.DiscardHandler)
	}
	ro.Hooks.Left = func(_ string, reason error) {
		select {
		case r.left <- reason:
		default:
		}
	}
	r.Registry = core.New(&ro)
	r.server = s.Serve(s.T, r.Registry, o)
	s.Cleanup(func() {
		// By now the case's viewers have gone. Whatever it was about, the
		// adapter lets go of every client.
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := r.Shutdown(ctx); err != nil {
			s.Errorf("at the end of the case the adapter does not let go of its clients: %v", err)
		}
	})
	return r
}

// connect sends a viewer's request: by default for execution "x".
func (r *room) connect(o ViewerOptions) *Viewer {
	r.Helper()
	o.Transport, o.Addr = r.Transport, r.server.Addr
	if o.ExecutionID == "" {
		o.ExecutionID = "x"
	}
	v, err := Connect(o)
	require.NoError(r, err, "connect to execution %q", o.ExecutionID)
	r.Cleanup(func() { v.Close() })
	return v
}

// watch connects a viewer that gets a stream.
func (r *room) watch(o ViewerOptions) *Viewer {
	r.Helper()
	v := r.connect(o)
	require.Equal(r, v.streaming(), v.Status, "status of the response")
	return v
}

// publish publishes events to an execution, and returns them as viewers see
// them.
func (r *room) publish(executionID string, events ...core.Event) (seen []Event) {
	r.Helper()
	for _, e := range events {
		id, err := r.Publish(r.Context(), executionID, e)
		require.NoError(r, err)
		s := Event{ID: strconv.FormatUint(id, 10), Type: e.Type, Data: string(e.Data), Traceparent: e.Traceparent}
		if s.Type == "" {
			s.Type = "message"
		}
		seen = append(seen, s)
	}
	return seen
}

// tell publishes n small events to "x".
func (r *room) tell(n int) []Event {
	r.Helper()
	return r.publish("x", numbered(n, 0)...)
}

// numbered returns n events whose data is JSON, of about size bytes each.
func numbered(n, size int) []core.Event {
	events := make([]core.Event, n)
	for i := range events {
		events[i] = core.Event{Type: "tick", Data: []byte(`{"n":` + strconv.Itoa(i) + `,"pad":"` + pattern(size) + `"}`)}
	}
	return events
}

// pattern returns n bytes in which a shift or a foreign byte shows.
func pattern(n int) string {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyz."
	p := make([]byte, n)
	for i := range p {
		p[i] = digits[i%len(digits)]
	}
	return string(p)
}

// end is the last event of a finished execution.
var end = Event{Type: core.TypeEnd, Data: "{}"}

// expect reads the next events of a viewer, which must be these.
func (r *room) expect(v *Viewer, want ...Event) {
	r.Helper()
	for i, w := range want {
		e, err := v.Next()
		require.NoError(r, err, "instead of event %d of %d, %s", i, len(want), brief(w))
		require.Equal(r, brief(w), brief(e), "event %d of %d", i, len(want))
		require.Equal(r, w, e, "event %d of %d", i, len(want))
	}
}

// brief is an event to be read in a failure.
func brief(e Event) string {
	data := e.Data
	if len(data) > 80 {
		data = fmt.Sprintf("%s… (%d bytes)", data[:80], len(data))
	}
	return fmt.Sprintf("id %q, event %q, data %q", e.ID, e.Type, data)
}

// expectEnd expects the stream to end as the transport wants it, without
// another event, and with a close code if it is a WebSocket.
func (r *room) expectEnd(v *Viewer, code int) {
	r.Helper()
	e, err := v.Next()
	require.ErrorIs(r, err, io.EOF, "instead of a clean end; event: %s", brief(e))
	require.False(r, err != io.EOF, "the end is not clean: %v", err)
	if r.Transport == WebSocket {
		require.Equal(r, code, v.CloseCode, "close code (reason %q)", v.CloseReason)
	}
}

// expectNothingMore expects the answer to a viewer that has everything, or
// asks for what nobody knows, so that it stops asking.
func (r *room) expectNothingMore(v *Viewer) {
	r.Helper()
	if r.Transport == SSE {
		require.Equal(r, http.StatusNoContent, v.Status, "status of the response: only 204 tells an EventSource to stop without an error")
		return
	}
	require.Equal(r, http.StatusSwitchingProtocols, v.Status, "status of the response: a page cannot read others")
	r.expectEnd(v, 1000)
}

// expectLater expects the answer to a viewer that is turned away and shall
// come again.
func (r *room) expectLater(v *Viewer, code int) {
	r.Helper()
	require.Equal(r, v.streaming(), v.Status, "status of the response: an EventSource comes again only after 200")
	r.expectEnd(v, code)
	if r.Transport == SSE {
		r.requireEventStream(v)
		require.Positive(r, v.Retry, "a retry field says when to come again")
		require.Positive(r, v.Beats, "a comment says why")
	}
}

func (r *room) requireEventStream(v *Viewer) {
	r.Helper()
	require.Regexp(r, `^text/event-stream(; *charset=(?i:utf-8))?$`, v.Header.Get("Content-Type"))
}

// finish closes an execution; all its clients get everything.
func (r *room) finish(executionID string) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	require.NoError(r, r.Close(ctx, executionID))
}

// reading is a viewer that is being read to its end by a goroutine.
type reading struct {
	*Viewer
	events []Event
	err    error
	done   chan struct{}
}

func read(v *Viewer) *reading {
	r := &reading{Viewer: v, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.events, r.err = v.All()
	}()
	return r
}

// expectAll waits for the end of a reading, which must have been clean, with
// these events.
func (r *room) expectAll(rd *reading, code int, want ...Event) {
	r.Helper()
	wait(r, "the viewer's stream ends", rd.done)
	for i := range min(len(want), len(rd.events)) {
		require.Equal(r, brief(want[i]), brief(rd.events[i]), "event %d of %d; the stream ended with %v", i, len(want), rd.err)
	}
	require.Len(r, rd.events, len(want), "the stream ended with %v", rd.err)
	require.Equal(r, want, rd.events)
	require.NoError(r, rd.err)
	if r.Transport == WebSocket {
		require.Equal(r, code, rd.CloseCode, "close code (reason %q)", rd.CloseReason)
	}
}

// wait receives from c.
func wait[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	hang := time.NewTimer(patience)
	defer hang.Stop()
	select {
	case v = <-c:
	case <-hang.C:
		require.FailNow(t, "hang", "waiting until %s", what)
	}
	return v
}

// expectLeft waits until a client has ended, and returns why.
func (r *room) expectLeft() error {
	r.Helper()
	return wait(r, "a client has left", r.left)
}

// follows checks that got is what a viewer may see of what was published: from
// the event at index next on, in order, whole, with every loss announced. It
// returns the index of what must come next, and how many events were lost.
func follows(published, got []Event, next int) (after, lost int, err error) {
	at := map[string]int{}
	for i, e := range published {
		at[e.ID] = i
	}
	for i, e := range got {
		if e.Type != core.TypeGap {
			if next == len(published) || e != published[next] {
				return 0, 0, fmt.Errorf("event %d, %s, is not what follows", i, brief(e))
			}
			next++
			continue
		}
		gap := gapOf(e)
		from := ""
		if next > 0 {
			from = published[next-1].ID
		}
		to, ok := at[gap.To]
		switch {
		case gap.From != from:
			return 0, 0, fmt.Errorf("event %d, %s: the viewer's last ID is %q", i, brief(e), from)
		case !ok || to < next:
			return 0, 0, fmt.Errorf("event %d, %s: nothing up to there can be missing", i, brief(e))
		case gap.Count != nil && *gap.Count != to+1-next:
			return 0, 0, fmt.Errorf("event %d, %s: %d events are missing", i, brief(e), to+1-next)
		}
		lost += to + 1 - next
		next = to + 1
	}
	return next, lost, nil
}

// gap is the data of a stream-gap event.
type gap struct {
	From  string
	To    string
	Count *int
}

func gapOf(e Event) (g gap) {
	json.Unmarshal([]byte(e.Data), &g)
	return g
}

// expectGap reads a stream-gap event, and returns what it says.
func (r *room) expectGap(v *Viewer) gap {
	r.Helper()
	e, err := v.Next()
	require.NoError(r, err, "instead of a gap")
	require.Equal(r, core.TypeGap, e.Type, "an event in front of the gap: %s", brief(e))
	require.Empty(r, e.ID, "a gap has no ID: it is not an event of the execution")
	g := gapOf(e)
	require.NotEmpty(r, g.To, "a gap says up to which ID events are gone")
	return g
}
