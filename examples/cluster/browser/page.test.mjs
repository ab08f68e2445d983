// The page in Chromium, on a real cluster: the node it is on is killed.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import puppeteer from 'puppeteer-core';

async function freePort() {
  const server = createServer();
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  const { port } = server.address();
  await new Promise((closed) => server.close(closed));
  return port;
}

async function eventually(what, f, seen = async () => '') {
  for (const start = Date.now(); Date.now() - start < 60_000; await new Promise((wait) => setTimeout(wait, 100))) {
    const value = await f().catch(() => undefined);
    if (value) return value;
  }
  throw new Error(`hang: waiting until ${what}; ${await seen()}`);
}

test('the progress bar goes on when the node it comes from is killed', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'cluster-'));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const program = join(dir, 'cluster');
  execFileSync('go', ['build', '-o', program, '..'], { stdio: 'inherit' });
  const addresses = await Promise.all([1, 2, 3].map(async () => `127.0.0.1:${await freePort()}`));
  const cluster = spawn(program, ['-http', addresses.join(), '-store', join(dir, 'store')], { stdio: ['ignore', 'pipe', 'ignore'] });
  const ended = new Promise((exit) => cluster.on('exit', exit));
  t.after(async () => {
    cluster.kill('SIGTERM');
    await ended;
  });
  const pids = {};
  cluster.stdout.on('data', (text) => {
    for (const [, node, pid] of String(text).matchAll(/node (\d): .*kill -9 (\d+)/g)) pids[node] = Number(pid);
  });
  const browser = await puppeteer.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
  t.after(() => browser.close());
  const page = await browser.newPage();
  await eventually('the first node serves the page', () => page.goto(`http://${addresses[0]}/`));
  const text = (selector) => page.$eval(selector, (element) => element.textContent);
  const shown = async () => `the page shows: ${await text('#node')}; ${await text('#count')}`;
  const lines = async () => parseInt(await text('#count'), 10);
  await eventually('an execution has started', async () => {
    await page.click('#start');
    return page.waitForFunction(() => location.hash, { timeout: 3000 });
  });
  await eventually('lines come', async () => (await lines()) > 20);
  assert.equal(await text('#node'), 'node 1');
  const at = await lines();
  process.kill(pids[1], 'SIGKILL');
  await eventually('lines come again', async () => (await lines()) > at + 20, shown);
  await eventually('the execution has finished', async () => (await text('#node')).endsWith('finished'), shown);
  // Where it goes on is open: while the stream elects a leader a node may send the page to the next one.
  assert.match(await text('#count'), /^300 lines, 0 missing, 0 doubled, [1-9]\d* moves$/);
  assert.equal(await page.$eval('#progress', (progress) => progress.value), 1);
});
