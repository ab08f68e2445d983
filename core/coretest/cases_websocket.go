package coretest

import (
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
)

var webSocketCases = []testCase{
	{
		name: "CloseHandshake",
		why:  "a viewer that closes as RFC 6455 says gets its close frame answered, and is gone",
		only: only(WebSocket),
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			for _, code := range []int{1000, 1001, 1005, 4000} {
				v := r.watch(ViewerOptions{})
				r.expect(v, r.tell(1)...)
				require.NoError(r, v.SendClose(code))
				_, err := v.Next()
				require.Equal(r, io.EOF, err)
				r.expectLeft()
				require.Zero(r, r.ClientCount("x"))
				r.Registry.Forget("x")
			}
		},
	},
	{
		name: "Pings",
		why:  "pings of a viewer are answered, also when nothing is being published",
		only: only(WebSocket),
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			v := r.watch(ViewerOptions{})
			for _, payload := range []string{"", "a", strings.Repeat("p", 125)} {
				v.Pong = "none"
				require.NoError(r, v.Send(OpPing, []byte(payload)))
				for v.Pong == "none" && v.err == nil {
					v.step()
				}
				require.NoError(r, v.err)
				require.Equal(r, payload, v.Pong)
			}
		},
	},
	{
		name: "MissedPongs",
		why:  "a viewer that answers no pings has vanished, whatever its kernel says, and is given up after two heartbeats",
		only: only(WebSocket),
		run: func(s *suite) {
			r := s.room(core.Options{Heartbeat: beat}, Options{})
			well := read(r.watch(ViewerOptions{}))
			dead := read(r.watch(ViewerOptions{NoPong: true}))
			require.Error(r, r.expectLeft())
			wait(r, "the viewer's stream ends", dead.done)
			require.Equal(r, 1, r.ClientCount("x"))
			events := r.tell(1)
			r.finish("x")
			r.expectAll(well, 1000, events[0], end)
		},
	},
	{
		name: "InputDiscarded",
		why:  "what a viewer says is read, so that its closes and pongs are seen, and thrown away",
		only: only(WebSocket),
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			v := r.watch(ViewerOptions{})
			for range 10 {
				require.NoError(r, v.Send(OpText, []byte(`{"id":"1","event":"forged","data":{}}`)))
				require.NoError(r, v.Send(OpBinary, []byte{0, 1, 2}))
				require.NoError(r, v.Send(OpText, nil))
				require.NoError(r, v.Send(OpPong, []byte("unasked")))
				r.expect(v, r.tell(1)...)
			}
		},
	},
	{
		name: "BadInput",
		why: "a viewer that breaks the protocol, or sends more than a viewer has to say, loses its own connection: by a " +
			"close frame between two frames, never within one",
		only: only(WebSocket),
		run: func(s *suite) {
			big := strings.Repeat("x", 64<<10)
			for name, c := range map[string]struct {
				input []byte
				codes []int
			}{
				"not masked":              {[]byte{0x81, 1, 'a'}, []int{1002}},
				"reserved bit":            {flip(AppendFrame(nil, OpText, []byte("a")), 0x40), []int{1002}},
				"reserved opcode":         {AppendFrame(nil, 0x3, []byte("a")), []int{1002}},
				"long ping":               {AppendFrame(nil, OpPing, []byte(big[:126])), []int{1002}},
				"fragmented ping":         {flip(AppendFrame(nil, OpPing, nil), 0x80), []int{1002}},
				"continuation of nothing": {AppendFrame(nil, OpContinuation, []byte("a")), []int{1002}},
				"bad close code":          {AppendFrame(nil, OpClose, []byte{0, 1}), []int{1002}},
				"too long":                {AppendFrame(nil, OpText, []byte(big)), []int{1008, 1009}},
				"longest":                 {[]byte{0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4}, []int{1002, 1008, 1009}},
			} {
				r := s.room(core.Options{MaxBytes: -1}, Options{})
				v, well := r.watch(ViewerOptions{}), r.watch(ViewerOptions{})
				events := r.publish("x", numbered(20, 20<<10)...)
				go v.SendRaw(c.input) // it may be cut off
				got, err := v.All()
				require.NotErrorIs(r, err, os.ErrDeadlineExceeded, name)
				// The close may come before any event, but what comes is whole.
				_, lost, err2 := follows(events, got, 0)
				require.NoError(r, err2, name)
				require.Zero(r, lost, name)
				require.Contains(r, c.codes, v.CloseCode, "%s: %v", name, err)
				r.expectLeft()
				r.expect(well, events...)
				r.expect(well, r.tell(1)...)
			}
		},
	},
	{
		name: "NotAHandshake",
		why:  "a request that asks for no WebSocket, or for one that is not RFC 6455's, gets an error status and nothing comes of it",
		only: only(WebSocket),
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			for _, header := range []http.Header{
				{},
				{"Connection": {"Upgrade"}, "Upgrade": {"h2c"}},
				{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"8"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="}},
				{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}},
			} {
				// An SSE viewer asks for what it is told to.
				v, err := Connect(ViewerOptions{Transport: SSE, Addr: r.server.Addr, ExecutionID: "x", Header: header})
				require.NoError(r, err)
				v.Close()
				require.GreaterOrEqual(r, v.Status, 400, "headers %v", header)
				require.Less(r, v.Status, 500, "headers %v", header)
			}
			require.Eventually(r, func() bool { return r.Stats().Executions == 0 }, patience, time.Millisecond)
		},
	},
}

// flip inverts bits of a frame's first byte.
func flip(frame []byte, bits byte) []byte {
	frame[0] ^= bits
	return frame
}
