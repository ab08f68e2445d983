package jetstream

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Unguard does without a guard until the test ends.
func Unguard(t testing.TB, guard string) {
	unguarded = guard
	t.Cleanup(func() { unguarded = "" })
}

// Subject returns the subject an execution's messages are stored under.
func Subject(executionID string) string { return "execcast.e." + token(executionID) }

// Deafen has the followers of an execution get nothing more that is republished.
func Deafen(t testing.TB, b *Backplane, executionID string) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	require.NoError(t, b.topics[token(executionID)].sub.Unsubscribe())
}
