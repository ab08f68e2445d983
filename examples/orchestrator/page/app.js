import { reader, sixteen } from './ansi.js';
import { follow } from './execcast.js';

const $ = (id) => document.getElementById(id);
const transports = { http: 'sse', fasthttp: 'fetch', websocket: 'websocket' }; // each of the client's, by the server's
const types = ['task-start', 'task-output', 'task-complete', 'execution-complete', 'stream-gap'];
const blockLines = 200, blockChars = 1 << 16; // the most output in one element: what the browser lays out at a time

let config = { tasks: [] };
let view; // the run on show: see show()
let selected = null; // the task whose output is on show, null for all
let runs = []; // as GET /api/executions lists them; began: when, on this page's clock

// --- The run on show

// show follows the run with this ID in place of the one before. An empty ID shows the plan as it will run.
function show(executionId) {
  view?.stop();
  view = {
    executionId,
    tasks: new Map(config.tasks.map((task) => [task.id, { ...task, status: 'waiting', lines: 0 }])),
    lines: [], // {task, stream, text, runs}; a notice has no task
    readers: new Map(), // one for each stream of a task
    rendered: 0, // of lines
    status: executionId ? 'waiting' : 'idle',
    progress: 0,
    total: config.tasks.length,
    duration: 0,
    cancelling: false,
    stop() {},
  };
  buildTasks();
  select(null);
  setConnection({ state: executionId ? 'connecting' : 'idle' });
  if (executionId) view.stop = watch(executionId);
  renderRuns();
  schedule();
}

function watch(executionId) {
  const stream = follow(`/api/executions/${encodeURIComponent(executionId)}/events`, {
    transport: transports[config.transport], retry: 500, maxDelay: 15_000, onState: setConnection,
  });
  for (const type of types) stream.on(type, ({ data }) => apply(type, data));
  return () => stream.close();
}

// apply brings one event into the view. Drawing follows with the next frame: thousands of events may come between two.
function apply(type, data) {
  const task = taskOf(data.taskId);
  switch (type) {
    case 'task-start':
      view.status = 'running';
      task.status = 'running';
      task.title = data.taskTitle;
      task.startedAt = data.startedAt;
      Object.assign(view, { progress: data.progress, total: data.total });
      break;
    case 'task-output':
      if (task.status === 'waiting') task.status = view.status = 'running'; // its start is not retained any more
      task.lines++;
      view.lines.push({ task: task.id, stream: data.stream, ...readerOf(task.id, data.stream)(data.line) });
      break;
    case 'task-complete':
      task.status = data.status;
      task.duration = data.duration;
      Object.assign(view, { progress: data.progress, total: data.total });
      if (data.status === 'failed') announce(`${task.title} failed`);
      refreshSoon();
      break;
    case 'execution-complete':
      view.status = data.status;
      view.duration = data.totalDuration;
      announce(`Run ${words[data.status].toLowerCase()}: ${data.successful} of ${view.total} tasks succeeded`);
      refreshSoon();
      break;
    case 'stream-gap':
      view.lines.push({ text: `${data.count ?? 'Some'} earlier events are not retained any more` });
      break;
  }
  schedule();
}

// taskOf finds an event's task, also one that a plan before this server's start had.
function taskOf(id) {
  if (id !== undefined && !view.tasks.has(id)) {
    view.tasks.set(id, { id, title: id, command: [], dependsOn: [], status: 'waiting', lines: 0 });
    buildTasks();
  }
  return view.tasks.get(id);
}

function readerOf(taskId, stream) {
  const key = `${stream} ${taskId}`;
  if (!view.readers.has(key)) view.readers.set(key, reader());
  return view.readers.get(key);
}

let frame = 0;
function schedule() {
  if (frame) return;
  // Hidden pages get no animation frames; their title should tell the end all the same.
  frame = document.hidden ? setTimeout(draw, 500) : requestAnimationFrame(draw);
}
document.addEventListener('visibilitychange', () => view && draw());

function draw() {
  frame = 0;
  drawSummary();
  drawTasks();
  drawOutput();
}

// --- Summary

