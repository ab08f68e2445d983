package execcastprom_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	execcastprom "github.com/execcast/execcast/adapters/prometheus"
	"github.com/execcast/execcast/core"
)

func Example() {
	registry, metrics := execcastprom.New(&core.Options{MaxEvents: 1000}) // in the place of core.New
	collected := prometheus.NewRegistry()                                 // or prometheus.DefaultRegisterer
	collected.MustRegister(metrics)
	server := httptest.NewServer(promhttp.HandlerFor(collected, promhttp.HandlerOpts{})) // at /metrics
	defer server.Close()

	registry.PublishJSON(context.Background(), "build-7", "task-start", map[string]string{"taskId": "compile"})

	res, err := http.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "execcast_published") {
			fmt.Println(lines.Text())
		}
	}
	// Output: execcast_published_events_total 1
}
