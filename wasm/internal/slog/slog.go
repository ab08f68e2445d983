// Package slog is what the wasm build has in the place of log/slog: the part
// of it that core and this module use, with the same names and meanings.
// log/slog itself formats text and JSON, which takes a ninth of what a page
// loads, though here a handler passes everything on to JavaScript. build.mjs
// puts this in its place; what is missing here does not compile there.
package slog

import "context"

type Level int

const (
	LevelInfo  Level = 0
	LevelWarn  Level = 4
	LevelError Level = 8
)

type Value struct{ any }

func (v Value) Any() any { return v.any }

type Attr struct {
	Key   string
	Value Value
}

type Record struct {
	Message string
	Level   Level
	attrs   []Attr
}

func (r Record) Attrs(f func(Attr) bool) {
	for _, a := range r.attrs {
		if !f(a) {
			return
		}
	}
}

type Handler interface {
	Enabled(context.Context, Level) bool
	Handle(context.Context, Record) error
	WithAttrs(attrs []Attr) Handler
	WithGroup(name string) Handler
}

type Logger struct{ handler Handler }

func New(h Handler) *Logger { return &Logger{h} }

// Default returns a logger that drops everything: registryNew sets another.
func Default() *Logger { return &Logger{} }

// Info, Warn and Error take keys, which are strings, and values in turn.
func (l *Logger) Info(msg string, args ...any) { l.log(LevelInfo, msg, args) }

func (l *Logger) Warn(msg string, args ...any) { l.log(LevelWarn, msg, args) }

func (l *Logger) Error(msg string, args ...any) { l.log(LevelError, msg, args) }

func (l *Logger) log(level Level, msg string, args []any) {
	ctx := context.Background()
	if l.handler == nil || !l.handler.Enabled(ctx, level) {
		return
	}
	r := Record{Message: msg, Level: level}
	for ; len(args) >= 2; args = args[2:] {
		r.attrs = append(r.attrs, Attr{args[0].(string), Value{args[1]}})
	}
	l.handler.Handle(ctx, r)
}
