package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// kept is an exporter that remembers its spans beyond its shutdown.
type kept struct{ *tracetest.InMemoryExporter }

func (kept) Shutdown(context.Context) error { return nil }

func TestTracing(t *testing.T) {
	var out strings.Builder
	spans := kept{tracetest.NewInMemoryExporter()}
	require.NoError(t, run(t.Context(), &out, spans))

	tasks := map[string]tracetest.SpanStub{} // by their names
	shown := map[string]int{}                // by the span's name and its parent's ID
	var execution tracetest.SpanStub
	for _, s := range spans.GetSpans() {
		switch kind, _, _ := strings.Cut(s.Name, " "); kind {
		case "execution":
			execution = s
		case "task":
			tasks[s.Name] = s
		case "show":
			require.True(t, s.Parent.IsRemote())
			shown[fmt.Sprint(s.Name, " in ", s.Parent.SpanID())]++
		}
	}
	require.Len(t, tasks, 2)
	require.Len(t, spans.GetSpans(), 1+2+4)
	var want strings.Builder
	for _, task := range []string{"compile", "test"} {
		for _, event := range []string{"task-start", "task-complete"} {
			fmt.Fprintf(&want, "%s {\"taskId\":%q} trace %s\n", event, task, execution.SpanContext.TraceID())
			require.Equal(t, 1, shown[fmt.Sprint("show ", event, " in ", tasks["task "+task].SpanContext.SpanID())])
		}
	}
	require.Equal(t, want.String()+"stream-end\n", out.String())
}
