import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import http from 'node:http';
import path from 'node:path';
import readline from 'node:readline';
import { before, test } from 'node:test';
import { decode, eventStreamResponse, ExeccastError, FakeEventSource, init, Registry, scenario } from '@execcast/wasm';

before(() => init());

const collect = async (source) => {
  const frames = [];
  for await (const frame of decode(source)) frames.push(frame);
  return frames;
};

// What the handlers of internal/server are made with.
const app = 'https://app.example.com';
const refusals = ['ErrUnauthorized', 'ErrForbidden', 'ErrNotFound', 'ErrExecutionID', 'ErrUnknown', 'ErrFinished', 'ErrShutdown', 'ErrTooManyClients',
  'ErrTooManyExecutionClients', 'ErrTooManyExecutions', 'ErrEventType', 'other'];
const handlers = {
  executions: {},
  listed: { allowedOrigins: [app, 'https://Other.example.com:8443'] },
  any: { allowedOrigins: ['*'] },
  both: { allowedOrigins: ['*', app] },
  guarded: { allowedOrigins: [app], retry: 1.5 },
};
const coreErrors = new Map([['ErrShutdown', 'execcast: shutting down'], ['ErrTooManyClients', 'execcast: too many clients'],
  ['ErrTooManyExecutionClients', 'execcast: too many clients of one execution'], ['ErrTooManyExecutions', 'execcast: too many executions']]);

function guard(id) {
  if (id === 'other') throw new Error('something else');
  if (refusals.includes(id)) throw new ExeccastError(id, coreErrors.get(id) ?? '');
  return id;
}

// What a page, or somebody who only says to be one, may send as Origin to localhost.
const origins = ['http://localhost', 'HTTPS://LOCALHOST', 'http://localhost:80', 'http://localhost:8080', 'http://localhost.evil.example', 'null', 'localhost',
  '//localhost', '///localhost', 'http:localhost', 'http://user@localhost', 'http://a@b@localhost', 'http://localhost@evil.example', 'http://localhost/path',
  'http://localhost?x', 'http://evil.example#//localhost', 'file://', 'http://', '*', app, app.toUpperCase(), `${app}:443`, `${app}.evil.example`, `${app}/`,
  'https://other.example.com:8443', 'https://other.example.com', 'http://evil.example'];

