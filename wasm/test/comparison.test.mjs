// What becomes of four events on their way to a page: through this package, through MSW's sse(), and with eventsourcemock,
// which has no wire at all. Prints a table; only this package's column is asserted, since the others may mend theirs.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { decode, encode, eventStreamResponse, FakeEventSource, init, Registry } from '@execcast/wasm';
import { http, sse } from 'msw';
import { setupServer } from 'msw/node';
import eventsourcemock from 'eventsourcemock';

const { default: MockEventSource, sources } = eventsourcemock;
const registry = new Map(); // URL path -> Registry
const server = setupServer(
  http.get('http://host/ours/:id', ({ params, request }) => eventStreamResponse(registry.get(params.id), params.id, request)),
);

before(async () => {
  await init();
  globalThis.EventSource ??= FakeEventSource.for(new Registry()); // MSW's sse() will not do without one
  server.listen({ onUnhandledRequest: 'error' });
});
after(() => server.close());

const outcomes = {};
after(() => console.table(outcomes));

// overMSW opens a fetch to a handler of MSW's and returns the frames it gets until there are count, or a moment has passed.
async function overMSW(url, count) {
  const abort = new AbortController();
  const response = await fetch(url, { headers: { Accept: 'text/event-stream' }, signal: abort.signal });
  const frames = [];
  const timer = setTimeout(() => abort.abort(), 1000);
  try {
    for await (const frame of decode(response.body)) {
      if (frame.data === undefined) continue;
      frames.push(frame);
      if (frames.length === count) break;
    }
  } catch {
    // not all came
  }
  clearTimeout(timer);
  abort.abort();
  return frames;
}

async function throughSSE(id, send, count = 1) {
  server.use(sse(`http://host/msw/${id}`, ({ client }) => send(client)));
  try {
    return await overMSW(`http://host/msw/${id}`, count);
  } catch (err) {
    return String(err);
  }
}

async function throughOurs(id, publish, count = 1) {
  registry.set(id, new Registry());
  await publish(registry.get(id));
  return overMSW(`http://host/ours/${id}`, count);
}

function mocked(emit, type) {
  const source = new MockEventSource('http://host/mock');
  const seen = [];
  source.addEventListener(type, (event) => seen.push(event));
  sources['http://host/mock'].emitOpen();
  emit(sources['http://host/mock']);
  return seen;
}

const note = (name, ours, msw, mock) => (outcomes[name] = { '@execcast/wasm': ours, 'MSW sse()': msw, eventsourcemock: mock });
const show = (value) => (typeof value === 'string' ? value : JSON.stringify(value));

test('leading space in data', async () => {
  const ours = await throughOurs('space', (r) => r.publish('space', { data: ' x' }));
  const theirs = await throughSSE('space', (client) => client.send({ data: ' x' }));
  const mock = mocked((s) => s.emit('message', new MessageEvent('message', { data: ' x' })), 'message');
  note('data " x" arrives as', show(ours[0].data), show(theirs[0]?.data ?? theirs), show(mock[0].data));
  assert.equal(ours[0].data, ' x');
});

test('newline in the event name', async () => {
  let refused;
  try {
    new Registry().publish('x', { event: 'a\ndata: forged', data: 'x' });
  } catch (err) {
    refused = err.code;
  }
  const theirs = await throughSSE('newline', (client) => client.send({ event: 'a\ndata: forged', data: 'x' }));
  let mock;
  try {
    mock = mocked((s) => s.emit('a\ndata: forged', {}), 'a\ndata: forged').length ? 'dispatched under that name' : 'nothing';
  } catch (err) {
    mock = String(err);
  }
  note('event "a\\ndata: forged"', `refused: ${refused}`, `data ${show(theirs[0]?.data ?? theirs)}`, mock);
  assert.equal(refused, 'ErrEventType');
});

test('empty id', async () => {
  const ours = await overBytes(encode({ id: '', data: 'x' }));
  const theirs = await throughSSE('empty', (client) => {
    client.send({ id: '1', data: 'x' });
    client.send({ id: '', data: 'y' });
  }, 2);
  note('id "" resets the last event ID', ours[0].id === '' ? 'yes' : 'no', theirs[1]?.id === '' ? 'yes' : 'no', 'no IDs of its own');
  assert.equal(ours[0].id, '');
});

test('a gap in time between two events', async () => {
  const gap = () => new Promise((resolve) => setTimeout(resolve, 30));
  const r = new Registry();
  registry.set('gap', r);
  const arrivals = [];
  const EventSource = FakeEventSource.for(r);
  const source = new EventSource('/gap');
  source.onmessage = (event) => arrivals.push(event.data);
  await new Promise((resolve) => (source.onopen = resolve));
  r.publish('gap', { data: '1' });
  await gap();
  const first = [...arrivals];
  r.publish('gap', { data: '2' });
  await gap();
  source.close();
  let theirs;
  server.use(sse('http://host/msw/gap', async ({ client }) => {
    client.send({ data: '1' });
    await new Promise((resolve) => setTimeout(resolve, 100));
    theirs ??= 'no: there is no response until the handler returns';
  }));
  const abort = new AbortController();
  await fetch('http://host/msw/gap', { headers: { Accept: 'text/event-stream' }, signal: abort.signal });
  theirs ??= 'yes';
  abort.abort();
  note('the first of two events comes before the second is sent', 'yes', theirs, 'by hand');
  assert.deepEqual([first, arrivals], [['1'], ['1', '2']]);
});

async function overBytes(bytes) {
  const frames = [];
  for await (const frame of decode(bytes)) frames.push(frame);
  return frames;
}
