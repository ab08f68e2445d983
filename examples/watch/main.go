// Command watch shows an execution in the terminal: the URL of any event
// stream, to its end and through every interruption. Tasks as the orchestrator
// example publishes them get progress bars, and all that happens a line; where
// the output is not a terminal, there are only the lines.
//
// It exits with 0 if the execution has succeeded, or has finished without
// saying how; with 1 if it has not, or could not be watched to its end; with 2
// for bad arguments; with 130 on an interrupt.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"

	"github.com/vbauerster/mpb/v8/cwriter"

	"github.com/execcast/execcast/adapters/httpsse"
)

const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // as shells report it: 128 and the signal's number
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := command(ctx, os.Args[1:], os.Stdout, os.Stderr, cwriter.IsTerminal(int(os.Stdout.Fd())))
	stop()
	os.Exit(code)
}

// command watches until the stream or ctx ends and returns the exit code.
func command(ctx context.Context, args []string, stdout, stderr io.Writer, isTerminal bool) int {
	flags := flag.NewFlagSet("watch", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: watch [flags] URL")
		flags.PrintDefaults()
	}
	opts := &httpsse.WatchOptions{Header: http.Header{}}
	flags.Func("header", "`header` to send, such as 'Authorization: Bearer …'; may be repeated", func(s string) error {
		name, value, found := strings.Cut(s, ":")
		if name = strings.TrimSpace(name); !found || name == "" {
			return errors.New("want 'Name: value'")
		}
		opts.Header.Add(name, strings.TrimSpace(value))
		return nil
	})
	flags.StringVar(&opts.LastEventID, "after", "", "`ID` of the event to go on after (default: from the beginning)")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage
	case flags.NArg() != 1:
		flags.Usage()
		return exitUsage
	}

	var v view = plainView{stdout, stderr}
	if isTerminal {
		v = newBarView(stdout)
	}
	err := watch(ctx, flags.Arg(0), opts, v)
	v.close()
	switch {
	case err == nil:
		return exitOK
	case ctx.Err() != nil:
		return exitInterrupted
	}
	fmt.Fprintln(stderr, "watch:", clean(err.Error()))
	if errors.Is(err, httpsse.ErrWatchOptions) {
		return exitUsage
	}
	return exitFailed
}
