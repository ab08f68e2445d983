package coretest_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/execcast/execcast/core/coretest"
)

// A viewer shows what has arrived, and how the stream ended.
func ExampleConnect() {
	mux := http.NewServeMux()
	mux.HandleFunc(coretest.Pattern, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "id: 7\nevent: greeting\ndata: \"hello, "+r.PathValue("executionId")+"\"\n\n")
	})
	server := httptest.NewServer(mux)
	defer server.Close()

	v, err := coretest.Connect(coretest.ViewerOptions{
		Transport:   coretest.SSE,
		Addr:        server.Listener.Addr().String(),
		ExecutionID: "x",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer v.Close()
	e, err := v.Next()
	fmt.Println(e.ID, e.Type, e.Value(), err)
	_, err = v.Next()
	fmt.Println(err, v.LastEventID)
	// Output:
	// 7 greeting hello, x <nil>
	// EOF 7
}