// talk asks a server everything, step by step, and returns the answers: the same from both, but for IDs.
async function talk(server) {
  const answers = [];
  const ids = [];
  let held = 0; // viewers that stay
  const get = (id, { handler = 'executions', method = 'GET', headers = {}, query = '' } = {}) =>
    server.get(handler, id, { method, url: `http://localhost/${handler}/${encodeURIComponent(id)}${query}`, headers });
  const note = async (name, response, frames = 1) => {
    const ignored = ['connection', 'date', 'transfer-encoding', 'content-length', 'keep-alive'];
    const headers = Object.fromEntries([...response.headers].filter(([n]) => !ignored.includes(n)).sort());
    let answer = JSON.stringify({ name, status: response.status, headers, body: await read(response, frames) }, null, 1);
    ids.forEach((id, i) => (answer = answer.replaceAll(id, `<${i}>`)));
    answers.push(answer.replace(/\b\d{15,17}\b/g, '<ID>'));
    while (await server.count('x') > held) await new Promise((resolve) => setTimeout(resolve, 1));
  };
  for (const data of ['one', 'two\nlines', ' three']) ids.push(await server.publish('x', data));
  const lastEventID = (id) => ({ headers: { 'Last-Event-ID': id } });
  const query = (value) => ({ query: `?lastEventId=${value}` });
  await note('fresh', await get('x'), 4);
  await note('header', await get('x', lastEventID(ids[0])), 3);
  await note('query', await get('x', query(ids[1])), 2);
  await note('header wins', await get('x', { ...lastEventID(ids[1]), ...query(ids[0]) }), 2);
  await note('empty header', await get('x', { ...lastEventID(''), ...query(ids[1]) }), 2);
  for (const value of ['', 'abc', '%20', '+', '%zz', '%ff', `${ids[1]};a=b`, `${ids[1]}&lastEventId=${ids[0]}`, '9007199254740991', '-1',
    `a&last%45ventId=${ids[0]}`, '18446744073709551616']) {
    await note(`query ${value}`, await get('x', query(value)), 2);
  }
  for (const value of ['abc', '9007199254740991', '\u00ff', '1 2']) await note(`header ${value}`, await get('x', lastEventID(value)), 5);
  for (const handler of Object.keys(handlers)) {
    for (const method of ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS']) {
      for (const origin of [undefined, ...origins]) {
        const headers = origin === undefined ? {} : { Origin: origin };
        await note(`${method} ${handler} from ${origin}`, await get('x', { handler, method, headers }));
      }
    }
    for (const origin of [undefined, ...origins]) {
      const asked = { ...(origin !== undefined && { Origin: origin }), 'Access-Control-Request-Method': 'GET' };
      await note(`preflight ${handler} from ${origin}`, await get('forbidden', { handler, method: 'OPTIONS', headers: asked }));
      await note(`preflight ${handler} from ${origin}, as GET`, await get('never', { handler, headers: asked }), 1);
    }
    for (const names of ['authorization', 'authorization,last-event-id', 'X-A, X_b~', 'a b', '*', '', 'a:b', 'a\u00ff', '"a"', 'x'.repeat(1024), 'x'.repeat(1025)]) {
      const headers = { Origin: app, 'Access-Control-Request-Method': 'PUT', 'Access-Control-Request-Headers': names };
      await note(`preflight ${handler} for ${names}`, await get('x', { handler, method: 'OPTIONS', headers }));
    }
    for (const method of ['GET', 'HEAD']) {
      for (const headers of [{}, { Origin: app }]) {
        await note(`${method} ${handler}, unknown`, await get('never', { ...lastEventID(ids[0]), handler, method, headers: { ...headers, 'Last-Event-ID': ids[0] } }));
        await note(`${method} ${handler}, bad ID`, await get('a\nb', { handler, method, headers }));
        await note(`${method} ${handler}, long ID`, await get('x'.repeat(300), { handler, method, headers }));
      }
    }
  }
  for (const id of refusals) {
    for (const method of ['GET', 'HEAD', 'POST']) {
      for (const headers of [{}, { Origin: app }, { Origin: 'http://evil.example' }]) {
        await note(`${method}, ${id}`, await get(id, { handler: 'guarded', method, headers }));
      }
    }
  }
  const full = [await get('x'), await get('x')];
  held = full.length;
  await note('full', await get('x'));
  await note('full, of another origin', await get('x', { handler: 'both', headers: { Origin: app } }));
  for (const response of full) await response.body.cancel();
  held = 0;
  await server.close('x');
  await note('finished', await get('x', lastEventID(ids[1])), 3);
  await note('has all', await get('x', lastEventID(ids[2])));
  await note('has all, of another origin', await get('x', { handler: 'both', headers: { Origin: app, 'Last-Event-ID': ids[2] } }));
  await server.shutdown();
  await note('shut down', await get('y'));
  return answers;
}

// read returns a body, of a stream so many blocks.
async function read({ headers, body }, blocks) {
  let bytes = Buffer.alloc(0);
  for await (const chunk of body ?? []) {
    bytes = Buffer.concat([bytes, chunk]);
    if (headers.get('Content-Type') === 'text/event-stream' && bytes.toString().split('\n\n').length > blocks) break;
  }
  const text = bytes.toString();
  return headers.get('Content-Type') === 'text/event-stream' ? text.split('\n\n').slice(0, blocks) : text;
}

// ask is fetch without its opinions on headers.
async function ask(address, { method, url, headers }) {
  const request = http.request(url.replace('http://localhost', address), { method, agent: false, headers: { ...headers, Host: 'localhost' } });
  request.end();
  const [response] = await once(request, 'response');
  response.cancel = async () => response.destroy();
  return { status: response.statusCode, headers: new Headers(Object.entries(response.headers)), body: response };
}

