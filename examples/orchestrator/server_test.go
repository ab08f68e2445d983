package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
)

var transportNames = []string{"http", "fasthttp", "websocket"}

// An endpoint is where one front of a server listens.
type endpoint struct {
	t         *testing.T
	transport string
	addr      string
}

func newServer(plan *Plan) *server {
	return &server{plan: plan, registry: core.New(&registryOptions)}
}

// listen serves s over a transport until the test ends.
func listen(t *testing.T, s *server, transport string) *endpoint {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	front := transports[transport](s, listener.Addr().String())
	served := make(chan struct{})
	go func() {
		_ = front.Serve(listener)
		close(served)
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = s.shutdown(ctx)
		require.NoError(t, front.Shutdown(ctx))
		<-served
	})
	return &endpoint{t, transport, listener.Addr().String()}
}

// do sends a request and returns the status and body of the answer.
func (e *endpoint) do(method, path string, change func(*http.Request)) (int, string) {
	e.t.Helper()
	req, err := http.NewRequest(method, "http://"+e.addr+path, nil)
	require.NoError(e.t, err)
	if change != nil {
		change(req)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res, err := http.DefaultClient.Do(req.WithContext(ctx))
	require.NoError(e.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(e.t, err)
	return res.StatusCode, string(body)
}

func (e *endpoint) start() string {
	e.t.Helper()
	status, body := e.do("POST", "/api/executions", nil)
	require.Equal(e.t, http.StatusCreated, status, body)
	var answer map[string]string
	require.NoError(e.t, json.Unmarshal([]byte(body), &answer))
	require.Len(e.t, answer, 1)
	require.GreaterOrEqual(e.t, len(answer["executionId"]), 26, "guessable")
	return answer["executionId"]
}

func (e *endpoint) list() []executionSummary {
	e.t.Helper()
	status, body := e.do("GET", "/api/executions", nil)
	require.Equal(e.t, http.StatusOK, status)
	var list []executionSummary
	require.NoError(e.t, json.Unmarshal([]byte(body), &list))
	return list
}

// A viewing is what a viewer has seen when its stream has ended: "id type data"
// of each event.
type viewing struct {
	events []string
	err    error
}

// view watches an execution to its end. connected is called once the server has
// accepted.
func (e *endpoint) view(id string, connected func()) viewing {
	if e.transport == "websocket" {
		return viewSocket("ws://"+e.addr+"/api/executions/"+id+"/events", connected)
	}
	return viewStream("http://"+e.addr+"/api/executions/"+id+"/events", connected)
}

// viewStream reads Server-Sent Events as the server of this test sends them:
// one data line each.
func viewStream(url string, connected func()) (v viewing) {
	client := http.Client{Timeout: 2 * patience}
	res, err := client.Get(url)
	if err != nil {
		return viewing{err: err}
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" {
		return viewing{err: fmt.Errorf("%s, %s", res.Status, res.Header.Get("Content-Type"))}
	}
	connected()
	var id, eventType, data string
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "id":
			id = value
		case "event":
			eventType = value
		case "data":
			data = value
		case "":
			if data != "" {
				v.events = append(v.events, fmt.Sprintf("%s %s %s", id, eventType, data))
			}
			id, eventType, data = "", "", ""
		}
	}
	v.err = lines.Err()
	return v
}

func viewSocket(url string, connected func()) (v viewing) {
	conn, res, err := websocket.DefaultDialer.Dial(url, nil)
	if err != nil {
		if res != nil {
			err = fmt.Errorf("%w: %s", err, res.Status)
		}
		return viewing{err: err}
	}
	defer conn.Close()
	connected()
	_ = conn.SetReadDeadline(time.Now().Add(2 * patience))
	for {
		_, data, err := conn.ReadMessage()
		if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			return v
		}
		var message struct {
			ID    string          `json:"id"`
			Event string          `json:"event"`
			Data  json.RawMessage `json:"data"`
		}
		if err = errors.Join(err, json.Unmarshal(data, &message)); err != nil {
			v.err = err
			return v
		}
		v.events = append(v.events, fmt.Sprintf("%s %s %s", message.ID, message.Event, message.Data))
	}
}

