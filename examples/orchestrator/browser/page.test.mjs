// Drives the orchestrator's page in headless Chromium, over every transport: node --test, after npm ci. CHROMIUM names the
// browser, if it is not on the PATH. The server under test is built with the go command.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { accessSync, constants, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';

const patience = 30_000; // milliseconds until something that should happen counts as missing
const floodLines = 10_000;
const hostile = '<img src=x onerror="document.title=1"> & "quotes" \u00e9';

let dir, binary, browser;

before(async () => {
  dir = mkdtempSync(path.join(tmpdir(), 'orchestrator-'));
  binary = path.join(dir, 'orchestrator');
  execFileSync('go', ['build', '-o', binary, '.'], { cwd: path.dirname(import.meta.dirname), stdio: 'inherit' });
  browser = await chromium.launch({
    executablePath: findChromium(),
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync'],
  });
});

after(async () => {
  await browser?.close();
  if (dir) rmSync(dir, { recursive: true, force: true });
});

function findChromium() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  for (const folder of process.env.PATH.split(path.delimiter)) {
    for (const name of ['chromium', 'chromium-browser', 'google-chrome']) {
      const file = path.join(folder, name);
      try {
        accessSync(file, constants.X_OK);
        return file;
      } catch {}
    }
  }
  throw new Error('no Chromium found: install it, or set CHROMIUM to its path');
}

// A plan whose middle waits until the test opens the gate.
function makePlan(t) {
  const folder = mkdtempSync(path.join(dir, 'plan-'));
  const gate = path.join(folder, 'gate');
  const open = () => writeFileSync(gate, '');
  t.after(open); // or tasks that a killed server leaves behind would wait for ever
  const task = (id, dependsOn, script) => ({ id, title: `The ${id}`, command: [process.execPath, '-e', script], dependsOn });
  const file = path.join(folder, 'plan.json');
  writeFileSync(file, JSON.stringify({
    title: 'A test of the page',
    tasks: [
      task('first', [], `console.log(${JSON.stringify(hostile)}); process.stdout.write('no newline')`),
      task('flood', ['first'], `for (let i = 1; i <= ${floodLines}; i++) console.log('flood ' + i)`),
      task('gate', ['first'], `console.log('at the gate');
        const timer = setInterval(() => {
          if (!require('fs').existsSync(${JSON.stringify(gate)})) return;
          clearInterval(timer);
          console.log('through the gate');
        }, 20)`),
      task('broken', ['gate'], `console.error('it broke'); process.exitCode = 1`),
      task('never', ['broken', 'flood'], ''),
    ],
  }));
  return { file, open };
}

