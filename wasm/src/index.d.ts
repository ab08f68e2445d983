type Bytes = ArrayBuffer | ArrayBufferView;

/** What init needs only when the module it contains is not the one to run. */
export interface InitOptions {
  /** Where to take the module from: a URL, a response, its bytes, or the compiled module. By default it is contained in this package. */
  wasm?: string | URL | Response | Bytes | WebAssembly.Module | Promise<Response | Bytes | WebAssembly.Module>;
}

/** Starts the core; everything else needs it. Any number of calls start it once, unless it failed. */
export function init(options?: InitOptions): Promise<void>;
/** Whether the core runs. */
export function isReady(): boolean;

/** A block of an event stream (WHATWG HTML, section 9.2.6). */
export interface Frame {
  /** One line. Empty, it resets the viewer's last event ID, which leaving it out does not. */
  id?: string;
  /** One line; left out or empty, the event is a message. */
  event?: string;
  /** A string as it is, everything else as JSON. Without data a frame is no event. */
  data?: unknown;
  /** Whole milliseconds until a viewer reconnects. */
  retry?: number;
  comment?: string;
  /** One line: the trace the event belongs to (W3C Trace Context). An EventSource ignores it. */
  traceparent?: string;
}

export interface DecodedFrame extends Frame {
  /** Lines joined by LF. */
  data?: string;
}

/** Encodes a frame as text/event-stream. Throws a FrameError for one that would not arrive as it is. */
export function encode(frame: Frame): Uint8Array;
/** Like encode, for those who need a string. */
export function encodeText(frame: Frame): string;

/** Yields the frames of an event stream as they complete. Throws what the source throws, and an ExeccastError if a frame is too large. */
export function decode(
  source: Bytes | ReadableStream<Bytes> | AsyncIterable<Bytes> | Iterable<Bytes>,
  options?: { /** Default 4 MiB. */ maxFrameBytes?: number },
): AsyncGenerator<DecodedFrame, void, void>;

/** Thrown by this package. code is an error's name in Go's package core, or ErrNotReady, ErrStopped, ErrLoad, FrameError, DrainError. */
export class ExeccastError extends Error {
  constructor(code: string, message?: string, options?: ErrorOptions);
  readonly code: string;
}

/** A frame, or data, that cannot be encoded. */
export class FrameError extends ExeccastError {
  readonly field: 'id' | 'event' | 'traceparent' | 'data' | 'retry' | 'comment';
  readonly reason: string;
}

/** A close or shutdown that its signal ended before every client had been written everything. */
export class DrainError extends ExeccastError {
  /** Clients cut off. */
  readonly cut: number;
}

/** Options of a registry. Zero means the default, a negative number off; durations are milliseconds. */
export interface RegistryOptions {
  maxEventBytes?: number;
  maxEvents?: number;
  maxBytes?: number;
  maxTotalBytes?: number;
  maxExecutions?: number;
  maxClients?: number;
  maxExecutionClients?: number;
  retention?: number;
  idle?: number;
  heartbeat?: number;
  heartbeatEvents?: boolean;
  maxAge?: number;
  shutdownSpread?: number;
  lag?: 'gap' | 'disconnect';
  awaitUnknown?: boolean;
  hooks?: Hooks;
  /** Gets what an operator must see, as `console` does, which is the default. `{}` keeps it quiet. */
  logger?: Logger;
}

/**
 * Functions called as things happen, each optional. Those of one execution never overlap and keep their order. They may call the
 * registry. One that throws, or whose promise is rejected, is logged, and changes nothing else.
 */
export interface Hooks {
  /** An execution that had no client gets one. */
  firstViewer?(executionID: string): unknown;
  /** Its last client has left. */
  lastViewer?(executionID: string): unknown;
  published?(executionID: string, event: PublishedEvent & { id: string; data: string }): unknown;
  /** Called for each client. */
  registered?(executionID: string): unknown;
  /** Called for each client that was registered, with the reason given to its writer's end; a write that failed is an ErrWrite. */
  left?(executionID: string, reason?: Error): unknown;
  /** Writers have taken events: how many, added up over clients, and their bytes, heartbeats included. */
  delivered?(executionID: string, events: number, bytes: number): unknown;
  /** A client is told that events are missing. */
  gap?(executionID: string): unknown;
  /** A client is ended with ErrSlowClient. */
  slow?(executionID: string): unknown;
  /** Called once when an execution is closed, before its clients have everything. */
  finished?(executionID: string): unknown;
}

export interface Logger {
  info?(message: string, attributes: Record<string, unknown>): void;
  warn?(message: string, attributes: Record<string, unknown>): void;
  error?(message: string, attributes: Record<string, unknown>): void;
}

export interface PublishedEvent {
  /** One line; left out or empty, the event is a message. */
  event?: string;
  /** A string as it is, everything else as JSON; left out, it is empty. */
  data?: unknown;
  /** Makes this event supersede the earlier one with the same key. */
  key?: string;
  /** The trace it belongs to, of W3C Trace Context, version 00. */
  traceparent?: string;
}

