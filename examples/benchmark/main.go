//go:build linux

// Benchmark measures what it costs to bring events to many viewers: with ours,
// with other Go libraries, and with nothing but write(2), which is the limit.
//
// Server and load generator are processes of their own on the loopback
// interface. All contenders of a scenario are connected at the same time and
// measured in turn, a slice of time each, over several rounds, so that what
// else the machine does hits all of them alike; compare what one run prints,
// not runs.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

type config struct {
	rounds    int
	slices    int
	slice     time.Duration
	clients   []int // few, many, most
	only      *regexp.Regexp
	scenarios []string
	profile   string
}

var scenarios = []string{"few", "many", "most", "spread", "stuck"}

func main() {
	role := flag.String("role", "", "internal")
	name := flag.String("name", "", "internal")
	executions := flag.Int("executions", 1, "internal")
	profile := flag.String("profile", "", "write CPU profiles of the servers to files that begin so")
	rounds := flag.Int("rounds", 5, "rounds, each with new processes")
	nslices := flag.Int("slices", 5, "slices of each contender in a round")
	slice := flag.Duration("slice", 200*time.Millisecond, "length of a slice")
	quick := flag.Bool("quick", false, "one round of two short slices, 2,000 clients at most")
	only := flag.String("only", "", "contenders to measure, a regular expression; the limit is always one")
	which := flag.String("scenarios", strings.Join(scenarios, ","), "scenarios to run")
	flag.Parse()

	switch *role {
	case "server":
		exit(childServer(*name, *executions, *profile))
	case "load":
		exit(childLoad())
	}
	runtime.LockOSThread() // the children die with the thread that started them
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		os.Exit(130)
	}()

	c := &config{
		rounds: *rounds, slices: *nslices, slice: *slice, clients: []int{100, 1000, 10_000},
		scenarios: strings.Split(*which, ","), profile: *profile,
	}
	if *quick {
		c.rounds, c.slices, c.slice, c.clients = 1, 2, 100*time.Millisecond, []int{100, 1000, 2000}
	}
	var err error
	if c.only, err = regexp.Compile(*only); err != nil {
		exit(err)
	}
	var files syscall.Rlimit
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files)
	if need := uint64(c.clients[2] + 100); files.Cur < need {
		exit(fmt.Errorf("a process may open %d files, %d are needed: ulimit -n", files.Cur, need))
	}
	for _, s := range c.scenarios {
		if !slices.Contains(scenarios, s) {
			exit(fmt.Errorf("no scenario is called %q", s))
		}
	}
	t := newTally()
	begin := time.Now()
	for round := range c.rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d, %v\n", round+1, c.rounds, time.Since(begin).Round(time.Second))
		if err := c.round(t, round); err != nil {
			exit(err)
		}
	}
	ok := report(os.Stdout, c, t, time.Since(begin))
	if !ok {
		os.Exit(1)
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
