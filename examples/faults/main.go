// Command faults shows what execcast promises, over real sockets: it runs
// servers of every adapter, has viewers in another process watch them, and
// makes everything go wrong that can. It prints figures and exits with status 1
// if a count is not what it has to be. Times are printed, never judged.
//
//	go run ./examples/faults                     everything, some minutes
//	go run ./examples/faults -short              a taste
//	go run ./examples/faults -only finish,keyed  some sections
//	go run ./examples/faults -break forget-id    plant a fault, and be told
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/execcast/execcast/core"
)

func main() {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(runRole(role))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(command(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// A section is one promise and how it is put to the test.
type section struct {
	name string
	run  func(*config) error
}

var sections = []section{
	{"faults", runFaults},
	{"finish", runFinish},
	{"isolation", runIsolation},
	{"vanish", runVanish},
	{"keyed", runKeyed},
	{"shutdown", runShutdown},
}

// A sabotage breaks something on purpose. The section must then fail, with an
// error that contains says.
type sabotage struct {
	name, section, says, what string
}

var sabotages = []sabotage{
	{"forget-id", "faults", "doubled", "viewers reconnect without their last ID"},
	{"skip-id", "faults", "lost", "viewers reconnect with an ID one too high"},
	{"swap", "faults", "reordered", "two events are published in the wrong order"},
	{"hide-gap", "faults", "lost", "the announcements of gaps do not reach the viewers"},
	{"false-gap", "faults", "without a loss", "viewers see a gap announced that is none"},
	{"half-close", "finish", "clean", "connections cannot be half-closed: those with unread input are reset"},
	{"forget", "finish", "clean", "executions are forgotten instead of closed"},
	{"no-timeout", "isolation", "cut", "writes have no time limit"},
	{hoard, "isolation", "KiB", "every viewer costs the server 96 KiB more"},
	{"no-heartbeat", "vanish", "still", "there are no heartbeats"},
	{"no-keys", "keyed", "late viewer", "ticks are published without their keys"},
	{"cut", "shutdown", "Shutdown", "shutting down does not wait"},
	{"refuse", "shutdown", "5xx", "viewers that come during the shutdown are answered 503"},
}

// hoard shows only in a process that does nothing else.
const hoard = "hoard"

// config is how one run of a section goes.
type config struct {
	ctx      context.Context
	out      io.Writer
	seed     uint64
	sabotage string // "" for none
	patience time.Duration
	variants []variant

	// faults
	viewers, events, faults int
	// finish
	runs int
	// isolation: viewers that read, and as many that do not
	beside       int
	writeTimeout time.Duration // 0 for the default
	// vanish
	vanishing int
	heartbeat time.Duration
	// keyed: ticks and results, in a history of twice the results
	ticks, results int
	// shutdown
	streams int
	// together runs the variants at the same time, not one after the other.
	together bool
}

// full are the figures that are promised, short a taste of them, and tiny is
// enough for a sabotage to show.
func full() config {
	return config{patience: time.Minute, variants: variants, viewers: 200, events: 1000, faults: 1000, runs: 1000,
		beside: 1000, vanishing: 50, heartbeat: time.Second, ticks: 100_000, results: 1000, streams: 10_000}
}

func short() config {
	c := full()
	c.viewers, c.events, c.faults, c.runs = 20, 200, 100, 10
	c.beside, c.writeTimeout = 20, 2*time.Second
	c.vanishing, c.heartbeat = 10, 500*time.Millisecond
	c.ticks, c.results, c.streams = 5000, 100, 300
	c.together = true
	return c
}

func tiny() config {
	c := short()
	c.patience, c.writeTimeout = 8*time.Second, 4*time.Second
	c.variants = variants[1:2]
	c.viewers, c.runs, c.beside, c.streams = 10, 20, 10, 30
	return c
}

func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("faults", flag.ContinueOnError)
	flags.SetOutput(stderr)
	isShort := flags.Bool("short", false, "run a small version of everything")
	only := flags.String("only", "", "run only these `sections`: "+strings.Join(names(sections, func(s section) string { return s.name }), ", "))
	transport := flags.String("transport", "", "serve only over this one `transport`, such as httpsse")
	seed := flags.Uint64("seed", rand.Uint64(), "where the faults strike")
	broken := flags.String("break", "", "plant a `fault` that must turn its section red: "+
		strings.Join(names(sabotages, func(s sabotage) string { return s.name + " (" + s.what + ")" }), ", "))
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	c := full()
	if *isShort {
		c = short()
	}
	c.ctx, c.out, c.seed = ctx, stdout, *seed
	c.sabotage = *broken
	if *transport != "" {
		c.variants = slices.DeleteFunc(slices.Clone(variants), func(v variant) bool { return !strings.HasPrefix(v.name, *transport) })
		if len(c.variants) == 0 {
			fmt.Fprintf(stderr, "faults: no transport %q\n", *transport)
			return 2
		}
	}
	chosen := sections
	if *only != "" {
		list := strings.Split(*only, ",")
		chosen = slices.DeleteFunc(slices.Clone(sections), func(s section) bool { return !slices.Contains(list, s.name) })
		if len(chosen) != len(list) {
			fmt.Fprintf(stderr, "faults: -only %s: no such section\n", *only)
			return 2
		}
	}
	if *broken != "" {
		i := slices.IndexFunc(sabotages, func(s sabotage) bool { return s.name == *broken })
		if i < 0 {
			fmt.Fprintf(stderr, "faults: -break %s: no such fault\n", *broken)
			return 2
		}
		chosen = slices.DeleteFunc(slices.Clone(sections), func(s section) bool { return s.name != sabotages[i].section })
	}

	c.printf("seed %d", c.seed)
	failed := false
	for _, s := range chosen {
		start := time.Now()
		if err := s.run(&c); err != nil {
			failed = true
			c.printf("%s: FAILED:\n  %s", s.name, strings.ReplaceAll(err.Error(), "\n", "\n  "))
		}
		c.printf("%s: %.1f s", s.name, time.Since(start).Seconds())
	}
	if *broken == "" {
		start := time.Now()
		if err := c.testSabotages(chosen); err != nil {
			failed = true
			c.printf("FAILED: %v", err)
		}
		c.printf("sabotage: %.1f s", time.Since(start).Seconds())
	}
	if failed {
		return 1
	}
	return 0
}

// testSabotages breaks what the sections check, in every way there is, and
// returns an error if one does not notice.
func (c *config) testSabotages(chosen []section) error {
	var errs checks
	var mu sync.Mutex
	test := func(s section, b sabotage) {
		t := tiny()
		t.ctx, t.out, t.seed, t.sabotage = c.ctx, io.Discard, c.seed, b.name
		if s.name == "vanish" {
			t.variants = variants[4:5] // WebSocket can tell wherever the viewers run
		}
		err := s.run(&t)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			errs.add(fmt.Errorf("%s: went unnoticed: %s", s.name, b.what))
		case !strings.Contains(err.Error(), b.says):
			errs.add(fmt.Errorf("%s: %s, but what was noticed is: %w", s.name, b.what, err))
		default:
			c.printf("%-9s  broken on purpose: %s: noticed, as it must be", s.name, b.what)
		}
	}
	var all sync.WaitGroup
	for _, s := range chosen {
		for _, b := range sabotages {
			if b.section == s.name && b.name != hoard {
				all.Go(func() { test(s, b) })
			}
		}
	}
	all.Wait()
	for _, s := range chosen {
		for _, b := range sabotages {
			if b.section == s.name && b.name == hoard {
				test(s, b)
			}
		}
	}
	return errs.err()
}

// overEach runs a part of a section for every variant.
func (c *config) overEach(part func(variant) error) error {
	limit := 1
	if c.together {
		limit = len(c.variants)
	}
	errs := make([]error, len(c.variants))
	each(len(c.variants), limit, func(i int) { errs[i] = part(c.variants[i]) })
	return errors.Join(errs...)
}

var printing sync.Mutex

func (c *config) printf(format string, args ...any) {
	printing.Lock()
	defer printing.Unlock()
	fmt.Fprintf(c.out, format+"\n", args...)
}

// figure prints one line of figures of a variant.
func (c *config) figure(section, variant, format string, args ...any) {
	c.printf("%-9s  %-38s  %s", section, variant, fmt.Sprintf(format, args...))
}

// registry makes a registry whose warnings, which are what is asked for here,
// go nowhere.
func registry(o core.Options) *core.Registry {
	o.Logger = slog.New(slog.DiscardHandler)
	return core.New(&o)
}

// await waits until condition holds; it returns false if that takes so long
// that it never will.
func (c *config) await(condition func() bool) bool {
	for deadline := time.Now().Add(c.patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) || c.ctx.Err() != nil {
			return condition()
		}
	}
	return true
}

// checks collects what is not as it has to be.
type checks struct{ errs []error }

func (c *checks) that(ok bool, format string, args ...any) {
	if !ok {
		c.errs = append(c.errs, fmt.Errorf(format, args...))
	}
}

func (c *checks) add(err error) {
	if err != nil {
		c.errs = append(c.errs, err)
	}
}

func (c *checks) err() error { return errors.Join(c.errs...) }

func names[T any](list []T, name func(T) string) []string {
	all := make([]string, len(list))
	for i, x := range list {
		all[i] = name(x)
	}
	return all
}
