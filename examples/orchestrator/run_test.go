package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
)

// patience is how long a test waits for what should happen at once.
const patience = 30 * time.Second

// The commands of test plans are this test binary: see helper.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "helper" {
		helper(os.Args[2], os.Args[3:])
		return
	}
	must(os.Setenv("GORACE", "atexit_sleep_ms=0")) // or each helper takes a second to end
	os.Exit(m.Run())
}

// helper is what a command of a test plan does.
func helper(what string, args []string) {
	switch what {
	case "print": // Go-quoted strings, to stdout
		for _, arg := range args {
			s, err := strconv.Unquote(`"` + arg + `"`)
			must(err)
			must1(os.Stdout.WriteString(s))
		}
	case "complain": // to stderr, and fail
		fmt.Fprintln(os.Stderr, args[0])
		os.Exit(3)
	case "count": // lines, to stdout
		n := must1(strconv.Atoi(args[0]))
		out := bufio.NewWriter(os.Stdout)
		for i := range n {
			fmt.Fprintf(out, "line %d\n", i+1)
		}
		must(out.Flush())
	case "gate": // wait at the test's gate
		gateWait(args[0], args[1])
	case "stubborn": // the same, deaf to SIGTERM
		signal.Ignore(syscall.SIGTERM)
		gateWait(args[0], args[1])
	case "family": // be stubborn, with a child that is too
		child := exec.Command(os.Args[0], "helper", "stubborn", args[0], "child")
		must(child.Start())
		signal.Ignore(syscall.SIGTERM)
		gateWait(args[0], "parent")
	case "orphan": // leave a stubborn child behind that holds stdout open
		child := exec.Command(os.Args[0], "helper", "stubborn", args[0], "child")
		child.Stdout = os.Stdout
		must(child.Start())
		// The child has to be known to the test before this process is gone.
		gateWait(args[0], "parent")
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func must1[T any](v T, err error) T {
	must(err)
	return v
}

func helperTask(id string, dependsOn []string, args ...string) Task {
	return Task{ID: id, Title: "Task " + id, Command: append([]string{os.Args[0], "helper"}, args...), DependsOn: dependsOn}
}

// A gate is where helper processes report and wait. Their connection also shows
// their death, however they die.
type gate struct {
	t        *testing.T
	addr     string
	arrivals chan arrival
	waiting  map[string]net.Conn
}

type arrival struct {
	name string
	conn net.Conn
}

func newGate(t *testing.T) *gate {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := &gate{t, listener.Addr().String(), make(chan arrival, 16), map[string]net.Conn{}}
	t.Cleanup(func() {
		listener.Close()
		for _, conn := range g.waiting {
			conn.Close()
		}
	})
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if name, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
				g.arrivals <- arrival{strings.TrimSpace(name), conn}
			}
		}
	}()
	return g
}

func gateWait(addr, name string) {
	conn := must1(net.Dial("tcp", addr))
	must1(fmt.Fprintln(conn, name))
	_, _ = io.Copy(io.Discard, conn)
}

// await returns once the processes of these names stand at the gate.
func (g *gate) await(names ...string) {
	g.t.Helper()
	for _, name := range names {
		for g.waiting[name] == nil {
			select {
			case a := <-g.arrivals:
				g.waiting[a.name] = a.conn
			case <-time.After(patience):
				require.Failf(g.t, "nobody came", "waiting for %s", name)
			}
		}
	}
}

// release lets a process go on to its end.
func (g *gate) release(name string) {
	require.NoError(g.t, g.waiting[name].(*net.TCPConn).CloseWrite())
}

// requireDead waits until the system has closed the process's connection.
func (g *gate) requireDead(name string) {
	g.t.Helper()
	require.NoError(g.t, g.waiting[name].SetReadDeadline(time.Now().Add(patience)))
	_, err := g.waiting[name].Read(make([]byte, 1))
	require.Error(g.t, err)
	require.NotErrorIs(g.t, err, os.ErrDeadlineExceeded, "%s is still alive", name)
}

func requireClosed(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		require.Fail(t, "the run does not end")
	}
}

// A recorder is a publisher that keeps what is published, as "type {json}".
type recorder struct {
	mu     sync.Mutex
	events []string
	more   chan struct{} // gets a value, if it is empty, with each event
}

func newRecorder() *recorder { return &recorder{more: make(chan struct{}, 1)} }

func (r *recorder) PublishJSON(_ context.Context, _, eventType string, v any) (uint64, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, eventType+" "+string(data))
	select {
	case r.more <- struct{}{}:
	default:
	}
	return uint64(len(r.events)), nil
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.events...)
}

// await returns once an event has been published that contains what.
func (r *recorder) await(t *testing.T, what string) {
	t.Helper()
	for !contains(r.all(), what) {
		select {
		case <-r.more:
		case <-time.After(patience):
			require.Failf(t, "no such event", "%s in %v", what, r.all())
		}
	}
}

