// Playwright: the page as it is, its native EventSource answered by a service worker.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import path from 'node:path';
import { build, preview } from 'vite';
import { chromium } from 'playwright';

const root = path.resolve(import.meta.dirname, '..');
let browser, server, url;

before(async () => {
  // The page and the worker, built as they would be for a test deployment.
  const outDir = path.join(root, 'dist');
  await build({ root, logLevel: 'warn', configFile: false, build: { outDir, chunkSizeWarningLimit: 10_000, rollupOptions: {
    input: { page: path.join(root, 'index.html'), worker: path.join(root, 'test/worker.js') },
    output: { entryFileNames: '[name].js' },
  } } });
  server = await preview({ root, configFile: false, logLevel: 'warn', build: { outDir }, preview: { port: 0, host: 'localhost' } });
  url = server.resolvedUrls.local[0];
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu'],
  });
});

after(async () => {
  await browser?.close();
  await server?.close();
});

test('the page reconnects, and shows the end', async () => {
  const page = await browser.newPage();
  await page.goto(url); // once without the worker, to install it
  await page.evaluate(async () => {
    // Where the browser cannot start a worker just now, it is asked again.
    const register = (tries) => navigator.serviceWorker.register('/worker.js', { type: 'module' })
      .catch((err) => { if (tries === 1) throw err; return register(tries - 1); });
    await register(3);
    await navigator.serviceWorker.ready;
  });
  const server = (...call) => page.evaluate((call) => new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = ({ data }) => resolve(data);
    navigator.serviceWorker.controller.postMessage(call, [port2]);
  }), call);
  await page.goto(url);
  await page.locator('#status', { hasText: 'live' }).waitFor();
  await server('publish', 'job-1', { event: 'task', data: { name: 'build', progress: 10 } });
  await page.locator('li', { hasText: 'build: 10 %' }).waitFor();
  await server('disconnect', 'job-1');
  await page.locator('#status', { hasText: 'reconnecting' }).waitFor();
  await server('publish', 'job-1', { event: 'task', data: { name: 'build', progress: 100 } });
  await page.locator('li', { hasText: 'build: 100 %' }).waitFor();
  await server('close', 'job-1');
  await page.locator('#status', { hasText: 'done' }).waitFor();
  assert.equal(await page.locator('li').count(), 1);
});
