package main

import (
	"context"
	"errors"
	"log"
	"maps"
	"os/exec"
	"sync"
	"time"
)

// A publisher is all that a run knows of its viewers. *core.Registry is one;
// which transport carries the events is nobody's business here.
type publisher interface {
	PublishJSON(ctx context.Context, executionID, eventType string, v any) (id uint64, err error)
}

// What becomes of tasks and runs. A skipped task was never started: a
// dependency did not succeed, or the run was cancelled.
const (
	statusRunning   = "running"
	statusSuccess   = "success"
	statusFailed    = "failed"
	statusCancelled = "cancelled"
	statusSkipped   = "skipped"
)

// The events of a run. Progress counts the tasks that are complete, out of
// total. Times are RFC 3339, by the server's clock, as is startedAt of the run
// in GET /api/executions; durations are milliseconds.
type (
	taskStart struct {
		TaskID    string    `json:"taskId"`
		TaskTitle string    `json:"taskTitle"`
		StartedAt time.Time `json:"startedAt"`
		Progress  int       `json:"progress"`
		Total     int       `json:"total"`
	}
	taskOutput struct {
		TaskID string `json:"taskId"`
		Stream string `json:"stream"` // stdout or stderr
		Line   string `json:"line"`
	}
	taskComplete struct {
		TaskID   string `json:"taskId"`
		Status   string `json:"status"` // success, failed, cancelled, skipped
		Duration int64  `json:"duration"`
		Progress int    `json:"progress"`
		Total    int    `json:"total"`
	}
	executionComplete struct {
		ExecutionID   string `json:"executionId"`
		Status        string `json:"status"` // success, failed, cancelled
		Successful    int    `json:"successful"`
		Failed        int    `json:"failed"`
		TotalDuration int64  `json:"totalDuration"`
	}
)

// killGrace is how long a cancelled command has to end by itself, and how long
// the output of an ended one may stay open because something it has started
// still holds it.
const killGrace = 2 * time.Second

// A run is one execution of a plan.
type run struct {
	id        string
	plan      *Plan
	events    publisher
	startedAt time.Time
	grace     time.Duration
	lost      sync.Once // the first event that could not be published is logged

	mu       sync.Mutex
	status   string
	counts   map[string]int // tasks that are complete, by status
	duration time.Duration  // once it is not running any more
}

func newRun(id string, plan *Plan, events publisher) *run {
	return &run{
		id:        id,
		plan:      plan,
		events:    events,
		startedAt: time.Now(),
		grace:     killGrace,
		status:    statusRunning,
		counts:    map[string]int{},
	}
}

// execute runs the plan to its end, which cancelling ctx brings about early:
// commands get SIGTERM, and SIGKILL after a grace. Every output line of a task
// is published before its task-complete, and execution-complete is last.
func (r *run) execute(ctx context.Context) {
	type result struct {
		task     int
		status   string
		duration time.Duration
	}
	var (
		total      = len(r.plan.Tasks)
		results    = make(chan result)
		index      = make(map[string]int, total)
		dependents = make([][]int, total)
		missing    = make([]int, total) // dependencies that have not succeeded yet
		complete   = make([]bool, total)
		progress   int
		cancelled  bool
	)
	for i, task := range r.plan.Tasks {
		index[task.ID] = i
	}
	for i, task := range r.plan.Tasks {
		missing[i] = len(task.DependsOn)
		for _, id := range task.DependsOn {
			dependents[index[id]] = append(dependents[index[id]], i)
		}
	}

	// finish and start know each other: a task's end starts or skips those that
	// waited for it.
	var finish func(i int, status string, d time.Duration)
	start := func(i int) {
		if ctx.Err() != nil {
			cancelled = true
			finish(i, statusSkipped, 0)
			return
		}
		task := r.plan.Tasks[i]
		began := time.Now()
		r.publish("task-start", taskStart{task.ID, task.Title, began, progress, total})
		go func() {
			status := r.command(ctx, task)
			results <- result{i, status, time.Since(began)}
		}()
	}
	finish = func(i int, status string, d time.Duration) {
		complete[i] = true
		progress++
		cancelled = cancelled || status == statusCancelled
		r.mu.Lock()
		r.counts[status]++
		r.mu.Unlock()
		r.publish("task-complete", taskComplete{r.plan.Tasks[i].ID, status, d.Milliseconds(), progress, total})
		for _, j := range dependents[i] {
			switch {
			case complete[j]:
			case status != statusSuccess:
				finish(j, statusSkipped, 0)
			default:
				if missing[j]--; missing[j] == 0 {
					start(j)
				}
			}
		}
	}

	for i, task := range r.plan.Tasks {
		if len(task.DependsOn) == 0 {
			start(i)
		}
	}
	for progress < total {
		done := <-results
		finish(done.task, done.status, done.duration)
	}

	status := statusSuccess
	switch {
	case cancelled:
		status = statusCancelled
	case r.counts[statusFailed] > 0:
		status = statusFailed
	}
	duration := time.Since(r.startedAt)
	r.mu.Lock()
	r.status, r.duration = status, duration
	r.mu.Unlock()
	r.publish("execution-complete", executionComplete{
		r.id, status, r.counts[statusSuccess], r.counts[statusFailed], duration.Milliseconds()})
}

// command runs one task's command, publishes its output, and returns the task's
// status.
func (r *run) command(ctx context.Context, task Task) string {
	lines := func(stream string) *lineWriter {
		return &lineWriter{emit: func(line string) {
			r.publish("task-output", taskOutput{task.ID, stream, line})
		}}
	}
	stdout, stderr := lines("stdout"), lines("stderr")
	cmd := exec.CommandContext(ctx, task.Command[0], task.Command[1:]...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.Cancel = func() error { return terminateGroup(cmd) }
	cmd.WaitDelay = r.grace
	ownGroup(cmd)

	err := cmd.Run()
	if cmd.Process != nil {
		killGroup(cmd)
	}
	stdout.flush()
	stderr.flush()
	switch {
	case err == nil:
		return statusSuccess
	case errors.Is(err, exec.ErrWaitDelay):
		stderr.emit("orchestrator: ended what the command left running in the background")
		return statusSuccess
	case ctx.Err() != nil:
		return statusCancelled
	}
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || !exit.Exited() {
		stderr.pass([]byte("orchestrator: " + err.Error())) // not started, or killed: the output alone does not tell
	}
	return statusFailed
}

// publish does not let the run's cancellation keep its last events from the
// viewers.
func (r *run) publish(eventType string, v any) {
	if _, err := r.events.PublishJSON(context.Background(), r.id, eventType, v); err != nil {
		r.lost.Do(func() { log.Printf("execution %s: %s: %v", r.id, eventType, err) })
	}
}

// state is the run's status, its complete tasks by status, and how long it has
// taken until now.
func (r *run) state() (status string, counts map[string]int, duration time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	duration = r.duration
	if r.status == statusRunning {
		duration = time.Since(r.startedAt)
	}
	return r.status, maps.Clone(r.counts), duration
}

func (r *run) ended() time.Time {
	_, _, duration := r.state()
	return r.startedAt.Add(duration)
}
