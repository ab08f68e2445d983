package jetstream_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/execcast/execcast/adapters/jetstream"
	"github.com/execcast/execcast/core"
)

// Two nodes share a stream: what one publishes, viewers of the other see.
func Example() {
	url, stop := serveNATS() // yours: "nats://a:4222,nats://b:4222,nats://c:4222"
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var nodes []*core.Registry
	for range 2 {
		nc, err := nats.Connect(url, nats.MaxReconnects(-1))
		if err != nil {
			fmt.Println(err)
			return
		}
		defer nc.Close()
		backplane, err := jetstream.New(ctx, nc, &jetstream.Options{MaxAge: time.Hour}) // and Replicas: 3
		if err != nil {
			fmt.Println(err)
			return
		}
		defer backplane.Close()
		nodes = append(nodes, core.New(&core.Options{Backplane: backplane}))
	}

	nodes[0].PublishJSON(ctx, "build-7", "task-start", map[string]string{"taskId": "compile"})
	viewer, err := nodes[1].Register("build-7", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	closed := make(chan error)
	go func() { closed <- nodes[0].Close(ctx, "build-7") }()
	var got bytes.Buffer
	err = viewer.Serve(ctx, &got)
	fmt.Println(err, <-closed)
	for f := range core.Decode(&got, 0) {
		fmt.Printf("%s %s\n", f.Type, f.Data)
	}
	// Output:
	// <nil> <nil>
	// task-start {"taskId":"compile"}
	// stream-end {}
}

// serveNATS runs a server with JetStream in this process.
func serveNATS() (url string, stop func()) {
	dir, err := os.MkdirTemp("", "execcast-")
	if err != nil {
		panic(err)
	}
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true})
	if err != nil {
		panic(err)
	}
	s.Start()
	if !s.ReadyForConnections(time.Minute) {
		panic("the server does not start")
	}
	return s.ClientURL(), func() {
		s.Shutdown()
		s.WaitForShutdown()
		os.RemoveAll(dir)
	}
}