// viewers are several at once.
type viewers struct {
	wg   sync.WaitGroup
	seen []*viewing
}

// join adds n viewers and returns when all are connected, or have failed.
func (v *viewers) join(e *endpoint, id string, n int) {
	var connected sync.WaitGroup
	for range n {
		seen := new(viewing)
		v.seen = append(v.seen, seen)
		connected.Add(1)
		v.wg.Go(func() {
			once := sync.OnceFunc(connected.Done)
			*seen = e.view(id, once)
			once()
		})
	}
	connected.Wait()
}

// withoutIDs checks that IDs rise and that only the stream's own signals lack
// one, and drops them.
func withoutIDs(t *testing.T, events []string) []string {
	t.Helper()
	var out []string
	last := uint64(0)
	for _, e := range events {
		id, rest, _ := strings.Cut(e, " ")
		out = append(out, rest)
		if strings.HasPrefix(rest, "stream-") {
			require.Empty(t, id)
			continue
		}
		var n uint64
		_, err := fmt.Sscan(id, &n)
		require.NoError(t, err)
		require.Greater(t, n, last)
		last = n
	}
	return out
}

func TestWholeRunOverEachTransport(t *testing.T) {
	for _, transport := range transportNames {
		t.Run(transport, func(t *testing.T) {
			g := newGate(t)
			e := listen(t, newServer(&Plan{Title: "Test", Tasks: []Task{
				helperTask("a", nil, "print", `<b>\x1b[1m\u00e9\xff\n`),
				helperTask("b", []string{"a"}, "gate", g.addr, "b"),
			}}), transport)
			id := e.start()
			var all viewers
			all.join(e, id, 1)
			g.await("b")
			all.join(e, id, 1) // in the middle of the run
			list := e.list()
			require.Len(t, list, 1)
			require.Equal(t, "running", list[0].Status)
			require.Equal(t, map[string]int{"success": 1}, list[0].Counts)
			require.Equal(t, 2, list[0].Viewers)
			g.release("b")
			all.wg.Wait()
			all.join(e, id, 1) // when it is over
			all.wg.Wait()

			for _, v := range all.seen {
				require.NoError(t, v.err)
				require.Equal(t, all.seen[0].events, v.events)
			}
			require.Equal(t, []string{
				`task-start {"progress":0,"startedAt":"T","taskId":"a","taskTitle":"Task a","total":2}`,
				`task-output {"line":"\u003cb\u003e\u001b[1mé` + "\uFFFD" + `","stream":"stdout","taskId":"a"}`,
				`task-complete {"duration":"D","progress":1,"status":"success","taskId":"a","total":2}`,
				`task-start {"progress":1,"startedAt":"T","taskId":"b","taskTitle":"Task b","total":2}`,
				`task-complete {"duration":"D","progress":2,"status":"success","taskId":"b","total":2}`,
				`execution-complete {"executionId":"` + id + `","failed":0,"status":"success","successful":2,"totalDuration":"D"}`,
				`stream-end {}`,
			}, withoutTimes(withoutIDs(t, all.seen[0].events)))
			list = e.list()
			require.Equal(t, id, list[0].ExecutionID)
			require.Equal(t, "Test", list[0].Title)
			require.Equal(t, "success", list[0].Status)
			require.Equal(t, map[string]int{"success": 2}, list[0].Counts)
			require.Equal(t, 2, list[0].Total)
		})
	}
}