func contains(events []string, what string) bool { return index(events, what) >= 0 }

func index(events []string, what string) int {
	for i, e := range events {
		if strings.Contains(e, what) {
			return i
		}
	}
	return -1
}

// withoutTimes makes events comparable.
func withoutTimes(events []string) []string {
	var out []string
	for _, e := range events {
		eventType, data, _ := strings.Cut(e, " ")
		var fields map[string]any
		must(json.Unmarshal([]byte(data), &fields))
		for _, name := range []string{"duration", "totalDuration"} {
			if d, ok := fields[name].(float64); ok && d >= 0 {
				fields[name] = "D"
			}
		}
		if at, ok := fields["startedAt"].(string); ok && !must1(time.Parse(time.RFC3339, at)).IsZero() {
			fields["startedAt"] = "T"
		}
		out = append(out, eventType+" "+string(must1(json.Marshal(fields))))
	}
	return out
}

func runTasks(t *testing.T, tasks ...Task) []string {
	t.Helper()
	rec := newRecorder()
	newRun("x", &Plan{Title: "Test", Tasks: tasks}, rec).execute(context.Background())
	return rec.all()
}

func TestRunPublishes(t *testing.T) {
	events := runTasks(t,
		helperTask("b", []string{"a"}, "complain", "no"),
		helperTask("a", nil, "print", `one\r\ntwo`),
		helperTask("c", []string{"b"}, "print", "never"),
		helperTask("d", []string{"c", "a"}, "print", "never"),
	)
	require.Equal(t, []string{
		`task-start {"progress":0,"startedAt":"T","taskId":"a","taskTitle":"Task a","total":4}`,
		`task-output {"line":"one","stream":"stdout","taskId":"a"}`,
		`task-output {"line":"two","stream":"stdout","taskId":"a"}`,
		`task-complete {"duration":"D","progress":1,"status":"success","taskId":"a","total":4}`,
		`task-start {"progress":1,"startedAt":"T","taskId":"b","taskTitle":"Task b","total":4}`,
		`task-output {"line":"no","stream":"stderr","taskId":"b"}`,
		`task-complete {"duration":"D","progress":2,"status":"failed","taskId":"b","total":4}`,
		`task-complete {"duration":"D","progress":3,"status":"skipped","taskId":"c","total":4}`,
		`task-complete {"duration":"D","progress":4,"status":"skipped","taskId":"d","total":4}`,
		`execution-complete {"executionId":"x","failed":1,"status":"failed","successful":1,"totalDuration":"D"}`,
	}, withoutTimes(events))
}

func TestRunInParallelAsDependenciesAllow(t *testing.T) {
	g := newGate(t)
	rec := newRecorder()
	r := newRun("x", &Plan{Tasks: []Task{
		helperTask("join", []string{"left", "right"}, "print", "joined"),
		helperTask("left", nil, "gate", g.addr, "left"),
		helperTask("right", nil, "gate", g.addr, "right"),
	}}, rec)
	done := make(chan struct{})
	go func() {
		r.execute(context.Background())
		close(done)
	}()
	g.await("left", "right") // both run at once
	g.release("left")
	rec.await(t, `"taskId":"left","status":"success"`)
	require.False(t, contains(rec.all(), `"join"`), "join started before right had ended")
	status, counts, _ := r.state()
	require.Equal(t, statusRunning, status)
	require.Equal(t, map[string]int{"success": 1}, counts)
	g.release("right")
	requireClosed(t, done)
	require.Less(t, index(rec.all(), `"taskId":"right","status":"success"`), index(rec.all(), `task-start {"taskId":"join"`))
	status, counts, _ = r.state()
	require.Equal(t, statusSuccess, status)
	require.Equal(t, map[string]int{"success": 3}, counts)
}

func TestRunCommandThatCannotStart(t *testing.T) {
	events := runTasks(t, Task{ID: "a", Title: "A", Command: []string{"/no/such/program"}})
	require.True(t, contains(events, `task-output {"taskId":"a","stream":"stderr","line":"orchestrator: `), events)
	require.True(t, contains(events, `task-complete {"taskId":"a","status":"failed"`), events)
}

