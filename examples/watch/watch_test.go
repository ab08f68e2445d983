package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/adapters/httpsse"
	"github.com/execcast/execcast/core"
)

// patience bounds what must happen; only a failing test reaches it.
const patience = 20 * time.Second

var modes = map[string]bool{"plain": false, "terminal": true}

// serve serves the executions of r at /{executionId}.
func serve(t *testing.T, r *core.Registry) string {
	mux := http.NewServeMux()
	mux.Handle("/{executionId}", httpsse.NewHandler(r, &httpsse.Options{Retry: -1}))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

func run(t *testing.T, isTerminal bool, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, errs bytes.Buffer
	code = command(ctx, args, &out, &errs, isTerminal)
	require.NoError(t, ctx.Err())
	return code, out.String(), errs.String()
}

// redraw is what the bars do to the terminal: up, and clear what is below.
var redraw = regexp.MustCompile("\x1b\\[[0-9]+A\x1b\\[J")

// lines returns what is on the screen above the bars.
func lines(t *testing.T, stdout string) []string {
	t.Helper()
	stdout = redraw.ReplaceAllString(stdout, "")
	require.NotContains(t, stdout, "\x1b")
	var all []string
	for line := range strings.Lines(stdout) {
		line = strings.TrimRight(line, " \n")
		bar := regexp.MustCompile(`^(  .*⠋|  .*[⠙⠹⠸⠼⠴⠦⠧⠇⠏]|\d+/\d+ \[|(re)?connecting|(re|dis)?connected|finished)`)
		if line != "" && !bar.MatchString(line) {
			all = append(all, line)
		}
	}
	return all
}

type events [][2]string

var started = events{
	{"task-start", `{"taskId":"a","taskTitle":"First","progress":0,"total":2}`},
	{"task-output", `{"taskId":"a","stream":"stdout","line":"one"}`},
	{"task-output", `{"taskId":"a","stream":"stderr","line":"two"}`},
	{"task-complete", `{"taskId":"a","status":"failed","duration":1500,"progress":1,"total":2}`},
	{"task-complete", `{"taskId":"b","status":"skipped","duration":0,"progress":2,"total":2}`},
}

var startedLines = []string{
	"a: started: First",
	"a| one",
	"a! two",
	"a: failed after 1.5s",
	"b: skipped after 0s",
}

func complete(status string) [2]string {
	return [2]string{"execution-complete",
		`{"executionId":"x","status":"` + status + `","successful":3,"failed":1,"totalDuration":2000}`}
}

func TestWatch(t *testing.T) {
	for name, test := range map[string]struct {
		events events
		lines  []string
		code   int
	}{
		"success": {
			append(started[:5:5], complete("success")),
			append(startedLines[:5:5], "execution: success after 2s: 3 successful, 1 failed"),
			exitOK,
		},
		"failed": {
			append(started[:5:5], complete("failed")),
			append(startedLines[:5:5], "execution: failed after 2s: 3 successful, 1 failed"),
			exitFailed,
		},
		"cancelled": {
			events{complete("cancelled")},
			[]string{"execution: cancelled after 2s: 3 successful, 1 failed"},
			exitFailed,
		},
		"other events": {
			events{
				{"", "hello"}, {"step", "{\n}"}, {"task-start", "[]"}, {"task-start", "{}"},
				{"task-output", "x"}, {"task-complete", "x"}, {"execution-complete", "{}"},
			},
			[]string{
				"message hello", "step { }", "task-start []", "task-start {}",
				"task-output x", "task-complete x", "execution-complete {}",
			},
			exitOK,
		},
		"hostile events": {
			events{
				{"", "a\x1b[2Jb\x1b]0;title\x07c\u009b1Ad\u202ee\x00f\x1bcg\rh\x1b]8;;http://x\x1b\\i"},
				{"task-start", `{"taskId":"\u001b[1Aa","taskTitle":"\u001b[31mred","progress":-5,"total":9223372036854775807}`},
				{"task-output", `{"taskId":"a","line":"1\n2\u001b[1m"}`},
				{"task-complete", `{"taskId":"a","status":"\u0007ok","duration":-1,"progress":7,"total":-1}`},
			},
			[]string{"message abcdefg hi", "a: started: red", "a| 1 2", "a: ok after -1ms"},
			exitOK,
		},
	} {
		for mode, isTerminal := range modes {
			t.Run(name+"/"+mode, func(t *testing.T) {
				r := core.New(nil)
				for _, e := range test.events {
					_, err := r.Publish(t.Context(), "x", core.Event{Type: e[0], Data: []byte(e[1])})
					require.NoError(t, err)
				}
				require.NoError(t, r.Close(t.Context(), "x"))
				code, stdout, stderr := run(t, isTerminal, serve(t, r)+"/x")
				require.Equal(t, test.lines, lines(t, stdout))
				require.Equal(t, test.code, code)
				if isTerminal {
					require.Regexp(t, "finished *\n$", stdout)
				} else {
					require.True(t, strings.HasPrefix(stderr, "watch: connected\nwatch: finished\n"), stderr)
				}
				require.Equal(t, test.code == exitFailed, strings.Contains(stderr, "has not succeeded"))
			})
		}
	}
}

func TestGap(t *testing.T) {
	r := core.New(&core.Options{MaxEvents: 2})
	for _, e := range append(started, complete("success")) {
		_, err := r.Publish(t.Context(), "x", core.Event{Type: e[0], Data: []byte(e[1])})
		require.NoError(t, err)
	}
	require.NoError(t, r.Close(t.Context(), "x"))
	code, stdout, _ := run(t, false, serve(t, r)+"/x")
	require.Zero(t, code)
	require.Equal(t, []string{
		"4 events are missing here", "b: skipped after 0s", "execution: success after 2s: 3 successful, 1 failed",
	}, lines(t, stdout))
}

// A connection that breaks is made again and goes on where it was.
func TestReconnects(t *testing.T) {
	for mode, isTerminal := range modes {
		t.Run(mode, func(t *testing.T) {
			var tokens, ids []string
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				tokens = append(tokens, r.Header.Get("Authorization"))
				ids = append(ids, r.Header.Get("Last-Event-ID"))
				if len(ids) == 3 {
					w.WriteHeader(http.StatusNoContent)
					return
				}
				w.Header().Set("Content-Type", "text/event-stream")
				fmt.Fprintf(w, "retry: 0\nid: %d\ndata: %d\n\nid: 9\ndata: lost", len(ids), len(ids))
			}))
			defer s.Close()
			code, stdout, stderr := run(t, isTerminal, "-header", "Authorization: Bearer t", "-after", "0", s.URL)
			require.Equal(t, []string{"message 1", "message 2"}, lines(t, stdout))
			require.Equal(t, []string{"0", "1", "2"}, ids)
			require.Equal(t, []string{"Bearer t", "Bearer t", "Bearer t"}, tokens)
			require.Equal(t, exitFailed, code, "204 does not tell how it went")
			require.Contains(t, stderr, "its result was not seen")
			if !isTerminal {
				require.True(t, strings.HasPrefix(stderr,
					"watch: connected\nwatch: reconnecting in 0s: EOF\nwatch: reconnected\nwatch: reconnecting in 0s: EOF\n"), stderr)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	for mode, isTerminal := range modes {
		t.Run(mode, func(t *testing.T) {
			code, stdout, stderr := run(t, isTerminal, s.URL)
			require.Equal(t, exitFailed, code)
			require.Empty(t, lines(t, stdout))
			require.Contains(t, stderr, "404")
		})
	}
}

func TestInterrupt(t *testing.T) {
	for mode, isTerminal := range modes {
		t.Run(mode, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			r := core.New(&core.Options{Hooks: core.Hooks{FirstViewer: func(string) { cancel() }}})
			_, err := r.Publish(ctx, "x", core.Event{Type: started[0][0], Data: []byte(started[0][1])})
			require.NoError(t, err)
			require.Equal(t, exitInterrupted, command(ctx, []string{serve(t, r) + "/x"}, io.Discard, io.Discard, isTerminal))
		})
	}
}

func TestUsage(t *testing.T) {
	for name, args := range map[string][]string{
		"no URL":      {},
		"two URLs":    {"http://127.0.0.1:1", "http://127.0.0.1:1"},
		"not a URL":   {"127.0.0.1:1"},
		"no flag":     {"-nonsense", "http://127.0.0.1:1"},
		"no header":   {"-header", "nonsense", "http://127.0.0.1:1"},
		"odd header":  {"-header", "a: b\nc", "http://127.0.0.1:1"},
		"odd ID":      {"-after", "a\nb", "http://127.0.0.1:1"},
		"other place": {"ftp://127.0.0.1/"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := run(t, false, args...)
			require.Equal(t, exitUsage, code)
			require.Empty(t, stdout)
			require.NotEmpty(t, stderr)
		})
	}
	code, _, stderr := run(t, false, "-help")
	require.Zero(t, code)
	require.Contains(t, stderr, "usage: watch")
}