const words = {
  idle: 'Ready', waiting: 'Starting', running: 'Running',
  success: 'Succeeded', failed: 'Failed', cancelled: 'Cancelled', skipped: 'Skipped', unknown: 'Unknown',
};

function drawSummary() {
  const { status, progress, total } = view;
  const count = (s) => [...view.tasks.values()].filter((task) => task.status === s).length;
  setText($('state'), view.cancelling && status === 'running' ? 'Cancelling' : words[status]);
  setGlyph($('run-glyph'), status === 'idle' ? 'waiting' : status);
  const stats = [`${progress} of ${total} tasks`];
  for (const s of ['failed', 'cancelled', 'skipped']) {
    if (count(s)) stats.push(`${count(s)} ${s}`);
  }
  const running = status === 'running' || status === 'waiting';
  if (view.duration) stats.push(time(view.duration));
  else if (running) stats.push(...elapsed());
  setText($('stats'), view.executionId ? stats.join(' · ') : `${total} tasks`);

  const bar = $('progress');
  bar.ariaValueMax = total;
  bar.ariaValueNow = progress;
  bar.ariaValueText = `${progress} of ${total}, ${words[status]}`;

  $('cancel').hidden = !running || !view.executionId || connection === 'failed';
  $('cancel').disabled = view.cancelling;
  const marks = { running: '▶', success: '✓', failed: '✗', cancelled: '■' };
  const percent = running && total ? ` ${Math.floor((100 * progress) / total)} %` : '';
  document.title = marks[status] ? `${marks[status]}${percent} ${config.title}` : `${config.title} · execcast`;
}

// elapsed is how long the run on show has been running, or its task that was started then: at most one text, none if we do not know.
// Only durations and differences between the server's times count, so that the two clocks may differ.
function elapsed(startedAt) {
  const run = runs.find(({ executionId }) => executionId === view.executionId);
  const ms = run && performance.now() - run.began - (startedAt ? Date.parse(startedAt) - Date.parse(run.startedAt) : 0);
  return ms === undefined ? [] : [time(Math.max(0, ms), true)];
}

function time(ms, coarse) {
  if (ms < 1000 && !coarse) return `${Math.round(ms)}\u00a0ms`;
  const s = ms / 1000;
  if (s < 60) return coarse ? `${Math.floor(s)}\u00a0s` : `${s.toFixed(1)}\u00a0s`;
  return `${Math.floor(s / 60)}\u00a0min\u00a0${String(Math.floor(s % 60)).padStart(2, '0')}\u00a0s`;
}

// --- Tasks: a column for each level of dependencies, with edges between them

function buildTasks() {
  const tasks = [...view.tasks.values()];
  const levels = []; // of tasks and of bends, which lead an edge past a level in between
  const position = new Map(); // in its level, counted from the middle
  const levelOf = (task) => (task.level ??= Math.max(-1, ...task.dependsOn.map((id) => levelOf(view.tasks.get(id)))) + 1);
  for (const task of tasks) (levels[levelOf(task)] ??= []).push(task);
  const edges = [];
  for (const task of tasks) {
    task.edges = task.dependsOn.map((id) => {
      const edge = { path: svg('path'), stops: [view.tasks.get(id)] };
      for (let level = edge.stops[0].level + 1; level < task.level; level++) {
        const bend = { above: edge.stops.at(-1), item: element('li', { className: 'bend' }) };
        edge.stops.push(bend);
        levels[level].push(bend);
      }
      edge.stops.push(task);
      edges.push(edge);
      return edge;
    });
  }
  // Beside the mean position of what they depend on, edges cross less.
  for (const level of levels) {
    const mean = ({ above, dependsOn }) => {
      const before = above ? [above] : dependsOn.map((id) => view.tasks.get(id));
      return before.reduce((sum, node) => sum + position.get(node), 0) / (before.length || 1);
    };
    level.sort((a, b) => mean(a) - mean(b));
    level.forEach((node, i) => position.set(node, i - (level.length - 1) / 2));
  }

  for (const task of tasks) {
    task.button = element('button', { className: 'task', onclick: () => select(selected === task.id ? null : task.id) }, [
      glyph(task.status),
      (task.titleText = element('span', { className: 'task-title' })),
      (task.meta = element('span', { className: 'task-meta' }, [
        (task.word = element('span')),
        (task.figures = element('span')),
      ])),
    ]);
    task.button.dataset.task = task.id;
    task.item = element('li', {}, [task.button]);
    task.segment = element('span');
  }
  $('progress').replaceChildren(...tasks.map((task) => task.segment));
  $('edges').replaceChildren(...edges.map((edge) => edge.path));
  $('graph').replaceChildren($('edges'), ...levels.map((level) => element('ol', {}, level.map((node) => node.item))));
  drawTasks();
}

