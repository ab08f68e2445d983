import { encode } from './frame.js';
import { ExeccastError } from './errors.js';
import { Registry } from './registry.js';

const statuses = { ErrExecutionID: [400, 'Bad Request'], ErrUnknown: [204], ErrFinished: [204] };
const comeAgain = ['ErrShutdown', 'ErrTooManyClients', 'ErrTooManyExecutionClients', 'ErrTooManyExecutions'];

// eventStreamResponse answers a request for an execution as the net/http adapter does: with a stream, which resumes after the
// request's Last-Event-ID header or lastEventId parameter; with 204 if there is nothing more to see.
export function eventStreamResponse(registry, executionID, request, options = {}) {
  if (!(registry instanceof Registry)) throw new TypeError('execcast: the first argument is a Registry');
  const { retry = 0, heartbeat = 0, writeTimeout = 0, chunking } = options;
  const split = splitter(chunking);
  const method = request?.method ?? 'GET';
  if (method !== 'GET' && method !== 'HEAD') return refuse(405, 'method not allowed', { Allow: 'GET, HEAD' });
  const headers = {
    'Content-Type': 'text/event-stream',
    'Cache-Control': 'no-store, no-transform',
    'X-Accel-Buffering': 'no',
    'X-Content-Type-Options': 'nosniff',
  };
  if (method === 'HEAD') return new Response(null, { headers });
  const preamble = { retry: retry === 0 ? 2000 : Math.max(0, Math.round(retry)) };

  const body = new Body(split, request?.signal);
  try {
    body.connect(encode(preamble), (writer) => registry.register(executionID, writer,
      { lastEventId: lastEventID(request), heartbeat, writeTimeout }));
  } catch (err) {
    if (!(err instanceof ExeccastError) || err.code === 'ErrNotReady' || err.code === 'ErrStopped') throw err;
    if (!comeAgain.includes(err.code)) {
      const [status, message] = statuses[err.code] ?? [500, 'Internal Server Error'];
      return status === 204 ? new Response(null, { status }) : refuse(status, message);
    }
    body.refuse(encode({ ...preamble, comment: err.message }));
  }
  return new Response(body.stream, { headers });
}

function refuse(status, message, headers = {}) {
  return new Response(`${message}\n`, {
    status,
    headers: { 'Content-Type': 'text/plain; charset=utf-8', 'X-Content-Type-Options': 'nosniff', ...headers },
  });
}

function lastEventID(request) {
  const header = request?.headers?.get('Last-Event-ID');
  if (header || !request?.url) return header ?? '';
  return new URL(request.url, 'http://localhost').searchParams.get('lastEventId') ?? '';
}

// Body is the response's stream and the client's writer.
class Body {
  #split;
  #controller;
  #client;
  #room; // tells a write that is pending that there is room again
  #done = false;

  constructor(split, signal) {
    this.#split = split;
    this.stream = new ReadableStream({
      start: (controller) => {
        this.#controller = controller;
      },
      pull: () => this.#room?.(),
      cancel: () => this.#leave(),
    }, new ByteLengthQueuingStrategy({ highWaterMark: 64 << 10 }));
    const abort = () => {
      if (!this.#done) this.#controller.error(signal.reason);
      this.#leave();
    };
    if (signal?.aborted) abort();
    else signal?.addEventListener('abort', abort, { once: true });
  }

  // connect writes the preamble in front of everything that register's client is written.
  connect(preamble, register) {
    if (this.#done) return; // aborted before it began
    let early = [];
    const writer = {
      write: (bytes) => (early ? void early.push(bytes) : this.#write(bytes)),
      end: () => void (early ? (early.over = true) : this.#end()),
    };
    this.#client = register(writer);
    const queued = early;
    early = undefined;
    for (const bytes of [preamble, ...queued]) this.#write(bytes);
    if (queued.over) this.#end();
  }

  refuse(preamble) {
    this.#write(preamble);
    this.#end();
  }

  #write(bytes) {
    if (this.#done) throw new Error('execcast: the response has been cancelled');
    for (const part of this.#split(bytes)) this.#controller.enqueue(part);
    if (this.#controller.desiredSize > 0) return undefined;
    return new Promise((resolve) => (this.#room = resolve));
  }

  // #end closes the stream whatever the reason: Chromium's EventSource does not reconnect after the error of a stream that came
  // from a service worker, as it does after that of a connection.
  #end() {
    if (this.#done) return;
    this.#done = true;
    this.#controller.close();
  }

  #leave() {
    this.#done = true;
    this.#client?.unregister();
  }
}

// splitter returns a function that cuts bytes as chunking says: 'frame', 'byte', or a seed for random pieces.
function splitter(chunking) {
  switch (chunking) {
    case undefined:
      return (bytes) => [bytes];
    case 'frame':
      return frames;
    case 'byte':
      return (bytes) => Array.from(bytes, (_, i) => bytes.slice(i, i + 1));
  }
  if (typeof chunking !== 'number' || !Number.isInteger(chunking)) {
    throw new TypeError(`execcast: chunking is 'frame', 'byte' or a whole number, the seed of random pieces`);
  }
  const random = generator(chunking);
  return function* pieces(bytes) {
    for (let at = 0; at < bytes.length;) {
      const end = at + 1 + Math.floor(random() ** 3 * 64);
      yield bytes.slice(at, end);
      at = end;
    }
  };
}

function* frames(bytes) {
  let start = 0;
  for (let i = 1; i < bytes.length; i++) {
    if (bytes[i] === 10 && bytes[i - 1] === 10) {
      yield bytes.slice(start, i + 1);
      start = i + 1;
    }
  }
  if (start < bytes.length) yield bytes.slice(start);
}

// generator returns numbers from 0 to 1, always the same for a seed: xorshift32.
function generator(seed) {
  let x = seed | 0 || 1;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) / 4294967296;
  };
}
