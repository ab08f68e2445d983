package gorillaws_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/adapters/gorillaws"
	"github.com/execcast/execcast/core"
)

// hang bounds what must happen; only a failing test reaches it.
const hang = 20 * time.Second

// paths are the two ways of serving a viewer.
var paths = map[string]bool{"pumps": false, "goroutine": true}

func serve(t testing.TB, r *core.Registry, opts *gorillaws.Options) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/{executionId}", gorillaws.NewHandler(r, opts))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func dial(t testing.TB, s *httptest.Server, header http.Header) *websocket.Conn {
	t.Helper()
	d := websocket.Dialer{EnableCompression: true, HandshakeTimeout: hang}
	ws, res, err := d.Dial("ws"+strings.TrimPrefix(s.URL, "http")+"/x", header)
	require.NoError(t, err)
	require.Empty(t, res.Header.Get("Sec-WebSocket-Extensions"), "compression was accepted")
	t.Cleanup(func() { ws.Close() })
	require.NoError(t, ws.SetReadDeadline(time.Now().Add(hang)))
	return ws
}

func publish(t testing.TB, r *core.Registry, data string) {
	t.Helper()
	_, err := r.Publish(t.Context(), "x", core.Event{Data: []byte(data)})
	require.NoError(t, err)
}

// frame is a frame as a server may send it, read without gorilla.
type frame struct {
	opcode  byte
	payload []byte
}

// readFrame reads a frame and fails the test if it is not well-formed.
func readFrame(t testing.TB, r io.Reader) frame {
	t.Helper()
	var head [2]byte
	_, err := io.ReadFull(r, head[:])
	require.NoError(t, err)
	require.EqualValues(t, 0x80, head[0]&0xF0, "not one whole frame: %x", head)
	require.Zero(t, head[1]&0x80, "a server does not mask")
	n := uint64(head[1])
	ext := map[uint64]int{126: 2, 127: 8}[n]
	if ext > 0 {
		b := make([]byte, 8)
		_, err := io.ReadFull(r, b[8-ext:])
		require.NoError(t, err)
		n = binary.BigEndian.Uint64(b)
	}
	require.LessOrEqual(t, n, uint64(1<<20))
	f := frame{opcode: head[0] & 15, payload: make([]byte, n)}
	_, err = io.ReadFull(r, f.payload)
	require.NoError(t, err)
	if f.opcode >= 8 {
		require.LessOrEqual(t, n, uint64(125))
	} else {
		require.EqualValues(t, 1, f.opcode)
		require.True(t, bytes.HasPrefix(f.payload, []byte("{")) && bytes.HasSuffix(f.payload, []byte("}")), "not one event: %q", f.payload)
	}
	return f
}

// masked returns a frame as a client sends it.
func masked(b0 byte, payload []byte) []byte {
	p := []byte{b0, 0x80 | byte(len(payload)), 1, 2, 3, 4}
	for i, c := range payload {
		p = append(p, c^byte(i%4+1))
	}
	return p
}

// raw makes a handshake and leaves the connection to the test.
func raw(t testing.TB, s *httptest.Server) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(hang)))
	_, err = io.WriteString(conn, "GET /x HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	require.NoError(t, err)
	var head []byte
	for b := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, b...) {
		_, err := io.ReadFull(conn, b)
		require.NoError(t, err)
	}
	require.True(t, bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")), "%s", head)
	return conn
}

