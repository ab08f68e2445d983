package endpoint_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/adapters/internal/endpoint"
)

const app = "https://app.example.com"

// preflight returns the headers of the answer, nil if there is none.
func preflight(method, origin, requested, names string, allowed ...string) map[string]string {
	request, answer := http.Header{}, map[string]string{}
	for name, value := range map[string]string{
		"Origin": origin, "Access-Control-Request-Method": requested, "Access-Control-Request-Headers": names,
	} {
		if value != "" {
			request[name] = []string{value}
		}
	}
	if !endpoint.Preflight(method, request.Get, allowed, func(name, value string) { answer[name] = value }) {
		if len(answer) > 0 {
			panic("headers of an answer that is not given")
		}
		return nil
	}
	return answer
}

func TestPreflight(t *testing.T) {
	want := map[string]string{
		"Access-Control-Allow-Origin":      app,
		"Access-Control-Allow-Credentials": "true",
		"Access-Control-Allow-Methods":     "GET, HEAD",
		"Access-Control-Allow-Headers":     "authorization,last-event-id",
		"Access-Control-Max-Age":           "7200",
		"Vary":                             "Origin, Access-Control-Request-Headers",
	}
	require.Equal(t, want, preflight("OPTIONS", app, "GET", "authorization,last-event-id", app))
	delete(want, "Access-Control-Allow-Credentials")
	require.Equal(t, want, preflight("OPTIONS", app, "GET", "authorization,last-event-id", "*"), "any page, but without cookies")
	delete(want, "Access-Control-Allow-Headers")
	require.Equal(t, want, preflight("OPTIONS", app, "PUT", "", "*"))
	for _, names := range []string{"a\r\nSet-Cookie: b=c", "a\nb", "a\x00", "a:b", `"a"`, "a(b)", "é", "a/b", strings.Repeat("a", 1025), strings.Repeat("a,", 1<<19)} {
		require.Equal(t, want, preflight("OPTIONS", app, "GET", names, "*"), "%.20q", names)
	}
}

func TestNoPreflight(t *testing.T) {
	for _, origin := range []string{
		"", "null", "*", "https://evil.example", app + ".evil.example", app + "/", app + ":443", "http://app.example.com", "app.example.com",
		app + "\r\nSet-Cookie: a=b", app + "\n", "\n" + app, app + "\x00", app + " " + app, app + "," + app, strings.Repeat(app, 1<<15),
	} {
		require.Nil(t, preflight("OPTIONS", origin, "GET", "authorization", app), "%.60q", origin)
		require.Nil(t, preflight("OPTIONS", origin, "GET", "authorization"), "%.60q", origin)
	}
	require.Nil(t, preflight("OPTIONS", "", "GET", "authorization", "*"), "not a page's")
	require.Nil(t, preflight("OPTIONS", app, "", "authorization", app), "not a preflight")
	for _, method := range []string{"GET", "HEAD", "POST", "options", ""} {
		require.Nil(t, preflight(method, app, "GET", "authorization", app), method)
	}
}

func TestCORSWithoutOrigin(t *testing.T) {
	for _, allowed := range [][]string{{"*"}, {app}, {""}} {
		got := map[string]string{}
		endpoint.CORS("", allowed, func(name, value string) { got[name] = value })
		require.Equal(t, map[string]string{"Vary": "Origin"}, got)
	}
}
