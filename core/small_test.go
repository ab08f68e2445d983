package core

import "runtime"

// small is set where the tests have one thread and little time.
var small = runtime.GOARCH == "wasm"

// lines is an encoding with a heartbeat of its own: one JSON object a line.
var lines Encoder = linesEncoder{}

type linesEncoder struct{}

func (linesEncoder) AppendEvent(dst []byte, e Event) []byte {
	return append(JSON.AppendEvent(dst, e), '\n')
}

func (linesEncoder) AppendHeartbeat(dst []byte) []byte { return dst }