function layEdges() {
  const edges = [...(view?.tasks.values() ?? [])].flatMap((task) => task.edges);
  for (const { path, stops } of edges) {
    const boxes = stops.map(({ item }) => box(item));
    let d = '';
    boxes.slice(1).forEach((to, i) => {
      const from = boxes[i];
      const x1 = from.left + from.width, y1 = from.top + from.height / 2, x2 = to.left, y2 = to.top + to.height / 2;
      const half = (x2 - x1) / 2;
      d += `${d ? 'L' : 'M'}${x1} ${y1}C${x1 + half} ${y1} ${x2 - half} ${y2} ${x2} ${y2}`;
    });
    path.setAttribute('d', d);
  }
}
const box = (el) => ({ left: el.offsetLeft, top: el.offsetTop, width: el.offsetWidth, height: el.offsetHeight });
new ResizeObserver(() => layEdges()).observe($('graph'));

function drawTasks() {
  let changed = false;
  for (const task of view.tasks.values()) {
    const figures = [];
    const running = task.status === 'running';
    if (running && task.startedAt) figures.push(...elapsed(task.startedAt));
    if (task.duration !== undefined && task.status !== 'skipped') figures.push(time(task.duration));
    if (task.lines) figures.push(`${task.lines.toLocaleString()} ${task.lines === 1 ? 'line' : 'lines'}`);
    setText(task.word, task.status === 'waiting' ? 'Waiting' : words[task.status]);
    setText(task.figures, figures.join(' · '));
    task.figures.ariaHidden = String(running); // a screen reader would read the button anew with each change
    setText(task.titleText, task.title);
    if (task.button.dataset.status === task.status) continue;
    changed = true;
    task.button.dataset.status = task.segment.dataset.status = task.status;
    setGlyph(task.button.firstChild, task.status);
    for (const { path } of task.edges) path.dataset.status = task.status;
  }
  if (changed) layEdges(); // other words may need more room
}

function select(taskId) {
  selected = taskId;
  for (const task of view.tasks.values()) task.button.ariaPressed = String(task.id === taskId);
  const task = view.tasks.get(taskId);
  setText($('output-title'), task ? task.title : 'All output');
  setText($('command'), task ? task.command.join(' ') : '');
  $('all').hidden = !task;
  $('lines').replaceChildren();
  sight.disconnect();
  block = null;
  view.rendered = 0;
  setFollowing(true);
  schedule();
}
$('all').onclick = () => {
  const button = view.tasks.get(selected)?.button;
  select(null);
  button?.focus();
};

// --- Output: neighbouring lines of one source share an element, and only those in sight have their styles, so that 100,000
// lines are hundreds of elements

let block = null; // the last one: {task, stream, el, pre, count, chars, runs, styled}
const blocks = new WeakMap(); // by element
const sight = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) style(blocks.get(target), isIntersecting);
}, { root: $('output'), rootMargin: '50% 0px' });

