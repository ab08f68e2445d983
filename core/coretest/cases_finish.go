package coretest

import (
	"context"
	"strconv"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
)

var finishCases = []testCase{
	{
		name: "LastEventBeforeClose",
		why: "Close right after the last Publish: every viewer gets that event, then stream-end, then a clean end of " +
			"the stream. Without that people sleep before they close, and hope",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			for i := range 100 {
				id := "run " + strconv.Itoa(i)
				v := read(r.watch(ViewerOptions{ExecutionID: id}))
				w := read(r.watch(ViewerOptions{ExecutionID: id}))
				events := append(r.publish(id, numbered(1+i%3, 0)...), end)
				r.finish(id)
				require.Zero(r, r.ClientCount(id), "Close returns when the connections have been let go")
				r.expectAll(v, 1000, events...)
				r.expectAll(w, 1000, events...)
			}
		},
	},
	{
		name: "CloseWithUnreadInput",
		why: "closing a socket that has unread input resets the connection and destroys what is still on its way: an " +
			"adapter reads what the viewer sends, or discards it in the end, before it closes",
		run: func(s *suite) {
			r := s.room(core.Options{MaxBytes: -1}, Options{})
			for i := range 3 {
				id := "run " + strconv.Itoa(i)
				v := r.watch(ViewerOptions{ExecutionID: id, ReceiveBuffer: smallBuffer})
				junk := pattern(8 << 10)
				if r.Transport == SSE {
					require.NoError(r, v.SendRaw([]byte(junk)))
				} else {
					for range 64 {
						require.NoError(r, v.Send(OpText, []byte(junk[:128])))
					}
				}
				events := append(r.publish(id, numbered(100, 4<<10)...), end)
				closed := make(chan error, 1)
				go func() {
					ctx, cancel := context.WithTimeout(r.Context(), patience)
					defer cancel()
					closed <- r.Close(ctx, id)
				}()
				// Most of it is now in the kernel's hands, and stays there
				// until the viewer reads. An adapter that resets the
				// connection gets the time to do so; one that waits for the
				// viewer is not kept waiting for long.
				select {
				case <-r.left:
				case <-time.After(100 * time.Millisecond):
				}
				r.expect(v, events...)
				r.expectEnd(v, 1000)
				require.NoError(r, wait(r, "Close returns", closed))
			}
		},
	},
	{
		name: "FinishedLate",
		why:  "a viewer that comes when the execution has finished gets what is retained and the end",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			events := append(r.tell(50), end)
			r.finish("x")
			r.expectAll(read(r.watch(ViewerOptions{})), 1000, events...)
			r.expectAll(read(r.watch(ViewerOptions{LastEventID: events[10].ID})), 1000, events[11:]...)
		},
	},
	{
		name: "FinishedAndComplete",
		why:  "a viewer that comes back to a finished execution with its last ID has everything: it is told so at once (204, 1000), or it would come back for ever",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			events := r.tell(5)
			r.finish("x")
			r.expectNothingMore(r.connect(ViewerOptions{LastEventID: events[4].ID}))
			r.expectNothingMore(r.connect(ViewerOptions{QueryID: events[4].ID}))
			require.Zero(r, r.ClientCount("x"))
		},
	},
	{
		name: "FinishedEmpty",
		why:  "an execution may finish without an event; closing it again changes nothing",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			v := read(r.watch(ViewerOptions{}))
			r.finish("x")
			r.finish("x")
			r.expectAll(v, 1000, end)
			r.expectAll(read(r.watch(ViewerOptions{})), 1000, end)
		},
	},
	{
		name: "CloseCutsOff",
		why: "a viewer that does not read cannot hold Close up beyond its context; Close then says how many it has " +
			"cut off, and the others have got everything",
		run: func(s *suite) {
			r := s.room(core.Options{MaxBytes: -1}, Options{SendBuffer: smallBuffer, WriteTimeout: time.Hour})
			stuck := r.watch(ViewerOptions{ReceiveBuffer: smallBuffer})
			well := read(r.watch(ViewerOptions{}))
			events := append(r.publish("x", numbered(64, 32<<10)...), end)
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			closed := make(chan error, 1)
			go func() { closed <- r.Close(ctx, "x") }()
			require.NoError(r, r.expectLeft(), "the viewer that reads has left, with everything")
			cancel()
			var drain *core.DrainError
			require.ErrorAs(r, wait(r, "Close returns", closed), &drain, "the connection of the viewer that does not read has never been full")
			require.Equal(r, 1, drain.Cut)
			r.expectAll(well, 1000, events...)
			require.NoError(r, stuck.Reset())
			require.Error(r, r.expectLeft())
			require.Zero(r, r.ClientCount("x"))
		},
	},
	{
		name: "Shutdown",
		why: "shutting down is not finishing: every viewer gets what has been published, without stream-end, and an " +
			"end after which it reconnects elsewhere; new ones are answered so that they come again",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			var viewers []*reading
			for range 5 {
				viewers = append(viewers, read(r.watch(ViewerOptions{})))
			}
			events := r.publish("x", numbered(200, 1<<10)...)
			r.shutDown()
			for _, v := range viewers {
				r.expectAll(v, 1001, events...)
			}
			r.expectLater(r.connect(ViewerOptions{}), 1001)
			r.expectLater(r.connect(ViewerOptions{LastEventID: events[0].ID}), 1001)
		},
	},
	{
		name: "ShutdownWithServer",
		why:  "the server's own graceful end works at the same time: it neither waits for streams for ever nor cuts them",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			var viewers []*reading
			for range 5 {
				viewers = append(viewers, read(r.watch(ViewerOptions{})))
			}
			events := r.publish("x", numbered(200, 1<<10)...)
			server := make(chan error, 1)
			go func() {
				ctx, cancel := context.WithTimeout(r.Context(), patience)
				defer cancel()
				server <- r.server.Shutdown(ctx)
			}()
			r.shutDown()
			for _, v := range viewers {
				r.expectAll(v, 1001, events...)
			}
			require.NoError(r, wait(r, "the server has shut down", server))
		},
	},
	{
		name: "MaxAge",
		why:  "a connection that has reached its maximum age ends so that the viewer comes back and misses nothing",
		run: func(s *suite) {
			r := s.room(core.Options{MaxAge: 50 * time.Millisecond}, Options{})
			// A connection may be too old before it has shown anything.
			var events []Event
			last := ""
			for next := 0; next < 3; {
				v := read(r.watch(ViewerOptions{LastEventID: last}))
				events = append(events, r.tell(1)...)
				require.ErrorIs(r, r.expectLeft(), core.ErrMaxAge)
				wait(r, "the viewer's stream ends", v.done)
				require.NoError(r, v.err)
				if r.Transport == WebSocket {
					require.Equal(r, 1001, v.CloseCode)
				}
				var lost int
				var err error
				next, lost, err = follows(events, v.events, next)
				require.NoError(r, err)
				require.Zero(r, lost)
				if len(v.events) > 0 {
					last = v.LastEventID
				}
			}
		},
	},
}

// shutDown shuts the registry down; all its clients get everything.
func (r *room) shutDown() {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	require.NoError(r, r.Registry.Shutdown(ctx))
}
