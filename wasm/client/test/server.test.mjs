// The client over each transport, against the adapters.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { FakeEventSource, init } from '@execcast/wasm';
import { follow } from '@execcast/wasm/client';
import { WebSocket } from 'ws';
import { build, remove, start } from './server.mjs';

before(build);
before(() => init());
after(remove);

// Node has no EventSource: this one is the standard's algorithm over fetch.
class EventSource extends FakeEventSource {
  constructor(url, options) {
    super(url, options, (request) => fetch(request));
  }
}

const transports = { fetch: '/sse/', sse: '/sse/', websocket: '/ws/' };

// watch follows an execution and collects what happens; until(condition) waits for something to have happened.
function watch(t, server, transport, id, options = {}) {
  const seen = { data: [], ids: [], states: [], gaps: [], errors: [], delays: [] };
  const waiting = new Set();
  const changed = () => waiting.forEach((check) => check());
  const stream = follow(server.url + transports[transport] + id, {
    transport, EventSource, WebSocket, retry: 50, maxDelay: 200,
    onState({ state, resumedAfter, error, delay }) {
      seen.states.push(resumedAfter ? 'resumed' : state);
      if (delay !== undefined) seen.delays.push(delay);
      if (error) seen.errors.push(error);
      changed();
    },
    ...options,
  });
  t.after(() => stream.close());
  stream.on('step', ({ data, id }) => {
    seen.data.push(data);
    seen.ids.push(id);
    changed();
  });
  stream.on('stream-gap', ({ data }) => {
    seen.gaps.push(data);
    changed();
  });
  const until = (condition) => new Promise((resolve) => {
    const check = () => {
      if (!condition()) return;
      waiting.delete(check);
      resolve();
    };
    waiting.add(check);
    check();
  });
  const ended = () => until(() => ['finished', 'failed', 'closed'].includes(stream.state));
  return { stream, ...seen, until, ended };
}

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

