package coretest

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

// hear has a viewer read a stream's bytes, however they are split, and then the
// end of the connection.
func hear(t *testing.T, transport Transport, stream string) (v *Viewer, events []Event, err error) {
	t.Helper()
	for _, oneByte := range []bool{true, false} {
		here, there := net.Pipe()
		defer here.Close()
		go func() {
			// What the viewer answers is of no interest.
			defer there.Close()
			io.Copy(io.Discard, there)
		}()
		var in io.Reader = strings.NewReader(stream)
		if oneByte {
			in = iotest.OneByteReader(in)
		}
		v = &Viewer{conn: here, in: bufio.NewReader(in), opts: ViewerOptions{Transport: transport, Patience: time.Minute}}
		events, err = v.All()
	}
	return v, events, err
}

// TestSSEViewer is the examples of the WHATWG HTML standard, section 9.2.6, and
// what a stream of ours must not do.
func TestSSEViewer(t *testing.T) {
	message := func(data ...string) (events []Event) {
		for _, d := range data {
			events = append(events, Event{Type: "message", Data: d})
		}
		return events
	}
	for stream, want := range map[string][]Event{
		"data: YHOO\ndata: +2\ndata: 10\n\n": message("YHOO\n+2\n10"),
		": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n": {
			{ID: "1", Type: "message", Data: "first event"}, {Type: "message", Data: "second event"}, {Type: "message", Data: " third event"},
		},
		"data\n\ndata\ndata\n\n":                      message("", "\n"),
		"data:test\n\ndata: test\n\n":                 message("test", "test"),
		"event: add\r\ndata: 1\r\n\r\n":               {{Type: "add", Data: "1"}},
		"event: add\rdata: 1\r\rdata: 2\r\r":          {{Type: "add", Data: "1"}, {Type: "message", Data: "2"}},
		"event: add\n\ndata: 1\n\n":                   message("1"),
		"\ufeffdata: 1\n\n\ufeff":                     nil,
		"\ufeffdata: \ufeff1\n\n":                     message("\ufeff1"),
		"data: a:b\n\n":                               message("a:b"),
		"id: 5\n\ndata: 1\n\n":                        message("1"),
		"data: 1\nretry: 7\nid: 9\nevent: x\n\n:\n\n": {{ID: "9", Type: "x", Data: "1"}},
	} {
		v, events, err := hear(t, SSE, stream)
		if want == nil {
			require.Error(t, err, "%q", stream)
			continue
		}
		require.NoError(t, err, "%q", stream)
		require.Equal(t, want, events, "%q", stream)
		switch {
		case strings.Contains(stream, "id: 5"):
			require.Equal(t, "5", v.LastEventID)
		case strings.Contains(stream, "retry"):
			require.Equal(t, 7*time.Millisecond, v.Retry)
			require.Equal(t, "9", v.LastEventID)
			require.Equal(t, 1, v.Beats)
		}
	}
	for _, cut := range []string{"data: 1\n\ndata: 2", "data: 1\n\ndata: 2\n", "data: 1\n\n:"} {
		_, events, err := hear(t, SSE, cut)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%q", cut)
		require.Equal(t, message("1"), events, "%q", cut)
	}
	for _, bad := range []string{"dota: 1\n\n", "retry: 1s\n\n", "retry\n\n", "id: a\x00\n\n", "data: \xff\n\n", "{}\n\n"} {
		_, _, err := hear(t, SSE, bad)
		require.Error(t, err, "%q", bad)
	}
}

