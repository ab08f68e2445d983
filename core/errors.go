package core

import (
	"errors"
	"fmt"
)

// Errors of Publish, Register and the end of a client, matched with errors.Is.
// Adapters map them to HTTP statuses and WebSocket close codes in one place
// each.
var (
	// ErrExecutionID: an execution ID is empty, longer than 256 bytes, not
	// UTF-8, or has control characters.
	ErrExecutionID = errors.New("execcast: invalid execution ID")
	// ErrExecutionIDs: a client wants to follow no execution at all, or more
	// than 1,000 at once.
	ErrExecutionIDs = errors.New("execcast: no execution, or too many, for one client")
	// ErrEventType: an event type has a line break, NUL, other control
	// character or outer space, is not UTF-8, or is longer than 256 bytes.
	ErrEventType = errors.New("execcast: invalid event type")
	// ErrReservedType: the event type is one the library sends itself, or one
	// that collides with EventSource's own events (open, error).
	ErrReservedType = errors.New("execcast: reserved event type")
	// ErrEventKey: an event key is longer than 256 bytes or not UTF-8.
	ErrEventKey = errors.New("execcast: invalid event key")
	// ErrEventData: an event's data is not UTF-8.
	ErrEventData = errors.New("execcast: event data is not valid UTF-8")
	// ErrEventID: an event given to Publish already has an ID, or names an
	// execution.
	ErrEventID = errors.New("execcast: event already has an ID")
	// ErrTraceparent: an event's traceparent is not one of W3C Trace Context,
	// version 00.
	ErrTraceparent = errors.New("execcast: invalid traceparent")
	// ErrEventTooLarge: an event's data is larger than Options.MaxEventBytes.
	ErrEventTooLarge = errors.New("execcast: event too large")

	// ErrUnknown: a viewer wants to resume an execution the registry does not
	// know: forgotten, expired, or of another server.
	ErrUnknown = errors.New("execcast: unknown execution")
	// ErrFinished: the execution is closed; Publish can add nothing, and for
	// Register the viewer already has everything.
	ErrFinished = errors.New("execcast: execution finished")
	// ErrShutdown: the registry is shutting down or has shut down.
	ErrShutdown = errors.New("execcast: shutting down")

	// ErrConflict: the execution's last event is not the one that Event.After
	// names.
	ErrConflict = errors.New("execcast: not the execution's last event")
	// ErrUnavailable: the backplane cannot be reached. Of Publish and Close,
	// it leaves open whether the event was stored; Event.After tells.
	ErrUnavailable = errors.New("execcast: backplane unavailable")

	// ErrTooManyExecutions: Options.MaxExecutions is reached.
	ErrTooManyExecutions = errors.New("execcast: too many executions")
	// ErrTooManyClients: Options.MaxClients is reached.
	ErrTooManyClients = errors.New("execcast: too many clients")
	// ErrTooManyExecutionClients: Options.MaxExecutionClients is reached.
	ErrTooManyExecutionClients = errors.New("execcast: too many clients of one execution")
	// ErrEncoder: a registry serves at most four different encoders, and only
	// comparable ones. One that serves clients of one execution and clients of
	// several counts twice.
	ErrEncoder = errors.New("execcast: unusable encoder")

	// ErrUnauthorized, ErrForbidden and ErrNotFound are for an adapter's
	// Options.ExecutionID to return, wrapped or not: it answers 401, 403, 404.
	ErrUnauthorized = errors.New("execcast: unauthorized")
	ErrForbidden    = errors.New("execcast: forbidden")
	ErrNotFound     = errors.New("execcast: execution not found")

	// ErrSlowClient ends a client that took longer than the write timeout to
	// accept a batch, or that fell off the log's tail under LagDisconnect.
	ErrSlowClient = errors.New("execcast: client too slow")
	// ErrUnregistered ends a client after Unregister or Forget.
	ErrUnregistered = errors.New("execcast: client unregistered")
	// ErrMaxAge ends a client whose connection is as old as MaxAge allows; it
	// may reconnect and resume.
	ErrMaxAge = errors.New("execcast: connection reached its maximum age")
	// ErrServed: a client was given to Serve or Start more than once.
	ErrServed = errors.New("execcast: client already has a writer")
)

// DrainError is returned by Close and Shutdown when their context ended before
// every client had been written everything.
type DrainError struct {
	Cut   int   // clients cut off with something still unwritten
	Cause error // why the context ended
}

func (e *DrainError) Error() string {
	return fmt.Sprintf("execcast: %d clients cut off before they had everything: %v", e.Cut, e.Cause)
}

// Unwrap returns the context's error.
func (e *DrainError) Unwrap() error { return e.Cause }