func TestRunCancel(t *testing.T) {
	g := newGate(t)
	rec := newRecorder()
	r := newRun("x", &Plan{Tasks: []Task{
		helperTask("polite", nil, "gate", g.addr, "polite"),
		helperTask("family", nil, "family", g.addr),
		helperTask("next", []string{"polite"}, "print", "never"),
	}}, rec)
	r.grace = 50 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		r.execute(ctx)
		close(done)
	}()
	g.await("polite", "parent", "child")
	cancel()
	requireClosed(t, done)
	for _, name := range []string{"polite", "parent", "child"} {
		g.requireDead(name)
	}
	require.True(t, contains(rec.all(), `"taskId":"polite","status":"cancelled"`), rec.all())
	require.True(t, contains(rec.all(), `"taskId":"family","status":"cancelled"`), rec.all())
	require.True(t, contains(rec.all(), `"taskId":"next","status":"skipped"`), rec.all())
	last := withoutTimes(rec.all())[len(rec.all())-1]
	require.Equal(t, `execution-complete {"executionId":"x","failed":0,"status":"cancelled","successful":0,"totalDuration":"D"}`, last)
}

func TestRunCancelledBeforeItStarts(t *testing.T) {
	rec := newRecorder()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	newRun("x", &Plan{Tasks: []Task{helperTask("a", nil, "print", "never"), helperTask("b", nil, "print", "never")}}, rec).execute(ctx)
	require.Equal(t, []string{
		`task-complete {"duration":"D","progress":1,"status":"skipped","taskId":"a","total":2}`,
		`task-complete {"duration":"D","progress":2,"status":"skipped","taskId":"b","total":2}`,
		`execution-complete {"executionId":"x","failed":0,"status":"cancelled","successful":0,"totalDuration":"D"}`,
	}, withoutTimes(rec.all()))
}

func TestRunDoesNotWaitForWhatACommandLeavesBehind(t *testing.T) {
	g := newGate(t)
	rec := newRecorder()
	r := newRun("x", &Plan{Tasks: []Task{helperTask("a", nil, "orphan", g.addr)}}, rec)
	r.grace = 50 * time.Millisecond
	done := make(chan struct{})
	go func() {
		r.execute(context.Background())
		close(done)
	}()
	g.await("parent", "child")
	g.release("parent")
	requireClosed(t, done)
	g.requireDead("child")
	require.True(t, contains(rec.all(), `"stream":"stderr","line":"orchestrator: ended what the command left running`), rec.all())
	require.True(t, contains(rec.all(), `"taskId":"a","status":"success"`), rec.all())
}

func TestRunOutputComesBeforeTaskComplete(t *testing.T) {
	events := runTasks(t, helperTask("a", nil, "count", "10000"))
	require.Len(t, events, 10_003)
	for i := range 10_000 {
		require.Equal(t, fmt.Sprintf(`task-output {"taskId":"a","stream":"stdout","line":"line %d"}`, i+1), events[1+i])
	}
	require.Contains(t, events[10_001], "task-complete")
}

// A registry takes the line that JSON makes longest.
func TestLongestLineFitsAnEvent(t *testing.T) {
	registry := core.New(&registryOptions)
	for _, char := range []string{"\x01", "\xffa", "<", "\u2028"} {
		w := &lineWriter{emit: func(line string) {
			_, err := registry.PublishJSON(t.Context(), "x", "task-output", taskOutput{strings.Repeat("i", 256), "stdout", line})
			require.NoError(t, err, "%q", char)
		}}
		_, err := w.Write([]byte(strings.Repeat(char, 2*maxLine)))
		require.NoError(t, err)
		w.flush()
	}
}

func TestLines(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, test := range []struct {
		name   string
		writes []string
		want   []string
	}{
		{"lines", []string{"a\nb\n"}, []string{"a", "b"}},
		{"empty lines", []string{"\n\na\n\n"}, []string{"", "", "a", ""}},
		{"nothing", []string{""}, nil},
		{"last line without newline", []string{"a\nb"}, []string{"a", "b"}},
		{"CRLF", []string{"a\r\nb\r\r\nc\rd\n"}, []string{"a", "b\r", "c\rd"}},
		{"cut anywhere", []string{"a", "b\r", "\nc", "\n"}, []string{"ab", "c"}},
		{"character cut in two", []string{"\xc3", "\xa9\n"}, []string{"é"}},
		{"not UTF-8", []string{"a\xffb\xfe\xfd\n", "\xc3"}, []string{"a\uFFFDb\uFFFD", "\uFFFD"}},
		{"as long as allowed", []string{long + "\n", long + "\r\n"}, []string{long, long}},
		{"longer", []string{long + long + "y\nz\n"}, []string{long, long, "y", "z"}},
		{"longer, without newline", []string{long, "y"}, []string{long, "y"}},
		{"no cut within a character", []string{long[1:] + "é\n"}, []string{long[1:], "é"}},
		{"long and not UTF-8", []string{strings.Repeat("\xff", maxLine+1)}, []string{"\uFFFD", "\uFFFD"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			w := &lineWriter{emit: func(line string) { got = append(got, line) }}
			for _, s := range test.writes {
				n, err := w.Write([]byte(s))
				require.NoError(t, err)
				require.Equal(t, len(s), n)
			}
			w.flush()
			require.Equal(t, test.want, got)
		})
	}
}
