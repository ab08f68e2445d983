package core

import (
	"context"
	"fmt"
	"strings"
)

// isTraceparent reports whether s is a valid traceparent of version 00 (W3C
// Trace Context, section 3.2.2): no ID is all zeros.
func isTraceparent(s string) bool {
	const shape = "00-hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh-hhhhhhhhhhhhhhhh-hh"
	if len(s) != len(shape) {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case shape[i] != 'h':
			if c != shape[i] {
				return false
			}
		case (c < '0' || c > '9') && (c < 'a' || c > 'f'):
			return false
		}
	}
	return strings.Trim(s[3:35], "0") != "" && strings.Trim(s[36:52], "0") != ""
}

// traceparent returns what Options.Traceparent does, if that is valid.
func (r *Registry) traceparent(ctx context.Context, executionID string) string {
	s := r.opts.Traceparent(ctx)
	if s == "" || isTraceparent(s) {
		return s
	}
	if n := r.counters.untraced.Add(1); n&(n-1) == 0 {
		r.opts.Logger.Warn("execcast: Options.Traceparent returned none that is valid; the event goes without",
			"traceparent", fmt.Sprintf("%.100q", s), "execution", executionID, "times", n)
	}
	return ""
}
