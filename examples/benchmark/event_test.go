//go:build linux

package main

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

func sse(seqs ...int64) []byte {
	p := []byte(head)
	for _, seq := range seqs {
		e := frame(nil, firstID, event(seq, 1_700_000_000_000_000_000+seq))
		p = fmt.Appendf(p, "%x\r\n%s\r\n:\n\n", len(e), e) // in a chunk, and a heartbeat
	}
	return p
}

func webSocket(seqs ...int64) []byte {
	p := []byte(head)
	for _, seq := range seqs {
		m := message(firstID, event(seq, 1_700_000_000_000_000_000+seq))
		p = append(p, 0x81, 126, byte(len(m)>>8), byte(len(m)))
		p = append(p, m...)
		p = append(p, 0x89, 0) // a ping
	}
	return p
}

// feedIn feeds p in reads of that many bytes and returns the times seen.
func feedIn(v *viewer, p []byte, size int) (times []int64) {
	var buf []byte
	for len(p) > 0 {
		n := min(size, len(p))
		buf = append(append([]byte(nil), v.rest...), p[:n]...)
		p = p[n:]
		done := v.feed(buf, func(e []byte) { times = append(times, due(e)-1_700_000_000_000_000_000) })
		v.rest = append(v.rest[:0], buf[done:]...)
	}
	return times
}

func TestViewerTakesEventsHoweverTheyArrive(t *testing.T) {
	require.Len(t, event(1, time.Now().UnixNano()), eventBytes)
	for size := 1; size < 700; size++ {
		v := viewer{}
		require.Equal(t, []int64{7, 8, 9}, feedIn(&v, sse(7, 8, 9), size))
		require.Zero(t, v.lost+v.disorder)

		v = viewer{websocket: true}
		require.Equal(t, []int64{7, 8, 9}, feedIn(&v, webSocket(7, 8, 9), size))
		require.Zero(t, v.lost+v.disorder)
		require.Equal(t, 3, v.pings)
	}
}

func TestViewerNoticesFaults(t *testing.T) {
	for _, test := range []struct {
		name           string
		seqs           []int64
		lost, disorder int64
	}{
		{"a gap", []int64{1, 2, 5}, 2, 0},
		{"a duplicate", []int64{1, 2, 2}, 0, 1},
		{"an exchange", []int64{1, 3, 2}, 1, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, v := range []*viewer{{}, {websocket: true}} {
				p := sse(test.seqs...)
				if v.websocket {
					p = webSocket(test.seqs...)
				}
				feedIn(v, p, 1000)
				require.Equal(t, test.lost, v.lost)
				require.Equal(t, test.disorder, v.disorder)
			}
		})
	}
	t.Run("a torn event", func(t *testing.T) {
		v := viewer{}
		p := sse(1, 2)
		torn := bytes.IndexByte(p, last) - 10
		feedIn(&v, append(p[:torn:torn], sse(3)[len(head):]...), 1000)
		require.NotZero(t, v.disorder)
	})
}

func TestHistogram(t *testing.T) {
	var h histogram
	for i := range 1000 {
		h.add(time.Duration(i+1) * time.Microsecond)
	}
	require.InEpsilon(t, 500*time.Microsecond, h.quantile(.5), .03)
	require.InEpsilon(t, 990*time.Microsecond, h.quantile(.99), .03)
	require.Equal(t, time.Millisecond, h.quantile(1))
	require.Equal(t, time.Millisecond, h.worst)
	for d := time.Duration(1); d < time.Minute; d = d*3/2 + 1 {
		require.InEpsilon(t, float64(d), float64(middle(bucket(d))), .04)
	}
	p, err := h.MarshalJSON()
	require.NoError(t, err)
	var again histogram
	require.NoError(t, again.UnmarshalJSON(p))
	require.Equal(t, h, again)
	again.merge(&h)
	require.Equal(t, int64(2000), again.n)
}
