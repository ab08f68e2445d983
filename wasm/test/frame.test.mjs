import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DrainError, decode, encode, encodeText, ExeccastError, FrameError, init, isReady, Registry } from '@execcast/wasm';

// Before init: the whole of it, since it can be tried only once.
test('before init every call says what to do', async () => {
  const ask = { code: 'ErrNotReady', message: /await init\(\)/ };
  assert.equal(isReady(), false);
  assert.throws(() => encode({ data: 'x' }), ask);
  assert.throws(() => encodeText({ data: 'x' }), ask);
  assert.throws(() => new Registry(), ask);
  await assert.rejects(decode(new Uint8Array(1)).next(), ask);
});

test('init is idempotent, and leaves no Go behind', async () => {
  const before = new Set(Object.getOwnPropertyNames(globalThis));
  assert.equal(init(), init());
  await init();
  await init();
  assert.equal(isReady(), true);
  assert.equal('Go' in globalThis, false);
  assert.deepEqual(Object.getOwnPropertyNames(globalThis).filter((name) => !before.has(name)), []);
});

test('fields in order, data as it is or as JSON', async () => {
  await init();
  const frame = { data: { text: 'é\u{1F600}' }, event: 'task', id: '1', retry: 5, comment: 'hi', traceparent: '00-1' };
  assert.equal(encodeText(frame), ': hi\nretry: 5\nid: 1\nevent: task\ntraceparent: 00-1\ndata: {"text":"é\u{1F600}"}\n\n');
  assert.deepEqual(encode(frame), new TextEncoder().encode(encodeText(frame)));
  for (const [data, want] of [['', ''], [' x', ' x'], ['a\r\nb\rc\nd', 'a\ndata: b\ndata: c\ndata: d'], [null, 'null'], [0, '0'],
    [false, 'false'], [['a'], '["a"]'], ['\ufeffx', '\ufeffx'], [new Date(0), '"1970-01-01T00:00:00.000Z"'], [NaN, 'null']]) {
    assert.equal(encodeText({ data }), `data: ${want}\n\n`);
  }
  assert.equal(encodeText({ id: '' }), 'id\n\n');
  assert.equal(encodeText({ retry: 0 }), 'retry: 0\n\n');
  assert.equal(encodeText({ comment: 'a\nb' }), ': a\n: b\n\n');
});

test('results are copies', async () => {
  const first = encode({ data: 'first' });
  const second = encode({ data: 'other' });
  assert.equal(new TextDecoder().decode(first), 'data: first\n\n');
  second.fill(0);
  assert.equal(encodeText({ data: 'first' }), 'data: first\n\n');
});

test('what cannot be encoded names its field', async () => {
  const cycle = {};
  cycle.cycle = cycle;
  for (const [field, frame] of [
    ['id', { id: 'a\nb' }], ['id', { id: ' a' }], ['id', { id: 'a\0' }], ['id', { id: 1 }], ['id', { id: null }], ['id', { id: '\ud800' }],
    ['event', { event: 'a\rb' }], ['event', { event: 'a ' }], ['event', { event: {} }], ['event', { event: '\udfff' }],
    ['retry', { retry: -1 }], ['retry', { retry: 0.5 }], ['retry', { retry: 1e-300 }], ['retry', { retry: NaN }], ['retry', { retry: Infinity }],
    ['retry', { retry: 1e300 }], ['retry', { retry: '5' }], ['retry', { retry: 5n }],
    ['data', { data: 'a\ud83d' }], ['data', { data: '\ude00b' }], ['data', { data: cycle }], ['data', { data: 1n }], ['data', { data() {} }],
    ['data', { data: Symbol('x') }], ['data', { data: { toJSON() { throw new Error('no'); } } }],
    ['traceparent', { traceparent: 'a\nb' }], ['traceparent', { traceparent: {} }],
    ['comment', { comment: 'a\ud83d' }], ['comment', { comment: 7 }],
  ]) {
    assert.throws(() => encode(frame), (err) => {
      assert.ok(err instanceof FrameError && err instanceof ExeccastError && err instanceof Error, String(err));
      assert.equal(err.name, 'FrameError');
      assert.equal(err.code, 'FrameError');
      assert.equal(err.field, field);
      assert.match(err.message, new RegExp(`frame field ${field} .+`));
      return true;
    });
  }
  for (const frame of [undefined, null, 'data: x', 1]) assert.throws(() => encode(frame), TypeError);
  assert.equal(encodeText({ data: 'still alive' }), 'data: still alive\n\n');
});

