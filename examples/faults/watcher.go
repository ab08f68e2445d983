package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/execcast/execcast/core/coretest"
)

// payloads are the data of events 0 to n-1 of an execution: publisher and
// viewers both know them. Each is JSON of two lines and starts with its number.
// Most are short; one in fifty, if large is set, is several KiB.
func payloads(seed uint64, n int, large bool) []string {
	all := make([]string, n)
	for i := range all {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		size := rng.IntN(100)
		if large && rng.IntN(50) == 0 {
			size += 1<<10 + rng.IntN(3<<10)
		}
		all[i] = fmt.Sprintf("{\"n\":%d,\n\"text\":%q}", i, strings.Repeat([]string{"a", "é", "€", "😀"}[rng.IntN(4)], size))
	}
	return all
}

// watcher checks what one viewer sees of an execution, over all its
// connections.
type watcher struct {
	payloads []string
	seen     []bool
	excused  []bool // announced to be missing
	next     int    // one more than the highest event seen
	lastID   uint64
	lastText string // lastID, as a viewer sends it
	gap      gap
	hideGaps bool // sabotage
	tally
}

// gap is what has been announced since the last event, on this connection.
type gap struct {
	any   bool
	count int64 // of events missing, negative if not told
	to    uint64
}

// tally is what a viewer found, or several did.
type tally struct {
	Viewers, Finished  int // those who saw the end
	Connections        int
	Events             int
	Lost               int // missing and not announced
	Doubled, Reordered int
	Damaged            int // not what was published
	Announced          int // missing and announced
	Gaps, LagGaps      int // announcements, and those that did not begin a connection
	EmptyGaps          int // announcements without a loss
	WrongGaps          int // announcements with wrong figures
	ServerErrors       int // answers of 500 and above
	Violations         int // of a protocol, and hangs
	Problems           []string
}

func (t *tally) add(u tally) {
	t.Viewers += u.Viewers
	t.Finished += u.Finished
	t.Connections += u.Connections
	t.Events += u.Events
	t.Lost += u.Lost
	t.Doubled += u.Doubled
	t.Reordered += u.Reordered
	t.Damaged += u.Damaged
	t.Announced += u.Announced
	t.Gaps += u.Gaps
	t.LagGaps += u.LagGaps
	t.EmptyGaps += u.EmptyGaps
	t.WrongGaps += u.WrongGaps
	t.ServerErrors += u.ServerErrors
	t.Violations += u.Violations
	for _, p := range u.Problems {
		t.problem("%s", p)
	}
}

// problem keeps the first few descriptions of what was wrong.
func (t *tally) problem(format string, args ...any) {
	if len(t.Problems) < 5 {
		t.Problems = append(t.Problems, fmt.Sprintf(format, args...))
	}
}

// verify checks what has to hold whatever the viewers went through.
func (t *tally) verify(c *checks, name string) {
	c.that(t.Finished == t.Viewers, "%s: %d of %d viewers saw the end", name, t.Finished, t.Viewers)
	c.that(t.Lost == 0, "%s: %d events lost", name, t.Lost)
	c.that(t.Doubled == 0, "%s: %d events doubled", name, t.Doubled)
	c.that(t.Reordered == 0, "%s: %d events reordered", name, t.Reordered)
	c.that(t.Damaged == 0, "%s: %d events damaged", name, t.Damaged)
	c.that(t.EmptyGaps == 0, "%s: %d gaps announced without a loss", name, t.EmptyGaps)
	c.that(t.WrongGaps == 0, "%s: %d gaps announced with wrong figures", name, t.WrongGaps)
	c.that(t.ServerErrors == 0, "%s: %d requests answered 5xx", name, t.ServerErrors)
	c.that(t.Violations == 0, "%s: %d protocol violations or hangs", name, t.Violations)
	for _, p := range t.Problems {
		c.that(false, "%s: for example: %s", name, p)
	}
}

func newWatcher(payloads []string) *watcher {
	w := &watcher{payloads: payloads, seen: make([]bool, len(payloads)), excused: make([]bool, len(payloads))}
	w.Viewers = 1
	return w
}

