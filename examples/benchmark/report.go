//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// report prints the tables, and reports whether all of ours have delivered
// everything in order.
func report(w io.Writer, c *config, t *tally, took time.Duration) (ok bool) {
	r := &reporter{w, t}
	fmt.Fprintf(w, "%s. %d rounds of %d slices of %v, %v in all. Events of %d bytes, a flush each.\n",
		machine(), c.rounds, c.slices, c.slice, took.Round(time.Second), eventBytes)
	fmt.Fprintf(w, "CPU is the server's, user and system, in µs for each event delivered to a client. ÷ limit is the ratio to the\n"+
		"write(2) loop in the same moment. Both are medians over the rounds; in brackets the lowest and highest round.\n\n")

	few, many, most := c.clients[0], c.clients[1], c.clients[2]
	if t.any(fewOne, manyOne, mostOne) {
		fmt.Fprintf(w, "### One event in flight\n\n")
		r.head(cpuHead(count(few)), cpuHead(count(many)), cpuHead(count(most)))
		for i := range contenders {
			r.row(&contenders[i], r.cpu(fewOne), r.cpu(manyOne), r.cpu(mostOne))
		}
	}
	if t.any(many64, spreadOne) {
		fmt.Fprintf(w, "\n### %s, 64 events in flight; %s executions with a client each\n\n", count(many), comma(many))
		r.head(append(cpuHead("64 in flight"), "allocations"), append(cpuHead(comma(many)+" × 1"), "allocations"))
		for i := range contenders {
			r.row(&contenders[i], r.cpu(many64), r.allocations(many64), r.cpu(spreadOne), r.allocations(spreadOne))
		}
	}
	if t.any(fewRate, manyRate, mostMemory) {
		fmt.Fprintf(w, "\n### Latency, memory, and how long publishing blocks\n\nLatency: %s, 20 events a second. Publish: its caller, at a steady rate, %s and %s. Idle: growth of the resident set, and of\nheap and stacks, after a garbage collection. In ms, KiB, µs.\n\n",
			count(many), count(few), count(most))
		r.head([]string{"p50 ms", "p99 ms"}, []string{"idle, resident KiB", "heap KiB"},
			publishHead(few), publishHead(most), []string{"lost", "out of order"})
		for i := range contenders {
			k := &contenders[i]
			r.row(k, r.latency(manyRate), r.memory(), r.publish(fewRate), r.publish(mostRate), r.faults())
		}
	}
	if t.any(stuckRate) {
		fmt.Fprintf(w, "\n### One of %s never reads\n\nThe others, at 50 events a second.\n\n", count(many))
		r.head([]string{"p50 ms", "p99 ms", "worst ms", "lost", "out of order", "its connection was full"})
		for i := range contenders {
			r.row(&contenders[i], r.stuck())
		}
	}
	r.ratios()
	return r.sound()
}

func machine() string {
	var u syscall.Utsname
	syscall.Uname(&u)
	var release []byte
	for _, b := range u.Release {
		if b == 0 {
			break
		}
		release = append(release, byte(b))
	}
	model := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d cores of %s, %s, Linux %s", runtime.NumCPU(), model, runtime.Version(), release)
}

func comma(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}

func count(n int) string { return comma(n) + " clients" }

func (t *tally) any(phases ...string) bool {
	return slices.ContainsFunc(phases, func(p string) bool { return t.figures[p] != nil })
}

type reporter struct {
	io.Writer
	t *tally
}

// cells makes the cells of one contender.
type cells func(k *contender) []string

func (r *reporter) head(groups ...[]string) {
	all := slices.Concat(groups...)
	fmt.Fprintf(r, "| | %s |\n|---|%s\n", strings.Join(all, " | "), strings.Repeat("--:|", len(all)))
}

// row prints a contender, if it was measured.
func (r *reporter) row(k *contender, groups ...cells) {
	var all []string
	for _, g := range groups {
		all = append(all, g(k)...)
	}
	if strings.Trim(strings.Join(all, ""), "–0") == "" {
		return
	}
	name := k.name
	if k.ours {
		name = "**" + name + "**"
	}
	fmt.Fprintf(r, "| %s | %s |\n", name, strings.Join(all, " | "))
}