test('eventStreamResponse answers as the net/http adapter does', async (t) => {
  t.mock.method(console, 'error', () => {}); // of what the guard throws
  const child = spawn('go', ['run', './internal/server'], { cwd: path.dirname(import.meta.dirname), stdio: ['pipe', 'pipe', 'inherit'] });
  t.after(() => child.stdin.end());
  const [address] = await once(readline.createInterface({ input: child.stdout }), 'line');
  const post = (what, body) => fetch(address + what, { method: 'POST', body }).then((r) => r.text());
  const want = await talk({
    publish: (id, data) => post(`/publish/${id}`, data),
    close: (id) => post(`/close/${id}`),
    shutdown: () => post('/shutdown'),
    count: async (id) => Number(await post(`/clients/${id}`)),
    get: (handler, id, request) => ask(address, request),
  });
  const r = new Registry({ maxExecutionClients: 2, logger: {} });
  const got = await talk({
    publish: (id, data) => r.publish(id, { event: 'step', data }),
    close: (id) => r.close(id),
    shutdown: () => r.shutdown(),
    count: (id) => r.clientCount(id),
    get: (handler, id, { headers, ...request }) => eventStreamResponse(r, handler === 'guarded' ? () => guard(id) : id,
      { ...request, headers: new Headers(headers) }, handlers[handler]),
  });
  t.diagnostic(`${want.length} answers compared`);
  assert.equal(got.length, want.length);
  assert.ok(want.length > 900);
  for (let i = 0; i < want.length; i++) assert.equal(got[i], want[i]);
  const statuses = new Set(want.map((answer) => JSON.parse(answer).status));
  assert.deepEqual([...statuses].sort(), [200, 204, 400, 401, 403, 404, 405, 500]);
});

test('a function that names the execution gets the request, and what it throws is the answer', async (t) => {
  const log = t.mock.method(console, 'error', () => {});
  const r = new Registry();
  const request = new Request('http://localhost/executions?id=x');
  const byQuery = (req) => new URL(req.url).searchParams.get('id');
  const response = eventStreamResponse(r, byQuery, request);
  assert.equal(r.clientCount('x'), 1);
  await response.body.cancel();
  const forbidden = eventStreamResponse(r, () => { throw new ExeccastError('ErrForbidden', 'not yours'); }, request);
  assert.deepEqual([forbidden.status, await forbidden.text(), log.mock.callCount()], [403, 'Forbidden\n', 0]);
  for (const thrown of [new Error('oops'), undefined, null, 'ErrForbidden']) {
    assert.equal(eventStreamResponse(r, () => { throw thrown; }, request).status, 500);
    assert.equal(log.mock.calls.at(-1).arguments[1], thrown);
  }
  for (const id of [undefined, null, 1, {}, () => 1, async () => 'x']) assert.throws(() => eventStreamResponse(r, id, request), TypeError);
  for (const options of [{ retry: 'x' }, { retry: NaN }, { allowedOrigins: '*' }, { allowedOrigins: [1] }]) {
    assert.throws(() => eventStreamResponse(r, 'x', request, options), TypeError);
  }
  assert.equal(r.clientCount('x'), 0);
});

test('chunking cuts anywhere, and changes no byte', async () => {
  const r = new Registry();
  const events = ['a', 'ü\n\u{1F600}', 'c'.repeat(500)];
  for (const data of events) r.publish('x', { data });
  await r.close('x');
  const read = async (options) => {
    const chunks = [];
    for await (const chunk of eventStreamResponse(r, 'x', undefined, options).body) chunks.push(chunk);
    return chunks;
  };
  const whole = await read();
  const all = Buffer.concat(whole);
  const seen = {};
  for (const chunking of ['frame', 'byte', 1, 2, 0, -5, 2 ** 31]) {
    const chunks = await read({ chunking });
    assert.deepEqual(Buffer.concat(chunks), all);
    seen[chunking] = chunks.map((c) => c.length).join();
    assert.equal((await read({ chunking })).map((c) => c.length).join(), seen[chunking], 'a seed always cuts alike');
    assert.deepEqual((await collect(chunks)).filter((f) => f.data && !f.event).map((f) => f.data), events);
  }
  assert.equal(seen.frame.split(',').length, 5);
  assert.equal(seen.byte.split(',').length, all.length);
  assert.notEqual(seen[1], seen[2]);
  for (const chunking of ['line', 1.5, {}, null]) assert.throws(() => eventStreamResponse(r, 'x', undefined, { chunking }), TypeError);
  assert.throws(() => eventStreamResponse({}, 'x'), TypeError);
});

