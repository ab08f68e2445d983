package main

import (
	"context"
	"crypto/rand"
	"log"
	"time"

	"github.com/execcast/execcast/core"
)

// orchestrator runs executions. It knows the registry, and neither a framework
// nor a transport.
type orchestrator struct {
	registry *core.Registry
	work     func(ctx context.Context, task string) // does what a task is there for
}

var tasks = []string{"compile", "test", "package"}

// start starts an execution, which outlives the request that asked for it, and
// returns its ID.
func (o *orchestrator) start() (executionID string, err error) {
	id := rand.Text()
	// The first event is published here, so that whoever has the ID finds the
	// execution, and learns if there is no room for it.
	if _, err := o.registry.PublishJSON(context.Background(), id, "execution-start", map[string]any{"tasks": tasks}); err != nil {
		return "", err
	}
	go o.run(context.Background(), id)
	return id, nil
}

func (o *orchestrator) run(ctx context.Context, id string) {
	for _, task := range tasks {
		o.publish(ctx, id, "task-start", map[string]any{"taskId": task})
		o.work(ctx, task)
		o.publish(ctx, id, "task-complete", map[string]any{"taskId": task})
	}
	o.publish(ctx, id, "execution-complete", map[string]any{"status": "success"})
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := o.registry.Close(ctx, id); err != nil { // waits until every viewer has everything
		log.Print(err)
	}
}

// publish tells the viewers. Work goes on without them: while the program ends,
// nobody listens any more.
func (o *orchestrator) publish(ctx context.Context, id, eventType string, data any) {
	if _, err := o.registry.PublishJSON(ctx, id, eventType, data); err != nil {
		log.Print(err)
	}
}
