import { encode } from './frame.js';
import { ExeccastError } from './errors.js';
import { Registry } from './registry.js';

// What answers an error, by its code.
const statuses = {
  ErrUnauthorized: [401, 'Unauthorized'],
  ErrForbidden: [403, 'Forbidden'],
  ErrNotFound: [404, 'Not Found'],
  ErrExecutionID: [400, 'Bad Request'],
  ErrUnknown: [204],
  ErrFinished: [204],
};
const comeAgain = ['ErrShutdown', 'ErrTooManyClients', 'ErrTooManyExecutionClients', 'ErrTooManyExecutions'];

// eventStreamResponse answers a request for an execution as the net/http adapter does: with a stream, which resumes after the
// request's Last-Event-ID header or lastEventId parameter; with 204 if there is nothing more to see. executionID may be a
// function of the request, which also decides whether it is allowed, as the adapter's Options.ExecutionID does.
export function eventStreamResponse(registry, executionID, request, options = {}) {
  if (!(registry instanceof Registry)) throw new TypeError('execcast: the first argument is a Registry');
  const { retry = 0, heartbeat = 0, writeTimeout = 0, allowedOrigins = [], chunking } = options;
  const split = splitter(chunking);
  if (typeof retry !== 'number' || Number.isNaN(retry)) throw new TypeError('execcast: option retry is a number');
  if (!Array.isArray(allowedOrigins) || !allowedOrigins.every((o) => typeof o === 'string')) {
    throw new TypeError('execcast: option allowedOrigins is an array of strings');
  }
  const method = request?.method ?? 'GET';
  const url = new URL(request?.url ?? '', 'http://localhost');
  const origin = request?.headers?.get('Origin') ?? '';
  if (method === 'OPTIONS') {
    const granted = preflight(request, origin, allowedOrigins);
    if (granted) return new Response(null, { status: 204, headers: granted });
  }
  if (method !== 'GET' && method !== 'HEAD') return refuse(method, 405, 'method not allowed', { Allow: 'GET, HEAD' });
  if (!originAllowed(origin, url.host, allowedOrigins)) return refuse(method, 403, 'origin not allowed');
  const headers = cors(origin, allowedOrigins);
  const streamHeaders = {
    ...headers,
    'Content-Type': 'text/event-stream',
    'Cache-Control': 'no-store, no-transform',
    'X-Accel-Buffering': 'no',
    'X-Content-Type-Options': 'nosniff',
  };
  const preamble = { retry: retry === 0 ? 2000 : Math.max(0, Math.round(retry)) };
  // turnAway answers for an error, as the adapter's refuse does.
  const turnAway = (err) => {
    if (comeAgain.includes(err?.code)) {
      return new Response(method === 'HEAD' ? null : encode({ ...preamble, comment: err.message }), { headers: streamHeaders });
    }
    const [status, message] = statuses[err?.code] ?? [500, 'Internal Server Error'];
    return status === 204 ? new Response(null, { status, headers }) : refuse(method, status, message, headers);
  };

  if (typeof executionID === 'function') {
    try {
      executionID = executionID(request);
    } catch (err) {
      const answer = turnAway(err);
      if (answer.status === 500) globalThis.console.error('execcast: the function that names the execution has thrown', err);
      return answer;
    }
  }
  if (typeof executionID !== 'string') throw new TypeError('execcast: execution ID is a string, or a function that returns one');
  if (method === 'HEAD') return new Response(null, { headers: streamHeaders });

  const body = new Body(split, request?.signal);
  try {
    body.connect(encode(preamble), (writer) => registry.register(executionID, writer,
      { lastEventId: request?.headers?.get('Last-Event-ID') || queryID(url), heartbeat, writeTimeout }));
  } catch (err) {
    if (!(err instanceof ExeccastError) || err.code === 'ErrNotReady' || err.code === 'ErrStopped') throw err;
    return turnAway(err);
  }
  return new Response(body.stream, { headers: streamHeaders });
}

function refuse(method, status, message, headers = {}) {
  return new Response(method === 'HEAD' ? null : `${message}\n`, {
    status,
    headers: { ...headers, 'Content-Type': 'text/plain; charset=utf-8', 'X-Content-Type-Options': 'nosniff' },
  });
}

// originAllowed, cors and preflight decide as the adapters do; see adapters/internal/endpoint.
function originAllowed(origin, host, allowed) {
  const [, own] = /^(?:[a-z][a-z\d+.-]*:)?\/\/(?:[^/?#]*@)?([^/?#]*)/i.exec(origin) ?? [];
  return origin === '' || same(own ?? '', host) || allowed.some((a) => a === '*' || same(a, origin));
}

function cors(origin, allowed) {
  if (allowed.length === 0) return {};
  const headers = { Vary: 'Origin' };
  if (origin === '') return headers;
  const listed = allowed.some((a) => same(a, origin));
  if (listed || allowed.includes('*')) headers['Access-Control-Allow-Origin'] = origin;
  if (listed) headers['Access-Control-Allow-Credentials'] = 'true';
  return headers;
}

function preflight({ headers }, origin, allowed) {
  if (!headers.get('Access-Control-Request-Method') || origin === '' || !allowed.some((a) => a === '*' || same(a, origin))) return undefined;
  const names = headers.get('Access-Control-Request-Headers') ?? '';
  return {
    ...cors(origin, allowed),
    Vary: 'Origin, Access-Control-Request-Headers',
    'Access-Control-Allow-Methods': 'GET, HEAD',
    ...(/^[\w!#$%&'*+.^`|~, \t-]{1,1024}$/.test(names) && { 'Access-Control-Allow-Headers': names }),
    'Access-Control-Max-Age': '7200',
  };
}

const same = (a, b) => a.toLowerCase() === b.toLowerCase();

// queryID returns the parameter lastEventId. Go, unlike URLSearchParams, leaves out what is not well encoded.
function queryID(url) {
  const pairs = url.search.slice(1).split('&').filter((pair) => !/;|%(?![\da-f]{2})/i.test(pair));
  return new URLSearchParams(pairs.join('&')).get('lastEventId') ?? '';
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