test('a reader that reads slowly, cancels or aborts', async () => {
  const r = new Registry();
  const slow = eventStreamResponse(r, 'x').body.getReader();
  for (let i = 0; i < 100; i++) r.publish('x', { data: String(i).padStart(10_000) });
  const held = r.stats().delivered;
  assert.ok(held < 100, `${held} events taken though nobody reads`);
  const closing = r.close('x');
  let bytes = '';
  for (let next = await slow.read(); !next.done; next = await slow.read()) bytes += new TextDecoder().decode(next.value);
  await closing;
  assert.equal(bytes.match(/^data: +\d+$/gm).length, 100);

  const cancelled = eventStreamResponse(r, 'y').body;
  const abort = new AbortController();
  const aborted = eventStreamResponse(r, 'y', new Request('http://localhost/', { signal: abort.signal }));
  assert.equal(r.clientCount('y'), 2);
  await cancelled.cancel();
  assert.equal(r.clientCount('y'), 1);
  abort.abort();
  assert.equal(r.clientCount('y'), 0);
  await assert.rejects(aborted.text(), { name: 'AbortError' });
  const late = eventStreamResponse(r, 'y', new Request('http://localhost/', { signal: AbortSignal.abort() }));
  await assert.rejects(late.text(), { name: 'AbortError' });
  assert.equal(r.clientCount('y'), 0);
});

// watch opens a source and notes what it dispatches.
function watch(EventSource, url, types = []) {
  const source = new EventSource(url);
  const log = [];
  source.onopen = () => log.push('open');
  source.onerror = () => log.push(`error ${source.readyState}`);
  for (const type of ['message', 'stream-end', 'stream-gap', ...types]) {
    source.addEventListener(type, (event) => log.push(`${type} ${event.data}`));
  }
  const until = async (line) => {
    while (!log.includes(line)) await new Promise((resolve) => setTimeout(resolve, 1));
  };
  return { source, log, until };
}

test('FakeEventSource: events, reconnecting, resuming, the end', async () => {
  const r = new Registry();
  const EventSource = FakeEventSource.for(r, { retry: 1, executionId: (url) => url.searchParams.get('id') });
  assert.deepEqual([EventSource.CONNECTING, EventSource.OPEN, EventSource.CLOSED, EventSource.name], [0, 1, 2, 'EventSource']);
  r.publish('x', { data: 'early' });
  const { source, log, until } = watch(EventSource, '/events?id=x', ['task']);
  assert.deepEqual([source.readyState, source.url, source.withCredentials], [0, 'http://localhost/events?id=x', false]);
  await until('message early');
  assert.equal(source.readyState, 1);
  let event;
  source.addEventListener('task', (e) => (event = e), { once: true });
  const id = r.publish('x', { event: 'task', data: { n: 1 } });
  await until('task {"n":1}');
  assert.deepEqual([event.lastEventId, event.origin, event.type], [id, 'http://localhost', 'task']);
  r.disconnect('x');
  r.publish('x', { data: 'meanwhile' });
  await until('message meanwhile');
  await r.close('x');
  await until('error 2');
  assert.deepEqual(log, ['open', 'message early', 'task {"n":1}', 'error 0', 'open', 'message meanwhile', 'stream-end {}', 'error 0', 'error 2']);
  assert.equal(source.readyState, 2);
});

test('FakeEventSource: close, handlers, and what it cannot do', async () => {
  const r = new Registry();
  const EventSource = FakeEventSource.for(r);
  const { source, log, until } = watch(EventSource, new URL('http://host/executions/a%20b'));
  await until('open');
  assert.equal(r.clientCount('a b'), 1);
  assert.equal(source.onmessage, null);
  const handler = () => source.close();
  source.onmessage = handler;
  assert.equal(source.onmessage, handler);
  r.publish('a b', { data: '1' });
  r.publish('a b', { data: '2' });
  await until('message 1');
  await new Promise(setImmediate);
  assert.deepEqual([log, source.readyState, r.clientCount('a b')], [['open', 'message 1'], 2, 0]);
  const early = watch(EventSource, '/never');
  early.source.close();
  await new Promise(setImmediate);
  assert.deepEqual([early.log, r.clientCount('never')], [[], 0]);
  assert.throws(() => new FakeEventSource('/x'), TypeError);
  assert.throws(() => FakeEventSource.for(), TypeError);
  assert.throws(() => FakeEventSource.for(r, { executionId: 'x' }), TypeError);
  assert.throws(() => new EventSource('http://['), TypeError);
});

