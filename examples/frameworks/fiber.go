package main

import (
	"context"
	"net"
	"strings"

	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/recover"

	"github.com/execcast/execcast/adapters/fasthttpsse"
)

func newFiber(o *orchestrator) server {
	events := fasthttpsse.NewHandler(o.registry, nil)
	app := fiber.New()
	app.Use(recover.New())
	app.Post("/api/executions", func(c fiber.Ctx) error {
		id, err := o.start()
		if err != nil {
			return fiber.NewError(fiber.StatusServiceUnavailable, err.Error())
		}
		return c.Status(fiber.StatusAccepted).SendString(id)
	})
	app.Get("/api/executions/:executionId/events", func(c fiber.Ctx) error {
		// A copy: Fiber's strings lie in buffers of the request, which the
		// next one overwrites.
		events.ServeExecution(c.RequestCtx(), strings.Clone(c.Params("executionId")))
		return nil
	})
	return fiberServer{app}
}

type fiberServer struct{ app *fiber.App }

func (s fiberServer) Serve(l net.Listener) error {
	return s.app.Listener(l, fiber.ListenConfig{DisableStartupMessage: true})
}

func (s fiberServer) Shutdown(ctx context.Context) error { return s.app.ShutdownWithContext(ctx) }
