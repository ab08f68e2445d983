import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import readline from 'node:readline';
import { after, before, test } from 'node:test';
import { decode, eventStreamResponse, FakeEventSource, init, Registry, scenario } from '@execcast/wasm';

before(() => init());

const collect = async (source) => {
  const frames = [];
  for await (const frame of decode(source)) frames.push(frame);
  return frames;
};

// What both are asked, step by step; the answers must be the same but for IDs.
async function talk(server) {
  const answers = [];
  const ids = [];
  const get = async (id, { header, query, method = 'GET' } = {}) => {
    const url = `http://localhost/executions/${encodeURIComponent(id)}${query === undefined ? '' : `?lastEventId=${encodeURIComponent(query)}`}`;
    return server.get(id, new Request(url, { method, headers: header === undefined ? {} : { 'Last-Event-ID': header } }));
  };
  const note = async (name, response, count) => {
    const headers = Object.fromEntries([...response.headers].filter(([n]) => !['connection', 'date', 'transfer-encoding', 'content-length', 'keep-alive'].includes(n)));
    let body;
    if (headers['content-type'] !== 'text/event-stream') body = await response.text();
    else if (response.body) {
      body = [];
      if (count !== 0) {
        for await (const frame of decode(response.body)) {
          body.push(frame);
          if (body.length === count) break;
        }
      }
    }
    let answer = JSON.stringify({ name, status: response.status, headers, body }, null, 1);
    ids.forEach((id, i) => (answer = answer.replaceAll(id, `<${i}>`)));
    answer = answer.replace(/\b\d{15,17}\b/g, '<ID>');
    answers.push(answer);
  };
  for (const data of ['one', 'two\nlines', ' three']) ids.push(await server.publish('x', data));
  await note('fresh', await get('x'), 4);
  await note('header', await get('x', { header: ids[0] }), 3);
  await note('query', await get('x', { query: ids[1] }), 2);
  await note('header wins', await get('x', { header: ids[1], query: ids[0] }), 2);
  await note('empty query', await get('x', { query: '' }), 4);
  await note('unusable ID', await get('x', { query: 'abc' }), 5);
  await note('ID of the future', await get('x', { header: '9007199254740991' }), 5);
  await note('HEAD', await get('x', { method: 'HEAD' }), 0);
  await note('POST', await get('x', { method: 'POST' }));
  await note('DELETE', await get('x', { method: 'DELETE' }));
  await note('unknown', await get('never', { header: ids[0] }));
  await note('bad ID', await get('a\nb'));
  await note('long ID', await get('x'.repeat(300)));
  const full = [await get('x'), await get('x')];
  await note('full', await get('x'));
  for (const response of full) await response.body.cancel();
  await server.close('x');
  await note('finished', await get('x', { header: ids[1] }));
  await note('has all', await get('x', { header: ids[2] }));
  await server.shutdown();
  await note('shut down', await get('y'));
  return answers;
}

test('eventStreamResponse answers as the net/http adapter does', async () => {
  const child = spawn('go', ['run', './internal/server'], { cwd: path.dirname(import.meta.dirname), stdio: ['pipe', 'pipe', 'inherit'] });
  after(() => child.stdin.end());
  const [address] = await once(readline.createInterface({ input: child.stdout }), 'line');
  const post = (what, body) => fetch(address + what, { method: 'POST', body }).then((r) => r.text());
  const want = await talk({
    publish: (id, data) => post(`/publish/${id}`, data),
    close: (id) => post(`/close/${id}`),
    shutdown: () => post('/shutdown'),
    get: (id, request) => fetch(request.url.replace('http://localhost', address), { method: request.method, headers: request.headers }),
  });
  const r = new Registry({ maxExecutionClients: 2 });
  const got = await talk({
    publish: (id, data) => r.publish(id, { event: 'step', data }),
    close: (id) => r.close(id),
    shutdown: () => r.shutdown(),
    get: (id, request) => eventStreamResponse(r, id, request),
  });
  assert.equal(got.length, 17);
  for (let i = 0; i < want.length; i++) assert.equal(got[i], want[i]);
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
  assert.throws(() => new EventSource('http://['), TypeError);
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