test('FakeEventSource: a mistake in its use is heard of', () => {
  const index = JSON.stringify(new URL('../src/index.js', import.meta.url));
  const { status, stderr, stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', `
    import { FakeEventSource, init, Registry } from ${index};
    await init();
    const EventSource = FakeEventSource.for(new Registry(), { executionId: (url) => url.searchParams.get('id') });
    new EventSource('/executions').onerror = (event) => console.log(event.target.readyState);`], { encoding: 'utf8' });
  assert.deepEqual([status, stdout], [1, '2\n']);
  assert.match(stderr, /execution ID is a string, or a function that returns one/);
});

test('FakeEventSource: an EventTarget that calls handlers by itself, as happy-dom has', async (t) => {
  const { EventTarget } = globalThis;
  t.after(() => (globalThis.EventTarget = EventTarget));
  globalThis.EventTarget = class extends EventTarget {
    dispatchEvent(event) {
      const answer = super.dispatchEvent(event);
      this[`on${event.type}`]?.(event);
      return answer;
    }
  };
  const { FakeEventSource: Fake } = await import('../src/eventsource.js?another');
  const r = new Registry();
  const { log, until, source } = watch(Fake.for(r), '/x');
  await until('open');
  source.onmessage = (event) => log.push(`handler ${event.data}`);
  r.publish('x', { data: '1' });
  await until('handler 1');
  assert.deepEqual(log, ['open', 'message 1', 'handler 1']);
  source.close();
});

test('scenario: reconnecting and joining late, in a few lines', async () => {
  const r = new Registry();
  const EventSource = FakeEventSource.for(r, { retry: 1 });
  const first = watch(EventSource, '/job', ['task']);
  await first.until('open');
  const ids = await scenario(r, 'job', [{ event: 'task', data: 1 }, { wait: 5 }, { disconnect: true }, { event: 'task', data: 2 }, { wait: 20 }, { finish: true }]);
  const late = watch(EventSource, '/job', ['task']);
  await late.until('stream-end {}');
  assert.equal(ids.length, 2);
  assert.deepEqual(late.log.slice(0, 4), ['open', 'task 1', 'task 2', 'stream-end {}']);
  await first.until('error 2');
  assert.deepEqual(first.log, ['open', 'task 1', 'error 0', 'open', 'task 2', 'stream-end {}', 'error 0', 'error 2']);

  const lost = watch(EventSource, '/lost');
  await lost.until('open');
  await scenario(r, 'lost', [{ data: 1 }, { wait: 5 }, { restart: true }]);
  await lost.until('error 2'); // the server knows nothing of it any more: 204
  assert.deepEqual(lost.log, ['open', 'message 1', 'error 0', 'error 2']);
});

test('scenario: bad steps play nothing; a signal stops it', async () => {
  const r = new Registry();
  for (const step of [null, 1, {}, { wait: 'x' }, { wait: -1 }, { wait: NaN }, { finish: false }, { restart: 1 }, { wait: 1, data: 1 }, { evnt: 'x' }]) {
    await assert.rejects(scenario(r, 'x', [{ data: 1 }, step]), { name: 'TypeError', message: /step 1 / });
  }
  await assert.rejects(scenario(r, 'x', 5), TypeError);
  await assert.rejects(scenario({}, 'x', []), TypeError);
  assert.equal(r.stats().published, 0);
  await assert.rejects(scenario(r, 'x', [{ event: 'stream-end' }]), { code: 'ErrReservedType' });
  const abort = new AbortController();
  const playing = scenario(r, 'x', [{ data: 1 }, { wait: 1e6 }, { data: 2 }], { signal: abort.signal });
  abort.abort();
  await assert.rejects(playing, { name: 'AbortError' });
  assert.equal(r.stats().published, 1);
});
