// The events of a run, as in run.go, and the signals a stream itself sends.
const types = ['task-start', 'task-output', 'task-complete', 'execution-complete'];
const signals = ['stream-gap', 'stream-end'];

const firstDelay = 500, maxDelay = 15000; // milliseconds between attempts to reconnect

// watch follows a run from its first event to its end, over either transport, and reconnects as often as that takes. Every
// event arrives once and in order: onEvent(type, data). onState(state, detail) tells about the connection: connecting, live,
// resumed (detail: after which ID), reconnecting (detail: milliseconds, if known), and at last ended, or gone when the server
// does not know the run. The function it returns stops it.
export function watch(executionId, transport, { onEvent, onState }) {
  const path = `/api/executions/${encodeURIComponent(executionId)}/events`;
  const open = transport === 'websocket' ? openSocket : openSource;
  let lastId = 0; // IDs stay below 2^53
  let complete = false; // execution-complete is the last event of a run
  let attempts = 0;
  let interrupted = false;
  let stopped = false;
  let timer, close;

  function stop() {
    stopped = true;
    clearTimeout(timer);
    close?.();
  }
  function end(state) {
    stop();
    onState(state);
  }
  function connect() {
    close?.();
    close = open(lastId ? `${path}?lastEventId=${lastId}` : path, { opened, received, lost, retrying });
  }
  function opened() {
    if (stopped) return;
    onState(interrupted && lastId ? 'resumed' : 'live', lastId);
    interrupted = false;
  }
  function received(type, data, id) {
    if (stopped) return;
    if (type === 'stream-end') return end('ended');
    if (!signals.includes(type)) {
      if (id <= lastId) return;
      lastId = id;
    }
    attempts = 0;
    complete ||= type === 'execution-complete';
    onEvent(type, data);
  }
  // retrying: the browser will try again by itself.
  function retrying() {
    if (stopped) return;
    if (complete) return end('ended');
    interrupted = true;
    onState('reconnecting');
  }
  // lost: it is for us to try again. The random part keeps viewers from coming back all at once.
  function lost() {
    if (stopped) return;
    if (complete) return end('ended');
    interrupted = true;
    const delay = Math.min(maxDelay, firstDelay * 2 ** attempts++) * (0.5 + Math.random() / 2);
    onState('reconnecting', delay);
    timer = setTimeout(check, delay);
  }
  // check: neither EventSource nor WebSocket tells why a connection failed, but the list of runs does.
  async function check() {
    let known;
    try {
      const response = await fetch('/api/executions');
      known = (await response.json()).some((run) => run.executionId === executionId);
    } catch {
      return lost();
    }
    if (stopped) return;
    if (known) connect();
    else end('gone');
  }

  onState('connecting');
  connect();
  return stop;
}

function openSource(url, { opened, received, lost, retrying }) {
  const source = new EventSource(url);
  source.onopen = opened;
  source.onerror = () => (source.readyState === EventSource.CLOSED ? lost() : retrying());
  for (const type of [...types, ...signals]) {
    source.addEventListener(type, (e) => received(type, JSON.parse(e.data), Number(e.lastEventId)));
  }
  return () => source.close();
}

function openSocket(url, { opened, received, lost }) {
  const absolute = new URL(url, location.href);
  absolute.protocol = absolute.protocol.replace('http', 'ws');
  const socket = new WebSocket(absolute);
  socket.onopen = opened;
  socket.onclose = lost;
  socket.onmessage = (e) => {
    const { id, event, data } = JSON.parse(e.data);
    received(event, data, Number(id));
  };
  return () => {
    socket.onclose = null;
    socket.close();
  };
}