/** A client's connection. A Node response is one. */
export interface Writer {
  /** Takes whole frames, its own copy. A promise, or false from a Node stream, means that nothing more must come until it is settled, or drained. */
  write(bytes: Uint8Array): unknown;
  /** Called once, last: without a reason when the execution has finished. Node streams are ended without it. */
  end?(reason?: Error): unknown;
}

export interface RegisterOptions {
  /** The ID of the last event the viewer has. */
  lastEventId?: string;
  /** Overrides the registry's, unless 0. */
  heartbeat?: number;
  /** How long a write may be pending. Default 10,000; negative: for ever. */
  writeTimeout?: number;
}

export interface Client {
  readonly registry: Registry;
  readonly executionID: string;
  readonly writer: Writer;
  /** Fulfilled when the client has ended, with the reason given to end. */
  readonly ended: Promise<Error | undefined>;
  unregister(): void;
}

export interface Stats {
  executions: number;
  clients: number;
  bytes: number;
  published: number;
  delivered: number;
  deliveredBytes: number;
  gaps: number;
  slow: number;
  evicted: number;
  /** Hooks that have thrown. */
  panics: number;
  tooLarge: number;
  tooManyExecutions: number;
  tooManyClients: number;
  tooManyExecutionClients: number;
}

/** Executions, their events and the clients that follow them. */
export class Registry {
  constructor(options?: RegistryOptions);
  /** Appends an event and returns its ID. */
  publish(executionID: string, event?: PublishedEvent): string;
  /** Adds a client. What it has missed, and what has been written by then, it has when register returns. */
  register(executionID: string, writer: Writer, options?: RegisterOptions): Client;
  /** Ends the client that has this writer; false if there is none. */
  unregister(executionID: string, writer: Writer): boolean;
  clientCount(executionID: string): number;
  /** Finishes an execution. Fulfilled when every client has been written everything; the signal cuts off those that have not. */
  close(executionID: string, options?: { signal?: AbortSignal }): Promise<void>;
  /** Drops an execution with its events and ends its clients. */
  forget(executionID: string): void;
  /** Ends all clients so that they may resume elsewhere; afterwards nothing can be published. */
  shutdown(options?: { signal?: AbortSignal }): Promise<void>;
  /** Breaks the connections of an execution's viewers, or of all, as a network does. */
  disconnect(executionID?: string): void;
  /** Does what a server's crash and restart does: connections break, everything is forgotten, IDs go on rising. */
  restart(): void;
  stats(): Stats;
}

export interface EventStreamOptions {
  /** Milliseconds until a viewer reconnects. Default 2,000; negative: at once. */
  retry?: number;
  heartbeat?: number;
  writeTimeout?: number;
  /** The origins whose pages may watch besides those of the request's own host; `'*'` means any. */
  allowedOrigins?: string[];
  /** How the stream is cut into chunks: as written, after each frame, after each byte, or, by a seed, anywhere. */
  chunking?: 'frame' | 'byte' | number;
}

type RequestLike = Pick<Request, 'method' | 'url' | 'headers'> & { signal?: AbortSignal | null };

/**
 * Answers a request as the net/http adapter does. Without a request: a GET that does not resume.
 *
 * A function in the place of the execution ID returns it, and decides whether the request may see it: an error it throws whose
 * code is ErrUnauthorized, ErrForbidden or ErrNotFound is answered with 401, 403 or 404, any other with 500.
 */
export function eventStreamResponse<R extends RequestLike>(
  registry: Registry,
  executionID: string | ((request: R) => string),
  request: R,
  options?: EventStreamOptions,
): Response;
export function eventStreamResponse(
  registry: Registry,
  executionID: string | (() => string),
  request?: undefined,
  options?: EventStreamOptions,
): Response;

export interface FakeEventSourceOptions extends Omit<EventStreamOptions, 'allowedOrigins'> {
  /** The execution a URL shows; it may throw what eventStreamResponse answers. Default: its path's last segment. */
  executionId?(url: URL): string;
}

/** EventSource without a network. */
export class FakeEventSource extends EventTarget {
  private constructor();
  /** Returns a class to be used in the place of EventSource, connected to a registry. */
  static for(registry: Registry, options?: FakeEventSourceOptions): typeof EventSource;
}

export type Step =
  | PublishedEvent
  | { /** Milliseconds, by the setTimeout of that moment. */ wait: number }
  | { /** The execution's viewers lose their connections. */ disconnect: true }
  | { /** The server is restarted. */ restart: true }
  | { /** The execution ends. The next step waits until all viewers have everything. */ finish: true };

/** Plays a timeline into an execution and returns the IDs of the events it published. */
export function scenario(registry: Registry, executionID: string, steps: Iterable<Step>, options?: { signal?: AbortSignal }): Promise<string[]>;
