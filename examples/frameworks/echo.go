package main

import (
	"net/http"

	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"

	"github.com/execcast/execcast/adapters/httpsse"
)

func newEcho(o *orchestrator) server {
	events := httpsse.NewHandler(o.registry, nil)
	e := echo.New()
	e.Use(middleware.Recover())
	e.POST("/api/executions", echo.WrapHandler(http.HandlerFunc(o.startHTTP)))
	// In echo v4 it is c echo.Context, without the star.
	e.GET("/api/executions/:executionId/events", func(c *echo.Context) error {
		events.ServeExecution(c.Response(), c.Request(), c.Param("executionId"))
		return nil
	})
	return &http.Server{Handler: e}
}
