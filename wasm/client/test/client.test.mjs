// The client's rules, with transports and time that the test plays itself.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { before, test } from 'node:test';
import { brotliCompressSync } from 'node:zlib';
import { transformWithEsbuild } from 'vite7';
import { decode, encodeText, init } from '@execcast/wasm';
import { follow, StreamError } from '@execcast/wasm/client';

const root = path.resolve(import.meta.dirname, '../..');
const url = 'http://host/job';
const settle = () => new Promise((resolve) => setImmediate(resolve)); // everything that needs no time has happened

before(() => init());

const events = (...pieces) => new Response(new ReadableStream({
  start(controller) {
    for (const piece of pieces) controller.enqueue(typeof piece === 'string' ? new TextEncoder().encode(piece) : piece);
    controller.close();
  },
}), { headers: { 'Content-Type': 'text/event-stream' } });

// server answers requests by the given functions, one each, the last one for all others. Each gets a controller to write with.
function server(...answers) {
  const requests = [];
  const fetch = async (url, { headers, signal }) => {
    const answer = answers[Math.min(requests.length, answers.length - 1)];
    const request = { url, headers: Object.fromEntries(headers), signal };
    requests.push(request);
    if (answer === null) throw new TypeError('cannot connect');
    if (answer === undefined) return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
    if (typeof answer === 'number') return new Response(null, { status: answer });
    if (answer === 'open') {
      const body = new ReadableStream({
        start(controller) {
          request.write = (text) => controller.enqueue(new TextEncoder().encode(text));
          request.end = () => controller.close();
          signal.addEventListener('abort', () => controller.error(signal.reason));
        },
      });
      return new Response(body, { headers: { 'Content-Type': 'text/event-stream; charset=utf-8' } });
    }
    return typeof answer === 'function' ? answer() : answer;
  };
  return { fetch, requests };
}

class FakeEventSource {
  static all = [];
  readyState = 0;
  listeners = new Map();
  constructor(url) {
    this.url = url;
    FakeEventSource.all.push(this);
  }
  addEventListener(type, f) {
    if (this.readyState !== 2) this.listeners.set(type, f);
  }
  open() {
    this.readyState = 1;
    this.onopen?.({});
  }
  fail(readyState) {
    this.readyState = readyState;
    this.onerror?.({});
  }
  emit(type, data, lastEventId = '') {
    this.listeners.get(type)?.({ type, data, lastEventId });
  }
  close() {
    this.readyState = 2;
  }
}

class FakeWebSocket {
  static all = [];
  closed = false;
  constructor(url) {
    this.url = url;
    FakeWebSocket.all.push(this);
  }
  send(message) {
    this.onmessage?.({ data: typeof message === 'string' ? message : JSON.stringify(message) });
  }
  end(code, reason = '') {
    this.onclose?.({ code, reason });
  }
  close() {
    this.closed = true;
  }
}

// play follows a stream in mocked time, with a random number in the middle.
function play(t, options) {
  t.mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  t.mock.method(Math, 'random', () => 0.5);
  FakeEventSource.all = [];
  FakeWebSocket.all = [];
  const states = [];
  const stream = follow(url, {
    EventSource: FakeEventSource, WebSocket: FakeWebSocket,
    onState: ({ state, delay, resumedAfter }) => states.push([state, ...[delay, resumedAfter].filter((v) => v !== undefined)].join(' ')),
    ...options,
  });
  t.after(() => stream.close());
  const pass = async (ms) => {
    await settle();
    t.mock.timers.tick(ms);
    await settle();
  };
  return { stream, states, pass };
}

// --- Event streams

// parsed returns what the client makes of an event stream: events and where it would resume.
async function parsed(pieces) {
  const seen = [];
  const { fetch } = server(() => events(...pieces));
  const stream = follow(url, { fetch, onState: ({ state }) => state === 'reconnecting' && stream.close() });
  for await (const { type, data, id } of stream) seen.push({ type, data, id });
  return { seen, lastEventId: stream.lastEventId };
}

