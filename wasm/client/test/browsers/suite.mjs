// The client in a browser, over the browser's own fetch, EventSource and WebSocket, against the adapters. open returns a browser,
// { page(), close() }; its pages have goto(url) and evaluate(function, argument), which runs in the page.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { build, remove, start } from '../server.mjs';

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

export function suite(name, open) {
  let browser;
  before(build);
  before(async () => {
    browser = await open();
  });
  after(() => browser?.close());
  after(remove);

  for (const [transport, at] of [['fetch', '/sse/'], ['sse', '/sse/'], ['websocket', '/ws/']]) {
    test(`${name}, ${transport}`, async (t) => {
      const server = await start(t, '-await', '-max-events', '250');
      const page = await browser.page();
      t.after(() => page.close());
      await page.goto(server.url);

      // watch follows an execution in the page; until waits there, however the server is doing.
      const watch = (id, options = {}, host = '') => page.evaluate(async ([url, options]) => {
        const { follow } = await import('/client.js');
        const seen = globalThis.seen = { data: [], executions: [], states: [], gaps: 0 };
        const stream = globalThis.stream = follow(url, { retry: 100, maxDelay: 400, onState: ({ state, resumedAfter }) => seen.states.push(resumedAfter ? 'resumed' : state), ...options });
        stream.on('step', ({ data, execution }) => {
          seen.data.push(data);
          seen.executions.push(execution);
        });
        stream.on('stream-gap', () => seen.gaps++);
      }, [host + at + id, { transport, ...options }]);
      const until = (what, want) => page.evaluate(([what, want]) => new Promise((resolve) => {
        const timer = setInterval(() => {
          const { data, executions, states, gaps } = globalThis.seen;
          if (!{ count: () => data.length >= want, state: () => states.at(-1) === want, gaps: () => gaps >= want }[what]()) return;
          clearInterval(timer);
          resolve({ data, executions, states, gaps, lastEventId: globalThis.stream.lastEventId, status: globalThis.stream.error?.status });
        }, 5);
      }), [what, want]);

      // From the beginning, through two lives of the server, to the end.
      await server.publish('job', ...numbers(1, 100));
      await watch('job');
      await until('count', 100);
      await server.kill();
      await until('state', 'reconnecting');
      await server.start();
      await server.publish('job', ...numbers(101, 200));
      await until('count', 200);
      await server.post('/close/job');
      const { data, states, gaps, lastEventId } = await until('state', 'finished');
      assert.deepEqual(data, numbers(1, 200));
      assert.equal(gaps, 1, 'of the first server nobody knows what it may have published last');
      assert.deepEqual(states.filter((s, i) => s !== states[i - 1]), ['live', 'reconnecting', 'resumed', 'finished']);

      // All of it is known already: 204, or close code 1000.
      await watch('job', { lastEventId });
      assert.deepEqual((await until('state', 'finished')).data, []);

      // The oldest is gone.
      await server.publish('long', ...numbers(1, 300));
      await watch('long');
      const long = await until('count', 250);
      assert.deepEqual([long.data, long.gaps], [numbers(51, 300), 1]);
      await page.evaluate(() => globalThis.stream.close());

      // Several over one connection, through two lives of the server, to the end of both.
      await server.publish('a', 1);
      await server.publish('b', 2);
      const requests = await server.requests();
      await watch('', { executions: ['a', 'b'] });
      await until('count', 2);
      assert.equal(await server.requests(), requests + 1);
      await server.kill();
      await until('state', 'reconnecting');
      await server.start();
      await server.publish('b', 3);
      await server.publish('a', 4);
      await until('count', 4);
      await server.post('/close/a');
      await server.post('/close/b');
      const several = await until('state', 'finished');
      assert.deepEqual([several.data, several.executions], [[1, 2, 3, 4], ['a', 'b', 'b', 'a']]);

      for (const [id, status] of [['forbidden', 403], ['secret', 401]]) {
        await watch(id);
        assert.equal((await until('state', 'failed')).status, status);
      }
      if (transport === 'fetch') {
        await server.publish('secret', 'x');
        await watch('secret', { headers: { Authorization: 'Bearer token' } });
        const { data, lastEventId } = await until('count', 1);
        assert.deepEqual(data, ['x']);
        await page.evaluate(() => globalThis.stream.close());

        // From another origin, whose server the browser asks first whether the page may send these headers.
        const foreign = server.url.replace('127.0.0.1', 'localhost');
        await server.publish('secret', 'y');
        await watch('secret', { headers: { Authorization: 'Bearer token' }, lastEventId }, foreign);
        assert.deepEqual((await until('count', 1)).data, ['y']);
        await page.evaluate(() => globalThis.stream.close());
      }
    });
  }
}