function drawOutput() {
  const nodes = [];
  let pending = '', runs = [];
  const settle = () => {
    if (!pending) return;
    extend(block, pending, runs);
    block.el.style.setProperty('--lines', block.count);
    [pending, runs] = ['', []];
  };
  for (; view.rendered < view.lines.length; view.rendered++) {
    const line = view.lines[view.rendered];
    if (selected !== null && line.task !== undefined && line.task !== selected) continue;
    if (!block || line.task !== block.task || line.stream !== block.stream ||
        block.count >= blockLines || block.chars + pending.length >= blockChars) {
      settle();
      nodes.push(newBlock(line));
    }
    for (const { start, end, style } of line.runs ?? []) runs.push({ start: pending.length + start, end: pending.length + end, style });
    pending += line.text + '\n';
    block.count++;
  }
  settle();
  $('lines').append(...nodes);
  if (following) toEnd();

  const count = selected === null ? view.lines.length : view.tasks.get(selected).lines;
  setText($('line-count'), lineCount(count));
  $('empty').hidden = count > 0;
  setText($('empty'), hint());
  if (following) read = count;
  setText($('to-end'), count > read ? `${lineCount(count - read)} more ↓` : 'To the end ↓');
}

const lineCount = (n) => (n ? `${n.toLocaleString()} ${n === 1 ? 'line' : 'lines'}` : '');

function newBlock({ task, stream }) {
  const el = element('div', { className: task === undefined ? 'notice' : `block ${stream}` });
  if (selected === null && task !== undefined) {
    el.append(element('span', { className: 'who', textContent: view.tasks.get(task).title }));
    el.classList.toggle('first', task !== block?.task);
  }
  const pre = element('pre');
  el.append(pre);
  block = { task, stream, el, pre, count: 0, chars: 0, runs: [], styled: false };
  blocks.set(el, block);
  return el;
}

function extend(block, text, runs) {
  if (runs.length && !block.runs.length) sight.observe(block.el);
  for (const run of runs) block.runs.push({ ...run, start: block.chars + run.start, end: block.chars + run.end });
  block.chars += text.length;
  if (block.styled) block.pre.append(styled(text, runs));
  else if (block.pre.firstChild) block.pre.firstChild.appendData(text);
  else block.pre.append(text);
}

function style(block, on) {
  if (block.styled === on) return;
  block.styled = on;
  const text = block.pre.textContent;
  block.pre.replaceChildren(on ? styled(text, block.runs) : text);
}

function styled(text, runs) {
  const fragment = new DocumentFragment();
  let at = 0;
  for (const { start, end, style } of runs) {
    if (start > at) fragment.append(text.slice(at, start));
    fragment.append(span(text.slice(start, end), style));
    at = end;
  }
  if (at < text.length) fragment.append(text.slice(at));
  return fragment;
}

// span: a colour of the sixteen is the theme's, unless it stands before or behind another: then both are a terminal's.
function span(text, { fg, bg, inverse, ...flags }) {
  const el = element('span', { textContent: text, className: ['sgr', ...Object.keys(flags)].join(' ') });
  if (inverse && (fg ?? bg) === undefined) {
    setColours(el, 'var(--inset)', 'var(--text)');
  } else if (inverse || bg !== undefined) {
    const [front, back] = (inverse ? [bg, fg ?? 7] : [fg, bg]).map((c) => (typeof c === 'number' ? sixteen[c] : c));
    setColours(el, rgb(front ?? (isDark(back) ? sixteen[15] : sixteen[0])), rgb(back));
  } else if (fg !== undefined) {
    setColours(el, typeof fg === 'number' ? `var(--ansi-${fg})` : rgb(fg));
    if (typeof fg === 'object') el.classList.add('adapt');
  }
  return el;
}

const rgb = (c) => `rgb(${c.join(' ')})`;
const isDark = ([r, g, b]) => 0.3 * r + 0.59 * g + 0.11 * b < 140;
function setColours(el, front, back) {
  el.style.setProperty('--fg', front);
  if (back) el.style.setProperty('--bg', back);
}

function hint() {
  if (!view.executionId) return 'Start a run, and what its commands print appears here as they print it.';
  if (selected === null) return 'Nothing has been printed yet.';
  return { waiting: 'This task has not started yet.', running: 'This task has not printed anything yet.', skipped: 'This task was skipped.' }[
    view.tasks.get(selected).status
  ] ?? 'This task printed nothing.';
}

