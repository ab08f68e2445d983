// Drives the orchestrator's page in a browser, over every transport. The server under test is built with the go command. launch
// returns a browser of puppeteer's.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { accessSync, constants, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';

const patience = 30_000; // milliseconds until something that should happen counts as missing
const floodLines = 10_000;
const hostile = '<img src=x onerror="document.title=1"> & "quotes" \u00e9';

let dir, binary, browser;

// find returns the path of the browser that the variable names or, without it, of the first of these programs on the PATH.
export function find(variable, names) {
  if (process.env[variable]) return process.env[variable];
  for (const folder of process.env.PATH.split(path.delimiter)) {
    for (const name of names) {
      const file = path.join(folder, name);
      try {
        accessSync(file, constants.X_OK);
        return file;
      } catch {}
    }
  }
  return undefined;
}

// A plan whose middle waits until the test opens the gate; tasks may give others, of which one runs the plan's wait.
function makePlan(t, tasks) {
  const folder = mkdtempSync(path.join(dir, 'plan-'));
  const gate = path.join(folder, 'gate');
  const open = () => writeFileSync(gate, '');
  t.after(open); // or tasks that a killed server leaves behind would wait for ever
  const task = (id, dependsOn, script) => ({ id, title: `The ${id}`, command: [process.execPath, '-e', script], dependsOn });
  const wait = `console.log('at the gate');
    const timer = setInterval(() => {
      if (!require('fs').existsSync(${JSON.stringify(gate)})) return;
      clearInterval(timer);
      console.log('through the gate');
    }, 20)`;
  const file = path.join(folder, 'plan.json');
  writeFileSync(file, JSON.stringify({
    title: 'A test of the page',
    tasks: tasks?.(task, wait) ?? [
      task('first', [], `console.log(${JSON.stringify(hostile)}); process.stdout.write('no newline')`),
      task('flood', ['first'], `for (let i = 1; i <= ${floodLines}; i++) console.log('flood ' + i)`),
      task('gate', ['first'], wait),
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

const until = async (what, condition) => {
  for (const end = Date.now() + patience; ; await new Promise((resolve) => setTimeout(resolve, 20))) {
    // A page that is being reloaded cannot be asked.
    if (await condition().catch(() => false)) return;
    assert.ok(Date.now() < end, `${what}: not within ${patience} ms`);
  }
};

// open shows the page at url to another viewer, after script has run there.
async function open(t, url, script) {
  const context = await browser.createBrowserContext();
  t.after(() => context.close());
  const page = await context.newPage();
  page.setDefaultTimeout(patience);
  const errors = [];
  // Firefox counts a server that is not there as an error of the page.
  page.on('pageerror', (error) => /establish a connection/.test(error.message) || errors.push(String(error)));
  page.on('console', (message) => /Content.Security.Policy/.test(message.text()) && errors.push(message.text()));
  // Every state the connection goes through, however short.
  await page.evaluateOnNewDocument(() => {
    globalThis.states = [];
    document.addEventListener('DOMContentLoaded', () => {
      const el = document.getElementById('connection');
      new MutationObserver(() => globalThis.states.push(el.dataset.state)).observe(el, { attributeFilter: ['data-state'] });
    });
  });
  if (script) await page.evaluateOnNewDocument(script);
  await page.goto(url);
  const has = (selector) => until(selector, () => page.evaluate((s) => document.querySelector(s) !== null, selector));
  await has('#start:enabled');
  const text = (selector) => page.evaluate((s) => document.querySelector(s).textContent, selector);
  return {
    page,
    errors,
    has,
    text,
    task: (id, status) => has(`.task[data-task="${id}"][data-status="${status}"]`),
    connection: (state) => has(`#connection[data-state="${state}"]`),
    went: (state) => until(state, () => page.evaluate((s) => globalThis.states.includes(s), state)),
    shows: (line) => until(line, () => page.evaluate((s) => document.getElementById('lines').textContent.includes(s), line)),
    reads: (selector, want) => until(`${selector}: ${want}`, async () => (await text(selector)) === want),
    attribute: (selector, name) => page.evaluate((s, n) => document.querySelector(s).getAttribute(n), selector, name),
    // What is on show, line by line; of all output, "title: line".
    lines: () => page.evaluate(() => [...document.querySelectorAll('#lines .block')].flatMap((block) => {
      const who = block.querySelector('.who')?.textContent;
      return block.querySelector('pre').textContent.split('\n').slice(0, -1).map((line) => (who ? `${who}: ${line}` : line));
    })),
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

export function suite(name, launch) {
  before(async () => {
    dir = mkdtempSync(path.join(tmpdir(), 'orchestrator-'));
    binary = path.join(dir, 'orchestrator');
    execFileSync('go', ['build', '-o', binary, '.'], { cwd: path.dirname(import.meta.dirname), stdio: 'inherit' });
    browser = await launch();
  });

  after(async () => {
    await browser?.close();
    if (dir) rmSync(dir, { recursive: true, force: true });
  });

  for (const transport of ['http', 'fasthttp', 'websocket']) {
    test(`${name}, ${transport}: a run, watched through a reload and a cut connection to its end`, async (t) => {
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
      assert.equal(await viewer.attribute('#progress', 'aria-valuenow'), '2');

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
      await viewer.connection('finished');
      for (const [id, status] of Object.entries({ first: 'success', flood: 'success', gate: 'success', broken: 'failed', never: 'skipped' })) {
        await viewer.task(id, status);
      }
      assert.equal(await viewer.text('#state'), 'Failed');
      assert.equal(await viewer.attribute('#progress', 'aria-valuenow'), '5');
      const lines = await viewer.lines();
      assertComplete(lines);
      assert.equal(await viewer.page.evaluate(() => document.querySelectorAll('#lines img').length), 0);

      await viewer.page.click('.task[data-task="broken"]');
      await viewer.reads('#lines', 'it broke\n');
      assert.equal(await viewer.text('#output-title'), 'The broken');
      await viewer.page.click('#all');
      await viewer.shows('through the gate');

      // Who comes when all is over sees the same, and the stream does not reconnect.
      const late = await open(t, viewer.page.url());
      await late.connection('finished');
      await late.shows('it broke');
      assert.deepEqual(await late.lines(), lines);
      assert.equal(await late.text('#runs a[aria-current] .run-status'), 'Failed');
      assert.deepEqual(await late.page.evaluate(() => globalThis.states), ['connecting', 'live', 'finished']);

      assert.deepEqual([...viewer.errors, ...late.errors], []);
      assert.equal(await kill('SIGTERM'), 0);
    });

    test(`${name}, ${transport}: cancel, then start again after the server was killed`, async (t) => {
      const plan = makePlan(t);
      const first = await serve(t, transport, plan);
      const viewer = await open(t, first.url);
      await viewer.page.click('#start');
      await viewer.task('gate', 'running');
      await viewer.page.click('#cancel');
      await viewer.connection('finished');
      await viewer.task('gate', 'cancelled');
      await viewer.task('never', 'skipped');
      await viewer.reads('#state', 'Cancelled'); // drawn with the next frame

      await viewer.page.click('#start');
      await viewer.task('gate', 'running');
      await first.kill('SIGKILL');
      await viewer.went('reconnecting');
      await serve(t, transport, plan, new URL(first.url).host);
      await viewer.connection('failed');
      await viewer.has('#lines .notice');
      assert.match(await viewer.text('#lines .notice'), /does not know this run/);
      await viewer.task('gate', 'unknown');

      plan.open();
      await viewer.page.click('#start');
      await viewer.connection('finished');
      await viewer.task('gate', 'success');
      await viewer.shows('it broke');
      assertComplete(await viewer.lines());
      assert.deepEqual(viewer.errors, []);
    });
  }

  test(`${name}: running tasks show for how long, whatever the clock, and say so to nobody`, async (t) => {
    const plan = makePlan(t);
    const { url } = await serve(t, 'http', plan);
    const wrongClock = () => {
      Date.now = () => 0;
      // What a screen reader speaks by itself: changes of these, and of the name of the button that has the focus.
      globalThis.spoken = [];
      document.addEventListener('DOMContentLoaded', () => {
        const observer = new MutationObserver(() => globalThis.spoken.push(document.querySelector('.task[data-task="gate"]').textContent));
        const heard = { characterData: true, childList: true, subtree: true };
        document.querySelectorAll('[role=status], [role=alert], [aria-live]:not([aria-live=off])').forEach((el) => observer.observe(el, heard));
        globalThis.listenTo = (el) => el.querySelectorAll(':not([aria-hidden=true])').forEach((part) => observer.observe(part, { ...heard, subtree: false }));
      });
    };
    const viewer = await open(t, url, wrongClock);
    const shown = async () => {
      const text = await viewer.text('.task[data-task="gate"] .task-meta');
      const [, minutes = 0, seconds, lines] = /^Running(?:(\d+)\smin\s)?(\d+)\ss( · 1 line)?$/.exec(text) ?? [];
      return lines ? minutes * 60 + Number(seconds) : -1;
    };
    const reaches = (n) => until(`${n} s`, async () => (await shown()) >= n);
    await viewer.page.click('#start');
    await viewer.task('flood', 'success');
    await reaches(0);
    await viewer.page.evaluate(() => {
      const button = document.querySelector('.task[data-task="gate"]');
      button.focus();
      globalThis.listenTo(button);
      globalThis.spoken.length = 0;
    });
    const seen = await shown();
    await reaches(seen + 2);
    assert.deepEqual(await viewer.page.evaluate(() => globalThis.spoken), []);

    // After a reload it goes on, and is never longer than the run.
    await viewer.page.reload();
    await viewer.shows('at the gate');
    await until('longer than the page is open', async () => (await shown()) * 1000 > await viewer.page.evaluate(() => performance.now()));
    const after = await shown();
    const [run] = await (await fetch(`${url}api/executions`)).json();
    assert.ok(after <= run.duration / 1000, `${after} s of ${run.duration} ms`);
    assert.match(await viewer.text('#stats'), /^2 of 5 tasks · (\d+\smin\s)?\d+\ss$/);

    // Who does not know when the run began shows nothing rather than something wrong.
    const ignorant = await open(t, viewer.page.url(), () => {
      const fetch = globalThis.fetch;
      globalThis.fetch = (url, options) => (url === '/api/executions' ? Promise.reject(new TypeError('lost')) : fetch(url, options));
    });
    await ignorant.reads('.task[data-task="gate"] .task-meta', 'Running1 line');
    await ignorant.reads('#stats', '2 of 5 tasks');

    plan.open();
    await viewer.connection('finished');
    const meta = '.task[data-task="gate"] .task-meta';
    await until('its duration', async () => /^Succeeded.*\ss · 2 lines$/.test(await viewer.text(meta)));
    assert.equal(await viewer.attribute(`${meta} span:last-child`, 'aria-hidden'), 'false');
    assert.deepEqual([...viewer.errors, ...ignorant.errors], []);
  });

  test(`${name}, websocket: stopping the server ends the run for its viewers, then the stream`, async (t) => {
    const plan = makePlan(t);
    const { url, kill } = await serve(t, 'websocket', plan);
    const viewer = await open(t, url);
    await viewer.page.click('#start');
    await viewer.task('gate', 'running');
    const code = kill('SIGINT');
    await viewer.connection('finished');
    await viewer.reads('#state', 'Cancelled'); // drawn with the next frame
    assert.equal(await code, 0);
  });

  test(`${name}: 100,000 coloured lines, followed and paused`, async (t) => {
    const lots = 100_000;
    const plan = makePlan(t, (task, wait) => [
      task('colours', [], `console.log('\\x1b[31mred \\x1b[1mbold\\x1b[0m ' + ${JSON.stringify(`\x1b[38;2;1;2;3m${hostile}\x1b[m`)}); console.log('old\\rnew')`),
      task('lots', ['colours'], `let text = '';
        for (let i = 1; i <= ${lots}; i++) text += '\\x1b[32mPASS\\x1b[0m line ' + i + ' \\x1b[36m0.1s\\x1b[0m\\n';
        process.stdout.write(text)`),
      task('gate', ['lots'], wait),
    ]);
    const { url } = await serve(t, 'fasthttp', plan);
    const viewer = await open(t, url);
    await viewer.page.click('#start');
    await viewer.task('lots', 'success');
    await viewer.shows('at the gate');
    const bottom = () => viewer.page.evaluate(() => {
      const el = document.getElementById('output');
      return el.scrollHeight - el.scrollTop - el.clientHeight;
    });
    await until('following', async () => (await bottom()) < 24);
    const { elements, styled } = await viewer.page.evaluate(() => ({
      elements: document.querySelectorAll('#lines *').length,
      styled: document.querySelectorAll('#lines .sgr').length,
    }));
    assert.ok(elements < 10_000, `${elements} elements`);
    assert.ok(styled > 0 && styled < 5_000, `${styled} styled elements`);
    const lines = (await viewer.lines()).filter((line) => line.startsWith('The lots: '));
    assert.equal(lines.length, lots);
    lines.forEach((line, i) => assert.equal(line, `The lots: PASS line ${i + 1} 0.1s`));

    // Paused: what comes does not move what is read.
    await viewer.page.click('#follow');
    assert.equal(await viewer.attribute('#follow', 'aria-pressed'), 'false');
    await viewer.page.evaluate(() => (document.getElementById('output').scrollTop = 0));
    plan.open();
    await viewer.connection('finished');
    await viewer.reads('#to-end', '1 line more ↓');
    assert.equal(await viewer.page.evaluate(() => document.getElementById('output').scrollTop), 0);
    const first = await viewer.page.evaluate(() => [...document.querySelectorAll('#lines .block')[0].querySelectorAll('.sgr')]
      .map((el) => [el.textContent, el.className, el.style.getPropertyValue('--fg'), getComputedStyle(el).fontWeight]));
    assert.deepEqual(first, [['red ', 'sgr', 'var(--ansi-1)', '400'], ['bold', 'sgr bold', 'var(--ansi-1)', '700'], [hostile, 'sgr adapt', 'rgb(1, 2, 3)', '400']]
      .map(([text, names, fg, weight]) => [text, names, fg.replaceAll(',', ''), weight]));
    assert.equal((await viewer.lines())[1], 'The colours: new');
    await viewer.page.click('#to-end');
    assert.equal(await viewer.attribute('#follow', 'aria-pressed'), 'true');
    await until('at the end', async () => (await bottom()) < 24);
    assert.equal(await viewer.page.evaluate(() => document.activeElement.id), 'output');
    assert.deepEqual(viewer.errors, []);
  });

  test(`${name}: by keyboard, on a narrow screen, beside another viewer`, async (t) => {
    const plan = makePlan(t);
    const { url } = await serve(t, 'http', plan);
    const viewer = await open(t, url);
    await viewer.page.setViewport({ width: 360, height: 740 });
    await viewer.page.focus('#start');
    await viewer.page.keyboard.press('Enter');
    await viewer.task('gate', 'running');
    const other = await open(t, viewer.page.url());
    await other.shows('at the gate');
    await viewer.reads('#viewers', '2 viewers');
    await viewer.page.bringToFront();
    await viewer.page.focus('.task[data-task="first"]');
    await viewer.page.keyboard.press('Enter');
    await viewer.reads('#output-title', 'The first');
    assert.equal(await viewer.attribute('.task[data-task="first"]', 'aria-pressed'), 'true');
    await viewer.page.focus('#all');
    await viewer.page.keyboard.press('Enter');
    assert.equal(await viewer.page.evaluate(() => document.activeElement.dataset.task), 'first', 'the focus is not lost');
    plan.open();
    await viewer.connection('finished');
    assert.equal(await viewer.text('#announce'), 'Run failed: 3 of 5 tasks succeeded');
    assert.ok(await viewer.page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'no scrolling sideways');

    // The history: from one run to the other and back.
    const first = viewer.page.url();
    await viewer.page.click('#start');
    await until('the second run', async () => viewer.page.url() !== first); // the first one has finished, too
    await viewer.connection('finished');
    await until('two runs', () => viewer.page.evaluate(() => document.querySelectorAll('#runs a').length === 2));
    const shown = viewer.page.url();
    await viewer.page.evaluate(() => document.querySelectorAll('#runs a')[1].click());
    await until('the older run', async () => viewer.page.url() !== shown && (await viewer.attribute('#runs li:last-child a', 'aria-current')) === 'true');
    await viewer.connection('finished');
    await viewer.shows('it broke');
    await viewer.page.goBack();
    await until('the newer run', async () => (await viewer.attribute('#runs li:first-child a', 'aria-current')) === 'true');
    assert.deepEqual([...viewer.errors, ...other.errors], []);
  });
}