for (const transport of Object.keys(transports)) {
  test(`${transport}: from the beginning to the end`, async (t) => {
    const server = await start(t);
    const values = ['{"a":[1,"ü"]}', 'plain text', '"quoted"', '12', '', ' spaces ', '1e400', '{broken', '[1]x', 'null'];
    await server.publish('job', ...values.slice(0, 5));
    const v = watch(t, server, transport, 'job');
    await v.until(() => v.data.length === 5);
    await server.publish('job', ...values.slice(5));
    await server.post('/close/job');
    await v.ended();
    assert.deepEqual(v.data, [{ a: [1, 'ü'] }, 'plain text', 'quoted', 12, '', ' spaces ', Infinity, '{broken', '[1]x', null]);
    assert.deepEqual(v.states, ['live', 'finished']);
    assert.equal(v.stream.lastEventId, v.ids.at(-1));
    assert.deepEqual([...v.ids].sort(), v.ids);

    // All of it is known: 204, or close code 1000. Some of it is: the rest.
    const done = watch(t, server, transport, 'job', { lastEventId: v.ids.at(-1) });
    await done.ended();
    assert.equal(done.stream.state, 'finished');
    assert.deepEqual(done.data, []);
    const rest = watch(t, server, transport, 'job', { lastEventId: v.ids[6] });
    await rest.ended();
    assert.deepEqual(rest.data, ['{broken', '[1]x', null]);
    assert.deepEqual([...done.gaps, ...rest.gaps, ...done.errors, ...rest.errors], []);
  });

  test(`${transport}: through restarts of the server`, async (t) => {
    const server = await start(t, '-await');
    const v = watch(t, server, transport, 'job');
    await v.until(() => v.states.includes('live'));
    await server.publish('job', ...numbers(1, 100));
    await v.until(() => v.data.length === 100);
    await server.kill();
    await v.until(() => v.states.at(-1) === 'reconnecting');
    await server.start();
    await server.publish('job', ...numbers(101, 200));
    await v.until(() => v.data.length === 200);
    assert.ok(v.states.includes('resumed'));
    assert.equal(v.gaps.length, 1, 'nobody knows what the first server may have published last');
    await server.kill();
    await server.start();
    await server.publish('job', ...numbers(201, 300));
    await server.post('/close/job');
    await v.ended();
    assert.deepEqual(v.data, numbers(1, 300));
    assert.equal(v.stream.state, 'finished');
  });

  test(`${transport}: a shutdown is not the end`, async (t) => {
    const server = await start(t, '-await');
    const v = watch(t, server, transport, 'job');
    await server.publish('job', '1');
    await v.until(() => v.data.length === 1);
    await server.post('/shutdown');
    await v.until(() => v.states.includes('reconnecting'));
    await server.kill();
    await server.start();
    await server.publish('job', '2');
    await server.post('/close/job');
    await v.ended();
    assert.deepEqual(v.data, [1, 2]);
  });

  test(`${transport}: several executions over one connection, through a restart to their ends`, async (t) => {
    const server = await start(t, '-await');
    await server.publish('a', '1', '{"execution":"mine","data":1}');
    const v = watch(t, server, transport, '', { executions: ['a', 'b & c'] });
    const seen = { a: [], 'b & c': [] }, ends = [], gaps = [];
    v.stream.on('step', ({ execution, data }) => seen[execution].push(data));
    v.stream.on('stream-end', ({ execution }) => ends.push(execution));
    v.stream.on('stream-gap', ({ execution }) => gaps.push(execution));
    await v.until(() => v.states.includes('live'));
    await server.publish('b%20%26%20c', '2');
    await server.publish('a', '3');
    await server.publish('elsewhere', '0');
    await v.until(() => v.data.length === 4);
    assert.equal(await server.requests(), 1);
    await server.post('/close/a');
    await v.until(() => ends.length === 1);
    assert.deepEqual(gaps, []);

    await server.kill();
    await v.until(() => v.states.at(-1) === 'reconnecting');
    await server.start();
    await server.publish('b%20%26%20c', '4');
    await server.publish('a', '5');
    await v.until(() => v.data.length === 6);
    assert.equal(v.stream.state, 'live', 'the end of one is not the end of all');
    await server.post('/close/a');
    await server.post('/close/b%20%26%20c');
    await v.ended();
    assert.equal(v.stream.state, 'finished');
    assert.deepEqual(seen, { a: [1, { execution: 'mine', data: 1 }, 3, 5], 'b & c': [2, 4] });
    assert.deepEqual([...v.ids].sort(), v.ids);
    assert.deepEqual(ends, ['a', 'a', 'b & c', undefined]);
    assert.deepEqual(gaps.sort(), ['a', 'b & c'], 'of each nobody knows what the first server may have published last');

    // From the middle on, another viewer gets what follows there, of both; and one that may not see one of them gets nothing.
    const rest = watch(t, server, transport, '', { executions: ['b & c', 'a'], lastEventId: v.ids[4] });
    await rest.ended();
    assert.deepEqual([rest.data, rest.ids], [[5], [v.ids[5]]]);
    const none = watch(t, server, transport, '', { executions: ['a', 'forbidden'] });
    await none.ended();
    assert.deepEqual([none.stream.state, none.stream.error.status, none.data], ['failed', 403, []]);
  });

  test(`${transport}: a gap is told`, async (t) => {
    const server = await start(t, '-max-events', '10');
    await server.publish('job', ...numbers(1, 5));
    const first = watch(t, server, transport, 'job');
    await first.until(() => first.data.length === 5);
    first.stream.close();
    assert.equal(first.stream.state, 'closed');
    await server.publish('job', ...numbers(6, 30));
    const second = watch(t, server, transport, 'job', { lastEventId: first.stream.lastEventId });
    await second.until(() => second.data.length === 10);
    assert.deepEqual(second.data, numbers(21, 30));
    assert.equal(second.gaps.length, 1);
    assert.equal(String(second.gaps[0].from), first.stream.lastEventId);
    assert.ok(Number(second.gaps[0].to) < Number(second.ids[0]));
    assert.deepEqual(second.states, ['resumed']);
  });

  test(`${transport}: refused for good, and for now`, async (t) => {
    const server = await start(t);
    for (const [id, status] of [['forbidden', 403], ['secret', 401], ['%20%0A', 400]]) {
      const v = watch(t, server, transport, id);
      await v.ended();
      assert.equal(v.stream.state, 'failed');
      assert.equal(v.stream.error.status, status);
      assert.deepEqual(v.states, ['failed']);
    }
    const v = watch(t, server, transport, 'busy');
    await v.until(() => v.states.includes('reconnecting'));
    assert.equal(v.errors[0].status, 503);
    assert.ok(v.delays[0] >= 1000, 'Retry-After');
  });

  test(`${transport}: what an iterator cannot take stays with the server`, async (t) => {
    const server = await start(t);
    const payload = 'x'.repeat(1000);
    for (let i = 0; i < 20; i++) await server.publish('job', ...numbers(1, 100).map((n) => JSON.stringify({ n: i * 100 + n, payload })));
    await server.post('/close/job');
    const stream = follow(`${server.url}${transports[transport]}job`, { transport, EventSource, WebSocket, retry: 10, buffer: 50, types: ['step'] });
    let expected = 1;
    for await (const { type, data } of stream) {
      if (type === 'stream-end') continue;
      assert.equal(data.n, expected++);
      if (expected % 300 === 0) await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.equal(expected, 2001);
    assert.equal(stream.state, 'finished');
    const connections = await server.requests();
    if (transport === 'fetch') assert.equal(connections, 1);
    else assert.ok(connections > 1, 'the iterator never fell behind: the test proves nothing');
  });
}

test('a switch of the transport loses and repeats nothing', async (t) => {
  const server = await start(t);
  const data = [];
  let lastEventId = '', n = 0;
  for (let round = 0; round < 6; round++) {
    const transport = Object.keys(transports)[round % 3];
    await server.publish('job', ...numbers(n + 1, n + 50));
    const v = watch(t, server, transport, 'job', { lastEventId });
    await server.publish('job', ...numbers(n + 51, n + 100));
    n += 100;
    await v.until(() => v.data.length >= 80);
    v.stream.close();
    data.push(...v.data);
    lastEventId = v.stream.lastEventId;
    assert.deepEqual(v.gaps, []);
  }
  assert.deepEqual(data, numbers(1, data.length));
  assert.ok(data.length >= 480);
});

test('fetch: headers are made anew for each connection', async (t) => {
  const server = await start(t, '-await');
  let calls = 0;
  const v = watch(t, server, 'fetch', 'secret', { headers: async () => (calls++, { Authorization: 'Bearer token' }) });
  await v.until(() => v.states.includes('live'));
  await server.kill();
  await server.start();
  await v.until(() => v.states.filter((s) => s === 'live').length === 2);
  assert.ok(calls >= 2);
});
