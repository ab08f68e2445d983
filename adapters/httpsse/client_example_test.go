package httpsse_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/execcast/execcast/adapters/httpsse"
	"github.com/execcast/execcast/core"
)

// Watching an execution from Go, through every interruption, to its end.
func ExampleWatch() {
	registry := core.New(nil)
	mux := http.NewServeMux()
	mux.Handle("GET /api/executions/{executionId}/events", httpsse.NewHandler(registry, nil))
	server := httptest.NewServer(mux)
	defer server.Close()

	ctx := context.Background()
	registry.PublishJSON(ctx, "build-7", "task-start", map[string]string{"taskId": "compile"})
	registry.Close(ctx, "build-7")

	for event, err := range httpsse.Watch(ctx, server.URL+"/api/executions/build-7/events", nil) {
		if err != nil {
			fmt.Println(err)
			return
		}
		switch event.Type {
		case core.TypeGap:
			fmt.Println("events are missing here:", string(event.Data))
		case core.TypeEnd:
			fmt.Println("finished")
		default:
			fmt.Println(event.Type, string(event.Data))
		}
	}
	// Output:
	// task-start {"taskId":"compile"}
	// finished
}

// A viewer with a token, which says what becomes of its connection.
func ExampleWatchOptions() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer secret":
			w.WriteHeader(http.StatusUnauthorized)
		case r.Header.Get("Last-Event-ID") == "":
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "retry: 10\nid: 1\ndata: one\n\n")
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	defer server.Close()

	for _, token := range []string{"guessed", "secret"} {
		for event, err := range httpsse.Watch(context.Background(), server.URL, &httpsse.WatchOptions{
			Header:    http.Header{"Authorization": {"Bearer " + token}},
			Connected: func(*http.Response) { fmt.Println("connected") },
			Disconnected: func(err error, wait time.Duration) {
				fmt.Println("disconnected:", err)
			},
		}) {
			switch {
			case errors.Is(err, core.ErrUnauthorized):
				fmt.Println("not with this token:", err)
			case err != nil:
				fmt.Println(err)
			default:
				fmt.Println(event.Type, string(event.Data), "after which the ID is", event.LastEventID)
			}
		}
	}
	// Output:
	// not with this token: execcast: no event stream: status 401 Unauthorized
	// connected
	// message one after which the ID is 1
	// disconnected: EOF
}

// What ended a sequence: the status is at hand, and matches core's errors.
func ExampleStatusError() {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	for _, err := range httpsse.Watch(context.Background(), server.URL, nil) {
		var refused *httpsse.StatusError
		fmt.Println(errors.Is(err, core.ErrNotFound), errors.As(err, &refused) && refused.Code == http.StatusNotFound)
	}
	// Output: true true
}
