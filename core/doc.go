// Package core shows viewers, live, what an execution is doing: a job, a
// workflow, a deployment, an agent run.
//
// An orchestrator publishes events under an execution ID; any number of
// clients, one per connected viewer, follow that ID. The package is pure: it
// knows no transport, only the Writer an adapter gives it, and so compiles for
// every system Go does, browsers included. The adapters for net/http, fasthttp
// and WebSocket are in the adapters directory of this module.
//
// # Concepts
//
// A [Registry] holds executions. Each execution has one bounded, append-only
// log of events, and the log is the queue: a [Client] owns nothing but a
// position in it. Resuming after a Last-Event-ID, joining late and lagging
// behind are therefore one mechanism. An [Encoder] turns an event into bytes,
// once for all clients that share it. A [Writer] is a client's connection. A
// [Backplane] is a log that the registries of several nodes share.
//
// A client follows one execution ([Registry.Register]) or several over one
// connection ([Registry.RegisterAll]), with the same promises.
//
// # What is promised
//
//   - Order: every client sees events in the order Publish numbered them.
//   - Nothing lost: a client gets every event after its position, or is told
//     in-band, before the next event, that some are gone (stream-gap). Of
//     events that share a Key it may get only the last.
//   - Nothing doubled: a client that reconnects with the last ID it saw gets
//     exactly what follows it.
//   - A finish that arrives: Close returns once every client's connection has
//     accepted the last event and the stream-end behind it, or says how many
//     were cut off.
//   - Isolation: Publish never waits for a client; a client that is slow,
//     stuck, failing or panicking costs bounded memory and delays nobody.
//   - Bounds: events, bytes, executions and clients are limited, and each limit
//     has an error of its own.
//
// "Accepted" means by the operating system: no protocol here carries an
// acknowledgement from the page. A viewer whose connection dies with bytes in
// flight gets them again by reconnecting with the last ID it saw, for as long
// as the log retains them.
//
// # Concurrency
//
// All methods of Registry and Client may be called from any goroutine. The
// package starts goroutines only while there is something to deliver to a
// client given to [Client.Start] or waiting in [Client.Serve], and ends them
// when there is not.
package core
