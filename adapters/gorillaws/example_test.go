package gorillaws_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/gorilla/websocket"

	"github.com/execcast/execcast/adapters/gorillaws"
	"github.com/execcast/execcast/core"
)

func Example() {
	registry := core.New(nil)
	mux := http.NewServeMux()
	mux.Handle("GET /api/executions/{executionId}/events", gorillaws.NewHandler(registry, nil))
	server := httptest.NewServer(mux)
	defer server.Close()

	ctx := context.Background()
	registry.PublishJSON(ctx, "build-7", "task-start", map[string]string{"taskId": "compile"})
	registry.Close(ctx, "build-7")

	url := "ws" + strings.TrimPrefix(server.URL, "http") + "/api/executions/build-7/events"
	ws, _, err := websocket.DefaultDialer.Dial(url, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ws.Close()
	for {
		var event struct {
			Event string
			Data  any
		}
		if err := ws.ReadJSON(&event); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(event.Event, event.Data)
	}
	// Output:
	// task-start map[taskId:compile]
	// stream-end map[]
	// websocket: close 1000 (normal): finished
}

// Authorisation: a handshake that is refused gets a status, not a connection.
func ExampleOptions() {
	registry := core.New(nil)
	server := httptest.NewServer(gorillaws.NewHandler(registry, &gorillaws.Options{
		ExecutionID: func(r *http.Request) (string, error) {
			if r.Header.Get("Authorization") != "Bearer secret" {
				return "", core.ErrUnauthorized
			}
			return "build-7", nil
		},
	}))
	defer server.Close()
	url := "ws" + strings.TrimPrefix(server.URL, "http")
	_, response, err := websocket.DefaultDialer.Dial(url, nil)
	fmt.Println(err, response.StatusCode)
	ws, _, err := websocket.DefaultDialer.Dial(url, http.Header{"Authorization": {"Bearer secret"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ws.Close()
	fmt.Println(registry.ClientCount("build-7"))
	// Output:
	// websocket: bad handshake 401
	// 1
}
