package main

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync/atomic"
	"unicode"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// plainView prints lines, and the state of the connection beside them.
type plainView struct{ out, state io.Writer }

func (v plainView) line(text string)         { fmt.Fprintln(v.out, clean(text)) }
func (v plainView) connection(state string)  { fmt.Fprintln(v.state, "watch:", clean(state)) }
func (plainView) taskStarted(string, string) {}
func (plainView) taskEnded(string)           {}
func (plainView) progress(int64, int64)      {}
func (plainView) close()                     {}

// maxBars bounds the tasks that have a bar of their own, so that they fit on
// the screen.
const maxBars = 10

// barView keeps bars at the bottom of a terminal, below the lines: one for each
// running task, and one for all of them with the connection's state.
type barView struct {
	bars  *mpb.Progress
	all   *mpb.Bar
	tasks map[string]*mpb.Bar
	state atomic.Value // string; the bars are drawn by a goroutine of their own
}

func newBarView(out io.Writer) *barView {
	v := &barView{
		bars:  mpb.New(mpb.WithOutput(out), mpb.WithAutoRefresh()),
		tasks: map[string]*mpb.Bar{},
	}
	v.connection("connecting")
	v.all = v.bars.AddBar(0,
		mpb.BarPriority(1<<30), // below the tasks
		mpb.BarFillerMiddleware(func(base mpb.BarFiller) mpb.BarFiller {
			return mpb.BarFillerFunc(func(w io.Writer, s decor.Statistics) error {
				if s.Total == 0 {
					return nil // other streams have no tasks
				}
				return base.Fill(w, s)
			})
		}),
		mpb.PrependDecorators(decor.Any(func(s decor.Statistics) string {
			if s.Total == 0 {
				return ""
			}
			return fmt.Sprintf("%d/%d ", s.Current, s.Total)
		})),
		mpb.BarFillerTrim(),
		mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string {
			state := v.state.Load().(string)
			if s.Total == 0 {
				return state
			}
			return " " + state
		})),
	)
	return v
}

func (v *barView) line(text string) {
	fmt.Fprintln(v.bars, clean(text)) // fails when the output has failed, which ends the bars too
}

func (v *barView) connection(state string) { v.state.Store(clean(state)) }

func (v *barView) taskStarted(id, title string) {
	if v.tasks[id] != nil || len(v.tasks) == maxBars {
		return
	}
	if title == "" {
		title = id
	}
	bar, err := v.bars.Add(0, mpb.SpinnerStyle().PositionLeft().Build(), mpb.BarFillerTrim(),
		mpb.PrependDecorators(decor.Name("  "+clean(title)+" "), decor.Elapsed(decor.ET_STYLE_GO), decor.Name(" ")))
	if err == nil {
		v.tasks[id] = bar
	}
}

func (v *barView) taskEnded(id string) {
	if bar := v.tasks[id]; bar != nil {
		bar.Abort(true)
		delete(v.tasks, id)
	}
}

func (v *barView) progress(complete, total int64) {
	total = max(total, 0)
	v.all.SetTotal(total, false)
	v.all.SetCurrent(min(max(complete, 0), total))
}

// close leaves the bar of all tasks on the screen, as it is.
func (v *barView) close() {
	for id := range v.tasks {
		v.taskEnded(id)
	}
	v.all.Abort(false)
	v.bars.Wait()
}

// escapes are the control sequences of terminals (ECMA-48, section 5.4) and
// their control strings, such as titles and links.
var escapes = regexp.MustCompile("(?:\x1b\\[|\u009b)[0-?]*[ -/]*[@-~]|(?:\x1b[]PX^_]|[\u009d\u0090\u0098\u009e\u009f])[^\x07\x1b\u009c]*(?:\x07|\x1b\\\\|\u009c)?|\x1b[ -/]*[0-~]")

// clean makes one harmless line of what a stranger has sent: without what would
// move the cursor, change the terminal or turn the text around.
func clean(s string) string {
	s = escapes.ReplaceAllString(s, "")
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return r
		case r == '\n' || r == '\u2028' || r == '\u2029':
			return ' '
		case unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
}
