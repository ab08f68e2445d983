package guides

// What snippets may use without an import of their own: the test reads this
// list, and go.mod keeps what is on it.
import (
	_ "context"
	_ "encoding/json"
	_ "errors"
	_ "fmt"
	_ "log"
	_ "net"
	_ "net/http"
	_ "os"
	_ "os/signal"
	_ "strings"
	_ "sync"
	_ "syscall"
	_ "time"

	_ "github.com/nats-io/nats.go"
	_ "github.com/prometheus/client_golang/prometheus"
	_ "github.com/r3labs/sse/v2"
	_ "github.com/valyala/fasthttp"

	_ "github.com/execcast/execcast/adapters/fasthttpsse"
	_ "github.com/execcast/execcast/adapters/gorillaws"
	_ "github.com/execcast/execcast/adapters/httpsse"
	_ "github.com/execcast/execcast/adapters/jetstream"
	_ "github.com/execcast/execcast/adapters/prometheus"
	_ "github.com/execcast/execcast/core"
	_ "github.com/execcast/execcast/wasm/client"
)