// What a peer must not send ends its connection with the code for it, between
// frames of events and not within one, and reaches nobody else.
func TestHostileInput(t *testing.T) {
	big := make([]byte, 100)
	for name, c := range map[string]struct {
		send []byte
		code int
	}{
		"reserved bits":    {masked(0xF1, []byte("a")), 1002},
		"reserved opcode":  {masked(0x83, []byte("a")), 1002},
		"not masked":       {[]byte{0x81, 1, 'a'}, 1002},
		"long control":     {append(masked(0x89, big), masked(0x89, make([]byte, 127))...), 1002},
		"bad continuation": {masked(0x80, []byte("a")), 1002},
		"too large":        {[]byte{0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4}, 1009},
		"flood":            {bytes.Repeat(masked(0x82, big), 700), 1008},
	} {
		for path, keep := range paths {
			t.Run(name+"/"+path, func(t *testing.T) {
				r := core.New(&core.Options{MaxBytes: -1}) // the other one reads late, and shall miss nothing
				s := serve(t, r, &gorillaws.Options{KeepHandler: keep})
				hostile, well := raw(t, s), dial(t, s, nil)
				// Events large enough that the hostile one's connection fills,
				// and its close has to wait for the end of a frame.
				data := strings.Repeat("x", 200<<10)
				for range 20 {
					publish(t, r, data)
				}
				go hostile.Write(c.send)
				for {
					f := readFrame(t, hostile)
					if f.opcode == 8 {
						require.EqualValues(t, c.code, binary.BigEndian.Uint16(f.payload), "%s", f.payload[2:])
						break
					}
				}
				hostile.Close()
				var e struct{ Data string }
				for range 20 {
					require.NoError(t, well.ReadJSON(&e))
					require.Equal(t, data, e.Data)
				}
			})
		}
	}
}

// Pongs go out between frames of events, at any load, and only so many of
// them as there is room for.
func TestPongsUnderLoad(t *testing.T) {
	for path, keep := range paths {
		t.Run(path, func(t *testing.T) {
			r := core.New(&core.Options{MaxEvents: -1, MaxBytes: -1})
			s := serve(t, r, &gorillaws.Options{KeepHandler: keep})
			conn := raw(t, s)
			const events = 300
			go func() {
				for i := range 2000 {
					if _, err := conn.Write(masked(0x89, fmt.Appendf(nil, "%d", i))); err != nil {
						return
					}
				}
			}()
			data := strings.Repeat("x", 100<<10)
			go func() {
				for range events {
					r.Publish(context.Background(), "x", core.Event{Data: []byte(data)})
				}
			}()
			pongs, texts, last := 0, 0, -1
			for texts < events || last < 1999 {
				f := readFrame(t, conn)
				if f.opcode == 1 {
					texts++
					continue
				}
				require.EqualValues(t, 10, f.opcode)
				var n int
				_, err := fmt.Sscan(string(f.payload), &n)
				require.NoError(t, err)
				require.Greater(t, n, last)
				last = n
				pongs++
			}
			require.Equal(t, events, texts)
			t.Logf("%d pongs for 2000 pings", pongs)
		})
	}
}

// A viewer that answers no pings is given up after two heartbeats; one that
// answers stays.
func TestMissedPongs(t *testing.T) {
	for path, keep := range paths {
		t.Run(path, func(t *testing.T) {
			left := make(chan string, 2)
			r := core.New(&core.Options{Heartbeat: 200 * time.Millisecond, Hooks: core.Hooks{Left: func(id string, _ error) { left <- id }}})
			s := serve(t, r, &gorillaws.Options{KeepHandler: keep})
			raw(t, s) // reads nothing
			ws := dial(t, s, nil)
			pings := make(chan struct{}, 100)
			ws.SetPingHandler(func(data string) error {
				pings <- struct{}{}
				return ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(hang))
			})
			go ws.NextReader()
			for range 8 {
				<-pings
			}
			require.Len(t, left, 1)
			require.Equal(t, 1, r.ClientCount("x"))
		})
	}
}

