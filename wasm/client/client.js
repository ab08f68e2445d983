// Follows an execution, or any event stream, over fetch, EventSource or WebSocket, through lost connections to its end. It
// depends on nothing, on the wasm build neither. client.d.ts says what everything means.

export const follow = (url, options) => new Stream(url, options);

// StreamError says why there is no stream: status is that of an HTTP answer, code that of a WebSocket's close.
export class StreamError extends Error {
  constructor(message, properties) {
    super(message);
    Object.assign(this, { name: 'StreamError' }, properties);
  }
}

const signals = ['stream-gap', 'stream-end', 'stream-heartbeat']; // which have no ID of their own
const maxTimer = 2 ** 31 - 1; // milliseconds: setTimeout does not wait longer, but not at all

class Stream {
  state = 'connecting';
  error;
  lastEventId;

  #options;
  #listeners = new Map(); // by type; those of the state by undefined
  #queues = new Set(); // one an iterator
  #connection; // what a transport has returned; none while there is none
  #attempt = 0; // what belongs to an earlier one counts no more
  #timer; // of the attempt to connect, of silence, or of the wait between
  #retry; // milliseconds
  #failures = 0; // connections in a row that brought nothing
  #began;
  #heard; // when it last has
  #audible; // its silence would be noticed: comments and pings are hidden from EventSource and WebSocket
  #seen; // events up to here came over earlier connections
  #room; // called when the iterators have room again

