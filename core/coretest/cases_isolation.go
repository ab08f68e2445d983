package coretest

import (
	"errors"
	"os"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
)

var isolationCases = []testCase{
	{
		name: "StuckViewer",
		why: "a viewer that stops reading delays neither Publish nor anybody else; when it reads again it is told " +
			"exactly what it has missed, and goes on",
		run: func(s *suite) {
			r := s.room(core.Options{MaxEvents: 32}, Options{SendBuffer: smallBuffer, WriteTimeout: time.Hour})
			stuck := r.watch(ViewerOptions{ReceiveBuffer: smallBuffer})
			first := r.tell(1)
			r.expect(stuck, first...)
			events, well := r.outrun(first)
			got, lost, err := r.catchUp(stuck, events)
			require.NoError(r, err)
			require.Positive(r, lost, "the connection of the viewer that did not read has never been full")
			require.Equal(r, len(events), 1+got+lost)
			more := r.tell(3)
			r.expect(stuck, more...)
			r.expect(well, more...)
			require.Equal(r, 2, r.ClientCount("x"))
		},
	},
	{
		name: "LagDisconnect",
		why: "where the policy says so, a viewer that has fallen off the log's tail is disconnected (1013), so that it " +
			"comes back; what it has missed is announced then",
		run: func(s *suite) {
			r := s.room(core.Options{MaxEvents: 32, Lag: core.LagDisconnect}, Options{SendBuffer: smallBuffer, WriteTimeout: time.Hour})
			stuck := r.watch(ViewerOptions{ReceiveBuffer: smallBuffer})
			first := r.tell(1)
			r.expect(stuck, first...)
			events, well := r.outrun(first)
			got, err := stuck.All()
			require.ErrorIs(r, r.expectLeft(), core.ErrSlowClient, "the connection of the viewer that did not read has never been full")
			require.NotErrorIs(r, err, os.ErrDeadlineExceeded)
			next, lost, err := follows(events, got, 1)
			require.NoError(r, err)
			require.Zero(r, lost)
			if r.Transport == WebSocket {
				require.Equal(r, 1013, stuck.CloseCode)
			}
			back := r.watch(ViewerOptions{LastEventID: stuck.LastEventID})
			e, err := back.Next()
			require.NoError(r, err)
			_, lost, err = follows(events, []Event{e}, next)
			require.NoError(r, err)
			require.Positive(r, lost, "the loss is announced")
			r.expect(well, r.tell(3)...)
		},
	},
	{
		name: "WriteTimeout",
		why: "a viewer that never reads is cut when a write has taken as long as it may, so that it costs bounded " +
			"memory for a bounded time; others lose nothing",
		run: func(s *suite) {
			r := s.room(core.Options{MaxBytes: -1}, Options{SendBuffer: smallBuffer, WriteTimeout: 4 * beat})
			r.watch(ViewerOptions{ReceiveBuffer: smallBuffer})
			a, b := read(r.watch(ViewerOptions{})), read(r.watch(ViewerOptions{}))
			events := r.publish("x", numbered(64, 32<<10)...)
			require.ErrorIs(r, r.expectLeft(), core.ErrSlowClient)
			require.EqualValues(r, 1, r.Stats().Slow)
			require.Equal(r, 2, r.ClientCount("x"))
			events = append(events, r.tell(3)...)
			r.finish("x")
			r.expectAll(a, 1000, append(events, end)...)
			r.expectAll(b, 1000, append(events, end)...)
		},
	},
	{
		name: "TricklingViewer",
		why:  "the write timeout covers a whole write: a viewer that takes a byte now and then does not extend it",
		run: func(s *suite) {
			r := s.room(core.Options{MaxBytes: -1}, Options{SendBuffer: smallBuffer, WriteTimeout: beat})
			v := r.watch(ViewerOptions{ReceiveBuffer: smallBuffer})
			r.publish("x", numbered(16, 200<<10)...)
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				tick := time.NewTicker(time.Millisecond)
				defer tick.Stop()
				for b := make([]byte, 512); ; {
					select {
					case <-stop:
						return
					case <-tick.C:
					}
					v.conn.SetReadDeadline(time.Now().Add(patience))
					if _, err := v.conn.Read(b); err != nil {
						return
					}
				}
			}()
			require.ErrorIs(r, r.expectLeft(), core.ErrSlowClient)
			close(stop)
			wait(r, "the viewer stops", stopped)
		},
	},
	{
		name: "Leaving",
		why:  "a viewer that closes its connection is gone: at once where the transport tells, else when a heartbeat does not arrive; nobody else is disturbed",
		run: func(s *suite) {
			heartbeat := 50 * time.Millisecond
			if s.SeesLeave {
				heartbeat = -1
			}
			r := s.room(core.Options{Heartbeat: heartbeat}, Options{})
			leave := []func(v *Viewer) error{(*Viewer).Close, (*Viewer).Reset}
			for i := range 6 {
				v := r.watch(ViewerOptions{})
				r.expect(v, r.publish("x", numbered(i, 0)...)...)
				require.NoError(r, leave[i%2](v))
				require.Error(r, r.expectLeft())
				require.Zero(r, r.ClientCount("x"))
				if i == 0 {
					require.Zero(r, r.Stats().Executions, "an execution without an event is forgotten with its last viewer")
				}
				r.Registry.Forget("x")
			}
		},
	},
	{
		name: "LeavingAmongOthers",
		why:  "viewers that leave, in whatever way, while events are written to them, take nothing from those who stay",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			stays := read(r.watch(ViewerOptions{}))
			var events []Event
			for i := range 40 {
				v := r.watch(ViewerOptions{})
				events = append(events, r.publish("x", numbered(5, 500)...)...)
				if i%2 == 0 {
					v.Reset()
				} else {
					v.Close()
				}
			}
			r.finish("x")
			r.expectAll(stays, 1000, append(events, end)...)
		},
	},
	{
		name: "BrokenClients",
		why:  "a client whose writer panics or fails, or that is unregistered, ends alone",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			v := r.watch(ViewerOptions{})
			fails, panics := make(broken), make(broken)
			for _, b := range []broken{fails, panics} {
				c, err := r.Register("x", nil)
				require.NoError(r, err)
				go c.Serve(r.Context(), b)
			}
			m := r.direct(core.SSE)
			m.client.Unregister()
			require.ErrorIs(r, r.expectLeft(), core.ErrUnregistered)
			events := r.tell(1)
			fails <- func() error { return errors.New("broken") }
			panics <- func() error { panic("broken") }
			r.expectLeft()
			r.expectLeft()
			require.EqualValues(r, 1, r.Stats().Panics)
			require.Equal(r, 1, r.ClientCount("x"))
			r.expect(v, append(events, r.tell(1)...)...)
		},
	},
	{
		name: "TooManyClients",
		why:  "a viewer beyond a limit is told to come again later: an error status would stop an EventSource for good",
		run: func(s *suite) {
			for _, o := range []core.Options{{MaxClients: 1}, {MaxExecutionClients: 1}} {
				r := s.room(o, Options{})
				v := read(r.watch(ViewerOptions{}))
				events := r.tell(1)
				r.expectLater(r.connect(ViewerOptions{}), 1013)
				r.expectLater(r.connect(ViewerOptions{LastEventID: events[0].ID}), 1013)
				r.finish("x")
				r.expectAll(v, 1000, events[0], end)
				r.expectAll(read(r.watch(ViewerOptions{})), 1000, events[0], end)
			}
		},
	},
	{
		name: "TooManyExecutions",
		why:  "so is the viewer of an execution that would be one too many",
		run: func(s *suite) {
			r := s.room(core.Options{MaxExecutions: 1}, Options{})
			r.tell(1)
			r.expectLater(r.connect(ViewerOptions{ExecutionID: "y"}), 1013)
		},
	},
}

// outrun publishes far more than the log retains and the connection of a viewer
// that does not read takes, at the pace of another viewer, who sees all of it.
// Both have seen first, which is part of what it returns.
func (r *room) outrun(first []Event) (events []Event, well *Viewer) {
	r.Helper()
	events = first
	well = r.watch(ViewerOptions{LastEventID: first[len(first)-1].ID})
	for range 64 {
		some := r.publish("x", numbered(16, 4<<10)...)
		r.expect(well, some...)
		events = append(events, some...)
	}
	return events, well
}

// catchUp reads on from the first of these events to the last. It returns how many of them
// came and how many were announced as lost.
func (r *room) catchUp(v *Viewer, events []Event) (got, lost int, err error) {
	r.Helper()
	for next := 1; next < len(events); {
		e, err := v.Next()
		require.NoError(r, err)
		var more int
		next, more, err = follows(events, []Event{e}, next)
		if err != nil {
			return 0, 0, err
		}
		lost += more
		if e.Type != core.TypeGap {
			got++
		}
	}
	return got, lost, nil
}

// broken is a Writer that does what it receives.
type broken chan func() error

func (b broken) Write([]byte) (int, error) {
	f := <-b
	return 0, f()
}