test('huge frames: encoded up to 16 Mi characters, refused beyond', async () => {
  const data = 'é'.repeat(16 << 20);
  const encoded = encode({ data });
  assert.equal(encoded.length, 'data: \n\n'.length + 2 * data.length);
  assert.throws(() => encode({ data: `${data}x` }), { name: 'FrameError', field: 'data', reason: 'is too large' });
  assert.throws(() => encode({ id: `${data}x` }), { field: 'id' });
  assert.equal(encodeText({ data: 'still alive' }), 'data: still alive\n\n');
});

const collect = async (source, options) => {
  const frames = [];
  for await (const frame of decode(source, options)) frames.push(frame);
  return frames;
};
const bytes = (s) => new TextEncoder().encode(s);

test('decode: frames as they are on the wire', async () => {
  const stream = '\ufeff: hi\n\nid: 7\nevent: task\ndata: a\ndata:  b\n\nid\ndata\n\nretry: 10\r\n\r\ntraceparent: t\ndata: {"x":"\ufeffé"}\r\rdata: cut';
  const want = [{ comment: 'hi' }, { id: '7', event: 'task', data: 'a\n b' }, { id: '', data: '' }, { retry: 10 }, { traceparent: 't', data: '{"x":"\ufeffé"}' }];
  assert.deepEqual(await collect(bytes(stream)), want);
  assert.deepEqual(await collect(bytes(stream).buffer), want);
  assert.deepEqual(await collect(new DataView(bytes(stream).buffer)), want);
  assert.deepEqual(await collect(Array.from(bytes(stream), (b) => Uint8Array.of(b))), want);
  assert.deepEqual(await collect(new Blob([stream]).stream()), want);
  assert.deepEqual(await collect(new Response(stream).body), want);
  const { readable } = { readable: new Response(stream).body };
  const uniterable = { getReader: () => readable.getReader() };
  assert.deepEqual(await collect(uniterable), want);
  assert.deepEqual(await collect(new Uint8Array(0)), []);
});

test('decode: a frame comes as soon as its last byte is there, and two streams do not mix', async () => {
  let push;
  const source = (async function* () {
    for (;;) yield await new Promise((resolve) => (push = (s) => resolve(bytes(s))));
  })();
  const slow = decode(source);
  const next = slow.next();
  await new Promise(setImmediate);
  push('data: one\n\ndata: tw');
  assert.deepEqual((await next).value, { data: 'one' });
  assert.deepEqual(await collect(bytes('data: other\n\n')), [{ data: 'other' }]);
  const second = slow.next();
  await new Promise(setImmediate);
  push('o\n\n');
  assert.deepEqual((await second).value, { data: 'two' });
});

test('decode: errors, and a source that is let go', async () => {
  const failing = (async function* () {
    yield bytes('data: x\n\n');
    throw new Error('broken');
  })();
  const frames = [];
  await assert.rejects((async () => {
    for await (const frame of decode(failing)) frames.push(frame);
  })(), /broken/);
  assert.deepEqual(frames, [{ data: 'x' }]);
  await assert.rejects(collect(bytes(`data: ${'x'.repeat(100)}\n\n`), { maxFrameBytes: 50 }), { code: 'ErrFrameTooLarge' });
  for (const bad of [undefined, null, 5, 'data: x\n\n', {}]) await assert.rejects(collect(bad), TypeError);
  await assert.rejects(collect(['data: x\n\n']), TypeError);
  await assert.rejects(collect(bytes(''), { maxFrameBytes: 'x' }), TypeError);
  let cancelled = false;
  const stream = new ReadableStream({
    pull: (controller) => controller.enqueue(bytes('data: x\n\n')),
    cancel: () => { cancelled = true; },
  });
  for await (const frame of decode(stream)) {
    assert.deepEqual(frame, { data: 'x' });
    break;
  }
  assert.ok(cancelled);
  const cloned = new Response(new ReadableStream({ start: (controller) => controller.enqueue(bytes('data: x\n\n')) }));
  cloned.clone();
  for await (const frame of decode(cloned.body)) {
    assert.deepEqual(frame, { data: 'x' });
    break; // does not wait for the clone
  }
});

test('what encode makes decode reads', async () => {
  for (const frame of [{ data: ' leading' }, { data: '' }, { data: '\n' }, { id: '', data: 'x' }, { id: 'é', event: 'ü', data: 'a\nb', retry: 0, comment: 'c' }]) {
    assert.deepEqual(await collect(encode(frame)), [frame]);
  }
});

test('errors are exported', () => assert.equal(new DrainError(2, 'm').cut, 2));
