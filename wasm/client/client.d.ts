/** Events a stream itself sends, without an ID. */
export interface Signals {
  /** Events are missing here: those behind `from`, the last one you have, up to `to`; `count` of them, where known. */
  'stream-gap': { from?: string | number; to?: string | number; count?: number };
  /** The execution has finished. */
  'stream-end': object;
  /** Only with HeartbeatEvents on the server, and only to `on`. */
  'stream-heartbeat': object;
}

export interface StreamEvent<Type extends string = string, Data = unknown> {
  readonly type: Type;
  /** The value, if the data is JSON; else the text. The same over every transport. */
  readonly data: Data;
  /** Its own ID; "" for signals. */
  readonly id: string;
  /** With several executions on one connection: the one it belongs to. */
  readonly execution?: string;
  /** The trace it was published in, if the publisher said (W3C Trace Context). EventSource hides it. */
  readonly traceparent?: string;
}

type Name<Events> = string & (keyof Events | keyof Signals);
type DataOf<Events, Type> = Type extends keyof Signals ? Signals[Type] : Type extends keyof Events ? Events[Type] : never;
type EventOf<Events, Type = Name<Events>> = Type extends string ? StreamEvent<Type, DataOf<Events, Type>> : never;

/**
 * connecting: for the first time. live: connected. reconnecting: not connected; resumes by itself. finished: everything has come.
 * failed: there is no stream, and trying again would not help. closed: by you.
 */
export type State = 'connecting' | 'live' | 'reconnecting' | 'finished' | 'failed' | 'closed';

export interface StateChange {
  readonly state: State;
  /** live: the ID behind which the stream goes on; none when it starts from the beginning. What is missing is told by stream-gap. */
  readonly resumedAfter?: string;
  /** reconnecting: milliseconds until the next attempt, where we know them. */
  readonly delay?: number;
  /** reconnecting, failed, closed: why. */
  readonly error?: unknown;
}

export interface Options {
  /**
   * fetch (default) takes headers, sees how the server answers, every event type, and a silent connection.
   * sse is EventSource, websocket WebSocket.
   */
  transport?: 'fetch' | 'sse' | 'websocket';
  /** fetch only. A function is called for each connection, for tokens that expire. */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>);
  /** Cookies for another site, too. */
  withCredentials?: boolean;
  /** Closes the stream. */
  signal?: AbortSignal;
  /** Where to resume, also what was watched over another transport. Default: from the beginning. */
  lastEventId?: string;
  /** Event types EventSource shall listen to besides those given to `on`: it hides all others from an iterator. */
  types?: Iterable<string>;
  /** Adds these as parameters executionId: several executions over one connection. */
  executions?: Iterable<string>;
  /** The URL names several executions already. */
  several?: boolean;
  /** Called with each change of state, like `onState`. */
  onState?: (change: StateChange) => void;
  /** Milliseconds before reconnecting, until the server says otherwise. Doubles with each connection that brings nothing. Default 2,000. */
  retry?: number;
  /** Milliseconds at most, unless the server asks for more; half as much is added at random. Default 30,000; negative: no limit. */
  maxDelay?: number;
  /** Milliseconds until an attempt is given up. Default 20,000; negative: never. */
  connectTimeout?: number;
  /**
   * Milliseconds of silence until a connection is given up. Default 45,000, three heartbeats of a server; negative: never.
   * EventSource and WebSocket hide heartbeats: with them it counts once a stream-heartbeat has come.
   */
  idleTimeout?: number;
  /**
   * Events an iterator may leave untaken. Beyond that fetch stops reading; EventSource and WebSocket are closed, and resumed when
   * all have been taken. Default 1,000; negative: no limit.
   */
  buffer?: number;
  /** fetch only: characters of one event. A larger one fails the stream. Default 4 Mi; negative: no limit. */
  maxFrameLength?: number;
  /** What to use in the place of the global ones. */
  fetch?: typeof globalThis.fetch;
  EventSource?: new (url: string, init?: EventSourceInit) => EventSource;
  WebSocket?: new (url: string) => WebSocket;
}

/**
 * An execution that is followed until it has finished, over as many connections as that takes. Every event comes once and in order.
 * Listeners and iterators get what comes after they were added, so add them before the next await.
 */
export interface Stream<Events = Record<string, any>> extends AsyncIterable<EventOf<Events>> {
  readonly state: State;
  /** Why it has failed or been closed. */
  readonly error: unknown;
  /** The last event's ID: where another stream, over whatever transport, resumes. */
  readonly lastEventId: string;
  /** Calls listener with each event of this type, until the function it returns is called. */
  on<Type extends Name<Events>>(type: Type, listener: (event: EventOf<Events, Type>) => void): () => void;
  onState(listener: (change: StateChange) => void): () => void;
  close(): void;
  /**
   * Yields the events until the stream has finished. Throws the error of one that fails, or the reason of its signal. Leaving the loop
   * closes the stream.
   */
  [Symbol.asyncIterator](): AsyncGenerator<EventOf<Events>, void, void>;
}

/** Follows the stream at url. Events maps event types to the type of their data: follow<{ 'task-start': TaskStart }>(url). */
export function follow<Events = Record<string, any>>(url: string | URL | (() => string | URL | Promise<string | URL>), options?: Options): Stream<Events>;

/** Why there is no stream. */
export class StreamError extends Error {
  /** Of the HTTP answer. */
  readonly status?: number;
  /** Of the WebSocket's close. */
  readonly code?: number;
}
