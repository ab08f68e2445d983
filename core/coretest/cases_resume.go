package coretest

import (
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
)

var resumeCases = []testCase{
	{
		name: "Resume",
		why: "a viewer that reconnects with the last ID it saw gets exactly what follows: with the Last-Event-ID " +
			"header, which EventSource sends by itself, or with the query parameter lastEventId, which is all that a page can set",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			events := r.tell(10)
			for i := range 10 {
				v := r.watch(ViewerOptions{LastEventID: events[i].ID})
				w := r.watch(ViewerOptions{QueryID: events[i].ID})
				events = append(events, r.tell(1)...)
				r.expect(v, events[i+1:]...)
				r.expect(w, events[i+1:]...)
			}
		},
	},
	{
		name: "HeaderBeforeQuery",
		why: "the header wins over the query: an EventSource keeps the URL it was made with, and only its header " +
			"knows what has arrived since",
		only: only(SSE),
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			events := r.tell(10)
			v := r.watch(ViewerOptions{LastEventID: events[7].ID, QueryID: events[2].ID})
			r.expect(v, events[8:]...)
		},
	},
	{
		name: "Reconnects",
		why:  "however often a viewer's connection breaks while events come, it has all of them once in the end",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			var events, got []Event
			last := ""
			for i := range 40 {
				events = append(events, r.tell(i%7+1)...)
				v := r.watch(ViewerOptions{LastEventID: last})
				for range min(i%5+1, len(events)-len(got)) {
					e, err := v.Next()
					require.NoError(r, err)
					got = append(got, e)
				}
				last = v.LastEventID
				if i%2 == 0 {
					v.Reset()
				} else {
					v.Close()
				}
			}
			v := read(r.watch(ViewerOptions{LastEventID: last}))
			r.finish("x")
			r.expectAll(v, 1000, append(events[len(got):], end)...)
			require.Equal(r, events[:len(got)], got)
		},
	},
	{
		name: "UnusableLastEventID",
		why: "an ID that is malformed, of the future, or of an earlier life of the server is told in-band, by a gap " +
			"before the first event, and then everything retained follows; an error status would stop an EventSource for good",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			events := r.tell(5)
			ids := []string{
				"0", "1", "-1", "+1", "1.5", "1e3", "0x10", "abc", "null", "0" + events[2].ID, events[2].ID + "x",
				"9007199254740991", "99999999999999999999", strings.Repeat("9", 500), "a b", "é", "<>\"'%&",
			}
			for _, id := range ids {
				v := r.watch(ViewerOptions{LastEventID: id})
				r.expectGap(v)
				r.expect(v, events...)
				v.Close()
			}
			for _, id := range append(ids, "\x00", "\xff", "a\r\nevent: forged\r\n\r\n") {
				v := r.watch(ViewerOptions{QueryID: id})
				r.expectGap(v)
				r.expect(v, events...)
				v.Close()
			}
		},
	},
	{
		name: "UnknownExecution",
		why: "who resumes an execution nobody knows any more is told to stop asking (204, 1000); who asks for one " +
			"without an ID is early, and waits for its first event",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			r.expectNothingMore(r.connect(ViewerOptions{LastEventID: "1700000000000000"}))
			r.expectNothingMore(r.connect(ViewerOptions{QueryID: "1700000000000000"}))
			require.Zero(r, r.Stats().Executions)
			v := r.watch(ViewerOptions{})
			r.expect(v, r.tell(1)...)
		},
	},
	{
		name: "GapAfterEviction",
		why:  "what the log's bounds have dropped is announced before the first event, to whoever has not seen it, and to nobody else",
		run: func(s *suite) {
			r := s.room(core.Options{MaxEvents: 10}, Options{})
			events := r.tell(30)
			for i, last := range []string{"", events[3].ID, events[18].ID} {
				v := r.watch(ViewerOptions{LastEventID: last})
				g := r.expectGap(v)
				require.Equal(r, last, g.From)
				require.Equal(r, events[19].ID, g.To)
				if i == 0 {
					require.NotNil(r, g.Count)
					require.Equal(r, 20, *g.Count)
				}
				r.expect(v, events[20:]...)
			}
			for _, i := range []int{19, 20, 28} {
				r.expect(r.watch(ViewerOptions{LastEventID: events[i].ID}), events[i+1:]...)
			}
		},
	},
	{
		name: "Forget",
		why: "forgetting an execution ends its viewers, not as if it had finished; its ID begins anew, and who comes " +
			"back with an ID of the old run is told that there is a gap",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			old := r.tell(3)
			v := r.watch(ViewerOptions{})
			r.expect(v, old...)
			r.Registry.Forget("x")
			_, err := v.Next()
			require.Error(r, err)
			require.NotContains(r, err.Error(), "hang")
			require.ErrorIs(r, r.expectLeft(), core.ErrUnregistered)
			r.expectNothingMore(r.connect(ViewerOptions{LastEventID: old[2].ID}))

			events := r.tell(2)
			r.expect(r.watch(ViewerOptions{}), events...)
			w := r.watch(ViewerOptions{LastEventID: old[1].ID})
			r.expectGap(w)
			r.expect(w, events...)
		},
	},
}
