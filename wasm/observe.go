//go:build js && wasm

package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"unsafe"

	"github.com/execcast/execcast/core"
)

// jsHook calls the hook of that number with an execution ID, which is the
// first bytes of p, and what the rest of p, x and y mean to it. It returns 1
// if the hook has thrown.
//
//go:wasmimport execcast hook
func jsHook(registry, hook uint32, p unsafe.Pointer, n, executionID uint32, x, y float64) uint32

//go:wasmimport execcast log
func jsLog(registry uint32, level int32, p unsafe.Pointer, n uint32)

// hook is one of JavaScript's: its number is its place in hookNames in
// registry.js.
type hook struct{ registry, number uint32 }

func (h hook) call(executionID, rest string, x, y float64) {
	p := executionID + rest
	if jsHook(h.registry, h.number, unsafe.Pointer(unsafe.StringData(p)), uint32(len(p)), uint32(len(executionID)), x, y) != 0 {
		panic("the hook has thrown") // registry.js knows what
	}
}

func (h hook) plain(executionID string) { h.call(executionID, "", 0, 0) }

func (h hook) published(executionID string, e core.Event) {
	rest := strings.Join([]string{e.Type, e.Traceparent, e.Key + string(e.Data)}, "\x00")
	h.call(executionID, rest, float64(e.ID), float64(len(e.Key)))
}

func (h hook) left(executionID string, reason error) { h.call(executionID, describe(reason), 0, 0) }

func (h hook) delivered(executionID string, events, bytes int) {
	h.call(executionID, "", float64(events), float64(bytes))
}

// hooks returns those that JavaScript has: a bit of has each.
func hooks(registry uint32, has uint32) (to core.Hooks) {
	for n, set := range []func(hook){
		func(h hook) { to.FirstViewer = h.plain },
		func(h hook) { to.LastViewer = h.plain },
		func(h hook) { to.Published = h.published },
		func(h hook) { to.Registered = h.plain },
		func(h hook) { to.Left = h.left },
		func(h hook) { to.Delivered = h.delivered },
		func(h hook) { to.Gap = h.plain },
		func(h hook) { to.Slow = h.plain },
		func(h hook) { to.Finished = h.plain },
	} {
		if has&(1<<n) != 0 {
			set(hook{registry, uint32(n)})
		}
	}
	return to
}

// logs is the handler that passes a registry's records on to JavaScript.
type logs struct{ registry uint32 }

func (logs) Enabled(context.Context, slog.Level) bool { return true }

// Handle gives the message, then keys and values, each after its length. The
// values are numbers if their text begins with n, strings if with s.
func (h logs) Handle(_ context.Context, r slog.Record) error {
	var p []byte
	add := func(s string) { p = append(appendUint32(p, uint32(len(s))), s...) }
	add(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		add(a.Key)
		kind := "s"
		v := a.Value.Any()
		switch v.(type) {
		case int, int64, uint64:
			kind = "n"
		}
		add(kind + fmt.Sprint(v))
		return true
	})
	jsLog(h.registry, int32(r.Level), unsafe.Pointer(unsafe.SliceData(p)), uint32(len(p)))
	return nil
}

func (h logs) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h logs) WithGroup(string) slog.Handler      { return h }
