package coretest

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
)

var severalCases = []testCase{
	{
		name: "SeveralInOrder",
		why: "one connection shows several executions, live and late: all events once, each named, in the order of " +
			"their IDs over all of them, however they are published. One out of order would be lost, or doubled, to " +
			"a viewer whose connection breaks between the two",
		run: func(s *suite) {
			r := s.room(core.Options{MaxEvents: -1, MaxBytes: -1}, Options{Several: true})
			early := read(r.watch(ViewerOptions{ExecutionIDs: abc}))
			var mu sync.Mutex
			var all []Event
			var publishers sync.WaitGroup
			for _, id := range abc {
				for range 2 {
					publishers.Go(func() {
						for _, e := range numbered(200, 10) {
							n, err := r.Publish(r.Context(), id, e)
							if err != nil {
								r.Errorf("publish: %v", err)
							}
							mu.Lock()
							all = append(all, Event{Execution: id, ID: strconv.FormatUint(n, 10), Type: e.Type, Data: string(e.Data)})
							mu.Unlock()
						}
					})
				}
			}
			between := read(r.watch(ViewerOptions{ExecutionIDs: abc}))
			publishers.Wait()
			late := read(r.watch(ViewerOptions{ExecutionIDs: []string{"c", "b", "b", "a"}}))
			slices.SortFunc(all, func(a, b Event) int { return strings.Compare(a.ID, b.ID) }) // of one length
			live := r.publishAll(50)
			all = append(all, live...)
			for _, id := range abc {
				r.finish(id)
			}
			for _, v := range []*reading{early, between, late} {
				wait(r, "the viewer's stream ends", v.done)
				require.NoError(r, v.err)
				events, ends := apart(v.events)
				require.Equal(r, all, events)
				require.ElementsMatch(r, []Event{endOf("a"), endOf("b"), endOf("c"), end}, ends)
				require.Equal(r, end, v.events[len(v.events)-1], "what names no execution is the last")
			}
		},
	},
	{
		name: "SeveralResume",
		why: "one ID is where all of them resume: whichever execution the last event seen was of, exactly what " +
			"follows comes, of all, also when the set of executions has changed",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{Several: true})
			events := r.publishAll(5)
			for i := range events {
				v := r.watch(ViewerOptions{ExecutionIDs: abc, LastEventID: events[i].ID})
				w := r.watch(ViewerOptions{ExecutionIDs: abc, QueryID: events[i].ID})
				events = append(events, r.publishAll(1)...)
				r.expect(v, events[i+1:]...)
				r.expect(w, events[i+1:]...)
				v.Close()
				w.Close()
			}
			part := r.watch(ViewerOptions{ExecutionIDs: []string{"b", "a"}, LastEventID: events[7].ID})
			r.expect(part, slices.DeleteFunc(slices.Clone(events[8:]), func(e Event) bool { return e.Execution == "c" })...)
		},
	},
	{
		name: "SeveralReconnects",
		why:  "however often the connection breaks while several executions go on, the viewer has all their events once in the end",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{Several: true})
			var events, got []Event
			last := ""
			for i := range 40 {
				events = append(events, r.publishAll(1+i%3)...)
				v := r.watch(ViewerOptions{ExecutionIDs: abc, LastEventID: last})
				for range min(i%11+1, len(events)-len(got)) {
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
			v := r.watch(ViewerOptions{ExecutionIDs: abc, LastEventID: last})
			r.expect(v, events[len(got):]...)
			require.Equal(r, events[:len(got)], got)
		},
	},
	{
		name: "SeveralFinish",
		why: "the finish of one of several reaches the viewer behind its last event, Close waits for just that, and " +
			"the others go on; behind the finish of the last, an end that names none, and a clean end of the stream",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{Several: true})
			for i := range 20 {
				ids := []string{"a" + strconv.Itoa(i), "b" + strconv.Itoa(i)}
				v := r.watch(ViewerOptions{ExecutionIDs: ids})
				first := r.publishNamed(ids[0], numbered(2, 0)...)
				r.finish(ids[0])
				require.Zero(r, r.ClientCount(ids[0]))
				require.Equal(r, 1, r.ClientCount(ids[1]))
				r.expect(v, append(first, endOf(ids[0]))...)
				rest := read(v)
				second := r.publishNamed(ids[1], numbered(3, 0)...)
				r.finish(ids[1])
				require.Zero(r, r.ClientCount(ids[1]))
				r.expectAll(rest, 1000, append(second, endOf(ids[1]), end)...)
				r.expectNothingMore(r.connect(ViewerOptions{ExecutionIDs: ids, LastEventID: v.LastEventID}))
			}
			require.Zero(r, r.Stats().Clients)
		},
	},
	{
		name: "SeveralFinishedOrGone",
		why: "a viewer that resumes several learns of those that have finished, and of those nobody knows any more, " +
			"that they have ended, and follows the rest; if nothing is left, that it shall not come again",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{Several: true})
			events := append(r.publishNamed("a", numbered(2, 0)...), r.publishNamed("b", numbered(2, 0)...)...)
			r.finish("a")
			v := r.watch(ViewerOptions{ExecutionIDs: []string{"a", "b", "gone"}, LastEventID: events[2].ID})
			var got []Event
			for range 4 {
				e, err := v.Next()
				require.NoError(r, err)
				if e.Type == core.TypeGap {
					require.Equal(r, "gone", e.Execution)
					require.Equal(r, events[2].ID, gapOf(e).From)
					e.Data = ""
				}
				got = append(got, e)
			}
			require.ElementsMatch(r, []Event{endOf("a"), {Execution: "gone", Type: core.TypeGap}, endOf("gone"), events[3]}, got)
			r.expect(v, r.publishNamed("b", numbered(1, 0)...)...)
			r.expectNothingMore(r.connect(ViewerOptions{ExecutionIDs: []string{"gone", "away"}, LastEventID: events[0].ID}))
			require.Equal(r, 2, r.Stats().Executions)
		},
	},
	{
		name: "SeveralGap",
		why:  "what the log of one execution has dropped is announced with its name, and nothing is said of the others",
		run: func(s *suite) {
			r := s.room(core.Options{MaxEvents: 5}, Options{Several: true})
			events := append(r.publishNamed("a", numbered(2, 0)...), r.publishNamed("c", numbered(2, 0)...)...)
			lost := r.publishNamed("b", numbered(10, 0)...)
			events = append(events, lost[5:]...)
			v := r.watch(ViewerOptions{ExecutionIDs: abc, LastEventID: events[0].ID})
			var got []Event
			for range len(events) {
				e, err := v.Next()
				require.NoError(r, err)
				if e.Type == core.TypeGap {
					require.Equal(r, "b", e.Execution)
					require.Equal(r, gap{From: events[0].ID, To: lost[4].ID}, gapOf(e))
					require.Empty(r, e.ID)
					continue
				}
				got = append(got, e)
			}
			require.Equal(r, events[1:], got)
		},
	},
	{
		name: "SeveralAuthorisation",
		why: "who may not see one of several executions gets none of them, and a status that says why, before " +
			"anything is registered; no execution at all, or thousands, are the request's fault (400)",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{Several: true, Authorize: func(id string) error {
				switch id {
				case "x":
					return core.ErrForbidden
				case "y":
					return core.ErrNotFound
				case "z":
					return core.ErrUnauthorized
				}
				return nil
			}})
			for id, status := range map[string]int{"x": 403, "y": 404, "z": 401, "": 400, "a\n": 400} {
				v := r.connect(ViewerOptions{ExecutionIDs: []string{"a", id, "b"}})
				require.Equal(r, status, v.Status, "execution %q", id)
			}
			many := make([]string, 1001)
			for i := range many {
				many[i] = strconv.Itoa(i)
			}
			require.Equal(r, http.StatusBadRequest, r.connect(ViewerOptions{}).Status)
			require.Equal(r, http.StatusBadRequest, r.connect(ViewerOptions{ExecutionIDs: many}).Status)
			require.Zero(r, r.Stats().Executions)
			v := r.watch(ViewerOptions{ExecutionIDs: abc})
			r.expect(v, r.publishAll(1)...)
		},
	},
	{
		name: "SeveralShutdown",
		why:  "a viewer of several executions, too, gets what has been published and then an end after which it comes again",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{Several: true})
			v := read(r.watch(ViewerOptions{ExecutionIDs: abc}))
			events := r.publishAll(200)
			ctx, cancel := context.WithTimeout(r.Context(), patience)
			defer cancel()
			require.NoError(r, r.Registry.Shutdown(ctx))
			r.expectAll(v, 1001, events...)
			r.expectLater(r.connect(ViewerOptions{ExecutionIDs: abc}), 1001)
		},
	},
}

