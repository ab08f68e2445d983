// Follows an execution on one node after the other: EventSource reconnects to
// one address only, so that moving on is for the page to do, with the last ID.
const element = (id) => document.getElementById(id);
const { node, nodes } = await (await fetch('/api/nodes')).json();
let at = node, source, silence, lastId = '';
let lines = 0, missing = 0, doubled = 0, moves = 0, next = 1;

function report() {
  element('count').textContent = `${lines} lines, ${missing} missing, ${doubled} doubled, ${moves} moves`;
}

function show({ step, of, line }) {
  if (step < next) doubled++;
  missing += Math.max(0, step - next);
  next = Math.max(next, step + 1);
  lines++;
  element('progress').value = step / of;
  element('log').append(`${line}\n`);
  element('log').scrollTop = element('log').scrollHeight;
  report();
}

function listen(id) {
  clearTimeout(silence);
  source = new EventSource(`${nodes[at]}/api/executions/${id}/events?lastEventId=${lastId}`);
  element('node').textContent = `node ${at + 1} (connecting)`;
  source.onopen = () => {
    clearTimeout(silence);
    element('node').textContent = `node ${at + 1}`;
  };
  source.addEventListener('step', (event) => {
    lastId = event.lastEventId;
    show(JSON.parse(event.data));
  });
  source.addEventListener('stream-end', () => {
    source.close();
    element('node').textContent = `node ${at + 1}, finished`;
    element('start').disabled = false;
  });
  const move = () => {
    source.close();
    clearTimeout(silence);
    at = (at + 1) % nodes.length;
    moves++;
    report();
    element('node').textContent = `node ${at + 1} (moving)`;
    silence = setTimeout(() => listen(id), 200);
  };
  source.onerror = move;
  silence = setTimeout(move, 5000); // a node that does not answer at all
}

async function viewers() {
  const id = location.hash.slice(1);
  if (id) {
    try {
      const answer = await fetch(`${nodes[at]}/api/executions/${id}/viewers`);
      if (answer.ok) element('viewers').textContent = `Viewers on all nodes: ${(await answer.json()).viewers}`;
    } catch { /* that node has just gone */ }
  }
  setTimeout(viewers, 2000);
}

function follow(id) {
  lastId = '';
  [lines, missing, doubled, moves, next] = [0, 0, 0, 0, 1];
  element('log').textContent = '';
  report();
  listen(id);
}

element('start').onclick = async () => {
  element('start').disabled = true;
  const answer = await fetch(`${nodes[at]}/api/executions`, { method: 'POST' });
  if (!answer.ok) {
    element('node').textContent = await answer.text();
    element('start').disabled = false;
    return;
  }
  location.hash = (await answer.json()).id;
  follow(location.hash.slice(1));
};
if (location.hash) follow(location.hash.slice(1));
viewers();