func TestViewersOfAllTransportsSeeTheSame(t *testing.T) {
	g := newGate(t)
	s := newServer(&Plan{Title: "Test", Tasks: []Task{
		helperTask("early", nil, "count", "500"),
		helperTask("gate", []string{"early"}, "gate", g.addr, "gate"),
		helperTask("late", []string{"gate"}, "count", "500"),
		helperTask("later", []string{"gate"}, "count", "500"),
	}})
	var endpoints []*endpoint
	for _, transport := range transportNames {
		endpoints = append(endpoints, listen(t, s, transport))
	}
	id := endpoints[0].start()
	var all viewers
	all.join(endpoints[0], id, 9)
	all.join(endpoints[1], id, 8)
	all.join(endpoints[2], id, 8)
	g.await("gate")
	all.join(endpoints[0], id, 8)
	all.join(endpoints[1], id, 8)
	all.join(endpoints[2], id, 9)
	g.release("gate")
	all.wg.Wait()
	require.Len(t, all.seen, 50)
	require.Len(t, all.seen[0].events, 4+1500+4+1+1)
	withoutIDs(t, all.seen[0].events)
	for i, v := range all.seen {
		require.NoError(t, v.err)
		require.Equal(t, all.seen[0].events, v.events, "viewer %d", i)
	}
}

func TestHistoryHoldsAWholeRun(t *testing.T) {
	e := listen(t, newServer(&Plan{Title: "Test", Tasks: []Task{helperTask("a", nil, "count", "10000")}}), "http")
	id := e.start()
	require.NoError(t, e.view(id, func() {}).err) // to its end
	v := e.view(id, func() {})
	require.NoError(t, v.err)
	require.Len(t, v.events, 10_004)
	for i := range 10_000 {
		require.Contains(t, v.events[1+i], fmt.Sprintf(`"line":"line %d"`, i+1))
	}
}

