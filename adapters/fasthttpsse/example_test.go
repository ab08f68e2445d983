package fasthttpsse_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/execcast/execcast/adapters/fasthttpsse"
	"github.com/execcast/execcast/core"
)

func Example() {
	registry := core.New(nil)
	events := fasthttpsse.NewHandler(registry, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ln.Close()
	go fasthttp.Serve(ln, func(ctx *fasthttp.RequestCtx) {
		// A router does this for a path like /api/executions/{executionId}/events.
		ctx.SetUserValue("executionId", strings.Split(string(ctx.Path()), "/")[3])
		events.ServeFastHTTP(ctx)
	})

	ctx := context.Background()
	registry.PublishJSON(ctx, "build-7", "task-start", map[string]string{"taskId": "compile"})
	registry.Close(ctx, "build-7")

	res, err := http.Get("http://" + ln.Addr().String() + "/api/executions/build-7/events")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "event:") {
			fmt.Println(lines.Text())
		}
	}
	// Output:
	// event: task-start
	// event: stream-end
}
