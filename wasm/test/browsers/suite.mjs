// What is tested in every engine. open returns a browser, { page(), close() }, whose pages are { goto(url), evaluate(function),
// close() }; all of these return promises, and functions run in the page.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { classes, report } from '../compare.mjs';
import { serve } from './server.mjs';

const frames = Number(process.env.BROWSER_FRAMES ?? 50_000);

export function suite(name, open) {
  test(name, async (t) => {
    const server = await serve(t);
    const browser = await open();
    t.after(() => browser.close());
    const visit = async (path) => {
      const page = await browser.page();
      await page.goto(server.url + path);
      return page;
    };

    await t.test(`${frames} frames: same bytes, same refusals`, async () => {
      assert.equal(server.corpus(frames), frames);
      const page = await visit('/');
      const { result, cold } = await page.evaluate(async () => {
        const start = performance.now();
        const { init, encode } = await import('/src/index.js');
        await init();
        encode({ data: 'first' });
        const cold = performance.now() - start;
        const { comparison } = await import('/test/compare.mjs');
        const { add, result } = comparison(encode);
        const text = await (await fetch('/corpus.txt')).text();
        for (const line of text.split('\n')) if (line) add(line);
        return { result, cold };
      });
      console.log(`${report(name, result)}\n  ${Math.round(cold)} ms from import to the first frame, cold`);
      assert.equal(result.frames, frames);
      assert.equal(result.differences, 0, JSON.stringify(result.first));
      if (frames >= 20_000) for (const c of classes) assert.ok(result.counts[c] > 0, `no frame of the class ${c}`);
      await page.goto(server.url);
      const again = await page.evaluate(async () => {
        const start = performance.now();
        const { init, encode } = await import('/src/index.js');
        await init();
        encode({ data: 'first' });
        return performance.now() - start;
      });
      console.log(`  ${Math.round(again)} ms warm`);
      await page.close();
    });

    await t.test('a policy without wasm-unsafe-eval is named', async () => {
      const load = async () => {
        const { init } = await import('/src/index.js');
        return init().then(() => 'ready', (err) => `${err.code}: ${err.message}`);
      };
      const forbidden = await visit('/forbidden');
      assert.match(await forbidden.evaluate(load), /^ErrLoad: .*Content-Security-Policy.*'wasm-unsafe-eval'/);
      await forbidden.close();
      const allowed = await visit('/allowed');
      assert.equal(await allowed.evaluate(load), 'ready');
      await allowed.close();
    });

    await t.test('an HTML page in the place of the module is named', async () => {
      const page = await visit('/');
      const message = await page.evaluate(async () => {
        const { init } = await import('/src/index.js');
        return init({ wasm: '/' }).catch((err) => err.message);
      });
      assert.match(message, /is an HTML page, not the module/);
      await page.close();
    });

    await t.test('EventSource, answered by a service worker: events, reconnect, resume, end', async () => {
      const page = await visit('/');
      const { log, hidden, ids } = await page.evaluate(async () => {
        // Where the browser cannot start a worker just now, it is asked again.
        const register = (tries) => navigator.serviceWorker.register('/worker.js', { type: 'module' })
          .catch((err) => { if (tries === 1) throw err; return register(tries - 1); });
        await register(3);
        await navigator.serviceWorker.ready;
        if (!navigator.serviceWorker.controller) {
          await new Promise((resolve) => navigator.serviceWorker.addEventListener('controllerchange', resolve, { once: true }));
        }
        const ask = (...what) => new Promise((resolve) => {
          const channel = new MessageChannel();
          channel.port1.onmessage = (event) => resolve(event.data);
          navigator.serviceWorker.controller.postMessage(what, [channel.port2]);
        });
        const log = [];
        const waiting = [];
        const note = (line) => {
          log.push(line);
          for (const wake of waiting.splice(0)) wake();
        };
        const until = async (line) => {
          const timer = setTimeout(() => note(`${line} did not come`), 30_000);
          while (!log.includes(line)) {
            await new Promise((resolve) => waiting.push(resolve));
            if (log.at(-1).endsWith('did not come')) throw new Error(log.join(', '));
          }
          clearTimeout(timer);
        };
        let lastEventId = '';
        const watch = (url) => {
          const source = new EventSource(url);
          source.addEventListener('task', (event) => {
            lastEventId = event.lastEventId;
            note(`task ${event.data}`);
          });
          source.addEventListener('stream-end', () => note('end'));
          source.onopen = () => note('open');
          source.onerror = () => note(`error ${source.readyState}`);
          return source;
        };

        // The engine's own reconnecting.
        const ids = [await ask('publish', 'job', { event: 'task', data: 1 })];
        let source = watch('/executions/job');
        await until('task 1');
        ids.push(await ask('publish', 'job', { event: 'task', data: { n: 2 } }));
        await until('task {"n":2}');
        await ask('disconnect', 'job');
        await until('error 0');
        ids.push(await ask('publish', 'job', { event: 'task', data: 3 }));
        await until('task 3');
        const hidden = (await ask('seen')).at(-1) === null;

        // Where the service worker does not see Last-Event-ID, the page says it.
        source.close();
        source = watch(`/executions/job?lastEventId=${lastEventId}`);
        note('again');
        ids.push(await ask('publish', 'job', { event: 'task', data: 4 }));
        await until('task 4');
        await ask('close', 'job');
        await until('end');
        source.close();
        return { log, hidden, ids };
      });
      const engine = log.slice(0, log.indexOf('again'));
      const page2 = log.slice(log.indexOf('again') + 1);
      assert.deepEqual(engine, ['open', 'task 1', 'task {"n":2}', 'error 0', 'open', ...(hidden ? ['task 1', 'task {"n":2}'] : []), 'task 3']);
      assert.deepEqual(page2.filter((line) => !line.startsWith('error')), ['open', 'task 4', 'end']);
      assert.equal(ids.length, 4);
      console.log(`${name}: Last-Event-ID is ${hidden ? 'hidden from' : 'shown to'} service workers; the query parameter resumes`);
      await page.close();
    });

    await t.test("core's tests", async () => {
      server.coreTests();
      const page = await visit('/');
      const { code, output } = await page.evaluate(async () => {
        let output = '';
        const decoder = new TextDecoder();
        await import('/go/wasm_exec.js');
        globalThis.fs.writeSync = (fd, bytes) => {
          output += decoder.decode(bytes, { stream: true });
          return bytes.length;
        };
        // As Node does: not before write has returned. A callback within it cannot enter a synctest bubble.
        globalThis.fs.write = (fd, bytes, offset, length, position, callback) => {
          const n = globalThis.fs.writeSync(fd, bytes.slice(offset, offset + length));
          queueMicrotask(() => callback(null, n));
        };
        // There are no files: fuzz targets run with the seeds in their code, and examples, whose output goes through one, not.
        const missing = (...args) => args.at(-1)(Object.assign(new Error('no such file'), { code: 'ENOENT' }));
        Object.assign(globalThis.fs, { open: missing, stat: missing, lstat: missing });
        globalThis.fs.constants.O_DIRECTORY = 0o200000;
        const go = new globalThis.Go();
        go.argv = ['core.test', '-test.v', '-test.timeout=10m', '-test.skip=^Example'];
        let code;
        go.exit = (c) => (code = c);
        const { instance } = await WebAssembly.instantiateStreaming(fetch('/core.test.wasm'), go.importObject);
        await go.run(instance);
        return { code, output };
      });
      const passed = (output.match(/^--- PASS/gm) ?? []).length;
      const failed = output.match(/^ *--- FAIL.*$/gm) ?? [];
      console.log(`${name}: ${passed} of core's tests pass, ${failed.length} fail, ${(output.match(/^--- SKIP/gm) ?? []).length} are skipped`);
      assert.equal(code, 0, `${failed.join('\n')}\n${output.slice(-3000)}`);
      assert.ok(passed > 20, output.slice(-3000));
      await page.close();
    });
  });
}