// wanted is the same by the decoder of Go's core.
async function wanted(bytes) {
  const seen = [];
  let lastEventId = '';
  for await (const { event, data, id } of decode(bytes)) {
    lastEventId = id ?? lastEventId;
    if (data === undefined) continue;
    let value = data;
    try {
      value = JSON.parse(data);
    } catch {
      // text
    }
    seen.push({ type: event || 'message', data: value, id: id ?? '' });
  }
  return { seen, lastEventId };
}

function cut(bytes, random) {
  const pieces = [];
  for (let at = 0; at < bytes.length;) {
    const n = 1 + Math.floor(random() ** 3 * 40);
    pieces.push(bytes.subarray(at, at + n));
    at += n;
  }
  return pieces;
}

// mulberry32: the same numbers each time.
function generator(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let x = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

test('event streams: by the letter of the standard', async () => {
  for (const [text, seen, lastEventId = ''] of [
    ['data: x\n\n', [['message', 'x']]],
    ['\uFEFFdata:x\r\rdata:  y\r\n\r\n', [['message', 'x'], ['message', ' y']]],
    ['data\n\ndata\ndata\n\n', [['message', ''], ['message', '\n']]],
    ['event: a\nid: 7\ndata: {"x":1}\n\n', [['a', { x: 1 }, '7']], '7'],
    ['id: 7\n\nid: a\0b\ndata: 1\n\nid\ndata: 2\n\n', [['message', 1], ['message', 2]]],
    ['id: 7\n\n', [], '7'],
    ['event: a\n\ndata: x\n\n', [['message', 'x']]],
    [': comment\nunknown: y\n:\ndata: x\n\n', [['message', 'x']]],
    ['id: 9\ndata: lost, since the block does not end\n', []],
    ['data: a\ndata: b\ndata:\n\n', [['message', 'a\nb\n']]],
  ]) {
    const want = { seen: seen.map(([type, data, id = '']) => ({ type, data, id })), lastEventId };
    assert.deepEqual(await parsed([text]), want, JSON.stringify(text));
    assert.deepEqual(await parsed([...new TextEncoder().encode(text)].map((byte) => Uint8Array.of(byte))), want, `${JSON.stringify(text)}, byte by byte`);
  }
});

test('event streams: as the decoder of core, whatever they contain and however they are cut', async (t) => {
  const words = ['data', 'event', 'id', 'a', 'b', ':', ': ', ': ', ' ', '\r', '\n', '\n', '\n\n', '\r\n', '\0', 'é', '\u{1F600}', '\uFEFF', '7', '8', '{"a":1}', '"', 'data: ', '\ndata: '];
  const random = generator(1);
  let count = 0;
  for (let i = 0; i < 1500; i++) {
    let text = '';
    for (let n = random() * 60; n > 0; n--) text += words[Math.floor(random() * words.length)];
    const bytes = new TextEncoder().encode(text);
    const broken = i % 3 ? bytes : bytes.map((byte) => (random() < 0.02 ? 0xff : byte)); // not UTF-8
    const want = await wanted(broken);
    count += want.seen.length;
    assert.deepEqual(await parsed(cut(broken, random)), want, `${i}: ${JSON.stringify(text)}`);
  }
  t.diagnostic(`${count} events`);
  assert.ok(count > 1000);
});

test('event streams: what the encoder writes arrives', async () => {
  const random = generator(2);
  const want = [];
  let text = '';
  for (let i = 1; i <= 300; i++) {
    const data = Array.from({ length: random() * 8 }, () => ['x', '\n', ' ', 'é', ':', '{', '\t', '12'][Math.floor(random() * 8)]).join('');
    const frame = { id: String(i), event: ['a', 'b', ''][i % 3], data };
    text += encodeText(frame);
    let value = data;
    try {
      value = JSON.parse(data);
    } catch {
      // text
    }
    want.push({ type: frame.event || 'message', data: value, id: frame.id });
  }
  assert.deepEqual((await parsed(cut(new TextEncoder().encode(text), random))).seen, want);
});

test('event streams: an event without end fails the stream, without much memory', async (t) => {
  for (const piece of ['x'.repeat(1000), 'data: xxx\n'.repeat(100)]) {
    let sent = 0;
    const { fetch } = server(() => new Response(new ReadableStream({
      pull(controller) {
        sent++;
        controller.enqueue(new TextEncoder().encode(piece));
      },
    }), { headers: { 'Content-Type': 'text/event-stream' } }));
    const stream = follow(url, { fetch, maxFrameLength: 10_000 });
    t.after(() => stream.close());
    await assert.rejects(async () => { for await (const _ of stream); }, { name: 'StreamError', message: /more than 10000 characters/ });
    assert.equal(stream.state, 'failed');
    assert.ok(sent < 40, `${sent} pieces were read`);
  }
});

// --- Reconnecting

test('fetch: what answers mean', async (t) => {
  for (const [answer, state] of [
    [204, 'finished'], [400, 'failed'], [401, 'failed'], [403, 'failed'], [404, 'failed'], [405, 'failed'], [410, 'failed'], [501, 'failed'],
    [408, 'reconnecting 2500'], [425, 'reconnecting 2500'], [429, 'reconnecting 2500'], [500, 'reconnecting 2500'],
    [502, 'reconnecting 2500'], [503, 'reconnecting 2500'], [504, 'reconnecting 2500'], [null, 'reconnecting 2500'],
    [() => new Response('{}', { headers: { 'Content-Type': 'application/json' } }), 'failed'],
    [() => new Response('', { headers: { 'Content-Type': 'text/event-streams' } }), 'failed'],
    [() => new Response(null, { status: 503, headers: { 'Retry-After': '8' } }), 'reconnecting 10000'],
    [() => new Response(null, { status: 503, headers: { 'Retry-After': new Date(Date.now() + 8000).toUTCString() } }), 'reconnecting 10000'],
    [() => new Response(null, { status: 503, headers: { 'Retry-After': 'soon' } }), 'reconnecting 2500'],
  ]) {
    await t.test(`${answer}`, async (t) => {
      const { fetch, requests } = server(answer);
      const { stream, states, pass } = play(t, { fetch });
      await settle();
      assert.deepEqual(states, [state]);
      if (state === 'failed') assert.ok(stream.error instanceof StreamError && stream.error.status);
      if (!state.startsWith('reconnecting')) {
        await pass(1e9);
        assert.equal(requests.length, 1, 'nothing is tried again');
      }
    });
  }
});

test('waiting grows with each vain attempt, to a bound, and starts anew behind an event', async (t) => {
  const { fetch, requests } = server(null, null, null, null, null, null, () => events('id: 5\ndata: x\n\n'), null, () => events('retry: 7000\n\n'), null, 204);
  const { states, pass } = play(t, { fetch, maxDelay: 20_000 });
  for (let i = 0; i < 10; i++) await pass(31_000);
  await settle();
  assert.deepEqual(states.map((s) => s.replace('reconnecting ', '')),
    ['2500', '5000', '10000', '20000', '25000', '25000', 'live', '2500', '5000', 'live 5', '25000', '25000', 'finished']);
  assert.equal(requests[6].headers['last-event-id'], undefined);
  assert.equal(requests[7].headers['last-event-id'], '5');
  assert.equal(requests[7].headers.accept, 'text/event-stream');
});

test('jitter: between the delay and half as much again', async (t) => {
  for (const [random, delay] of [[0, 2000], [0.9999999, 3000]]) {
    const { fetch } = server(null);
    const { states } = play(t, { fetch });
    t.mock.method(Math, 'random', () => random);
    await settle();
    assert.deepEqual(states, [`reconnecting ${delay}`]);
    t.mock.timers.reset();
  }
});

test('a server that asks for a long wait gets it, and one that asks for too much does not make us hasten', async (t) => {
  const { fetch, requests } = server(() => events('retry: 99999999999999\ndata: x\n\n'), 204);
  const { pass } = play(t, { fetch });
  await pass(30 * 864e5 / 2);
  assert.equal(requests.length, 1);
});

test('fetch: no answer in time, and silence', async (t) => {
  const { fetch, requests } = server(undefined, 'open', 'open');
  const { states, pass } = play(t, { fetch });
  await pass(19_999);
  assert.deepEqual(states, []);
  await pass(1);
  assert.deepEqual(states, ['reconnecting 2500']);
  assert.ok(requests[0].signal.aborted);
  await pass(2500);
  for (let i = 0; i < 10; i++) {
    await pass(40_000);
    requests[1].write(':\n\n'); // a heartbeat
  }
  await settle();
  assert.deepEqual(states, ['reconnecting 2500', 'live']);
  await pass(44_000);
  assert.deepEqual(states, ['reconnecting 2500', 'live']);
  await pass(1000);
  assert.match(states[2], /^reconnecting/);
  assert.ok(requests[1].signal.aborted);
});

test('negative limits are off', async (t) => {
  const { fetch, requests } = server(undefined);
  const { pass } = play(t, { fetch, connectTimeout: -1, idleTimeout: -1, maxDelay: -1 });
  await pass(1e9);
  assert.equal(requests.length, 1);
});

test('EventSource: one that reconnects is told from one that has given up', async (t) => {
  const { fetch, requests } = server(200, 404);
  const { states, stream, pass } = play(t, { transport: 'sse', fetch });
  const seen = [];
  stream.on('step', ({ data, id }) => seen.push([data, id]));
  await settle();
  const [first] = FakeEventSource.all;
  assert.equal(first.url, url);
  first.open();
  first.emit('step', '1', '10');
  first.fail(0); // reconnects by itself
  first.open();
  first.emit('step', '1', '10'); // a server that starts again from the beginning
  first.emit('step', '2', '11');
  assert.deepEqual(seen, [[1, '10'], [2, '11']]);
  assert.deepEqual(states, ['live', 'reconnecting', 'live 10']);
  assert.equal(requests.length, 0);
  first.fail(0);
  first.fail(0); // and cannot: from here on it is our wait
  assert.equal(first.readyState, 2);
  assert.equal(states.at(-1), 'reconnecting 2500');
  await pass(2500);
  const [, second] = FakeEventSource.all;
  assert.equal(second.url, `${url}?lastEventId=11`);
  assert.ok(second.listeners.has('step'));
  second.fail(2); // refused; it does not say with what
  await settle();
  assert.equal(requests[0].url, `${url}?lastEventId=11`);
  assert.equal(states.at(-1), 'failed', 'not an event stream');
  assert.equal(stream.error.status, 200);
});

test('EventSource: what its end means is asked', async (t) => {
  for (const [answer, state] of [[204, 'finished'], [403, 'failed'], [503, 'reconnecting 2500'], [null, 'reconnecting 2500'], [() => events(), 'reconnecting 2500']]) {
    const { fetch } = server(answer);
    const { states } = play(t, { transport: 'sse', fetch });
    await settle();
    FakeEventSource.all[0].fail(2);
    await settle();
    assert.deepEqual(states, [state]);
    t.mock.timers.reset();
  }
});

test('EventSource: types that are listened to later, and an event called error', async (t) => {
  const { stream, states } = play(t, { transport: 'sse', types: ['b'] });
  await settle();
  const [source] = FakeEventSource.all;
  source.open();
  const seen = [];
  const off = stream.on('a', ({ data }) => seen.push(data));
  source.emit('a', 'x', '1');
  off();
  source.emit('a', 'y', '2');
  assert.deepEqual(seen, ['x']);
  assert.ok(source.listeners.has('b'));
  source.onerror({ type: 'error', data: 'an event' });
  assert.deepEqual(states, ['live']);
});

test('EventSource and WebSocket: a heartbeat event makes silence audible', async (t) => {
  for (const transport of ['sse', 'websocket']) {
    const { states, pass } = play(t, { transport });
    await settle();
    const connection = transport === 'sse' ? FakeEventSource.all[0] : FakeWebSocket.all[0];
    if (transport === 'sse') connection.open();
    else connection.onopen();
    await pass(1e7);
    assert.deepEqual(states, ['live'], 'who has never heard a heartbeat does not miss it');
    if (transport === 'sse') connection.emit('stream-heartbeat', '{}');
    else connection.send({ event: 'stream-heartbeat', data: {} });
    await pass(45_000);
    await pass(45_000);
    assert.deepEqual(states.slice(0, 2), ['live', 'reconnecting 2500']);
    t.mock.timers.reset();
  }
});

test('WebSocket: close codes', async (t) => {
  for (const [code, state] of [
    [1000, 'finished'], [1001, 'reconnecting 2500'], [1005, 'reconnecting 2500'], [1006, 'reconnecting 2500'], [1011, 'reconnecting 2500'],
    [1012, 'reconnecting 2500'], [1013, 'reconnecting 2500'], [1002, 'failed'], [1008, 'failed'], [1009, 'failed'], [4000, 'failed'],
  ]) {
    const { stream, states } = play(t, { transport: 'websocket', lastEventId: '3' });
    await settle();
    const [socket] = FakeWebSocket.all;
    assert.equal(socket.url, 'ws://host/job?lastEventId=3');
    socket.onopen();
    socket.end(code, 'why');
    assert.deepEqual(states, ['live 3', state]);
    if (state === 'failed') assert.equal(stream.error.code, code);
    t.mock.timers.reset();
  }
});

test('WebSocket: a refused handshake is asked about', async (t) => {
  for (const [answer, state] of [[401, 'failed'], [404, 'failed'], [426, 'reconnecting 2500'], [200, 'reconnecting 2500'], [503, 'reconnecting 2500'], [null, 'reconnecting 2500']]) {
    const { fetch, requests } = server(answer);
    const { states } = play(t, { transport: 'websocket', fetch });
    await settle();
    FakeWebSocket.all[0].end(1006);
    await settle();
    assert.equal(requests[0].url, url);
    assert.deepEqual(states, [state]);
    t.mock.timers.reset();
  }
});

test('WebSocket: what is no event fails the stream', async (t) => {
  for (const message of ['hello', '{}', '[]', 'null', '{"event":1}']) {
    const { states } = play(t, { transport: 'websocket' });
    await settle();
    FakeWebSocket.all[0].onopen();
    FakeWebSocket.all[0].send(message);
    assert.deepEqual(states, ['live', 'failed']);
    assert.ok(FakeWebSocket.all[0].closed);
    t.mock.timers.reset();
  }
});

test('the network comes back, or the page is looked at again: nobody waits', async (t) => {
  const document = Object.assign(new EventTarget(), { hidden: false });
  const network = new EventTarget();
  globalThis.document = document;
  for (const name of ['addEventListener', 'removeEventListener']) globalThis[name] = network[name].bind(network);
  t.after(() => {
    for (const name of ['document', 'addEventListener', 'removeEventListener']) delete globalThis[name];
  });
  const { fetch, requests } = server(null, null, 'open', 'open', 'open', 204);
  const { states, pass } = play(t, { fetch });
  await settle();
  assert.equal(requests.length, 1);
  network.dispatchEvent(new Event('online'));
  await settle();
  assert.equal(requests.length, 2);
  document.hidden = true;
  document.dispatchEvent(new Event('visibilitychange'));
  await settle();
  assert.equal(requests.length, 2);
  document.hidden = false;
  document.dispatchEvent(new Event('visibilitychange'));
  await settle();
  assert.equal(requests.length, 3);
  assert.deepEqual(states, ['reconnecting 2500', 'reconnecting 5000', 'live']);
  requests[2].write('id: 1\ndata: x\n\n');
  await settle();
  document.dispatchEvent(new Event('visibilitychange')); // connected, and just heard
  network.dispatchEvent(new Event('pageshow'));
  await settle();
  assert.equal(requests.length, 3);
  network.dispatchEvent(new Event('online')); // over another network, perhaps: this connection may be dead
  await settle();
  assert.equal(requests.length, 4);
  assert.ok(requests[2].signal.aborted);
  assert.equal(requests[3].headers['last-event-id'], '1');
  t.mock.timers.setTime(Date.now() + 3_600_000); // the computer slept
  document.dispatchEvent(new Event('visibilitychange'));
  await settle();
  assert.equal(requests.length, 5);
  assert.deepEqual(states.slice(3), ['reconnecting', 'live 1', 'reconnecting', 'live 1']);
  requests[4].end();
  await pass(60_000);
  assert.equal(states.at(-1), 'finished');
  network.dispatchEvent(new Event('online'));
  await settle();
  assert.equal(requests.length, 6);
});

// --- Events

test('events come once and in order, whatever the server repeats; a gap starts anew', async (t) => {
  const { fetch } = server(
    () => events('id: 5\ndata: 5\n\n', 'id: 7\ndata: 7\n\n'),
    () => events('id: 5\ndata: 5\n\n', 'id: 7\ndata: 7\n\n', 'id: 9\ndata: 9\n\n', 'data: without\n\n', 'id: other-7\ndata: foreign\n\n', 'id: 9\ndata: 9 again\n\n'),
    () => events('event: stream-gap\ndata: {"from":"9","to":"2"}\n\n', 'id: 3\ndata: 3\n\n', 'event: stream-end\ndata: {}\n\n', 'data: behind the end\n\n'),
  );
  const { stream, pass } = play(t, { fetch });
  const seen = [];
  stream.on('message', ({ data }) => seen.push(data));
  stream.on('stream-gap', () => seen.push('gap'));
  for (let i = 0; i < 3; i++) await pass(5000);
  assert.deepEqual(seen, [5, 7, 9, 'without', 'foreign', '9 again', 'gap', 3]);
  assert.equal(stream.state, 'finished');
  assert.equal(stream.lastEventId, '3');
});

test('a listener that throws harms nobody but itself', async (t) => {
  const thrown = [];
  const catcher = (error) => thrown.push(error.message);
  const before = process.rawListeners('uncaughtException');
  process.removeAllListeners('uncaughtException');
  process.on('uncaughtException', catcher);
  t.after(() => {
    process.off('uncaughtException', catcher);
    before.forEach((f) => process.on('uncaughtException', f));
  });
  const { fetch } = server(() => events('data: 1\n\ndata: 2\n\nevent: stream-end\ndata: {}\n\n'));
  const { stream } = play(t, { fetch });
  const seen = [];
  stream.on('message', () => { throw new Error('mine'); });
  stream.on('message', ({ data }) => seen.push(data));
  await settle();
  assert.deepEqual(seen, [1, 2]);
  assert.equal(stream.state, 'finished');
  assert.deepEqual(thrown, ['mine', 'mine']);
});

test('a listener may close the stream', async (t) => {
  const { fetch, requests } = server(() => events('id: 1\ndata: 1\n\nid: 2\ndata: 2\n\nevent: stream-end\ndata: {}\n\n'));
  const { stream, states } = play(t, { fetch });
  const seen = [];
  stream.on('message', ({ data }) => {
    seen.push(data);
    stream.close();
  });
  await settle();
  assert.deepEqual(seen, [1]);
  assert.deepEqual(states, ['live', 'closed']);
  assert.ok(requests[0].signal.aborted);
  assert.equal(stream.lastEventId, '1');
  t.mock.timers.reset();

  for (const transport of ['sse', 'websocket']) {
    const { stream, states } = play(t, { transport });
    stream.on('message', () => stream.close());
    await settle();
    if (transport === 'sse') FakeEventSource.all[0].emit('message', '1', '1');
    else FakeWebSocket.all[0].send({ id: '1', event: 'message', data: 1 });
    assert.deepEqual(states, ['closed']);
    t.mock.timers.reset();
  }
});

test('iterators: to the end, out of the loop, to the signal, to failure', async (t) => {
  const text = 'id: 1\ndata: 1\n\nid: 2\nevent: a\ndata: 2\n\nevent: stream-heartbeat\ndata: {}\n\nevent: stream-end\ndata: {}\n\n';
  const all = [];
  for await (const { type, data, id } of follow(url, server(() => events(text)))) all.push([type, data, id]);
  assert.deepEqual(all, [['message', 1, '1'], ['a', 2, '2'], ['stream-end', {}, '']]);

  const left = server('open');
  const stream = follow(url, left);
  setImmediate(() => left.requests[0].write('data: 1\n\ndata: 2\n\n'));
  for await (const { data } of stream) {
    assert.equal(data, 1);
    break;
  }
  assert.equal(stream.state, 'closed');
  assert.ok(left.requests[0].signal.aborted);

  const abort = new AbortController();
  setImmediate(() => abort.abort(new Error('enough')));
  const aborted = follow(url, { ...server('open'), signal: abort.signal });
  await assert.rejects(async () => { for await (const _ of aborted); }, { message: 'enough' });
  assert.equal(aborted.state, 'closed');
  const never = server('open');
  await assert.rejects(async () => { for await (const _ of follow(url, { ...never, signal: abort.signal })); }, { message: 'enough' });
  assert.equal(never.requests.length, 0);

  await assert.rejects(async () => { for await (const _ of follow(url, server(404))); }, { name: 'StreamError', status: 404 });
});

test('iterators: one that takes nothing holds fetch back, and closes a WebSocket until it does', async (t) => {
  const { fetch } = server(() => new Response(new ReadableStream({
    pull(controller) {
      pulled++;
      controller.enqueue(new TextEncoder().encode(`id: ${pulled}\ndata: ${pulled}\n\n`));
      if (pulled === 100) controller.enqueue(new TextEncoder().encode('event: stream-end\ndata: {}\n\n'));
    },
  }), { headers: { 'Content-Type': 'text/event-stream' } }));
  let pulled = 0;
  const { stream, states, pass } = play(t, { fetch, buffer: 10 });
  const iterator = stream[Symbol.asyncIterator]();
  const first = iterator.next();
  await pass(1e6);
  assert.equal((await first).value.data, 1);
  assert.ok(pulled < 20, `${pulled} were read`);
  assert.deepEqual(states, ['live'], 'the silence is ours');
  const data = [1];
  for await (const event of iterator) if (event.type === 'message') data.push(event.data);
  assert.deepEqual(data, Array.from({ length: 100 }, (_, i) => i + 1));
  t.mock.timers.reset();

  const socket = play(t, { transport: 'websocket', buffer: 3 });
  const slow = socket.stream[Symbol.asyncIterator]();
  const taken = [slow.next()];
  await settle();
  FakeWebSocket.all[0].onopen();
  for (let i = 1; i <= 9; i++) FakeWebSocket.all[0].send({ id: String(i), event: 'message', data: i });
  assert.ok(FakeWebSocket.all[0].closed);
  await socket.pass(1e6);
  assert.equal(FakeWebSocket.all.length, 1);
  for (let i = 0; i < 4; i++) taken.push(slow.next());
  await settle();
  assert.equal(FakeWebSocket.all.length, 2);
  const reached = Number(new URL(FakeWebSocket.all[1].url).searchParams.get('lastEventId'));
  FakeWebSocket.all[1].onopen();
  for (let i = reached + 1; i <= 5; i++) FakeWebSocket.all[1].send({ id: String(i), event: 'message', data: i });
  assert.deepEqual((await Promise.all(taken)).map(({ value }) => value.data), [1, 2, 3, 4, 5]);
});

test('several executions over one connection', async (t) => {
  const want = [
    ['step', 1, 'a', '1'], ['step', 'text', 'b', '2'], ['step', { data: 7 }, 'a', '3'], ['stream-end', {}, 'a', ''], ['step', null, 'b', '4'],
    ['stream-end', {}, 'b', ''], ['stream-end', {}, undefined, ''],
  ];
  const sse = want.map(([event, data, execution, id]) => encodeText({ event, ...(id && { id }), data: execution === undefined ? data : { execution, data } }));
  const { fetch, requests } = server(() => events(...sse));
  const overFetch = follow(`${url}?x=1`, { fetch, executions: ['a', 'b&c'] });
  const seen = [];
  for await (const { type, data, execution, id } of overFetch) seen.push([type, data, execution, id]);
  assert.deepEqual(seen, want);
  assert.equal(requests[0].url, `${url}?x=1&executionId=a&executionId=b%26c`);
  assert.equal(overFetch.state, 'finished');

  const { stream, pass } = play(t, { transport: 'websocket', executions: new Set(['a', 'b']) });
  const heard = [];
  for (const type of ['step', 'stream-end']) stream.on(type, ({ data, execution, id }) => heard.push([type, data, execution, id]));
  await settle();
  assert.equal(FakeWebSocket.all[0].url, 'ws://host/job?executionId=a&executionId=b');
  const send = (socket, [event, data, execution, id]) => socket.send({ ...(id && { id }), execution, event, data });
  FakeWebSocket.all[0].onopen();
  want.slice(0, 3).forEach((w) => send(FakeWebSocket.all[0], w));
  FakeWebSocket.all[0].end(1006);
  await pass(2500);
  assert.equal(FakeWebSocket.all[1].url, 'ws://host/job?executionId=a&executionId=b&lastEventId=3');
  want.slice(3).forEach((w) => send(FakeWebSocket.all[1], w));
  assert.deepEqual(heard, want);
  assert.equal(stream.state, 'finished');
});

test('one execution may publish what looks like an envelope', async () => {
  const seen = [];
  const { fetch } = server(() => events('data: {"execution":"a","data":1}\n\nevent: stream-end\ndata: {}\n\n'));
  for await (const { data, execution } of follow(url, { fetch })) seen.push([data, execution]);
  assert.deepEqual(seen[0], [{ execution: 'a', data: 1 }, undefined]);
});

test('the trace an event was published in', async (t) => {
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
  const { fetch } = server(() => events(`traceparent: ${traceparent}\ndata: 1\n\ndata: 2\n\n`, 'event: stream-end\ndata: {}\n\n'));
  const seen = [];
  for await (const event of follow(url, { fetch })) seen.push(event.traceparent);
  assert.deepEqual(seen, [traceparent, undefined, undefined]);
  const { stream } = play(t, { transport: 'websocket' });
  stream.on('message', (event) => seen.push(event.traceparent));
  await settle();
  FakeWebSocket.all[0].send({ id: '1', event: 'message', traceparent, data: 1 });
  assert.equal(seen.at(-1), traceparent);
});

test('mistakes are told at once', () => {
  assert.throws(() => follow(url, { transport: 'carrier pigeon' }), TypeError);
  assert.throws(() => follow(url, { transport: 'toString' }), TypeError);
  assert.throws(() => follow('http://'), TypeError);
  assert.throws(() => follow(url, { transport: 'sse', headers: { a: 'b' } }), /sse cannot send headers/);
  assert.throws(() => follow(url, { headers: { 'a b': 'c' } }), TypeError);
});

// --- The module

test('it imports nothing, and the types are those of the code', () => {
  const text = readFileSync(path.join(root, 'client/client.js'), 'utf8');
  assert.doesNotMatch(text, /^\s*import\b|\bimport\(|\brequire\(/m);
  execFileSync(path.join(root, 'node_modules/.bin/tsc'), ['--project', path.join(import.meta.dirname)], { stdio: 'inherit' });
});

test('size: a few KB', async (t) => {
  const text = readFileSync(path.join(root, 'client/client.js'), 'utf8');
  const { code } = await transformWithEsbuild(text, 'client.js', { minify: true, format: 'esm', sourcemap: false });
  const size = brotliCompressSync(code).length;
  t.diagnostic(`${text.length} bytes, ${code.length} minified, ${size} of those after brotli`);
  assert.ok(size <= 4096, `${size} bytes`);
});
