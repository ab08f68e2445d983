package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/core"
	"github.com/execcast/execcast/core/coretest"
)

// gated returns an orchestrator whose tasks each wait for a value from proceed.
func gated(t *testing.T) (o *orchestrator, proceed chan struct{}) {
	proceed = make(chan struct{})
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	return &orchestrator{registry: core.New(nil), work: func(context.Context, string) {
		select {
		case <-proceed:
		case <-stop:
		}
	}}, proceed
}

func serve(t *testing.T, s server) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.Serve(l)
	}()
	t.Cleanup(func() {
		// Streams that a failed test has left open must not delay the end.
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Shutdown(ctx)
		l.Close()
		<-served
	})
	return l.Addr().String()
}

func start(t *testing.T, addr string) (executionID string) {
	res, err := http.Post("http://"+addr+"/api/executions", "", nil)
	require.NoError(t, err)
	defer res.Body.Close()
	id, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusAccepted, res.StatusCode, "%s", id)
	return string(id)
}

func TestFrameworks(t *testing.T) {
	for name, newServer := range frameworks {
		transport := coretest.SSE
		if name == "websocket" {
			transport = coretest.WebSocket
		}
		t.Run(name, func(t *testing.T) {
			o, proceed := gated(t)
			addr := serve(t, newServer(o))
			id := start(t, addr)
			watch := func(lastEventID string) *coretest.Viewer {
				v, err := coretest.Connect(coretest.ViewerOptions{Transport: transport, Addr: addr, ExecutionID: id, LastEventID: lastEventID})
				require.NoError(t, err)
				t.Cleanup(func() { v.Close() })
				return v
			}
			next := func(v *coretest.Viewer, eventType, data string) {
				t.Helper()
				e, err := v.Next()
				require.NoError(t, err)
				require.Equal(t, eventType, e.Type)
				require.JSONEq(t, data, e.Data)
			}

			live := watch("")
			next(live, "execution-start", `{"tasks":["compile","test","package"]}`)
			next(live, "task-start", `{"taskId":"compile"}`)
			before := live.LastEventID
			proceed <- struct{}{} // nothing but the viewer has to happen for what follows to arrive
			next(live, "task-complete", `{"taskId":"compile"}`)
			next(live, "task-start", `{"taskId":"test"}`)

			late := watch("")
			next(late, "execution-start", `{"tasks":["compile","test","package"]}`)
			next(late, "task-start", `{"taskId":"compile"}`)
			require.Equal(t, before, late.LastEventID)
			require.NoError(t, late.Close())

			resumed := watch(before)
			next(resumed, "task-complete", `{"taskId":"compile"}`)
			next(resumed, "task-start", `{"taskId":"test"}`)

			close(proceed)
			for _, v := range []*coretest.Viewer{live, resumed} {
				next(v, "task-complete", `{"taskId":"test"}`)
				next(v, "task-start", `{"taskId":"package"}`)
				next(v, "task-complete", `{"taskId":"package"}`)
				next(v, "execution-complete", `{"status":"success"}`)
				next(v, core.TypeEnd, `{}`)
				_, err := v.Next()
				require.Equal(t, io.EOF, err, "a clean end")
			}

			// Whoever has everything is told not to come again.
			done := watch(live.LastEventID)
			if transport == coretest.WebSocket {
				events, err := done.All()
				require.NoError(t, err)
				require.Empty(t, events)
				require.Equal(t, 1000, live.CloseCode)
				require.Equal(t, 1000, done.CloseCode)
			} else {
				require.Equal(t, http.StatusNoContent, done.Status)
			}
		})
	}
}

// Fiber overwrites the strings it hands out: requests that follow must not
// change the ID of an execution that began with its first viewer.
func TestFiberCopiesTheID(t *testing.T) {
	o, _ := gated(t)
	addr := serve(t, newFiber(o))
	var viewers []*coretest.Viewer
	for i := range 10 {
		v, err := coretest.Connect(coretest.ViewerOptions{Addr: addr, ExecutionID: fmt.Sprint("execution-", i)})
		require.NoError(t, err)
		defer v.Close()
		viewers = append(viewers, v)
	}
	for i, v := range viewers {
		id := fmt.Sprint("execution-", i)
		_, err := o.registry.PublishJSON(t.Context(), id, "named", id)
		require.NoError(t, err)
		require.Equal(t, 1, o.registry.ClientCount(id), id)
		e, err := v.Next()
		require.NoError(t, err)
		require.Equal(t, id, e.Value())
	}
}

// The server ends while a viewer is connected: it gets what there is, and an
// end that is no finish.
func TestShutdown(t *testing.T) {
	for name, newServer := range frameworks {
		t.Run(name, func(t *testing.T) {
			o, _ := gated(t)
			s := newServer(o)
			addr := serve(t, s)
			id := start(t, addr)
			transport := coretest.SSE
			if name == "websocket" {
				transport = coretest.WebSocket
			}
			v, err := coretest.Connect(coretest.ViewerOptions{Transport: transport, Addr: addr, ExecutionID: id})
			require.NoError(t, err)
			defer v.Close()
			down := make(chan error, 2)
			go func() { down <- s.Shutdown(context.Background()) }()
			go func() { down <- o.registry.Shutdown(context.Background()) }()
			events, err := v.All()
			require.NoError(t, err)
			require.Equal(t, "execution-start", events[0].Type)
			for _, e := range events {
				require.NotEqual(t, core.TypeEnd, e.Type)
			}
			v.Close()
			require.NoError(t, <-down)
			require.NoError(t, <-down)
		})
	}
}

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // what an orchestration cannot publish because its test is over
	m.Run()
}
