package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/execcast/execcast/adapters/httpsse"
	"github.com/execcast/execcast/core"
)

var (
	errFailed   = errors.New("the execution has not succeeded")
	errNoResult = errors.New("the execution is over or unknown, and its result was not seen")
)

// A view shows what happens. It is for one goroutine at a time. Texts may
// contain anything.
type view interface {
	line(text string)               // something has happened
	connection(state string)        // the connection's state has changed
	taskStarted(id, title string)   // until taskEnded
	taskEnded(id string)            // also of a task that never started
	progress(complete, total int64) // of all tasks
	close()                         // once, last
}

// watch shows the stream at url to its end. It returns nil if the execution has
// succeeded, or finished without saying how. It sets the hooks of opts.
func watch(ctx context.Context, url string, opts *httpsse.WatchOptions, v view) error {
	connected := "connected"
	opts.Connected = func(*http.Response) {
		v.connection(connected)
		connected = "reconnected"
	}
	opts.Disconnected = func(err error, wait time.Duration) {
		v.connection(fmt.Sprintf("reconnecting in %v: %v", wait.Round(100*time.Millisecond), err))
	}
	result := errNoResult
	for e, err := range httpsse.Watch(ctx, url, opts) {
		if err != nil {
			v.connection("disconnected")
			return err
		}
		switch status := show(e, v); {
		case status == "success":
			result = nil
		case status != "":
			result = errFailed
		case e.Type == core.TypeEnd && result == errNoResult:
			result = nil
		}
	}
	v.connection("finished")
	return result
}

// show shows one event and returns the status of the execution, if it is the
// event that says it. Events that are not as the orchestrator example publishes
// them are shown as they are.
func show(e httpsse.Event, v view) (status string) {
	switch e.Type {
	case "task-start":
		var task struct {
			TaskID, TaskTitle string
			Progress, Total   int64
		}
		if !decode(e.Data, &task) || task.TaskID == "" {
			break
		}
		v.taskStarted(task.TaskID, task.TaskTitle)
		v.progress(task.Progress, task.Total)
		v.line(fmt.Sprintf("%s: started: %s", task.TaskID, task.TaskTitle))
		return ""
	case "task-output":
		var output struct{ TaskID, Stream, Line string }
		if !decode(e.Data, &output) || output.TaskID == "" {
			break
		}
		mark := "|"
		if output.Stream == "stderr" {
			mark = "!"
		}
		v.line(fmt.Sprintf("%s%s %s", output.TaskID, mark, output.Line))
		return ""
	case "task-complete":
		var task struct {
			TaskID, Status            string
			Duration, Progress, Total int64
		}
		if !decode(e.Data, &task) || task.TaskID == "" {
			break
		}
		v.taskEnded(task.TaskID)
		v.progress(task.Progress, task.Total)
		v.line(fmt.Sprintf("%s: %s after %v", task.TaskID, task.Status, milliseconds(task.Duration)))
		return ""
	case "execution-complete":
		var end struct {
			Status                            string
			Successful, Failed, TotalDuration int64
		}
		if !decode(e.Data, &end) || end.Status == "" {
			break
		}
		v.line(fmt.Sprintf("execution: %s after %v: %d successful, %d failed",
			end.Status, milliseconds(end.TotalDuration), end.Successful, end.Failed))
		return end.Status
	case core.TypeGap:
		var gap struct{ Count int64 }
		if decode(e.Data, &gap) && gap.Count > 0 {
			v.line(fmt.Sprintf("%d events are missing here", gap.Count))
		} else {
			v.line("events are missing here")
		}
		return ""
	case core.TypeEnd, core.TypeHeartbeat:
		return ""
	}
	v.line(e.Type + " " + string(e.Data))
	return ""
}

func decode(data []byte, v any) bool { return json.Unmarshal(data, v) == nil }

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
