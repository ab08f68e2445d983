package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// The viewers run in a process of their own: this program again, with a role.
// The two talk in JSON values over the role's standard input and output.

// roleVariable is the environment variable that names a role.
const roleVariable = "EXECCAST_FAULTS_ROLE"

var roles = map[string]func(*channel) error{
	"faults":    watchFaults,
	"finish":    watchFinish,
	"isolation": watchIsolation,
	"vanish":    watchVanish,
	"keyed":     watchKeyed,
	"shutdown":  watchShutdown,
	"elsewhere": serveElsewhere,
}

// channel carries JSON values both ways. Any number of goroutines may send,
// one may receive.
type channel struct {
	dec *json.Decoder

	mu  sync.Mutex
	enc *json.Encoder
}

func (c *channel) send(v any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.enc.Encode(v)
}

func (c *channel) receive(v any) error { return c.dec.Decode(v) }

// peer is a running role, as the process that started it sees it.
type peer struct {
	channel
	cmd   *exec.Cmd
	stdin io.Closer
}

// start starts a role and gives it its job. In front of the program, command
// may name another that runs it. The caller stops it; it ends with
// c.ctx too.
func (c *config) start(role string, job any, command ...string) (*peer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command = append(command, self)
	cmd := exec.CommandContext(c.ctx, command[0], command[1:]...)
	// The race detector, if it is there, need not wait a second at the end.
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "GORACE="+os.Getenv("GORACE")+" atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &peer{channel: channel{dec: json.NewDecoder(out), enc: json.NewEncoder(in)}, cmd: cmd, stdin: in}
	if err := p.send(job); err != nil {
		p.stop(&err)
		return nil, err
	}
	return p, nil
}

// stop ends the peer, and adds to err if that has not gone well. A role whose
// input has ended has a moment to end by itself.
func (p *peer) stop(err *error) {
	p.stdin.Close()
	kill := time.AfterFunc(10*time.Second, func() { p.cmd.Process.Kill() })
	defer kill.Stop()
	if e := p.cmd.Wait(); e != nil {
		*err = errors.Join(*err, fmt.Errorf("viewers' process: %w", e))
	}
}

// runRole is the program when it has a role.
func runRole(role string) int {
	run := roles[role]
	if run == nil {
		fmt.Fprintf(os.Stderr, "faults: no role %q\n", role)
		return 2
	}
	err := run(&channel{dec: json.NewDecoder(os.Stdin), enc: json.NewEncoder(os.Stdout)})
	if err != nil && !errors.Is(err, io.EOF) { // whoever started it has gone
		fmt.Fprintf(os.Stderr, "faults: %s: %v\n", role, err)
		return 1
	}
	return 0
}