let following = true;
let read = 0; // lines that were there when following ended
let scrolledByUser = 0; // when a person last did something that scrolls
function setFollowing(on) {
  following = on;
  $('follow').ariaPressed = String(on);
  $('to-end').hidden = on;
  if (on) toEnd();
}
function toEnd() {
  $('output').scrollTop = $('output').scrollHeight;
}
for (const type of ['wheel', 'touchmove', 'keydown', 'pointerdown']) {
  $('output').addEventListener(type, () => (scrolledByUser = performance.now()), { passive: true });
}
$('output').addEventListener('pointermove', (e) => e.buttons && (scrolledByUser = performance.now()));
$('output').addEventListener('scroll', () => {
  if (performance.now() - scrolledByUser > 1000) return;
  const el = $('output');
  setFollowing(el.scrollHeight - el.scrollTop - el.clientHeight < 24);
});
// What was estimated while out of sight gets its true height in sight.
new ResizeObserver(() => following && toEnd()).observe($('lines'));
$('follow').onclick = () => setFollowing(!following);
$('to-end').onclick = () => {
  setFollowing(true);
  $('output').focus();
};
$('wrap').onclick = () => {
  const on = $('wrap').ariaPressed !== 'true';
  $('wrap').ariaPressed = String(on);
  $('output').classList.toggle('nowrap', !on);
};
$('copy').onclick = async () => {
  const lines = view.lines.filter((line) => line.task !== undefined && (selected === null || line.task === selected));
  await navigator.clipboard.writeText(lines.map((line) => line.text + '\n').join(''));
  setText($('copy'), 'Copied');
  setTimeout(() => setText($('copy'), 'Copy'), 1500);
};
$('copy').hidden = !navigator.clipboard;

// --- Connection

let connection = 'idle';
let calm; // the timer that turns "resumed" into "live"
function setConnection({ state, resumedAfter, delay, error }) {
  if (state === 'closed') return; // for another run
  if (state === 'live' && resumedAfter) state = 'resumed';
  connection = state;
  clearTimeout(calm);
  const unknown = error?.status === 404;
  const text = {
    idle: 'No run selected',
    connecting: 'Connecting',
    live: 'Live',
    resumed: `Resumed after event ${resumedAfter}`,
    reconnecting: delay > 1000 ? `Reconnecting in ${Math.round(delay / 1000)} s` : 'Reconnecting',
    finished: 'Finished',
    failed: unknown ? 'Unknown to the server' : 'Disconnected',
  }[state];
  $('connection').dataset.state = state;
  setText($('connection').firstElementChild, text);
  if (state === 'resumed') calm = setTimeout(setConnection, 5000, { state: 'live' });
  if (state === 'failed') {
    view.lines.push({ text: unknown ? 'The server does not know this run (any more): it was restarted, or the run is too old.' : error.message });
    for (const item of [view, ...view.tasks.values()]) {
      if (item.status === 'running' || item.status === 'waiting') item.status = 'unknown';
    }
  }
  schedule();
}

// --- Runs

async function request(method, path) {
  const response = await fetch(path, { method });
  if (!response.ok) throw new Error((await response.text()).trim() || response.statusText);
  return response.status === 204 ? null : response.json();
}

async function attempt(what, action) {
  try {
    setText($('alert'), '');
    await action();
  } catch (error) {
    setText($('alert'), `Could not ${what}: ${error.message}`);
  }
}

$('start').onclick = () =>
  attempt('start a run', async () => {
    $('start').disabled = true;
    try {
      const { executionId } = await request('POST', '/api/executions');
      await configure(); // the server may be another one since this page was loaded
      await refresh();
      location.hash = executionId;
    } finally {
      $('start').disabled = false;
    }
  });

$('cancel').onclick = () =>
  attempt('cancel the run', async () => {
    const run = view;
    run.cancelling = true;
    schedule();
    try {
      await request('DELETE', `/api/executions/${encodeURIComponent(run.executionId)}`);
    } finally {
      run.cancelling = false;
      schedule();
    }
  });

async function configure() {
  config = await request('GET', '/api/config');
  setText($('plan-title'), config.title);
  setText($('transport'), { http: 'SSE, net/http', fasthttp: 'SSE, fasthttp', websocket: 'WebSocket' }[config.transport]);
}

