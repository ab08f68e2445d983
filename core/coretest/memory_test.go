package coretest

import (
	"errors"
	"testing"

	"github.com/execcast/execcast/core"
)

func TestMemory(t *testing.T) {
	shared := NewMemory()
	RunBackplane(t, Engine{
		Open: func(testing.TB) core.Backplane { return plantShared(shared) },
		Break: func(testing.TB) func() {
			shared.Break(errors.New("broken by the test"))
			return func() { shared.Break(nil) }
		},
		Drop: func(_ testing.TB, executionID string, n int) { shared.Drop(executionID, n) },
	})
}