// serve starts the server and returns its URL and a way to kill it.
async function serve(t, transport, plan, addr = '127.0.0.1:0') {
  const child = spawn(binary, ['-transport', transport, '-plan', plan.file, '-addr', addr], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = new Promise((resolve) => child.on('exit', (code, signal) => resolve(signal ?? code)));
  const kill = async (signal) => {
    child.kill(signal);
    return exited;
  };
  t.after(() => kill('SIGKILL'));
  const url = await new Promise((resolve, reject) => {
    let text = '';
    child.stdout.on('data', (data) => {
      text += data;
      const match = text.match(/http:\/\/\S+/);
      if (match) resolve(match[0]);
    });
    exited.then((code) => reject(new Error(`the server exited: ${code}`)));
  });
  return { url, kill };
}

// proxy stands between page and server, so that a test can cut what it likes.
async function proxy(t, url) {
  const target = new URL(url);
  const sockets = new Set();
  const state = { refuse: false, connections: 0 };
  const server = net.createServer((client) => {
    if (state.refuse) return client.destroy();
    state.connections++;
    const upstream = net.connect(target.port, target.hostname);
    for (const [a, b] of [[client, upstream], [upstream, client]]) {
      sockets.add(a);
      a.pipe(b);
      a.on('error', () => {}).on('close', () => {
        sockets.delete(a);
        b.destroy();
      });
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const cut = () => sockets.forEach((socket) => socket.destroy());
  t.after(() => {
    server.close();
    cut();
  });
  return Object.assign(state, { url: `http://127.0.0.1:${server.address().port}/`, cut });
}

async function open(t, url) {
  const context = await browser.newContext();
  t.after(() => context.close());
  const page = await context.newPage();
  page.setDefaultTimeout(patience);
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (message) => /Content Security Policy/.test(message.text()) && errors.push(message.text()));
  // Every state the connection goes through, however short.
  await page.addInitScript(() => {
    globalThis.states = [];
    document.addEventListener('DOMContentLoaded', () => {
      const el = document.getElementById('connection');
      new MutationObserver(() => globalThis.states.push(el.dataset.state)).observe(el, { attributeFilter: ['data-state'] });
    });
  });
  await page.goto(url);
  await page.waitForSelector('#start:enabled');
  return {
    page,
    errors,
    task: (id, status) => page.waitForSelector(`.task[data-task="${id}"][data-status="${status}"]`),
    connection: (state) => page.waitForSelector(`#connection[data-state="${state}"]`),
    went: (state) => page.waitForFunction((s) => globalThis.states.includes(s), state),
    shows: (line) => page.waitForFunction((s) => document.getElementById('lines').textContent.includes(s), line),
    // What is on show, line by line; of all output, "title: line".
    lines: () => page.evaluate(() => {
      let who = '';
      return [...document.querySelectorAll('#lines .block')].flatMap((block) => {
        const label = block.querySelector('.who');
        who = label?.textContent || who;
        return block.querySelector('pre').textContent.split('\n').slice(0, -1).map((line) => (label ? `${who}: ${line}` : line));
      });
    }),
    text: (selector) => page.textContent(selector),
  };
}

const expected = {
  'The first': [hostile, 'no newline'],
  'The flood': Array.from({ length: floodLines }, (_, i) => `flood ${i + 1}`),
  'The gate': ['at the gate', 'through the gate'],
  'The broken': ['it broke'],
};

// assertComplete: every line of every task, once and in its order; tasks may be interleaved.
function assertComplete(lines) {
  for (const [title, want] of Object.entries(expected)) {
    const have = lines.filter((line) => line.startsWith(`${title}: `)).map((line) => line.slice(title.length + 2));
    assert.deepEqual(have, want, title);
  }
  assert.equal(lines.length, Object.values(expected).flat().length);
}

for (const transport of ['http', 'fasthttp', 'websocket']) {
  test(`${transport}: a run, watched through a reload and a cut connection to its end`, async (t) => {
    const plan = makePlan(t);
    const { url, kill } = await serve(t, transport, plan);
    const line = await proxy(t, url);
    const viewer = await open(t, line.url);
    assert.equal(await viewer.text('h1'), 'A test of the page');
    assert.equal(await viewer.text('#state'), 'Ready');

    await viewer.page.click('#start');
    await viewer.connection('live');
    await viewer.task('first', 'success');
    await viewer.task('flood', 'success');
    await viewer.task('gate', 'running');
    await viewer.task('broken', 'waiting');
    await viewer.shows('at the gate');
    assert.equal(await viewer.text('#state'), 'Running');
    assert.equal(await viewer.page.getAttribute('#progress', 'aria-valuenow'), '2');

    await viewer.page.reload();
    await viewer.shows('at the gate');
    await viewer.shows(`flood ${floodLines}`);
    await viewer.task('flood', 'success');

    line.refuse = true;
    line.cut();
    await viewer.connection('reconnecting');
    line.refuse = false;
    await viewer.connection('resumed');
    plan.open();
    await viewer.connection('ended');
    for (const [id, status] of Object.entries({ first: 'success', flood: 'success', gate: 'success', broken: 'failed', never: 'skipped' })) {
      await viewer.task(id, status);
    }
    assert.equal(await viewer.text('#state'), 'Failed');
    assert.equal(await viewer.page.getAttribute('#progress', 'aria-valuenow'), '5');
    const lines = await viewer.lines();
    assertComplete(lines);
    assert.equal(await viewer.page.locator('#lines img').count(), 0);

    await viewer.page.click('.task[data-task="broken"]');
    await viewer.page.waitForFunction(() => document.getElementById('lines').textContent === 'it broke\n');
    assert.equal(await viewer.text('#output-title'), 'The broken');
    await viewer.page.click('#all');
    await viewer.shows('through the gate');

    // Who comes when all is over sees the same, and the stream does not reconnect.
    const late = await open(t, viewer.page.url());
    await late.connection('ended');
    await late.shows('it broke');
    assert.deepEqual(await late.lines(), lines);
    assert.equal(await late.page.locator('#runs a[aria-current] .run-status').textContent(), 'Failed');
    assert.deepEqual(await late.page.evaluate(() => globalThis.states), ['connecting', 'live', 'ended']);

    assert.deepEqual([...viewer.errors, ...late.errors], []);
    assert.equal(await kill('SIGTERM'), 0);
  });

  test(`${transport}: cancel, then start again after the server was killed`, async (t) => {
    const plan = makePlan(t);
    const first = await serve(t, transport, plan);
    const viewer = await open(t, first.url);
    await viewer.page.click('#start');
    await viewer.task('gate', 'running');
    await viewer.page.click('#cancel');
    await viewer.connection('ended');
    await viewer.task('gate', 'cancelled');
    await viewer.task('never', 'skipped');
    assert.equal(await viewer.text('#state'), 'Cancelled');

    await viewer.page.click('#start');
    await viewer.task('gate', 'running');
    await first.kill('SIGKILL');
    await viewer.went('reconnecting');
    await serve(t, transport, plan, new URL(first.url).host);
    await viewer.connection('gone');
    assert.match(await viewer.text('#lines .notice'), /does not know this run/);
    await viewer.task('gate', 'unknown');

    plan.open();
    await viewer.page.click('#start');
    await viewer.connection('ended');
    await viewer.task('gate', 'success');
    await viewer.shows('it broke');
    assertComplete(await viewer.lines());
    assert.deepEqual(viewer.errors, []);
  });
}

test('websocket: stopping the server ends the run for its viewers, then the stream', async (t) => {
  const plan = makePlan(t);
  const { url, kill } = await serve(t, 'websocket', plan);
  const viewer = await open(t, url);
  await viewer.page.click('#start');
  await viewer.task('gate', 'running');
  const code = kill('SIGINT');
  await viewer.connection('ended');
  assert.equal(await viewer.text('#state'), 'Cancelled');
  assert.equal(await code, 0);
});
