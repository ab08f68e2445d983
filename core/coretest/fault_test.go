package coretest

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
)

// TestFaults has adapters with one planted fault each fail in the case that is
// there for it, in a process of their own. That the same adapters pass without
// the fault is TestReference.
func TestFaults(t *testing.T) {
	if fault != "" {
		t.Skip("already in such a process")
	}
	binary, err := os.Executable()
	require.NoError(t, err)
	all := []string{"handler", "hijack", "websocket"}
	owners := all[1:] // of their connections; else the server cares
	for _, f := range []struct {
		fault    string
		adapters []string
		inCase   string
	}{
		{dropsLast, all, "LastEventBeforeClose"},
		{reorders, all, "LiveInOrder"},
		{interleaves, all, "FramesWhole"},
		{ignoresLastEventID, all, "Resume"},
		{neverFlushes, all, "EachEventAtOnce"},
		{closesUnread, owners, "CloseWithUnreadInput"},

		{lateHeaders, all[:1], "HeadersAtOnce"},
		{noDeadline, all, "WriteTimeout"},
		{keepsGone, owners, "Leaving"},
		{refusesBadID, all, "UnusableLastEventID"},
		{overloaded, all, "TooManyClients"},
		{anyOrigin, all, "Origins"},
		{noPreflight, all[:1], "Origins"},
		{alwaysDone, all[2:], "Shutdown"},
		{mute, all[2:], "Pings"},
		{deaf, all[2:], "MissedPongs"},

		{reorders, all, "SeveralInOrder"},
		{ignoresLastEventID, all, "SeveralResume"},
		{endsEarly, all, "SeveralFinish"},
		{hidesGaps, all, "SeveralGap"},
		{authorisesOne, all, "SeveralAuthorisation"},
	} {
		for _, adapter := range f.adapters {
			t.Run(f.fault+"/"+adapter, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				name := "TestReference/" + adapter + "/" + f.inCase
				cmd := exec.CommandContext(ctx, binary, "-test.v", "-test.run=^TestReference$/^"+adapter+"$/^"+f.inCase+"$")
				cmd.Env = append(os.Environ(), "EXECCAST_FAULT="+f.fault)
				out, err := cmd.CombinedOutput()
				require.Error(t, err, "the suite does not notice an adapter that %s:\n%s", f.fault, out)
				require.Contains(t, string(out), "--- FAIL: "+name+" ", "an adapter that %s:\n%s", f.fault, out)
			})
		}
	}
}

// plant returns w with the fault, if it is one of writing.
func plant(w core.Writer) core.Writer {
	switch fault {
	case dropsLast, reorders:
		return &withholder{Writer: w}
	case interleaves:
		return &halver{w}
	case hidesGaps, endsEarly:
		return &discreet{Writer: w}
	}
	return w
}

// discreet does not write gaps, or nothing behind an end.
type discreet struct {
	core.Writer
	ended bool
}

func (d *discreet) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		var frame []byte
		frame, rest = cutFrame(rest)
		if d.ended || fault == hidesGaps && bytes.Contains(frame, []byte(core.TypeGap)) {
			continue
		}
		d.ended = fault == endsEarly && bytes.Contains(frame, []byte(core.TypeEnd))
		if _, err := d.Writer.Write(frame); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (d *discreet) End(reason error) error { return end2(d.Writer, reason) }

// halver writes the halves of long frames with a heartbeat between.
type halver struct{ core.Writer }

func (h *halver) Write(p []byte) (int, error) {
	if len(p) < 4<<10 {
		return h.Writer.Write(p)
	}
	beat := []byte(":\n\n")
	if p[0]&0x80 != 0 {
		beat = wsEncoder{}.AppendHeartbeat(nil)
	}
	parts := [][]byte{p[:len(p)/2], beat, p[len(p)/2:]}
	for _, part := range parts {
		if _, err := h.Writer.Write(part); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (h *halver) End(reason error) error { return end2(h.Writer, reason) }

func end2(w core.Writer, reason error) error {
	if e, ok := w.(core.Ender); ok {
		return e.End(reason)
	}
	return nil
}

// withholder keeps writes back for a moment. What it does with one when another
// comes meanwhile is the fault: it writes that first, or forgets what it has
// kept if the other is the end.
type withholder struct {
	core.Writer
	mu   sync.Mutex
	n    int
	kept []byte
}

func (w *withholder) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	isEnd := bytes.Contains(p, []byte(core.TypeEnd))
	switch fault {
	case dropsLast:
		if isEnd {
			w.kept = nil
			return w.Writer.Write(p)
		}
		if err := w.flush(); err != nil {
			return 0, err
		}
	case reorders:
		if w.kept != nil || isEnd {
			n, err := w.Writer.Write(p)
			if err == nil {
				err = w.flush()
			}
			return n, err
		}
		first, rest := cutFrame(p)
		if len(rest) > 0 {
			second, rest := cutFrame(rest)
			_, err := w.Writer.Write(slices.Concat(second, first, rest))
			return len(p), err
		}
		if w.n++; w.n%3 != 0 {
			return w.Writer.Write(p)
		}
	}
	w.kept = slices.Clone(p)
	time.AfterFunc(20*time.Millisecond, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.flush()
	})
	return len(p), nil
}

// cutFrame cuts p behind its first frame.
func cutFrame(p []byte) (frame, rest []byte) {
	n := bytes.Index(p, []byte("\n\n")) + 2
	if p[0]&0x80 != 0 {
		if n = 2 + int(p[1]); p[1] == 126 {
			n = 4 + int(binary.BigEndian.Uint16(p[2:]))
		}
	}
	return p[:n], p[n:]
}

func (w *withholder) flush() error {
	p := w.kept
	w.kept = nil
	if p == nil {
		return nil
	}
	_, err := w.Writer.Write(p)
	return err
}

func (w *withholder) End(reason error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return end2(w.Writer, reason)
}

// TestCasesExplain keeps the table readable.
func TestCasesExplain(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range cases {
		require.False(t, seen[c.name], "two cases are called %s", c.name)
		seen[c.name] = true
		require.NotContains(t, c.name, " ")
		require.Greater(t, len(strings.Fields(c.why)), 5, "case %s does not say which rule it checks, and why", c.name)
	}
}