func TestForeignSitesCannotAct(t *testing.T) {
	for _, transport := range transportNames {
		t.Run(transport, func(t *testing.T) {
			g := newGate(t)
			e := listen(t, newServer(&Plan{Title: "Test", Tasks: []Task{helperTask("a", nil, "gate", g.addr, "a")}}), transport)
			for name, change := range map[string]func(*http.Request){
				"origin":    func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") },
				"null":      func(r *http.Request) { r.Header.Set("Origin", "null") },
				"fetch":     func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
				"rebinding": func(r *http.Request) { r.Host = "evil.example" },
			} {
				status, _ := e.do("POST", "/api/executions", change)
				require.Equal(t, http.StatusForbidden, status, name)
			}
			require.Empty(t, e.list())

			id := e.start()
			g.await("a")
			rebinding := func(r *http.Request) { r.Host = "evil.example" }
			for _, path := range []string{"/", "/api/config", "/api/executions", "/api/executions/" + id + "/events"} {
				status, body := e.do("GET", path, rebinding)
				require.Equal(t, http.StatusForbidden, status, path)
				require.NotContains(t, body, id)
			}
			status, _ := e.do("DELETE", "/api/executions/"+id, func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") })
			require.Equal(t, http.StatusForbidden, status)
			require.Equal(t, "running", e.list()[0].Status)

			status, _ = e.do("POST", "/api/executions", func(r *http.Request) { r.Header.Set("Origin", "http://"+e.addr) })
			require.Equal(t, http.StatusCreated, status, "the page itself is refused")
		})
	}
}

func TestUnknownExecution(t *testing.T) {
	for _, transport := range transportNames {
		t.Run(transport, func(t *testing.T) {
			s := newServer(&Plan{Title: "Test", Tasks: []Task{helperTask("a", nil, "print")}})
			e := listen(t, s, transport)
			status, _ := e.do("DELETE", "/api/executions/nope", nil)
			require.Equal(t, http.StatusNotFound, status)
			status, _ = e.do("GET", "/api/executions/nope/events", nil)
			require.Equal(t, http.StatusNotFound, status)
			require.ErrorContains(t, e.view("nope", func() {}).err, "404")
		})
	}
}

func TestDeleteKillsTheProcessGroup(t *testing.T) {
	for _, transport := range transportNames {
		t.Run(transport, func(t *testing.T) {
			g := newGate(t)
			e := listen(t, newServer(&Plan{Title: "Test", Tasks: []Task{helperTask("a", nil, "family", g.addr)}}), transport)
			id := e.start()
			var all viewers
			all.join(e, id, 1)
			g.await("parent", "child")
			status, body := e.do("DELETE", "/api/executions/"+id, nil)
			require.Equal(t, http.StatusNoContent, status, body)
			g.requireDead("parent")
			g.requireDead("child")
			all.wg.Wait()
			require.NoError(t, all.seen[0].err)
			events := withoutIDs(t, all.seen[0].events)
			require.Contains(t, events[len(events)-2], `"status":"cancelled"`)
			require.Equal(t, "stream-end {}", events[len(events)-1])
			status, _ = e.do("DELETE", "/api/executions/"+id, nil)
			require.Equal(t, http.StatusNoContent, status, "again")
		})
	}
}

func TestOldRunsAreForgotten(t *testing.T) {
	s := newServer(&Plan{Title: "Test", Tasks: []Task{{ID: "a", Title: "A", Command: []string{"/no/such/program"}}}})
	e := listen(t, s, "http")
	var ids []string
	for range maxFinished + 2 {
		id := e.start()
		require.NoError(t, e.view(id, func() {}).err)
		ids = append(ids, id)
	}
	list := e.list()
	require.Len(t, list, maxFinished)
	for i, run := range list {
		require.Equal(t, ids[len(ids)-1-i], run.ExecutionID, "newest first")
	}
	status, _ := e.do("GET", "/api/executions/"+ids[1]+"/events", nil)
	require.Equal(t, http.StatusNotFound, status)
	_, err := s.registry.Register(ids[1], &core.ClientOptions{LastEventID: "1"})
	require.ErrorIs(t, err, core.ErrUnknown)
}

func TestRunsAtATimeAreBounded(t *testing.T) {
	g := newGate(t)
	e := listen(t, newServer(&Plan{Title: "Test", Tasks: []Task{helperTask("a", nil, "gate", g.addr, "a")}}), "http")
	var id string
	for range maxRunning {
		id = e.start()
	}
	status, _ := e.do("POST", "/api/executions", nil)
	require.Equal(t, http.StatusTooManyRequests, status)
	status, _ = e.do("DELETE", "/api/executions/"+id, nil)
	require.Equal(t, http.StatusNoContent, status)
	e.start()
}

func TestPage(t *testing.T) {
	for _, transport := range transportNames {
		t.Run(transport, func(t *testing.T) {
			s := newServer(&Plan{Title: "Test", Tasks: []Task{helperTask("a", nil, "print")}})
			s.transport = transport
			e := listen(t, s, transport)
			for path, want := range map[string]string{
				"/":            "<!doctype html>",
				"/app.js":      "import { follow }",
				"/execcast.js": "EventSource",
				"/ansi.js":     "export function reader",
				"/app.css":     ":root",
				"/icon.svg":    "<svg",
				"/api/config":  `"transport":"` + transport + `"`,
			} {
				status, body := e.do("GET", path, nil)
				require.Equal(t, http.StatusOK, status, path)
				require.Contains(t, body, want, path)
			}
			status, _ := e.do("GET", "/nope", nil)
			require.Equal(t, http.StatusNotFound, status)
			status, _ = e.do("PUT", "/api/executions", nil)
			require.Equal(t, http.StatusMethodNotAllowed, status)
		})
	}
}

func TestHostCheck(t *testing.T) {
	for _, test := range []struct {
		addr, host string
		want       bool
	}{
		{"127.0.0.1:8080", "127.0.0.1:8080", true},
		{"127.0.0.1:8080", "localhost:8080", true},
		{"127.0.0.1:8080", "LOCALHOST.", true},
		{"127.0.0.1:8080", "app.localhost:1", true},
		{"127.0.0.1:8080", "[::1]:8080", true},
		{"127.0.0.1:8080", "[::1]", true},
		{"127.0.0.1:8080", "127.0.0.2", true},
		{"127.0.0.1:8080", "192.168.1.5:8080", false},
		{"127.0.0.1:8080", "evil.example:8080", false},
		{"127.0.0.1:8080", "localhost.evil.example", false},
		{"127.0.0.1:8080", "127.0.0.1.evil.example", false},
		{"127.0.0.1:8080", "", false},
		{"builder.lan:8080", "builder.lan:8080", true},
		{"builder.lan:8080", "evil.example", false},
		{"192.168.1.5:8080", "192.168.1.5:8080", true},
		{"192.168.1.5:8080", "192.168.1.6:8080", false},
		{":8080", "192.168.1.5:8080", true},
		{"0.0.0.0:8080", "192.168.1.5:8080", true},
		{"[::]:8080", "[2001:db8::1]:8080", true},
		{":8080", "evil.example:8080", false},
		{":8080", "", false},
	} {
		require.Equal(t, test.want, hostCheck(test.addr)(test.host), "%q at %q", test.host, test.addr)
	}
}

func TestCommandRefusesBadInput(t *testing.T) {
	cycle := filepath.Join(t.TempDir(), "plan.json")
	require.NoError(t, os.WriteFile(cycle, []byte(
		`{"title":"t","tasks":[{"id":"a","title":"t","command":["true"],"dependsOn":["a"]}]}`), 0o600))
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"flag", []string{"-nope"}, "-nope"},
		{"argument", []string{"run"}, `unexpected argument "run"`},
		{"transport", []string{"-transport", "pigeon"}, `-transport "pigeon": want http, fasthttp or websocket`},
		{"no plan", []string{"-plan", "nope.json"}, "nope.json"},
		{"plan", []string{"-plan", cycle}, cycle + ": tasks[0].dependsOn[0]: cycle: a -> a"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			require.Equal(t, 2, command(t.Context(), test.args, &stdout, &stderr))
			require.Contains(t, stderr.String(), test.want)
			require.Empty(t, stdout.String())
		})
	}
}