func TestWebSocketViewer(t *testing.T) {
	text := func(p string) string { return "\x81" + string(byte(len(p))) + p }
	const event = `{"id":"7","event":"a","data":[1, null]}`
	v, events, err := hear(t, WebSocket,
		text(event)+"\x89\x01p"+"\x8a\x01q"+
			"\x01\x05"+event[:5]+"\x89\x00"+"\x80"+string(byte(len(event)-5))+event[5:]+
			text(`{"event":"message","data":null}`)+"\x88\x04\x03\xe8ok")
	require.NoError(t, err)
	require.Equal(t, []Event{{ID: "7", Type: "a", Data: "[1, null]"}, {ID: "7", Type: "a", Data: "[1, null]"}, {Type: "message", Data: "null"}}, events)
	require.Equal(t, []any{json.Number("1"), nil}, events[0].Value())
	require.Nil(t, events[2].Value())
	require.Equal(t, "7", v.LastEventID)
	require.Equal(t, 2, v.Beats)
	require.Equal(t, "q", v.Pong)
	require.Equal(t, 1000, v.CloseCode)
	require.Equal(t, "ok", v.CloseReason)

	v, _, err = hear(t, WebSocket, "\x88\x00")
	require.NoError(t, err)
	require.Equal(t, 1005, v.CloseCode)

	for name, bad := range map[string]string{
		"no close":                "",
		"cut in the header":       "\x81",
		"cut in the length":       "\x81\x7e\x01",
		"cut in the payload":      "\x81\x05abc",
		"reserved bit":            "\xc1" + text(event)[1:],
		"masked":                  "\x81\x81\x00\x00\x00\x00a",
		"binary":                  "\x82\x01a",
		"unknown opcode":          "\x83\x01a",
		"continuation of nothing": "\x80\x01a",
		"text within a text":      "\x01\x01{" + text(event),
		"fragmented ping":         "\x09\x00\x80\x00",
		"long ping":               "\x89\x7e\x00\x7e" + strings.Repeat("p", 126),
		"length not shortest":     "\x81\x7e\x00" + text(event)[1:],
		"not UTF-8":               text("{\"event\":\"a\",\"data\":\"\xff\"}"),
		"not JSON":                text("{"),
		"two events":              text(event + event),
		"no data":                 text(`{"event":"a"}`),
		"no event":                text(`{"data":1}`),
		"empty id":                text(`{"id":"","event":"a","data":1}`),
		"numeric id":              text(`{"id":7,"event":"a","data":1}`),
		"unknown member":          text(`{"id":"7","event":"a","data":1,"more":2}`),
		"close code":              "\x88\x02\x03\xed",
		"half a close code":       "\x88\x01\x03",
		"close reason":            "\x88\x03\x03\xe8\xff",
		"data behind the close":   "\x88\x00" + text(event),
	} {
		_, _, err := hear(t, WebSocket, bad+"\x88\x00")
		if bad == "" {
			_, _, err = hear(t, WebSocket, bad)
		}
		require.Error(t, err, name)
	}
}

// TestFollows checks the checker.
func TestFollows(t *testing.T) {
	e := func(id string) Event { return Event{ID: id, Type: "message", Data: id} }
	gap := func(data string) Event { return Event{Type: "stream-gap", Data: data} }
	published := []Event{e("1"), e("2"), e("3"), e("4")}
	for _, ok := range [][]Event{
		nil, {e("1")}, published,
		{e("1"), gap(`{"from":"1","to":"2","count":1}`), e("3")},
		{gap(`{"to":"3"}`), e("4")},
	} {
		_, _, err := follows(published, ok, 0)
		require.NoError(t, err)
	}
	next, lost, err := follows(published, []Event{gap(`{"from":"1","to":"3","count":2}`), e("4")}, 1)
	require.NoError(t, err)
	require.Equal(t, []int{4, 2}, []int{next, lost})
	for _, bad := range [][]Event{
		{e("2")}, {e("1"), e("3")}, {e("2"), e("1")}, {e("1"), e("1")}, append(published, e("4")),
		{{ID: "1", Type: "message", Data: "2"}},
		{e("1"), gap(`{"from":"1","to":"2","count":2}`), e("3")},
		{e("1"), gap(`{"to":"2"}`), e("3")},
		{e("1"), gap(`{"from":"1","to":"1"}`), e("2")},
		{e("1"), gap(`{"from":"1","to":"9"}`), e("3")},
	} {
		_, _, err := follows(published, bad, 0)
		require.Error(t, err, "%v", bad)
	}
}

func TestExplain(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	v := &Viewer{conn: here, in: bufio.NewReader(here), opts: ViewerOptions{Patience: time.Millisecond}}
	_, err := v.Next()
	require.ErrorContains(t, err, "hang")
	_, again := v.Next()
	require.True(t, errors.Is(again, err))
}