var abc = []string{"a", "b", "c"}

// endOf is what says in a stream of several that one has finished.
func endOf(executionID string) Event {
	return Event{Execution: executionID, Type: core.TypeEnd, Data: "{}"}
}

// publishNamed is publish for viewers of several executions.
func (r *room) publishNamed(executionID string, events ...core.Event) []Event {
	r.Helper()
	seen := r.publish(executionID, events...)
	for i := range seen {
		seen[i].Execution = executionID
	}
	return seen
}

// publishAll publishes n small events to each of abc, in turns that vary.
func (r *room) publishAll(n int) (seen []Event) {
	r.Helper()
	left := map[string][]core.Event{}
	for _, id := range abc {
		left[id] = numbered(n, 0)
	}
	for range n * len(abc) {
		id := abc[rand.IntN(len(abc))]
		for len(left[id]) == 0 {
			id = abc[rand.IntN(len(abc))]
		}
		seen = append(seen, r.publishNamed(id, left[id][0])...)
		left[id] = left[id][1:]
	}
	return seen
}

// apart tells events from ends.
func apart(all []Event) (events, ends []Event) {
	for _, e := range all {
		if e.Type == core.TypeEnd {
			ends = append(ends, e)
		} else {
			events = append(events, e)
		}
	}
	return events, ends
}