func TestCommandAddressInUse(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	var stderr bytes.Buffer
	require.Equal(t, 1, command(t.Context(), []string{"-addr", listener.Addr().String()}, io.Discard, &stderr))
	require.Contains(t, stderr.String(), "in use")
}

func TestStopEndsStreamsAndProcesses(t *testing.T) {
	for _, transport := range transportNames {
		t.Run(transport, func(t *testing.T) {
			g := newGate(t)
			task, err := json.Marshal(helperTask("a", []string{}, "family", g.addr))
			require.NoError(t, err)
			file := filepath.Join(t.TempDir(), "plan.json")
			require.NoError(t, os.WriteFile(file, []byte(`{"title":"Test","tasks":[`+string(task)+`]}`), 0o600))

			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			stdout, banner := io.Pipe()
			var stderr bytes.Buffer
			code := make(chan int, 1)
			go func() {
				code <- command(ctx, []string{"-addr", "127.0.0.1:0", "-plan", file, "-transport", transport}, banner, &stderr)
			}()
			line, err := bufio.NewReader(stdout).ReadString('\n')
			require.NoError(t, err)
			_, rest, _ := strings.Cut(line, "http://")
			addr, _, _ := strings.Cut(rest, "/")
			e := &endpoint{t, transport, addr}
			id := e.start()
			var all viewers
			all.join(e, id, 3)
			g.await("parent", "child")
			stop()
			require.Equal(t, 0, <-code, stderr.String())
			g.requireDead("parent")
			g.requireDead("child")
			all.wg.Wait()
			for _, v := range all.seen {
				require.NoError(t, v.err)
				events := withoutIDs(t, v.events)
				require.Contains(t, events[len(events)-2], `execution-complete {"executionId":"`+id+`","status":"cancelled"`)
				require.Equal(t, "stream-end {}", events[len(events)-1])
			}
		})
	}
}
