//go:build linux

package main

import (
	"encoding/json"
	"math/bits"
	"time"
)

// histogram counts durations in buckets that are about 3 % wide.
type histogram struct {
	counts [steps * 40]int64 // up to about 18 min
	n      int64
	sum    time.Duration
	worst  time.Duration
}

const steps = 32 // buckets for each power of two, a power of two itself

func (h *histogram) add(d time.Duration) {
	h.counts[min(bucket(d), len(h.counts)-1)]++
	h.n++
	h.sum += d
	h.worst = max(h.worst, d)
}

func bucket(d time.Duration) int {
	v := uint64(max(d, 0))
	if v < 2*steps {
		return int(v)
	}
	shift := bits.Len64(v) - bits.Len64(steps)
	return shift*steps + int(v>>shift)
}

// middle returns the duration in the middle of a bucket.
func middle(bucket int) time.Duration {
	if bucket < 2*steps {
		return time.Duration(bucket)
	}
	shift := bucket/steps - 1
	return time.Duration(bucket%steps+steps)<<shift + 1<<shift/2
}

func (h *histogram) merge(o *histogram) {
	for b, n := range o.counts {
		h.counts[b] += n
	}
	h.n += o.n
	h.sum += o.sum
	h.worst = max(h.worst, o.worst)
}

func (h *histogram) mean() time.Duration {
	return h.sum / time.Duration(max(h.n, 1))
}

// quantile returns the duration that the share q of all does not exceed.
func (h *histogram) quantile(q float64) time.Duration {
	left := int64(q*float64(h.n-1)) + 1
	for b, n := range h.counts {
		if left -= n; left <= 0 {
			return min(middle(b), h.worst)
		}
	}
	return h.worst
}

// wire is a histogram between processes.
type wire struct {
	Counts        map[int]int64
	N, Sum, Worst int64
}

func (h *histogram) MarshalJSON() ([]byte, error) {
	w := wire{map[int]int64{}, h.n, int64(h.sum), int64(h.worst)}
	for b, n := range h.counts {
		if n > 0 {
			w.Counts[b] = n
		}
	}
	return json.Marshal(w)
}

func (h *histogram) UnmarshalJSON(p []byte) error {
	var w wire
	if err := json.Unmarshal(p, &w); err != nil {
		return err
	}
	*h = histogram{n: w.N, sum: time.Duration(w.Sum), worst: time.Duration(w.Worst)}
	for b, n := range w.Counts {
		if b >= 0 && b < len(h.counts) {
			h.counts[b] = n
		}
	}
	return nil
}
