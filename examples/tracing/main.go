// Command tracing shows that an event carries the trace it was published in. An
// orchestrator runs each task in a span of OpenTelemetry and publishes what the
// task does; a viewer reads the events over HTTP, prints each with its trace,
// and goes on in that trace with a span of its own. The spans are printed as
// well, as JSON, a line each; a service would send them to a collector.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"

	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/execcast/execcast/adapters/httpsse"
	"github.com/execcast/execcast/core"
)

func main() {
	spans, err := stdouttrace.New()
	if err != nil {
		log.Fatal(err)
	}
	if err := run(context.Background(), os.Stdout, spans); err != nil {
		log.Fatal(err)
	}
}

// run runs an execution and a viewer of it, until both have ended.
func run(ctx context.Context, out io.Writer, spans trace.SpanExporter) error {
	provider := trace.NewTracerProvider(trace.WithBatcher(spans))
	registry := core.New(&core.Options{Traceparent: traceparent})
	mux := http.NewServeMux()
	mux.Handle("GET /api/executions/{executionId}/events", httpsse.NewHandler(registry, nil))
	server := httptest.NewServer(mux)
	defer server.Close()

	published := make(chan error, 1)
	go func() { published <- orchestrate(ctx, provider, registry, "build-7") }()
	if err := watch(ctx, provider, server.URL+"/api/executions/build-7/events", out); err != nil {
		return err
	}
	if err := <-published; err != nil {
		return err
	}
	return provider.Shutdown(ctx)
}

// traceparent is for core.Options: the trace of the context an event is
// published with.
func traceparent(ctx context.Context) string {
	header := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, header)
	return header["traceparent"]
}

// traced is its counterpart: a context that goes on in an event's trace.
func traced(ctx context.Context, e httpsse.Event) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": e.Traceparent})
}

func orchestrate(ctx context.Context, provider *trace.TracerProvider, registry *core.Registry, executionID string) error {
	tracer := provider.Tracer("orchestrator")
	ctx, span := tracer.Start(ctx, "execution "+executionID)
	defer span.End()
	for _, task := range []string{"compile", "test"} {
		ctx, span := tracer.Start(ctx, "task "+task)
		for _, event := range []string{"task-start", "task-complete"} {
			if _, err := registry.PublishJSON(ctx, executionID, event, map[string]string{"taskId": task}); err != nil {
				return err
			}
		}
		span.End()
	}
	return registry.Close(ctx, executionID)
}

func watch(ctx context.Context, provider *trace.TracerProvider, url string, out io.Writer) error {
	tracer := provider.Tracer("viewer")
	for event, err := range httpsse.Watch(ctx, url, nil) {
		if err != nil {
			return err
		}
		if event.Traceparent == "" { // the registry's own, here stream-end
			fmt.Fprintln(out, event.Type)
			continue
		}
		_, span := tracer.Start(traced(ctx, event), "show "+event.Type)
		fmt.Fprintln(out, event.Type, string(event.Data), "trace", span.SpanContext().TraceID())
		span.End()
	}
	return nil
}
