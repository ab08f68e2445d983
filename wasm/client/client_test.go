package client_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/wasm/client"
)

func TestHandlerServesTheModule(t *testing.T) {
	want, err := os.ReadFile("client.js")
	require.NoError(t, err)
	require.Equal(t, want, client.JS())
	client.JS()[0]++
	require.Equal(t, want, client.JS(), "a caller's copy is the caller's")

	get := func(method, etag string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "/execcast.js", nil)
		r.Header.Set("If-None-Match", etag)
		w := httptest.NewRecorder()
		client.Handler().ServeHTTP(w, r)
		return w
	}
	w := get("GET", "")
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, want, w.Body.Bytes())
	require.Equal(t, "text/javascript; charset=utf-8", w.Header().Get("Content-Type"))
	require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
	require.Equal(t, http.StatusNotModified, get("GET", w.Header().Get("ETag")).Code)
	require.Empty(t, get("HEAD", "").Body.Bytes())
}