func TestCloseCodes(t *testing.T) {
	for path, keep := range paths {
		t.Run(path, func(t *testing.T) {
			opts := &gorillaws.Options{KeepHandler: keep}
			code := func(ws *websocket.Conn) int {
				defer ws.Close()
				for {
					if _, _, err := ws.NextReader(); err != nil {
						var closed *websocket.CloseError
						require.ErrorAs(t, err, &closed)
						return closed.Code
					}
				}
			}
			r := core.New(&core.Options{MaxExecutionClients: 1})
			s := serve(t, r, opts)
			publish(t, r, "a")
			ws := dial(t, s, nil)
			require.Equal(t, 1013, code(dial(t, s, nil)))
			closed := make(chan error, 1)
			go func() { closed <- r.Close(context.Background(), "x") }()
			require.Equal(t, 1000, code(ws))
			require.NoError(t, <-closed)

			r = core.New(nil)
			s = serve(t, r, opts)
			ws = dial(t, s, nil)
			go func() { closed <- r.Shutdown(context.Background()) }()
			require.Equal(t, 1001, code(ws))
			require.NoError(t, <-closed)
			require.Equal(t, 1001, code(dial(t, s, nil)))
		})
	}
}

func TestRefusals(t *testing.T) {
	r := core.New(nil)
	fail := map[int]error{401: core.ErrUnauthorized, 403: core.ErrForbidden, 404: core.ErrNotFound, 500: errors.New("other"), 400: nil, 426: nil}
	for code, err := range fail {
		s := serve(t, r, &gorillaws.Options{ExecutionID: func(*http.Request) (string, error) {
			if code == 400 {
				return "a\nb", nil
			}
			return "x", err
		}})
		if code == 426 {
			res, err := http.Get(s.URL + "/x")
			require.NoError(t, err)
			res.Body.Close()
			require.Equal(t, code, res.StatusCode)
			continue
		}
		_, res, dialErr := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(s.URL, "http")+"/x", nil)
		require.Error(t, dialErr)
		require.Equal(t, code, res.StatusCode)
	}
	s := serve(t, r, nil)
	_, res, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(s.URL, "http")+"/x", http.Header{"Origin": {"https://evil.example"}})
	require.Error(t, err)
	require.Equal(t, http.StatusForbidden, res.StatusCode)
	require.Zero(t, r.Stats().Clients)
}

// FuzzInbound sends arbitrary bytes after the handshake: they end at most the
// connection they came on.
func FuzzInbound(f *testing.F) {
	f.Add([]byte{})
	f.Add(masked(0x81, []byte("hello")))
	f.Add(masked(0x88, []byte{3, 232}))
	f.Add(masked(0x88, []byte{3}))
	f.Add([]byte{0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4})
	f.Add(append(masked(0x01, []byte("a")), masked(0x89, []byte("b"))...))
	f.Add(bytes.Repeat([]byte{0xC1, 0x80, 0, 0, 0, 0}, 50))
	random := make([]byte, 512)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	f.Add(random)
	r := core.New(nil)
	s := serve(f, r, nil)
	f.Fuzz(func(t *testing.T, p []byte) {
		conn := raw(t, s)
		_, err := conn.Write(p)
		require.NoError(t, err)
		require.NoError(t, conn.(*net.TCPConn).CloseWrite())
		for {
			var head [1]byte
			if _, err := io.ReadFull(conn, head[:]); err != nil {
				break
			}
			if f := readFrame(t, io.MultiReader(bytes.NewReader(head[:]), conn)); f.opcode == 8 {
				break
			}
		}
	})
}

// What a framework's own handler has found out, it passes on.
func TestServeExecutions(t *testing.T) {
	r := core.New(nil)
	h := gorillaws.NewHandler(r, nil)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { h.ServeExecutions(w, req, []string{"x", "y"}) }))
	t.Cleanup(s.Close)
	ws := dial(t, s, nil)
	publish(t, r, "1")
	_, p, err := ws.ReadMessage()
	require.NoError(t, err)
	require.Contains(t, string(p), `"execution":"x"`)
	require.Equal(t, 1, r.ClientCount("y"))
	r.Forget("y")
	_, _, err = ws.ReadMessage()
	require.True(t, websocket.IsCloseError(err, websocket.CloseGoingAway), "%v", err) // to come again
}
