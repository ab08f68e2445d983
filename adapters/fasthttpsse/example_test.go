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

// Authorisation: who may watch what, and with which answer to whom may not.
func ExampleOptions() {
	registry := core.New(nil)
	h := fasthttpsse.NewHandler(registry, &fasthttpsse.Options{
		ExecutionID: func(ctx *fasthttp.RequestCtx) (string, error) {
			user := string(ctx.Request.Header.Peek("X-User")) // set by a middleware, say
			id := string(ctx.QueryArgs().Peek("execution"))
			switch {
			case user == "":
				return "", core.ErrUnauthorized
			case !strings.HasPrefix(id, user+"-"):
				return "", fmt.Errorf("%w: %s is not %s's", core.ErrForbidden, id, user)
			}
			return id, nil
		},
		AllowedOrigins: []string{"https://app.example.com"},
	})
	for _, user := range []string{"", "bob"} {
		var ctx fasthttp.RequestCtx
		ctx.Request.SetRequestURI("/events?execution=ann-1")
		ctx.Request.Header.Set("X-User", user)
		h.ServeFastHTTP(&ctx)
		fmt.Println(ctx.Response.StatusCode())
	}
	// Output:
	// 401
	// 403
}
