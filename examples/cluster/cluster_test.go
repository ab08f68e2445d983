package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// running is a cluster in processes of its own.
type running struct {
	t    *testing.T
	addr []string
	nats []string // addresses of the nodes' servers

	mu     sync.Mutex
	output bytes.Buffer
	pids   []int // of each node, the newest
}

var started = regexp.MustCompile(`node (\d): http://(\S+)/ .*kill -9 (\d+)`)

func launch(t *testing.T, args ...string) *running {
	program := filepath.Join(t.TempDir(), "cluster")
	out, err := exec.Command("go", "build", "-ldflags", "-X github.com/execcast/execcast/adapters/jetstream.unguarded="+*unguarded,
		"-o", program, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	ports, err := freePorts(9)
	require.NoError(t, err)
	c := &running{t: t, addr: make([]string, 3), pids: make([]int, 3)}
	for i := range 3 {
		c.nats = append(c.nats, "nats://127.0.0.1:"+ports[3+2*i])
	}
	cmd := exec.Command(program, append(args, "-http", "127.0.0.1:"+strings.Join(ports[:3], ",127.0.0.1:"), "-ports", strings.Join(ports[3:], ","), "-store", t.TempDir())...)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = c
	require.NoError(t, cmd.Start())
	var reading sync.WaitGroup
	reading.Go(func() {
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			fmt.Fprintln(c, lines.Text())
			if m := started.FindStringSubmatch(lines.Text()); m != nil {
				i, _ := strconv.Atoi(m[1])
				c.mu.Lock()
				c.addr[i-1] = m[2]
				c.pids[i-1], _ = strconv.Atoi(m[3])
				c.mu.Unlock()
			}
		}
	})
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		hang := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		reading.Wait()
		err := cmd.Wait()
		if !hang.Stop() {
			t.Errorf("the cluster does not end: %v", err)
		}
		if t.Failed() {
			t.Logf("the cluster said:\n%s", c.output.String())
		}
	})
	return c
}

func (c *running) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.output.Write(p)
}

func (c *running) pid(i int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pids[i]
}

func (c *running) url(i int, path string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return "http://" + c.addr[i] + path
}

// start has a node start an execution, as soon as there is one that can: they
// are processes, which can only be asked again.
func (c *running) start(i int) string {
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(100 * time.Millisecond) {
		if c.pid(i) == 0 {
			continue
		}
		resp, err := http.Post(c.url(i, "/api/executions"), "", nil)
		if err != nil {
			continue
		}
		var answer struct{ ID string }
		err = json.NewDecoder(resp.Body).Decode(&answer)
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK && err == nil {
			return answer.ID
		}
	}
	c.t.Fatal("hang: no node starts an execution")
	return ""
}

// viewer reads event streams by itself, as plainly as can be, and moves on when
// one ends.
type viewer struct {
	c        *running
	id       string
	at       int
	last     string
	moves    int
	steps    []int
	gaps     int
	ends     int
	told     int // of these, by a status
	finished bool
	sent     int64  // when the last event was, in nanoseconds since 1970
	settled  int    // moves, once something live has come after the last; -1 before the first
	hop      func() // ends the connection
}

// follow reads until the execution has finished; after each step it calls seen.
func (v *viewer) follow(ctx context.Context, seen func()) error {
	for !v.finished {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("at step %d: %w", len(v.steps), err)
		}
		v.stream(ctx, seen)
		if !v.finished {
			v.at = (v.at + 1) % 3
			v.moves++
			time.Sleep(50 * time.Millisecond) // as a client waits before it reconnects
		}
	}
	return nil
}

func (v *viewer) stream(ctx context.Context, seen func()) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	v.hop = cancel
	// Three heartbeats without a byte: the node is gone, or stopped.
	silence := time.AfterFunc(6*time.Second, cancel)
	defer silence.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.c.url(v.at, "/api/executions/"+v.id+"/events"), nil)
	if err != nil {
		return
	}
	if v.last != "" {
		req.Header.Set("Last-Event-ID", v.last)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		// The end did not come before the node went; this says the same to a
		// viewer that has everything.
		v.finished = true
		v.ends++
		v.told++
		return
	}
	in := bufio.NewReader(resp.Body)
	var id, event, data string
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return // what came of a frame that is cut comes again
		}
		silence.Reset(6 * time.Second)
		line = strings.TrimSuffix(line, "\n")
		name, value, _ := strings.Cut(line, ": ")
		switch {
		case name == "id":
			id = value
		case name == "event":
			event = value
		case name == "data":
			data = value
		case line == "" && event == "step":
			var step struct {
				Step int
				At   int64
			}
			if json.Unmarshal([]byte(data), &step) != nil {
				step.Step = -1
			}
			v.steps = append(v.steps, step.Step)
			v.last, v.sent = id, step.At
			seen()
			if time.Since(time.Unix(0, step.At)) < 200*time.Millisecond {
				v.settled = v.moves
			}
		case line == "" && event == "stream-gap":
			v.gaps++
		case line == "" && event == "stream-end":
			v.finished = true
			v.ends++
			return
		}
		if line == "" {
			id, event, data = "", "", ""
		}
	}
}

// Viewers of a node that is killed go on at another without a lost line, also
// when the others are killed or stopped later.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	c := launch(t)
	id := c.start(0)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var viewers []*viewer
	var wg sync.WaitGroup
	var failures sync.Map
	for i := range 6 {
		v := &viewer{c: c, id: id, at: i % 3}
		viewers = append(viewers, v)
		seen := func() {}
		if i == 0 {
			seen = func() {
				switch len(v.steps) {
				case 40, 160:
					_ = syscall.Kill(c.pid(v.at), syscall.SIGKILL)
				case 100:
					pid := c.pid(v.at)
					_ = syscall.Kill(pid, syscall.SIGSTOP)
					time.AfterFunc(3*time.Second, func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
				}
			}
		}
		wg.Go(func() {
			if err := v.follow(ctx, seen); err != nil {
				failures.Store(i, err)
			}
		})
	}
	wg.Wait()
	failures.Range(func(i, err any) bool {
		t.Errorf("viewer %d: %v", i, err)
		return true
	})
	moves := 0
	for i, v := range viewers {
		for j, step := range v.steps {
			require.Equal(t, j+1, step, "viewer %d, line %d: lost, doubled or out of order", i, j)
		}
		require.Len(t, v.steps, steps, "viewer %d", i)
		require.Zero(t, v.gaps, "viewer %d", i)
		moves += v.moves
	}
	require.GreaterOrEqual(t, viewers[0].moves, 2, "the node of the first viewer was killed twice")
	t.Logf("2 kills, 1 stop, %d viewers of %d lines, %d moves: 0 lost, 0 doubled, 0 reordered", len(viewers), steps, moves)
}

func TestBadFlags(t *testing.T) {
	for _, args := range [][]string{{"-http", ""}, {"-http", "a:1,,b:2"}, {"x"}, {"-unknown"}} {
		require.Equal(t, 2, command(t.Context(), args, io.Discard, io.Discard), "%q", args)
	}
	require.Zero(t, command(t.Context(), []string{"-h"}, io.Discard, io.Discard))
}

func TestMain(m *testing.M) {
	http.DefaultClient.Transport = &http.Transport{MaxIdleConnsPerHost: -1, DisableKeepAlives: true}
	os.Exit(m.Run())
}
