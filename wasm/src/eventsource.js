import { decode } from './frame.js';
import { Registry } from './registry.js';
import { eventStreamResponse } from './response.js';

const connecting = 0, open = 1, closed = 2;

// Whether this environment's EventTarget calls properties like onmessage by itself, as happy-dom's does.
const callsHandlers = (() => {
  let called = false;
  const target = new EventTarget();
  target.onprobe = () => (called = true);
  target.dispatchEvent(new Event('probe'));
  return called;
})();

// FakeEventSource is EventSource (WHATWG HTML, section 9.2) without a network. Its constructors come from
// FakeEventSource.for: each is connected to a registry.
export class FakeEventSource extends EventTarget {
  static CONNECTING = connecting;
  static OPEN = open;
  static CLOSED = closed;

  // for returns a class that is used like EventSource. executionId tells which execution a URL shows: by default its path's
  // last segment. The other options are those of eventStreamResponse.
  static for(registry, { executionId = lastSegment, ...options } = {}) {
    if (!(registry instanceof Registry)) throw new TypeError('execcast: the first argument is a Registry');
    if (typeof executionId !== 'function') throw new TypeError('execcast: option executionId is a function');
    return class EventSource extends FakeEventSource {
      constructor(url, init) {
        super(url, init, (request) => eventStreamResponse(registry, () => executionId(new URL(request.url)), request, options));
      }
    };
  }

  #answer;
  #readyState = connecting;
  #lastEventID = '';
  #retry = 2000;
  #timer;
  #abort;
  #handlers = new Map();

  constructor(url, init, answer) {
    super();
    if (typeof answer !== 'function') throw new TypeError('execcast: use a class from FakeEventSource.for(registry)');
    this.url = new URL(url, globalThis.location?.href ?? 'http://localhost/').href;
    this.withCredentials = Boolean(init?.withCredentials);
    this.#answer = answer;
    for (const type of ['open', 'message', 'error']) {
      Object.defineProperty(this, `on${type}`, {
        configurable: true,
        enumerable: true,
        get: () => this.#handlers.get(type)?.handler ?? null,
        set: (handler) => this.#handle(type, handler),
      });
    }
    queueMicrotask(() => this.#connect());
  }

  get readyState() {
    return this.#readyState;
  }

  get CONNECTING() {
    return connecting;
  }

  get OPEN() {
    return open;
  }

  get CLOSED() {
    return closed;
  }

  close() {
    this.#readyState = closed;
    globalThis.clearTimeout(this.#timer);
    this.#abort?.abort();
  }

  #handle(type, handler) {
    const old = this.#handlers.get(type);
    if (old) this.removeEventListener(type, old.listener);
    this.#handlers.delete(type);
    if (typeof handler !== 'function') return;
    const listener = (event) => handler.call(this, event);
    this.#handlers.set(type, { handler, listener });
    if (!callsHandlers) this.addEventListener(type, listener);
  }

  async #connect() {
    if (this.#readyState === closed) return;
    const headers = { Accept: 'text/event-stream' };
    // Header values are bytes: fetch would refuse others.
    if (this.#lastEventID) headers['Last-Event-ID'] = String.fromCharCode(...new TextEncoder().encode(this.#lastEventID));
    this.#abort = new AbortController();
    let response;
    try {
      response = await this.#answer(new Request(this.url, { headers, signal: this.#abort.signal }));
    } catch (err) {
      this.#fail();
      throw err; // no network can fail here: the test has to hear of it
    }
    if (this.#readyState === closed) return;
    const type = (response.headers.get('Content-Type') ?? '').split(';')[0].trim().toLowerCase();
    if (response.status !== 200 || type !== 'text/event-stream') {
      this.#fail();
      return;
    }
    this.#readyState = open;
    this.dispatchEvent(new Event('open'));
    try {
      for await (const frame of decode(response.body)) {
        if (this.#readyState === closed) return;
        this.#receive(frame);
      }
    } catch {
      // A connection that breaks is one that ends.
    }
    this.#reconnect();
  }

  #receive({ id, event, data, retry }) {
    if (retry !== undefined) this.#retry = retry;
    if (id !== undefined) this.#lastEventID = id;
    if (data === undefined) return;
    this.dispatchEvent(new MessageEvent(event || 'message', {
      data, lastEventId: this.#lastEventID, origin: new URL(this.url).origin,
    }));
  }

  #fail() {
    this.#readyState = closed;
    this.dispatchEvent(new Event('error'));
  }

  #reconnect() {
    if (this.#readyState === closed) return;
    this.#readyState = connecting;
    this.dispatchEvent(new Event('error'));
    if (this.#readyState === closed) return;
    this.#timer = globalThis.setTimeout(() => this.#connect(), this.#retry);
  }
}

function lastSegment(url) {
  return decodeURIComponent(url.pathname.split('/').at(-1));
}
