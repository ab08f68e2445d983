package main

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/execcast/execcast/adapters/httpsse"
)

func newGin(o *orchestrator) server {
	gin.SetMode(gin.ReleaseMode)
	events := httpsse.NewHandler(o.registry, nil)
	r := gin.New()
	r.Use(gin.Recovery())
	r.POST("/api/executions", gin.WrapF(o.startHTTP))
	r.GET("/api/executions/:executionId/events", func(c *gin.Context) {
		events.ServeExecution(c.Writer, c.Request, c.Param("executionId"))
	})
	return &http.Server{Handler: r}
}