// follow reads a connection to its end, and reports whether the execution is
// finished. The error is nil if the connection has ended cleanly.
func (w *watcher) follow(v *coretest.Viewer, onEvent func()) (finished bool, err error) {
	w.Connections++
	w.gap = gap{}
	for first := true; ; first = false {
		e, err := v.Next()
		switch {
		case err == io.EOF:
			return finished, nil
		case err != nil:
			return finished, err
		case finished:
			w.Violations++
			w.problem("event %q behind stream-end", e.Type)
		case e.Type == "stream-gap":
			if !w.hideGaps {
				w.takeGap(e, first)
			}
		case e.Type == "stream-end":
			finished = true
			if w.gap.any {
				w.EmptyGaps++
				w.problem("a gap announced before stream-end")
			}
		default:
			w.take(e)
			if onEvent != nil {
				onEvent()
			}
		}
	}
}

func (w *watcher) takeGap(e coretest.Event, first bool) {
	g := struct {
		From, To string
		Count    *int64
	}{}
	err := json.Unmarshal([]byte(e.Data), &g)
	to, idErr := strconv.ParseUint(g.To, 10, 64)
	if err != nil || idErr != nil || g.From != w.lastText || to <= max(w.lastID, w.gap.to) || e.ID != "" {
		w.WrongGaps++
		w.problem("gap %s with ID %q behind event %q and gap to %d", e.Data, e.ID, w.lastText, w.gap.to)
	}
	w.Gaps++
	if !first {
		w.LagGaps++
	}
	switch {
	case g.Count == nil:
		w.gap.count = -1
	case w.gap.count >= 0:
		w.gap.count += *g.Count
	}
	w.gap.any, w.gap.to = true, to
}

func (w *watcher) take(e coretest.Event) {
	w.Events++
	n := w.next
	if n >= len(w.payloads) || e.Data != w.payloads[n] {
		n = slices.Index(w.payloads, e.Data)
	}
	id, err := strconv.ParseUint(e.ID, 10, 64)
	if n < 0 || err != nil || e.Type != "step" {
		w.Damaged++
		w.problem("event %.300q where %d was due", e, w.next)
		return
	}
	switch {
	case w.seen[n]:
		w.Doubled++
		w.problem("event %d once more, where %d was due", n, w.next)
		return
	case n < w.next || id <= w.lastID:
		w.Reordered++
		w.problem("event %d, ID %d, where %d was due, ID above %d", n, id, w.next, w.lastID)
	}
	missing := n - w.next
	if w.gap.any && missing <= 0 {
		w.EmptyGaps++
		w.problem("a gap announced before event %d, where %d was due", n, w.next)
	} else if w.gap.any {
		if w.gap.count >= 0 && w.gap.count != int64(missing) || w.gap.to >= id {
			w.WrongGaps++
			w.problem("a gap of %d events to ID %d before event %d, ID %d, where %d was due", w.gap.count, w.gap.to, n, id, w.next)
		}
		for i := w.next; i < n; i++ {
			w.excused[i] = true
		}
	}
	w.gap = gap{}
	w.seen[n] = true
	w.next, w.lastID, w.lastText = max(w.next, n+1), max(w.lastID, id), e.ID
}

// end closes the books.
func (w *watcher) end() tally {
	for n, seen := range w.seen {
		switch {
		case seen:
		case w.excused[n]:
			w.Announced++
		default:
			w.Lost++
			if w.Lost == 1 {
				w.problem("event %d never came", n)
			}
		}
	}
	return w.tally
}

// broken reports whether err is how a connection ends that has been cut or
// reset.
func broken(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNREFUSED)
}

// hung reports whether err means that a viewer has waited in vain.
func hung(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// each runs f for 0 to n-1, at most limit at a time, and waits.
func each(n, limit int, f func(i int)) {
	var all sync.WaitGroup
	tokens := make(chan struct{}, limit)
	for i := range n {
		tokens <- struct{}{}
		all.Go(func() {
			f(i)
			<-tokens
		})
	}
	all.Wait()
}
