package coretest

import (
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
)

// beat is the interval of heartbeats for viewers that must keep up with them:
// long enough for one that has to wait for a processor.
const beat = 250 * time.Millisecond

// smallBuffer makes connections that are full soon. Much smaller ones are
// slow: a segment on loopback has 64 KiB.
const smallBuffer = 32 << 10

var deliveryCases = []testCase{
	{
		name: "HeadersAtOnce",
		why: "the response begins before there is any event, or the page does not know that it is connected; " +
			"its headers keep browsers from guessing, caches from storing, and proxies from collecting the stream",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			v := r.watch(ViewerOptions{})
			require.Equal(r, 1, r.ClientCount("x"), "a client is registered before anything is written to it")
			if r.Transport == SSE {
				r.requireEventStream(v)
				require.Contains(r, v.Header.Get("Cache-Control"), "no-store")
				require.Contains(r, v.Header.Get("Cache-Control"), "no-transform", "a proxy that compresses also collects")
				require.Equal(r, "no", v.Header.Get("X-Accel-Buffering"), "nginx collects otherwise")
				require.Equal(r, "nosniff", v.Header.Get("X-Content-Type-Options"))
				require.Empty(r, v.Header.Get("Content-Length"))
				require.Empty(r, v.Header.Get("Content-Encoding"))
			}
			r.expect(v, r.tell(1)...)
			if r.Transport == SSE {
				require.Positive(r, v.Retry, "a retry field in front of the first event says when to come again")
			}
		},
	},
	{
		name: "EachEventAtOnce",
		why:  "an event is flushed, not kept until more follow: an execution may be silent for hours after it",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			v := r.watch(ViewerOptions{})
			for range 20 {
				r.expect(v, r.tell(1)...)
			}
		},
	},
	{
		name: "LiveInOrder",
		why:  "every viewer sees events in the order they were published, however fast they come",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			v, w := r.watch(ViewerOptions{}), r.watch(ViewerOptions{})
			events := r.tell(10)
			r.expect(v, events...)
			for range 20 {
				events = append(events, r.tell(25)...)
			}
			r.expect(v, events[10:]...)
			r.expect(w, events...)
		},
	},
	{
		name: "FrameBytes",
		why: "the bytes of a frame are part of the contract: an SSE frame is id, event, traceparent and data in this " +
			"order, each ended by LF, and an empty line; a WebSocket message is one JSON object",
		run: func(s *suite) {
			const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
			r := s.room(core.Options{}, Options{})
			v := r.watch(ViewerOptions{Record: true})
			seen := r.publish("x",
				core.Event{Type: "task-start", Data: []byte("{\"taskId\":\n\"a\"}")},
				core.Event{Data: []byte(`"b"`)},
				core.Event{Data: []byte(`"c"`), Traceparent: traceparent})
			r.expect(v, seen...)
			want := []string{
				"id: " + seen[0].ID + "\nevent: task-start\ndata: {\"taskId\":\ndata: \"a\"}\n\n",
				"id: " + seen[1].ID + "\ndata: \"b\"\n\n",
				"id: " + seen[2].ID + "\ntraceparent: " + traceparent + "\ndata: \"c\"\n\n",
			}
			if r.Transport == WebSocket {
				want = []string{
					`{"id":"` + seen[0].ID + `","event":"task-start","data":{"taskId":` + "\n" + `"a"}}`,
					`{"id":"` + seen[1].ID + `","event":"message","data":"b"}`,
					`{"id":"` + seen[2].ID + `","event":"message","traceparent":"` + traceparent + `","data":"c"}`,
				}
			}
			for _, w := range want {
				require.Contains(r, string(v.Raw()), w)
			}
		},
	},
	{
		name: "SameForAll",
		why:  "an event is encoded once: all viewers of an execution get the same bytes, whenever they come",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			var viewers []*reading
			for i := range 20 {
				viewers = append(viewers, read(r.watch(ViewerOptions{Record: true})))
				r.tell(i)
			}
			r.finish("x")
			for _, v := range viewers {
				wait(r, "the viewer's stream ends", v.done)
				require.NoError(r, v.err)
				require.Equal(r, viewers[0].events, v.events)
				require.Equal(r, string(viewers[0].Raw()), string(v.Raw()))
			}
			require.Len(r, viewers[0].events, 19*20/2+1)
		},
	},
	{
		name: "LateJoiner",
		why:  "who connects in the middle of a run gets every event from the first, and then those that come",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			events := r.tell(100)
			v := r.watch(ViewerOptions{})
			r.expect(v, events...)
			r.expect(v, r.tell(10)...)
		},
	},
	{
		name: "ExecutionsApart",
		why:  "a viewer sees its execution and no other; IDs arrive as they are, whatever has to be escaped in a path",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			ids := []string{"a", "A", "a b", "ä✓", "a%2e", "a?b#c", "a+b", "*", strings.Repeat("l", 256)}
			viewers := map[string]*Viewer{}
			for _, id := range ids {
				viewers[id] = r.watch(ViewerOptions{ExecutionID: id})
			}
			for _, id := range ids {
				require.Equal(r, 1, r.ClientCount(id), "clients of execution %q", id)
				r.publish(id, core.Event{Data: []byte("0")})
			}
			for _, id := range ids {
				data, err := json.Marshal(id)
				require.NoError(r, err)
				seen := r.publish(id, core.Event{Data: data})
				_, err = viewers[id].Next()
				require.NoError(r, err)
				e, err := viewers[id].Next()
				require.NoError(r, err)
				require.Equal(r, seen[0].ID, e.ID)
				require.Equal(r, id, e.Value())
			}
		},
	},
	{
		name: "Data",
		why: "data arrives as it was published, line breaks as LF, and means the same over every transport: the JSON " +
			"value if it is one, else the text",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			v := r.watch(ViewerOptions{})
			for _, data := range []string{
				"", " ", "  two spaces", "\ttab", "trailing ", ":", "data: x", "id: 7", "event: forged\n\ndata: y",
				"\n", "\n\n", "a\nb", "a\rb", "a\r\nb", "a\n\r\nb\r", "\r\n\r\n", "trailing\n", "\nleading",
				"null", "true", "0", "-1.50e+7", "12345678901234567890", `""`, `"text"`, "text", `"open`, `\`, `{"a":1`,
				"{}", "[]", `{"a":[1,{"b":null}],"c":"\u0000\ud83d\ude00"}`, " {\"a\":\r\n1} ", `{"b":1,"a":2,"b":3}`, `"a" "b"`,
				"ä ß € 😀 \u0301", "\ufeff", "\ufeff{}", "\u2028\u2029", "\x00\x01\x1f\x7f", "\ufffd", "<script>&amp;", `{"html":"<&>"}`,
			} {
				lines := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(data)
				seen := r.publish("x", core.Event{Type: "täsk ✓", Data: []byte(data)})
				e, err := v.Next()
				require.NoError(r, err, "data %q", data)
				require.Equal(r, seen[0].ID, e.ID, "data %q", data)
				require.Equal(r, "täsk ✓", e.Type, "data %q", data)
				require.Equal(r, Event{Data: lines}.Value(), e.Value(), "data %q", data)
				if r.Transport == SSE {
					require.Equal(r, lines, e.Data, "data %q", data)
				}
			}
		},
	},
	{
		name: "LargeEvent",
		why:  "an event of the largest allowed size arrives whole, and so does one that is nothing but line breaks",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			v := r.watch(ViewerOptions{})
			const size = 256 << 10
			events := r.publish("x",
				core.Event{Data: []byte(`"` + pattern(size-2) + `"`)},
				core.Event{Data: []byte(strings.Repeat("\n", size))},
				core.Event{Data: []byte(`"small"`)})
			r.expect(v, events[0])
			e, err := v.Next()
			require.NoError(r, err)
			require.Equal(r, events[1].ID, e.ID)
			require.True(r, e.Value() == events[1].Data, "the line breaks are not what they were: %s", brief(e))
			r.expect(v, events[2])
		},
	},
	{
		name: "ThousandsOfEvents",
		why:  "a backlog of thousands of events, and thousands published without a pause, arrive whole and in order",
		run: func(s *suite) {
			r := s.room(core.Options{MaxEvents: -1, MaxBytes: -1}, Options{})
			events := r.publish("x", numbered(4000, 100)...)
			late := read(r.watch(ViewerOptions{}))
			events = append(events, r.publish("x", numbered(4000, 10)...)...)
			r.finish("x")
			r.expectAll(late, 1000, append(events, end)...)
		},
	},
	{
		name: "KeyedEvents",
		why:  "a late viewer gets every event without a key, and the last one of each key, in order",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			var all, want []Event
			last := map[string]int{}
			keys := make([]string, 330)
			for i := range keys {
				if i%11 != 0 {
					keys[i] = string(rune('a' + i%3))
					last[keys[i]] = i
				}
				e := numbered(1, 0)[0]
				e.Key = keys[i]
				all = append(all, r.publish("x", e)...)
			}
			for i, e := range all {
				if keys[i] == "" || last[keys[i]] == i {
					want = append(want, e)
				}
			}
			v := r.watch(ViewerOptions{})
			r.expect(v, want...)
			r.expect(v, r.tell(1)...)
		},
	},
	{
		name: "TwoEncoders",
		why:  "viewers on different transports of one execution see the same events",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			encoder := core.JSON
			if r.Transport == WebSocket {
				encoder = core.SSE
			}
			m := r.direct(encoder)
			v := read(r.watch(ViewerOptions{}))
			events := append(r.tell(300), end)
			r.finish("x")
			r.expectAll(v, 1000, events...)
			wait(r, "the other client ends", m.ended)
			require.NoError(r, m.reason)
			require.Equal(r, events, m.events(r))
		},
	},
	{
		name: "FramesWhole",
		why: "nothing comes between the bytes of a frame, not even of a frame that needs many writes: neither a " +
			"heartbeat nor the answer to something the viewer sends",
		run: func(s *suite) {
			r := s.room(core.Options{Heartbeat: beat, MaxBytes: -1}, Options{SendBuffer: smallBuffer})
			v := r.watch(ViewerOptions{ReceiveBuffer: smallBuffer})
			for v.Beats < 3 {
				if r.Transport == WebSocket {
					v.Send(OpPing, []byte("?"))
				}
				r.expect(v, r.publish("x", numbered(2, 100<<10)...)...)
			}
			if r.Transport == WebSocket {
				require.Equal(r, "?", v.Pong, "pings of the viewer are answered")
			}
		},
	},
	{
		name: "Heartbeats",
		why:  "heartbeats keep proxies from closing a silent stream; the adapter's interval goes before the registry's",
		run: func(s *suite) {
			r := s.room(core.Options{Heartbeat: beat}, Options{})
			own := s.room(core.Options{}, Options{Heartbeat: beat})
			v, w := r.watch(ViewerOptions{}), own.watch(ViewerOptions{})
			for range 3 {
				require.NoError(r, v.Beat())
				require.NoError(r, w.Beat())
			}
			r.expect(v, r.tell(1)...)
			own.expect(w, own.tell(1)...)
		},
	},
	{
		name: "HeartbeatEvents",
		why:  "where it is asked for, each heartbeat is an event as well, since pages see neither comments nor pings; it has no ID, and so changes no position",
		run: func(s *suite) {
			r := s.room(core.Options{Heartbeat: beat, HeartbeatEvents: true}, Options{})
			v := r.watch(ViewerOptions{})
			seen := r.tell(1)
			r.expect(v, seen...)
			for range 2 {
				r.expect(v, Event{Type: core.TypeHeartbeat, Data: "{}"})
				require.Equal(r, seen[0].ID, v.LastEventID)
			}
			require.Positive(r, v.Beats)
		},
	},
	{
		name: "IdleOutlivesWriteTimeout",
		why:  "the write timeout bounds a write, not the silence between two",
		run: func(s *suite) {
			const timeout = beat / 4
			idle := s.room(core.Options{}, Options{WriteTimeout: timeout})
			v := idle.watch(ViewerOptions{})
			idle.expect(v, idle.tell(1)...)
			// A heartbeat of another server takes longer than the timeout.
			other := s.room(core.Options{Heartbeat: beat}, Options{})
			require.NoError(s, other.watch(ViewerOptions{}).Beat())
			for range 3 {
				idle.expect(v, idle.tell(1)...)
			}
		},
	},
}

// memory is a client without a connection.
type memory struct {
	client  *core.Client
	encoder core.Encoder
	ended   chan struct{}
	reason  error // once ended is closed

	mu  sync.Mutex
	got []byte
}

// direct registers a client of execution "x" that the adapter has no part in.
func (r *room) direct(e core.Encoder) *memory {
	r.Helper()
	c, err := r.Register("x", &core.ClientOptions{Encoder: e})
	require.NoError(r, err)
	m := &memory{client: c, encoder: e, ended: make(chan struct{})}
	go c.Serve(r.Context(), m)
	return m
}

func (m *memory) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.got = append(m.got, p...)
	return len(p), nil
}

func (m *memory) End(reason error) error {
	m.reason = reason
	close(m.ended)
	return nil
}

// events returns what has been written, decoded by core.
func (m *memory) events(r *room) (events []Event) {
	r.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.encoder == core.SSE {
		for f, err := range core.Decode(strings.NewReader(string(m.got)), 0) {
			require.NoError(r, err)
			if f.Data != nil {
				events = append(events, Event{ID: f.ID, Type: f.Type, Data: string(f.Data)})
			}
		}
		return events
	}
	for d := json.NewDecoder(strings.NewReader(string(m.got))); d.More(); {
		var e struct {
			ID    string
			Event string
			Data  json.RawMessage
		}
		require.NoError(r, d.Decode(&e))
		events = append(events, Event{ID: e.ID, Type: e.Event, Data: string(e.Data)})
	}
	return events
}
