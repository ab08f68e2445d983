// Package client is the JavaScript client for pages: an ES module that follows
// an execution over fetch, EventSource or WebSocket. For Go servers that have
// no npm, it is embedded here; client.d.ts says what it offers.
//
//	import { follow } from "/execcast.js";
package client

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"net/http"
	"time"
)

//go:embed client.js
var module []byte

// JS returns the module's text, the caller's own copy.
func JS() []byte { return bytes.Clone(module) }

// Handler serves the module, at whatever path it is mounted:
//
//	mux.Handle("GET /execcast.js", client.Handler())
//
// Browsers ask each time whether it has changed.
func Handler() http.Handler {
	sum := sha256.Sum256(module)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/javascript; charset=utf-8")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", tag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(module))
	})
}
