package httpsse_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/execcast/execcast/adapters/httpsse"
	"github.com/execcast/execcast/core"
)

func Example() {
	registry := core.New(nil)
	mux := http.NewServeMux()
	mux.Handle("GET /api/executions/{executionId}/events", httpsse.NewHandler(registry, nil))
	server := httptest.NewServer(mux)
	defer server.Close()

	ctx := context.Background()
	registry.PublishJSON(ctx, "build-7", "task-start", map[string]string{"taskId": "compile"})
	registry.Close(ctx, "build-7")

	// A viewer that comes late gets everything, and the end.
	res, err := http.Get(server.URL + "/api/executions/build-7/events")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	for line := range strings.Lines(string(body)) {
		if !strings.HasPrefix(line, "id:") { // differs from run to run
			fmt.Print(line)
		}
	}
	// Output:
	// retry: 2000
	//
	// event: task-start
	// data: {"taskId":"compile"}
	//
	// event: stream-end
	// data: {}
}

// One connection for a page that shows several executions. The caller decides
// which they are; where the request does, Options.ExecutionIDs reads it, and
// refuses the request if any may not be watched.
func ExampleHandler_ServeExecutions() {
	registry := core.New(nil)
	events := httpsse.NewHandler(registry, nil)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/mine/events", func(w http.ResponseWriter, r *http.Request) {
		events.ServeExecutions(w, r, []string{"build-7", "deploy-3"})
	})
	server := httptest.NewServer(mux)
	defer server.Close()

	ctx := context.Background()
	registry.PublishJSON(ctx, "build-7", "task-start", map[string]string{"taskId": "compile"})
	registry.PublishJSON(ctx, "deploy-3", "task-start", map[string]string{"taskId": "upload"})
	registry.Close(ctx, "build-7")
	registry.Close(ctx, "deploy-3")
	for event, err := range httpsse.Watch(ctx, server.URL+"/api/mine/events", &httpsse.WatchOptions{Several: true}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		if event.Type == core.TypeEnd {
			continue // of one, or of all
		}
		fmt.Println(event.Execution, event.Type, string(event.Data))
	}
	// Output:
	// build-7 task-start {"taskId":"compile"}
	// deploy-3 task-start {"taskId":"upload"}
}

// Authorisation: who may watch what, and with which answer to whom may not.
func ExampleOptions() {
	registry := core.New(nil)
	h := httpsse.NewHandler(registry, &httpsse.Options{
		ExecutionID: func(r *http.Request) (string, error) {
			user, _, ok := r.BasicAuth()
			id := r.PathValue("executionId")
			switch {
			case !ok:
				return "", core.ErrUnauthorized
			case !strings.HasPrefix(id, user+"-"):
				return "", fmt.Errorf("%w: %s is not %s's", core.ErrForbidden, id, user)
			}
			return id, nil
		},
	})
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	req.SetPathValue("executionId", "ann-1")
	for _, user := range []string{"", "bob"} {
		if user != "" {
			req.SetBasicAuth(user, "")
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, req)
		fmt.Println(rec.Code)
	}
	// Output:
	// 401
	// 403
}