func nothing(n int) []string { return slices.Repeat([]string{"–"}, n) }

func cpuHead(what string) []string { return []string{what + ": CPU µs", "÷ limit", "user µs"} }

func publishHead(clients int) []string {
	return []string{"publish " + comma(clients) + ": mean µs", "p50", "p99", "worst"}
}

// each returns what value yields for the rounds of a phase that were measured.
func (r *reporter) each(phase, contender string, value func(round int, s *sums) (float64, bool)) (list []float64) {
	f := r.t.figures[phase][contender]
	if f == nil {
		return nil
	}
	for i := range f.rounds {
		if s := &f.rounds[i]; !s.stalled {
			if v, ok := value(i, s); ok {
				list = append(list, v)
			}
		}
	}
	return list
}

func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	list = slices.Sorted(slices.Values(list))
	return (list[(len(list)-1)/2] + list[len(list)/2]) / 2
}

// cpu returns what a delivery costs: the median over the slices, because
// another process may have got in the way of some.
func (s *sums) cpu() (µs float64, ok bool) { return median(s.slices), len(s.slices) > 0 }

func (s *sums) per(d time.Duration) (µs float64, ok bool) {
	if s.delivered == 0 {
		return 0, false
	}
	return float64(d.Nanoseconds()) / 1000 / float64(s.delivered), true
}

func cpuOf(_ int, s *sums) (float64, bool) { return s.cpu() }

// over returns a contender's CPU as a ratio to another's, round by round: the
// median over the slices, each compared with the other's of the same moment.
func (r *reporter) over(phase, contender, other string) []float64 {
	return r.each(phase, contender, func(round int, s *sums) (float64, bool) {
		f := r.t.figures[beside(phase, contender)][other]
		if f == nil {
			f = r.t.figures[phase][other]
		}
		if f == nil || round >= len(f.rounds) || f.rounds[round].stalled {
			return 0, false
		}
		var ratios []float64
		others := f.rounds[round].slices
		for i, µs := range s.slices {
			if i < len(others) && others[i] > 0 {
				ratios = append(ratios, µs/others[i])
			}
		}
		return median(ratios), len(ratios) > 0
	})
}

func (r *reporter) cpu(phase string) cells {
	return func(k *contender) []string {
		list := r.each(phase, k.name, cpuOf)
		if len(list) == 0 {
			if f := r.t.figures[phase][k.name]; f != nil {
				return []string{"stalled", "–", "–"}
			}
			return nothing(3)
		}
		ratios := r.over(phase, k.name, limitName)
		return []string{
			fmt.Sprintf("%.2f", median(list)),
			fmt.Sprintf("%.2f (%.2f–%.2f)", median(ratios), slices.Min(ratios), slices.Max(ratios)),
			fmt.Sprintf("%.2f", r.user(phase, k.name)),
		}
	}
}

// user returns the user time of all rounds: a clock tick of the kernel is too
// long for each on its own.
func (r *reporter) user(phase, contender string) float64 {
	var all sums
	for _, s := range r.t.figures[phase][contender].rounds {
		if !s.stalled {
			all.user += s.user
			all.delivered += s.delivered
		}
	}
	µs, _ := all.per(all.user)
	return µs
}

func (r *reporter) allocations(phase string) cells {
	return func(k *contender) []string {
		list := r.each(phase, k.name, func(_ int, s *sums) (float64, bool) {
			return float64(s.mallocs) / float64(s.delivered), s.delivered > 0
		})
		if len(list) == 0 {
			return nothing(1)
		}
		return []string{fmt.Sprintf("%.2f", median(list))}
	}
}

// pooled merges a histogram over all rounds.
func (r *reporter) pooled(phase, contender string, of func(*sums) *histogram) (h histogram) {
	if f := r.t.figures[phase][contender]; f != nil {
		for i := range f.rounds {
			h.merge(of(&f.rounds[i]))
		}
	}
	return h
}

func latencyOf(s *sums) *histogram { return &s.latency }
func publishOf(s *sums) *histogram { return &s.publish }

