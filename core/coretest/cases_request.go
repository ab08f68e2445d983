package coretest

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
)

var requestCases = []testCase{
	{
		name: "Methods",
		why:  "only GET streams; HEAD answers the headers and ends; nothing else may look like a stream",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
				v := r.connect(ViewerOptions{Method: method})
				require.Equal(r, http.StatusMethodNotAllowed, v.Status, method)
				if r.Transport == SSE {
					require.Contains(r, v.Header.Get("Allow"), "GET", method)
				}
			}
			if r.Transport == SSE {
				v := r.connect(ViewerOptions{Method: "HEAD"})
				require.Equal(r, http.StatusOK, v.Status)
				r.requireEventStream(v)
				r.expectEnd(v, 0)
			}
			require.Zero(r, r.Stats().Clients)
			require.Zero(r, r.Stats().Executions)
		},
	},
	{
		name: "BadExecutionID",
		why:  "an execution ID that cannot be is the request's fault (4xx), and nothing comes of it",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{})
			for _, id := range []string{"a\x00", "a\nb", "\x7f", "a\xff", strings.Repeat("l", 257)} {
				v := r.connect(ViewerOptions{ExecutionID: id})
				require.GreaterOrEqual(r, v.Status, 400, "execution ID %q", id)
				require.Less(r, v.Status, 500, "execution ID %q", id)
			}
			require.Zero(r, r.Stats().Executions)
		},
	},
	{
		name: "Authorisation",
		why:  "who may not watch is told so with a status of its own, before anything is registered or any byte of the stream is sent",
		run: func(s *suite) {
			r := s.room(core.Options{}, Options{Authorize: func(id string) error {
				switch id {
				case "a":
					return core.ErrUnauthorized
				case "b":
					return fmt.Errorf("not yours: %w", core.ErrForbidden)
				case "c":
					return core.ErrNotFound
				}
				return nil
			}})
			for id, status := range map[string]int{"a": 401, "b": 403, "c": 404} {
				require.Equal(r, status, r.connect(ViewerOptions{ExecutionID: id}).Status, "execution %q", id)
				require.Equal(r, status, r.connect(ViewerOptions{ExecutionID: id, LastEventID: "1"}).Status, "execution %q", id)
			}
			require.Zero(r, r.Stats().Executions)
			r.expect(r.watch(ViewerOptions{}), r.tell(1)...)
		},
	},
	{
		name: "Origins",
		why: "a page of another site cannot watch with its visitor's cookies (403), unless its origin is allowed; no " +
			"browser keeps it from opening a WebSocket",
		run: func(s *suite) {
			const friend = "https://app.example.com"
			strict := s.room(core.Options{}, Options{})
			open := s.room(core.Options{}, Options{AllowedOrigins: []string{friend}})
			from := func(r *room, origin string) *Viewer {
				return r.connect(ViewerOptions{Header: http.Header{"Origin": {origin}}})
			}
			for _, r := range []*room{strict, open} {
				same := "http://" + r.server.Addr
				for _, origin := range []string{
					"https://evil.example", "null", "http://127.0.0.1:1", "http://localhost", friend + ".evil.example",
					"https://evil.example/" + r.server.Addr, same + ".evil.example", "http://" + r.server.Addr + "@evil.example",
				} {
					require.Equal(r, http.StatusForbidden, from(r, origin).Status, "origin %q", origin)
				}
				require.Zero(r, r.Stats().Executions)
				v := from(r, same)
				require.Equal(r, v.streaming(), v.Status, "the server's own origin")
			}
			require.Equal(s, http.StatusForbidden, from(strict, friend).Status)
			v := from(open, friend)
			require.Equal(s, v.streaming(), v.Status, "an allowed origin")
			if s.Transport == SSE {
				require.Equal(s, friend, v.Header.Get("Access-Control-Allow-Origin"), "or the page cannot read what it may")
				preflight := func(r *room, origin string) *Viewer {
					return r.connect(ViewerOptions{Method: http.MethodOptions, Header: http.Header{
						"Origin":                         {origin},
						"Access-Control-Request-Method":  {http.MethodGet},
						"Access-Control-Request-Headers": {"authorization,last-event-id"},
					}})
				}
				v = preflight(open, friend)
				require.Equal(s, http.StatusNoContent, v.Status, "or the page cannot send headers")
				require.Equal(s, friend, v.Header.Get("Access-Control-Allow-Origin"))
				require.Contains(s, v.Header.Get("Access-Control-Allow-Methods"), http.MethodGet)
				require.Contains(s, v.Header.Get("Access-Control-Allow-Headers"), "authorization")
				require.Contains(s, v.Header.Get("Access-Control-Allow-Headers"), "last-event-id")
				require.Contains(s, v.Header.Get("Vary"), "Origin")
				require.NotEmpty(s, v.Header.Get("Access-Control-Max-Age"))
				refused := []*Viewer{preflight(strict, friend)}
				for _, origin := range []string{"", "*", "null", "https://evil.example", friend + ".evil.example", friend + strings.Repeat("/", 2000)} {
					refused = append(refused, preflight(open, origin))
				}
				for _, v := range refused {
					require.GreaterOrEqual(s, v.Status, 400)
					require.Empty(s, v.Header.Get("Access-Control-Allow-Origin"))
					require.Empty(s, v.Header.Get("Access-Control-Allow-Headers"))
				}
			}
		},
	},
}
