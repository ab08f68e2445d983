import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { before, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { decode, DrainError, init, Registry } from '@execcast/wasm';

before(() => init());

const text = new TextDecoder();
const settled = () => new Promise(setImmediate);

// viewer is a writer that keeps what it is sent.
function viewer(write = () => {}) {
  const v = {
    got: '',
    ends: 0,
    reason: undefined,
    write(bytes) {
      const answer = write(bytes);
      v.got += text.decode(bytes);
      return answer;
    },
    end(reason) {
      v.ends++;
      v.reason = reason;
    },
  };
  return v;
}

const data = (v) => [...v.got.matchAll(/^data: (.*)$/gm)].map((m) => m[1]);

test('publish, late join, resume, close', async () => {
  const r = new Registry();
  const early = viewer();
  r.register('x', early);
  const ids = [1, 2, 3].map((n) => r.publish('x', { event: 'step', data: { n } }));
  assert.deepEqual(early.got, ids.map((id, i) => `id: ${id}\nevent: step\ndata: {"n":${i + 1}}\n\n`).join(''), 'written when publish returns');
  const late = viewer();
  r.register('x', late);
  assert.equal(late.got, early.got);
  const resumed = viewer();
  const client = r.register('x', resumed, { lastEventId: ids[1] });
  assert.deepEqual(data(resumed), ['{"n":3}']);
  assert.equal(r.clientCount('x'), 3);
  client.unregister();
  client.unregister();
  assert.equal(r.clientCount('x'), 2);
  assert.equal(resumed.reason.code, 'ErrUnregistered');
  assert.equal((await client.ended).code, 'ErrUnregistered');
  assert.equal(r.unregister('x', late), true);
  assert.equal(r.unregister('x', late), false);
  assert.equal(r.unregister('y', early), false);
  await r.close('x');
  assert.match(early.got, /event: stream-end\ndata: \{\}\n\n$/);
  assert.deepEqual([early.ends, early.reason, r.clientCount('x')], [1, undefined, 0]);
  await r.close('x');
  await r.close('unknown');
  const after = viewer();
  r.register('x', after);
  assert.equal(after.got, early.got);
  assert.throws(() => r.register('x', viewer(), { lastEventId: ids[2] }), { code: 'ErrFinished' });
  assert.throws(() => r.publish('x', {}), { code: 'ErrFinished', message: /finished/ });
  r.forget('x');
  assert.equal(r.stats().executions, 0);
  assert.throws(() => r.register('x', viewer(), { lastEventId: ids[2] }), { code: 'ErrUnknown' });
  r.publish('x', {});
});

test('keys, gaps, limits and options', () => {
  const r = new Registry({ maxEvents: 2, maxEventBytes: 10, maxExecutionClients: 1, maxExecutions: 2, retention: -1 });
  const id = r.publish('x', { data: '1' });
  for (const d of ['2', '3', '4']) r.publish('x', { data: d });
  const v = viewer();
  r.register('x', v, { lastEventId: id });
  assert.match(v.got, /^event: stream-gap\ndata: \{"from":"\d+","to":"\d+"\}\n\n/);
  assert.deepEqual(data(v).slice(1), ['3', '4']);
  assert.throws(() => r.register('x', viewer()), { code: 'ErrTooManyExecutionClients' });
  assert.throws(() => r.publish('x', { data: 'x'.repeat(11) }), { code: 'ErrEventTooLarge' });
  for (const percent of [1, 2, 3]) r.publish('k', { key: 'p', data: percent });
  const k = viewer();
  r.register('k', k);
  assert.deepEqual(data(k), ['3']);
  assert.throws(() => r.publish('more', {}), { code: 'ErrTooManyExecutions' });
  const { published, tooLarge, gaps, tooManyExecutions } = r.stats();
  assert.deepEqual([published, tooLarge, gaps, tooManyExecutions], [7, 1, 1, 1]);
});

test('hooks are called in order, with what happened, and may call the registry', async () => {
  const calls = [];
  const names = ['firstViewer', 'lastViewer', 'published', 'registered', 'left', 'delivered', 'gap', 'slow', 'finished'];
  const hooks = Object.fromEntries(names.map((name) => [name, (...args) => void calls.push([name, ...args])]));
  const r = new Registry({ hooks, maxEvents: 2, logger: {} });
  const traceparent = '00-0123456789abcdef0123456789abcdef-0123456789abcdef-01';
  const full = { event: 'é', data: { n: 1 }, key: 'k\0ü', traceparent };
  const ids = [full, {}, { data: '\0' }, { data: 'x', key: 'y' }].map((event) => r.publish('ü', event));
  assert.deepEqual(calls.splice(0), [
    ['published', 'ü', { id: ids[0], ...full, data: '{"n":1}' }],
    ['published', 'ü', { id: ids[1], data: '' }],
    ['published', 'ü', { id: ids[2], data: '\0' }],
    ['published', 'ü', { id: ids[3], data: 'x', key: 'y' }],
  ]);
  const v = viewer();
  const client = r.register('ü', v, { lastEventId: ids[0] });
  const [gap, events] = v.got.split(/(?<=\n\n)/).reduce(([a, b], frame) => (/stream-gap/.test(frame) ? [a + frame, b] : [a, b + frame]), ['', '']);
  assert.deepEqual(calls.splice(0), [['firstViewer', 'ü'], ['registered', 'ü'], ['gap', 'ü'],
    ['delivered', 'ü', 0, Buffer.byteLength(gap)], ['delivered', 'ü', 2, Buffer.byteLength(events)]]);
  r.register('ü', viewer(() => { throw new Error('x'); }), { lastEventId: ids[0] });
  client.unregister();
  assert.deepEqual(calls.splice(0).map(([name, , reason]) => [name, reason?.code].join(' ').trim()),
    ['registered', 'gap', 'left ErrWrite', 'left ErrUnregistered', 'lastViewer']);
  await r.close('ü');
  await r.close('ü');
  assert.deepEqual(calls.splice(0), [['finished', 'ü']]);

  const relayed = new Registry({ hooks: {
    published: (id, event) => { if (id === 'a') relayed.publish('b', event.data === 'last' ? { data: 'bye' } : { data: event.data }); },
    firstViewer: (id) => relayed.publish(id, { data: 'welcome' }),
    left: undefined,
  } });
  const b = viewer();
  relayed.register('b', b);
  for (const d of ['1', '2', 'last']) relayed.publish('a', { data: d });
  assert.deepEqual(data(b), ['welcome', '1', '2', 'bye']);
});

test('a hook that throws or rejects is logged and counted; the others go on', async () => {
  const logged = [];
  const logger = { error: (...args) => logged.push(args), warn: (...args) => logged.push(args) };
  const boom = new TypeError('boom');
  let finished = 0;
  const r = new Registry({ logger, hooks: {
    published() { throw boom; },
    registered: async () => { throw boom; },
    firstViewer() { throw undefined; },
    finished: () => finished++,
  } });
  const v = viewer();
  r.register('x', v);
  r.publish('x', { data: '1' });
  await r.close('x');
  await settled();
  assert.deepEqual(data(v), ['1', '{}']);
  assert.equal(finished, 1);
  assert.equal(r.stats().panics, 2);
  assert.deepEqual(logged.map(([message, { hook, panic }]) => [message, hook, panic]), [
    ['execcast: hook panicked', 'firstViewer', undefined],
    ['execcast: hook panicked', 'published', boom],
    ['execcast: hook rejected', 'registered', boom],
  ]);
});

test('the log goes to the logger, which is the console by default, and may throw', async (t) => {
  const logged = [];
  const flood = (r) => {
    r.publish('x', {});
    for (let i = 0; i < 3; i++) assert.throws(() => r.publish('y"\u2028', {}), { code: 'ErrTooManyExecutions', message: 'execcast: too many executions' });
  };
  const want = [1, 2].map((times) => ['execcast: refused', { error: 'execcast: too many executions', execution: 'y"\u2028', times }]);
  flood(new Registry({ maxExecutions: 1, logger: { warn: (...args) => logged.push(args) } }));
  assert.deepEqual(logged, want);
  const warn = t.mock.method(console, 'warn', () => {});
  flood(new Registry({ maxExecutions: 1 }));
  assert.deepEqual(warn.mock.calls.map((call) => call.arguments), want);
  flood(new Registry({ maxExecutions: 1, logger: {} }));
  flood(new Registry({ maxExecutions: 1, logger: { warn() { throw new Error('full disk'); } } }));
  assert.equal(warn.mock.callCount(), 2);
  // A logger that calls the registry does not change the error it tells of.
  const nosy = new Registry({ maxExecutions: 1, logger: { warn: () => nosy.publish('x', { data: 'noted' }) } });
  flood(nosy);
  // A registry that is restarted keeps its hooks and its logger.
  let published = 0;
  const again = new Registry({ maxExecutions: 1, logger: { warn: (...args) => logged.push(args) }, hooks: { published: () => published++ } });
  again.restart();
  flood(again);
  assert.deepEqual([published, logged.length], [1, 4]);
});

test('bad input throws, and changes nothing', async () => {
  const r = new Registry();
  const v = viewer();
  r.register('x', v);
  for (const id of [undefined, null, 1, {}, Symbol('x')]) {
    assert.throws(() => r.publish(id, {}), TypeError);
    assert.throws(() => r.register(id, viewer()), TypeError);
    assert.throws(() => r.forget(id), TypeError);
    assert.throws(() => r.clientCount(id), TypeError);
    await assert.rejects(r.close(id), TypeError);
  }
  for (const id of ['', 'a\nb', '\ud800', 'x'.repeat(257), 'x'.repeat(1 << 20)]) {
    assert.throws(() => r.publish(id, {}), { code: 'ErrExecutionID' });
    assert.throws(() => r.register(id, viewer()), { code: 'ErrExecutionID' });
  }
  for (const [code, event] of [
    ['ErrEventType', { event: 'a\nb' }], ['ErrEventType', { event: '\udc00' }], ['ErrEventType', { event: ' a' }],
    ['ErrEventType', { event: 'x'.repeat(257) }], ['ErrReservedType', { event: 'stream-end' }], ['ErrReservedType', { event: 'error' }],
    ['ErrTraceparent', { traceparent: '00' }],
    ['ErrEventKey', { key: 'x'.repeat(257) }], ['ErrEventKey', { key: '\ud800' }], ['ErrEventData', { data: 'x\ud800' }],
    ['ErrEventID', { id: '5' }], ['ErrEventTooLarge', { data: 'x'.repeat(300_000) }], ['FrameError', { data: 1n }], ['FrameError', { data() {} }],
  ]) {
    assert.throws(() => r.publish('x', event), { code }, JSON.stringify(code));
  }
  assert.throws(() => r.publish('x', { data: 'x'.repeat(100 << 20) }), RangeError);
  for (const event of [null, 5, 'x']) assert.throws(() => r.publish('x', event), TypeError);
  for (const event of [{ event: 5 }, { key: {} }, { traceparent: 1 }]) assert.throws(() => r.publish('x', event), TypeError);
  for (const writer of [undefined, null, {}, { write: 1 }, () => {}]) assert.throws(() => r.register('x', writer), TypeError);
  for (const options of [{ lastEventId: 5 }, { heartbeat: '1' }, { writeTimeout: NaN }]) assert.throws(() => r.register('x', viewer(), options), TypeError);
  for (const options of [null, 5, { maxEvents: 'x' }, { heartbeat: NaN }, { lag: 'drop' }, { heartbeatEvents: 1 }, { hartbeat: 1 },
    { hooks: null }, { hooks: () => {} }, { hooks: { publish() {} } }, { hooks: { published: 1 } }, { logger: null }, { logger: () => {} }, { logger: { warn: 1 } }]) {
    assert.throws(() => new Registry(options), TypeError);
  }
  await assert.rejects(r.close('x', { signal: {} }), TypeError);
  for (const lastEventId of ['\n', '\ud800', '18446744073709551616', '-1', '999999999999999999', 'x'.repeat(1 << 16)]) {
    const odd = viewer();
    r.register('x', odd, { lastEventId }).unregister();
    assert.match(odd.got, /^event: stream-gap\n/);
  }
  assert.deepEqual([v.got, r.clientCount('x'), r.stats().executions], ['', 1, 1]);
  for (const options of [{ maxEvents: Infinity }, { heartbeat: -Infinity, idle: 1e300 }, { lag: 'disconnect', heartbeatEvents: true }]) {
    new Registry(options).publish('x', {});
  }
});

test('a write that throws or rejects ends its client, and no other', async () => {
  const r = new Registry();
  const healthy = viewer();
  const boom = new Error('boom');
  const throws = viewer(() => { throw boom; });
  const rejects = viewer(() => Promise.reject(boom));
  const odd = { write() { throw undefined; }, end() { throw new Error('and again'); } };
  const thenThrows = { write: () => ({ get then() { throw boom; } }) };
  const endRejects = { write() { throw boom; }, end: () => Promise.reject(new Error('late')) };
  const clients = [throws, rejects, odd, thenThrows, endRejects, healthy].map((w) => r.register('x', w));
  r.publish('x', { data: '1' });
  await settled();
  r.publish('x', { data: '2' });
  assert.deepEqual(data(healthy), ['1', '2']);
  assert.equal(r.clientCount('x'), 1);
  assert.deepEqual([throws.reason, throws.ends], [boom, 1]);
  assert.deepEqual([rejects.reason, rejects.ends], [boom, 1]);
  assert.equal(await clients[0].ended, boom);
  assert.equal((await clients[2].ended).code, 'ErrWrite');
  await r.close('x');
});

test('a pending write holds its own client only, and gets what it missed', async () => {
  const r = new Registry();
  const gates = [];
  const slow = viewer(() => new Promise((resolve) => gates.push(resolve)));
  const fast = viewer();
  r.register('x', slow);
  r.register('x', fast);
  for (let i = 0; i < 100; i++) r.publish('x', { data: i });
  assert.equal(data(fast).length, 100);
  assert.equal(gates.length, 1, 'one write at a time');
  const closing = r.close('x');
  let closed = false;
  closing.then(() => (closed = true));
  await settled();
  assert.equal(closed, false);
  while (!closed) {
    gates.shift()?.();
    await settled();
  }
  assert.equal(slow.got, fast.got);
  assert.deepEqual([slow.ends, slow.reason], [1, undefined]);
});

test('close and shutdown: a signal cuts off who never takes what is written', async () => {
  const r = new Registry({ heartbeat: -1 });
  const never = () => new Promise(() => {});
  for (const id of ['x', 'x', 'y']) r.register(id, viewer(never), { writeTimeout: -1 });
  for (const id of ['x', 'y']) r.publish(id, { data: '1' });
  const abort = new AbortController();
  const closing = assert.rejects(r.close('x', { signal: abort.signal }), (err) => err instanceof DrainError && err.cut === 2);
  await settled();
  abort.abort();
  await closing;
  await assert.rejects(r.close('y', { signal: AbortSignal.abort() }), { cut: 1 });
  await assert.rejects(r.shutdown({ signal: AbortSignal.abort() }), { code: 'DrainError', cut: 3 });
  assert.throws(() => r.publish('x', {}), { code: 'ErrShutdown' });
  assert.throws(() => r.register('z', viewer()), { code: 'ErrShutdown' });
  await new Registry().shutdown();
});

test('a writer may call the registry', async () => {
  const r = new Registry();
  let depth = 0;
  let deepest = 0;
  const echo = viewer((bytes) => {
    deepest = Math.max(deepest, ++depth);
    const n = Number(/^data: (\d+)$/m.exec(text.decode(bytes))?.[1] ?? 0);
    if (n > 0) r.publish('x', { data: n - 1 });
    r.register('y', viewer()).unregister();
    depth--;
  });
  r.register('x', echo);
  r.publish('x', { data: 1000 });
  assert.equal(data(echo).length, 1001);
  assert.equal(deepest, 1);
  const suicidal = { write: () => r.unregister('x', suicidal), end: () => r.publish('x', { data: 'bye' }) };
  r.register('x', suicidal);
  assert.equal(data(echo).at(-1), 'bye');
  const closer = { write: () => void r.close('x') };
  r.register('x', closer);
  await r.close('x');
  assert.match(echo.got, /stream-end/);
});

test('many clients, many events: all of them, in order', () => {
  const r = new Registry();
  const viewers = Array.from({ length: 300 }, () => viewer());
  for (const v of viewers) r.register('x', v);
  const want = [];
  for (let i = 0; i < 300; i++) {
    r.publish('x', { data: i });
    want.push(String(i));
  }
  for (const v of viewers) assert.deepEqual(data(v), want);
});

test('registries do not mix, and IDs rise over a restart within the same millisecond', () => {
  const a = new Registry();
  const b = new Registry();
  const va = viewer();
  a.register('x', va);
  b.publish('x', { data: 'b' });
  assert.equal(va.got, '');
  let last = 0;
  for (let i = 0; i < 20; i++) {
    for (let j = 0; j < 50; j++) {
      const id = Number(a.publish('x', {}));
      assert.ok(id > last, `${id} after ${last}`);
      last = id;
    }
    a.restart();
    assert.equal(a.clientCount('x'), 0);
  }
  assert.equal(va.ends, 1);
  assert.equal(b.stats().published, 1);
});

test('two copies of the package at once', async (t) => {
  const dir = mkdtempSync(path.join(tmpdir(), 'execcast-'));
  t.after(() => rmSync(dir, { recursive: true }));
  for (const part of ['src', 'dist']) cpSync(path.join(import.meta.dirname, '..', part), path.join(dir, part), { recursive: true });
  writeFileSync(path.join(dir, 'package.json'), '{"type":"module"}');
  const other = await import(pathToFileURL(path.join(dir, 'src/index.js')).href);
  assert.equal(other.isReady(), false);
  await other.init();
  const [mine, theirs] = [new Registry(), new other.Registry()];
  const [v1, v2] = [viewer((b) => theirs.publish('x', { data: text.decode(b) })), viewer()];
  mine.register('x', v1);
  theirs.register('x', v2);
  mine.publish('x', { data: 'through both' });
  assert.match(v2.got, /data: data: through both/);
  assert.throws(() => mine.publish('x', null), TypeError);
});

test('a Node response is a writer', async (t) => {
  const r = new Registry();
  const server = http.createServer((req, res) => {
    res.writeHead(200, { 'Content-Type': 'text/event-stream' });
    res.flushHeaders();
    r.register('x', res, { lastEventId: req.headers['last-event-id'] ?? '' });
  }).listen(0, '127.0.0.1');
  t.after(() => server.close());
  await once(server, 'listening');
  const url = `http://127.0.0.1:${server.address().port}/`;
  const first = await fetch(url);
  const frames = decode(first.body);
  const id = r.publish('x', { data: 'one' });
  assert.equal((await frames.next()).value.id, id);
  await frames.return();
  while (r.clientCount('x') > 0) await settled();
  const megabytes = 20;
  for (let i = 0; i < megabytes * 16; i++) r.publish('x', { key: `k${i % 20}`, data: 'x'.repeat(64 << 10) });
  const second = await fetch(url, { headers: { 'Last-Event-ID': id } });
  const closing = r.close('x');
  let events = 0;
  let last;
  for await (const frame of decode(second.body)) {
    events++;
    last = frame;
  }
  await closing;
  assert.equal(events, 21);
  assert.equal(last.event, 'stream-end');
});

test('an idle registry does not keep the process alive; a close under way does', () => {
  const run = (code) => execFileSync(process.execPath, ['--input-type=module', '-e',
    `import { init, Registry } from ${JSON.stringify(pathToFileURL(path.join(import.meta.dirname, '../src/index.js')).href)};
    await init();
    const r = new Registry();
    ${code}`], { encoding: 'utf8', timeout: 30_000 });
  assert.equal(run(`r.register('x', { write() {} }); r.publish('x', { data: '1' }); console.log('done')`), 'done\n');
  assert.match(run(`r.register('x', { write: () => new Promise(() => {}) }, { writeTimeout: 50 }); r.publish('x', {});
    await r.close('x'); console.log('closed')`), /closed\n$/);
});