async function refresh() {
  try {
    const list = await request('GET', '/api/executions');
    // The answer that took the shortest time tells best when a run began.
    const began = new Map(runs.map((run) => [run.executionId, run.began]));
    runs = list.map((run) => ({ ...run, began: Math.min(performance.now() - run.duration, began.get(run.executionId) ?? Infinity) }));
  } catch {
    return; // the connection says what is wrong
  }
  renderRuns();
}

// refreshSoon: one request for what happens together.
let refreshTimer = 0;
function refreshSoon() {
  refreshTimer ||= setTimeout(() => {
    refreshTimer = 0;
    refresh();
  }, 200);
}

const items = new Map(); // execution ID: its element, kept so that focus stays where it is
function renderRuns() {
  for (const run of runs) {
    let item = items.get(run.executionId);
    if (!item) {
      const started = new Date(run.startedAt);
      item = element('li', {}, [
        element('a', { href: `#${run.executionId}` }, [
          glyph('waiting'),
          element('time', { dateTime: run.startedAt, textContent: started.toLocaleTimeString(), title: started.toLocaleString() }),
          element('span', { className: 'run-status' }),
          element('span', { className: 'run-meta' }),
        ]),
      ]);
      items.set(run.executionId, item);
    }
    const link = item.firstChild;
    const [icon, , status, meta] = link.children;
    setGlyph(icon, run.status);
    setText(status, words[run.status]);
    const done = Object.values(run.counts).reduce((a, b) => a + b, 0);
    setText(meta, `${done}/${run.total} · ${time(run.duration, run.status === 'running')}${run.viewers ? ` · ${run.viewers} watching` : ''}`);
    if (run.executionId === view?.executionId) link.ariaCurrent = 'true';
    else link.removeAttribute('aria-current');
  }
  for (const id of items.keys()) {
    if (!runs.some((run) => run.executionId === id)) items.delete(id);
  }
  const wanted = runs.map((run) => items.get(run.executionId));
  const list = $('runs');
  if (wanted.length !== list.children.length || wanted.some((item, i) => item !== list.children[i])) list.replaceChildren(...wanted);
  $('no-runs').hidden = runs.length > 0;

  const viewers = runs.find((run) => run.executionId === view?.executionId)?.viewers ?? 0;
  $('viewers').hidden = !viewers;
  setText($('viewers'), `${viewers} ${viewers === 1 ? 'viewer' : 'viewers'}`);
}

// --- Small things

function element(tag, properties = {}, children = []) {
  const el = Object.assign(document.createElement(tag), properties);
  el.append(...children);
  return el;
}

function glyph(status) {
  const el = svg('svg');
  el.classList.add('glyph');
  el.setAttribute('aria-hidden', 'true');
  el.append(svg('use'));
  setGlyph(el, status);
  return el;
}

function svg(tag) {
  return document.createElementNS('http://www.w3.org/2000/svg', tag);
}

function setGlyph(el, status) {
  if (el.dataset.status === status) return;
  el.dataset.status = status;
  el.firstElementChild.setAttribute('href', `#i-${status}`);
}

function setText(el, text) {
  if (el.textContent !== text) el.textContent = text;
}

function announce(text) {
  $('announce').textContent = text;
}

// --- From here on

addEventListener('hashchange', () => {
  const id = location.hash.slice(1);
  if (id !== view.executionId) show(id);
});
document.querySelector('.skip').onclick = (e) => {
  e.preventDefault(); // the hash names a run
  $('output').focus();
};

await attempt('reach the server', async () => {
  await configure();
  await refresh();
});
if (!location.hash && runs.length) history.replaceState(null, '', `#${runs[0].executionId}`);
show(location.hash.slice(1));
$('start').disabled = false;
setInterval(() => document.hidden || refresh(), 2000);
// Each task's seconds begin at another moment.
setInterval(() => {
  if (document.hidden || view.status !== 'running') return;
  drawSummary();
  drawTasks();
}, 200);
