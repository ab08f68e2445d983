package main

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(runRole(role))
	}
	os.Exit(m.Run())
}

// TestFaultsShort runs a small version of every section, and breaks each on
// purpose.
func TestFaultsShort(t *testing.T) {
	var out, errs bytes.Buffer
	code := command(t.Context(), []string{"-short"}, &out, &errs)
	t.Logf("\n%s%s", &out, &errs)
	require.Zero(t, code)
}