// answer is a server in memory: one stream, of what is written to it.
type answer func(w io.Writer)

func (a answer) RoundTrip(req *http.Request) (*http.Response, error) {
	r, w := io.Pipe()
	go func() {
		a(w)
		w.Close()
	}()
	return &http.Response{
		StatusCode: http.StatusOK,
		Header:     http.Header{"Content-Type": {"text/event-stream"}},
		Body:       r,
		Request:    req,
	}, nil
}

// While tasks run, each has a bar with its title and time, and all together one
// with their number; more than fit on the screen have none.
func TestBars(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := answer(func(w io.Writer) {
			send := func(typ, data string) { fmt.Fprintf(w, "event: %s\ndata: %s\n\n", typ, data) }
			send("task-start", `{"taskId":"a","taskTitle":"First","progress":0,"total":30}`)
			send("task-start", `{"taskId":"b","taskTitle":"","progress":0,"total":30}`)
			time.Sleep(3 * time.Second)
			send("task-complete", `{"taskId":"a","status":"success","duration":3000,"progress":1,"total":30}`)
			send("step", "of a kind it does not know")
			time.Sleep(time.Second)
			for i := range 20 {
				send("task-start", fmt.Sprintf(`{"taskId":"t%d","taskTitle":"%s","progress":1,"total":30}`, i, strings.Repeat("long ", 100)))
			}
			time.Sleep(time.Second)
			send("execution-complete", `{"status":"success"}`)
			send(core.TypeEnd, "{}")
		})
		var out bytes.Buffer
		v := newBarView(&out)
		require.NoError(t, watch(t.Context(), "http://x.example/", &httpsse.WatchOptions{Client: &http.Client{Transport: server}}, v))
		v.close()
		frames := redraw.Split(out.String(), -1)
		var first, second, third string
		for _, frame := range frames {
			switch {
			case strings.Contains(frame, "First 2s") && strings.Contains(frame, "0/30"):
				first = frame
			case strings.Contains(frame, "  b 3s") && strings.Contains(frame, "1/30"):
				second = frame
			case strings.Contains(frame, "  b 4s"):
				third = frame
			}
		}
		require.Contains(t, first, "  b 2s")
		require.Contains(t, first, "0/30 [-")
		require.Contains(t, first, "connected")
		require.NotContains(t, second, "First")
		require.Contains(t, second, "1/30 [=")
		require.Equal(t, maxBars+1, strings.Count(third, "\n"), third)
		for line := range strings.Lines(third) {
			require.LessOrEqual(t, len([]rune(line)), 81, "does not fit")
		}
		require.Contains(t, out.String(), "step of a kind it does not know\n")
		last := frames[len(frames)-1]
		require.Regexp(t, `^1/30 \[.*\] finished *\n$`, last)
	})
}