  constructor(url, options = {}) {
    const { transport = 'fetch', headers, signal, executions } = options;
    if (!Object.hasOwn(transports, transport)) throw new TypeError(`no transport ${transport}: there are ${Object.keys(transports)}`);
    if (headers && transport !== 'fetch') throw new TypeError(`${transport} cannot send headers, fetch can`);
    if (typeof url !== 'function') resolve(url); // throws at once
    if (typeof headers !== 'function') new Headers(headers);
    this.#options = {
      ...options, url, transport,
      several: options.several ?? Boolean(executions),
      maxDelay: limit(options.maxDelay, 30_000),
      connectTimeout: limit(options.connectTimeout, 20_000),
      idleTimeout: limit(options.idleTimeout, 45_000),
      buffer: limit(options.buffer, 1000),
      maxFrameLength: limit(options.maxFrameLength, 4 << 20),
    };
    this.#retry = Math.max(0, options.retry ?? 2000);
    this.lastEventId = String(options.lastEventId ?? '');
    if (options.onState) this.onState(options.onState);
    for (const [target, type] of occasions()) target.addEventListener?.(type, this.#wake);
    signal?.addEventListener('abort', this.#abort);
    if (signal?.aborted) this.#abort();
    queueMicrotask(() => this.#connect());
  }

  on(type, listener) {
    if (!this.#listeners.has(type)) this.#listeners.set(type, new Set());
    this.#listeners.get(type).add(listener);
    if (type !== undefined) this.#connection?.listen?.(type);
    return () => void this.#listeners.get(type).delete(listener);
  }

  onState(listener) {
    return this.on(undefined, listener);
  }

  close() {
    this.#finish('closed');
  }

  async *[Symbol.asyncIterator]() {
    const queue = { events: [], changed() {} };
    this.#queues.add(queue);
    try {
      for (;;) {
        if (queue.events.length) {
          yield queue.events.shift();
          if (!queue.events.length && !this.#full()) this.#room?.();
        } else if (this.#ended) {
          if (this.error) throw this.error;
          return;
        } else {
          await new Promise((changed) => (queue.changed = changed));
        }
      }
    } finally {
      this.#queues.delete(queue);
      this.close();
    }
  }

  // --- Connections

  async #connect() {
    if (this.#ended) return;
    this.#release();
    const attempt = this.#attempt;
    const guard = (f) => (...args) => attempt === this.#attempt && f.apply(this, args);
    const options = this.#options;
    this.#begin(options.connectTimeout);
    let url, headers;
    try {
      url = resolve(typeof options.url === 'function' ? await options.url() : options.url);
      headers = new Headers(typeof options.headers === 'function' ? await options.headers() : options.headers);
    } catch (error) {
      return guard(this.#over)({ lost: error });
    }
    if (attempt !== this.#attempt) return;
    url.protocol = url.protocol.replace('ws', 'http');
    for (const id of options.executions ?? []) url.searchParams.append('executionId', id);
    try {
      this.#connection = transports[options.transport](url, headers, {
        options,
        lastEventId: this.lastEventId,
        types: new Set([...(options.types ?? []), ...this.#listeners.keys(), 'message', ...signals]),
        opened: guard(this.#opened),
        heard: guard(() => (this.#heard = Date.now()) >= 0),
        received: guard(this.#received),
        advance: guard(this.#advance),
        retry: guard((ms) => (this.#retry = Math.min(ms, maxTimer))),
        retrying: guard(this.#retrying),
        refused: guard(() => this.#ask(url)),
        over: guard(this.#over),
        room: () => attempt === this.#attempt && this.#full() && new Promise((room) => (this.#room = room)),
      });
    } catch (error) {
      this.#finish('failed', error); // what a constructor refuses, it will refuse again
    }
  }

  // begin: events that were received until now are not to come again.
  #begin(timeout) {
    this.#seen = position(this.lastEventId);
    this.#audible = false;
    this.#began = Date.now();
    this.#after(timeout, () => this.#over({ lost: new StreamError('no answer in time') }));
  }

  #opened(audible) {
    this.#audible = audible;
    this.#heard = Date.now();
    this.#watch();
    this.#enter('live', this.lastEventId ? { resumedAfter: this.lastEventId } : {});
  }

  // watch gives up a connection that is silent for too long.
  #watch() {
    const { idleTimeout } = this.#options;
    const waited = this.#audible && !this.#room ? Date.now() - this.#heard : 0;
    if (waited >= idleTimeout) this.#over({ lost: new StreamError('silent for too long') });
    else this.#after(idleTimeout - waited, () => this.#watch());
  }

  // retrying: EventSource reconnects by itself, at the time the server has asked for, which it does not show.
  #retrying() {
    this.#begin(this.#options.connectTimeout + this.#options.maxDelay);
    this.#enter('reconnecting');
  }

  // over: there is nothing more to come, there never will be, or there is no connection just now.
  #over({ finished, failed, lost, earliest = 0 }) {
    if (finished || failed) return this.#finish(finished ? 'finished' : 'failed', failed);
    this.#release();
    const { maxDelay } = this.#options;
    if (Date.now() - this.#began >= maxDelay) this.#failures = 0;
    const grown = this.#failures && Math.min(Math.max(this.#retry, 100) * 2 ** this.#failures, maxDelay);
    this.#failures++;
    // Viewers that have left together shall not come back together.
    const delay = Math.round(Math.max(this.#retry, grown, earliest) * (1 + Math.random() / 2));
    this.#after(delay, () => this.#connect());
    this.#enter('reconnecting', { delay, error: lost });
  }

  // ask: neither EventSource nor WebSocket tells how the server has answered, but fetch does.
  async #ask(url) {
    this.#release();
    const attempt = this.#attempt, options = this.#options, controller = new AbortController();
    this.#connection = { close: () => controller.abort() };
    this.#after(options.connectTimeout, () => controller.abort());
    let verdict;
    try {
      if (this.lastEventId) url.searchParams.set('lastEventId', this.lastEventId);
      verdict = judge(await request(options, url, new Headers(), controller.signal), options.transport);
    } catch {
      // cannot be reached, or the answer is not for this page
    }
    if (attempt === this.#attempt) this.#over(verdict ?? { lost: new StreamError(`${options.transport} cannot connect`) });
  }

  // wake: at these occasions it is senseless to wait any longer, or doubtful whether the connection still is one.
  #wake = ({ type }) => {
    if (this.state === 'connecting' || globalThis.document?.hidden || this.#room) return;
    const silent = this.#audible && Date.now() - this.#heard > this.#options.idleTimeout;
    if (this.#connection && type !== 'online' && !silent) return;
    if (this.state === 'live') this.#enter('reconnecting');
    this.#connect();
  };

  #abort = () => this.#finish('closed', this.#options.signal.reason);

  get #ended() {
    return ['finished', 'failed', 'closed'].includes(this.state);
  }

  #finish(state, error) {
    if (this.#ended) return;
    this.#release();
    for (const [target, type] of occasions()) target.removeEventListener?.(type, this.#wake);
    this.#options.signal?.removeEventListener('abort', this.#abort);
    this.error = error;
    this.#enter(state, { error });
    for (const queue of this.#queues) queue.changed();
  }

  // release lets go of the connection and of whatever is being waited for.
  #release() {
    this.#attempt++;
    clearTimeout(this.#timer);
    const connection = this.#connection;
    this.#room = this.#connection = undefined;
    connection?.close();
  }

  #after(ms, f) {
    clearTimeout(this.#timer);
    if (ms < Infinity) this.#timer = setTimeout(f, Math.min(ms, maxTimer));
  }

  #enter(state, details) {
    this.state = state;
    this.#call(undefined, { state, ...details });
  }

  // --- Events

  // received takes an event: its data as text, or parsed already, and its ID, if it has one.
  #received(type, { text, data, id, execution, traceparent }) {
    this.#heard = Date.now();
    this.#failures = 0;
    const { several } = this.#options;
    if (signals.includes(type)) id = undefined;
    if (id !== undefined && !this.#advance(id)) return;
    if (text !== undefined) {
      data = parse(text);
      if (several && data && typeof data === 'object') {
        execution = data.execution;
        if ('data' in data) data = data.data;
      }
    }
    // What follows a gap comes from behind it, even if the server now numbers from lower on than before.
    if (type === 'stream-gap' && data?.to !== undefined && !several) this.#seen = position((this.lastEventId = String(data.to)));
    if (type === 'stream-heartbeat') this.#audible = true;
    const event = { type, data, id: id ?? '', ...(execution !== undefined && { execution }), ...(traceparent && { traceparent }) };
    const attempt = this.#attempt;
    this.#call(type, event);
    for (const queue of type === 'stream-heartbeat' ? [] : this.#queues) {
      queue.events.push(event);
      queue.changed();
    }
    if (attempt !== this.#attempt) return; // a listener has closed the stream
    if (type === 'stream-end' && execution === undefined) this.#finish('finished');
    else if (!this.#connection.pausable && this.#full()) this.#pause();
  }

  // advance reports whether an event with this ID is new.
  #advance(id) {
    if (position(id) <= this.#seen) return false;
    this.lastEventId = id;
    return true;
  }

  #full() {
    return [...this.#queues].some(({ events }) => events.length >= this.#options.buffer);
  }

  // pause: nothing holds back an EventSource or a WebSocket, but what they have not brought yet is in the server's log.
  #pause() {
    this.#release();
    this.#room = () => this.#connect();
    this.#enter('reconnecting');
  }

  // call keeps what a listener throws away from the stream and from other listeners.
  #call(type, value) {
    for (const listener of [...(this.#listeners.get(type) ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        queueMicrotask(() => { throw error; });
      }
    }
  }
}

// --- Transports: each opens a connection, tells h about it, and returns what closes it

const transports = {
  fetch(url, headers, h) {
    const controller = new AbortController();
    // A header that the caller has not asked for would make the browser ask another site first whether it may be sent.
    const foreign = !h.options.headers && globalThis.location && url.origin !== location.origin;
    if (h.lastEventId && foreign) url.searchParams.set('lastEventId', h.lastEventId);
    else if (h.lastEventId) headers.set('Last-Event-ID', String.fromCharCode(...new TextEncoder().encode(h.lastEventId)));
    const read = async () => {
      const response = await request(h.options, url, headers, controller.signal);
      const verdict = judge(response);
      if (verdict) return h.over(verdict);
      h.opened(true);
      const decoder = new TextDecoder(), feed = parser(h), reader = response.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return h.over({ lost: new StreamError('the server has ended the stream') });
        if (!h.heard()) return reader.cancel();
        feed(decoder.decode(value, { stream: true }));
        await h.room();
      }
    };
    read().catch((error) => h.over({ lost: error }));
    return { pausable: true, close: () => controller.abort() };
  },

  sse(url, _, h) {
    if (h.lastEventId) url.searchParams.set('lastEventId', h.lastEventId);
    const { EventSource = globalThis.EventSource, withCredentials } = h.options;
    const source = new EventSource(url.href, { withCredentials });
    let retrying = false;
    const receive = (e) => h.received(e.type, { text: e.data, id: e.lastEventId || undefined });
    source.onopen = () => {
      retrying = false;
      h.opened(false);
    };
    source.onerror = (e) => {
      if (e.data !== undefined) return; // an event that happens to be called error
      if (source.readyState === 2) return h.refused();
      if (retrying) return h.over({ lost: new StreamError('sse cannot connect') }); // from now on we wait, longer each time
      retrying = true;
      h.retrying();
    };
    const listen = (type) => source.addEventListener(type, receive); // twice is once
    h.types.forEach((type) => type && listen(type));
    return {
      listen,
      close() {
        source.onopen = source.onerror = null;
        source.close();
      },
    };
  },

  websocket(url, _, h) {
    if (h.lastEventId) url.searchParams.set('lastEventId', h.lastEventId);
    const { WebSocket = globalThis.WebSocket } = h.options;
    const socket = new WebSocket(url.href.replace(/^http/, 'ws'));
    let opened = false;
    socket.onerror = () => {}; // onclose follows; in Node, not to listen means to crash
    socket.onopen = () => {
      opened = true;
      h.opened(false);
    };
    socket.onmessage = (e) => {
      const message = parse(e.data);
      if (typeof message?.event === 'string') h.received(message.event, message);
      else h.over({ failed: new StreamError('a message that is not an event') });
    };
    socket.onclose = ({ code, reason }) => {
      const error = new StreamError(`WebSocket closed with code ${code}${reason && `: ${reason}`}`, { code });
      if (code === 1000) h.over({ finished: true });
      else if (!opened) h.refused();
      else h.over([1001, 1005, 1006, 1011, 1012, 1013, 1014].includes(code) ? { lost: error } : { failed: error });
    };
    return {
      close() {
        socket.onopen = socket.onmessage = socket.onclose = null;
        socket.close();
      },
    };
  },
};

function request({ fetch = globalThis.fetch, withCredentials }, url, headers, signal) {
  if (!headers.has('Accept')) headers.set('Accept', 'text/event-stream');
  return fetch(url.href, { headers, signal, cache: 'no-store', credentials: withCredentials ? 'include' : 'same-origin' });
}

// judge returns what a server's answer means: nothing if it is an event stream, which may also stand in for a WebSocket.
function judge({ status, headers }, transport) {
  const error = new StreamError(`no event stream: the server answered with status ${status}`, { status });
  if (status === 204) return { finished: true };
  if (transport === 'websocket' && (status < 400 || status === 426)) return undefined; // no handshake, and so no refusal
  if ([408, 425, 429, 500, 502, 503, 504].includes(status)) {
    const after = headers.get('Retry-After');
    const ms = /^\d+$/.test(after) ? after * 1000 : Date.parse(after) - Date.now();
    return { lost: error, earliest: Math.min(Math.max(0, ms || 0), 864e5) };
  }
  if (status !== 200) return { failed: error };
  const type = headers.get('Content-Type');
  if (/^text\/event-stream\s*(;|$)/i.test(type)) return undefined;
  return { failed: new StreamError(`no event stream: the answer's content type is ${type}`, { status }) };
}

// parser interprets a text/event-stream (WHATWG HTML, section 9.2.6) that comes in pieces.
function parser({ received, advance, retry, over, options: { maxFrameLength } }) {
  let rest = '', size = 0, afterCR = false, data, type, id, traceparent;
  const line = (text) => {
    if (text === '') {
      if (data !== undefined) received(type || 'message', { text: data, id, traceparent });
      else if (id !== undefined) advance(id);
      data = type = id = traceparent = undefined;
      size = 0;
      return;
    }
    size += text.length;
    const [, field, value = ''] = /^([^:]*)(?:: ?([^]*))?$/.exec(text);
    if (field === 'data') data = data === undefined ? value : `${data}\n${value}`;
    else if (field === 'event') type = value;
    else if (field === 'id' && !value.includes('\0')) id = value;
    else if (field === 'traceparent') traceparent = value;
    else if (field === 'retry' && /^\d+$/.test(value)) retry(Number(value));
  };
  return (text) => {
    if (afterCR && text[0] === '\n') text = text.slice(1);
    else if (text === '') return;
    afterCR = text.endsWith('\r');
    const breaks = /\r\n?|\n/g;
    breaks.lastIndex = rest.length; // there is none before
    text = rest + text;
    let start = 0;
    for (let found; (found = breaks.exec(text)); start = breaks.lastIndex) line(text.slice(start, found.index));
    rest = text.slice(start);
    if (size + rest.length > maxFrameLength) over({ failed: new StreamError(`an event of more than ${maxFrameLength} characters`) });
  };
}

// --- Small things

// parse reads data by the rule of the server's JSON encoding, so that every transport gives the same value.
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

// position is an ID as a number: execcast's rise and stay below 2^53. Others have none.
function position(id) {
  return /^\d{1,16}$/.test(id) ? Number(id) : NaN;
}

function limit(value, byDefault) {
  return value < 0 ? Infinity : value || byDefault;
}

function resolve(url) {
  return new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href);
}

function occasions() {
  const { document = {} } = globalThis;
  return [[globalThis, 'online'], [globalThis, 'pageshow'], [document, 'visibilitychange']];
}