func ms(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()*1000) }

func µs(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()*1e6) }

func (r *reporter) latency(phase string) cells {
	return func(k *contender) []string {
		h := r.pooled(phase, k.name, latencyOf)
		if h.n == 0 {
			return nothing(2)
		}
		return []string{ms(h.quantile(.5)), ms(h.quantile(.99))}
	}
}

func (r *reporter) publish(phase string) cells {
	return func(k *contender) []string {
		h := r.pooled(phase, k.name, publishOf)
		if h.n == 0 {
			return nothing(4)
		}
		return []string{µs(h.mean()), µs(h.quantile(.5)), µs(h.quantile(.99)), µs(h.worst)}
	}
}

func (r *reporter) memory() cells {
	return func(k *contender) []string {
		resident := r.each(mostMemory, k.name, func(_ int, s *sums) (float64, bool) { return s.resident, true })
		heap := r.each(mostMemory, k.name, func(_ int, s *sums) (float64, bool) { return s.heap, true })
		if len(resident) == 0 {
			return nothing(2)
		}
		return []string{fmt.Sprintf("%.1f", median(resident)), fmt.Sprintf("%.1f", median(heap))}
	}
}

// faults adds up all phases but the one that provokes them.
func (r *reporter) faults() cells {
	return func(k *contender) []string {
		var lost, disorder int64
		stalled := false
		for phase, figures := range r.t.figures {
			if f := figures[k.name]; f != nil && phase != stuckRate {
				for _, s := range f.rounds {
					lost += s.lost
					disorder += s.disorder
					stalled = stalled || s.stalled
				}
			}
		}
		text := fmt.Sprint(lost)
		if stalled {
			text += ", stalled"
		}
		return []string{text, fmt.Sprint(disorder)}
	}
}

func (r *reporter) stuck() cells {
	return func(k *contender) []string {
		f := r.t.figures[stuckRate][k.name]
		if f == nil {
			return nothing(6)
		}
		s := f.rounds[0]
		full, lost := "no", fmt.Sprint(s.lost)
		if s.blocked {
			full = "yes"
		}
		if s.stalled {
			lost += ", stalled"
		}
		return []string{
			ms(s.latency.quantile(.5)), ms(s.latency.quantile(.99)), ms(s.latency.worst), lost, fmt.Sprint(s.disorder), full,
		}
	}
}

// ratios prints how ours compare with others.
func (r *reporter) ratios() {
	type comparison struct{ phase, other string }
	list := []comparison{
		{manyOne, "tmaxmax/go-sse"}, {many64, "tmaxmax/go-sse"}, {many64, "olahol/melody"}, {many64, "lxzan/gws"}, {many64, limit64Name},
	}
	begun := false
	for _, l := range list {
		for _, k := range contenders {
			ratios := r.over(l.phase, k.name, l.other)
			if !k.ours || len(ratios) == 0 {
				continue
			}
			if !begun {
				fmt.Fprintf(r, "\n### Ours ÷ others\n\n")
				r.head([]string{"compared with", "phase", "CPU", "user"})
				begun = true
			}
			user := "–"
			if other := r.user(l.phase, l.other); other > 0 {
				user = fmt.Sprintf("%.3f", r.user(l.phase, k.name)/other)
			}
			fmt.Fprintf(r, "| **%s** | %s | %s | %.3f (%.3f–%.3f) | %s |\n",
				k.name, l.other, l.phase, median(ratios), slices.Min(ratios), slices.Max(ratios), user)
		}
	}
}

// sound reports whether ours have delivered everything in order, with a stuck
// viewer as well.
func (r *reporter) sound() bool {
	ok := true
	for phase, figures := range r.t.figures {
		for _, k := range contenders {
			f := figures[k.name]
			if f == nil || !k.ours {
				continue
			}
			for _, s := range f.rounds {
				if s.lost > 0 || s.disorder > 0 || s.stalled {
					fmt.Fprintf(os.Stderr, "%s, %s: lost %d, out of order %d, stalled %v\n", k.name, phase, s.lost, s.disorder, s.stalled)
					ok = false
				}
			}
		}
	}
	return ok
}
