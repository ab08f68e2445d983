// Plain Node: the page's logic against FakeEventSource, with fake timers.
import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { FakeEventSource, init, Registry, scenario } from '@execcast/wasm';
import { follow } from '../progress.js';

await init();

test('a dropped connection is shown, and nothing is missed', async (t) => {
  mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  t.after(() => mock.timers.reset());
  const registry = new Registry();
  globalThis.EventSource = FakeEventSource.for(registry);
  const shown = [];
  follow('/executions/job-1', ({ status, tasks }) => shown.push(`${status} ${tasks.build ?? '-'}`));
  const played = scenario(registry, 'job-1', [
    { event: 'task', data: { name: 'build', progress: 10 } },
    { wait: 60_000 },
    { disconnect: true },
    { event: 'task', data: { name: 'build', progress: 100 } },
    { wait: 60_000 },
    { finish: true },
  ]);
  while (shown.at(-1) !== 'done 100') {
    await new Promise(setImmediate);
    mock.timers.tick(1000);
  }
  await played;
  assert.deepEqual(shown, ['live -', 'live 10', 'reconnecting 10', 'live 10', 'live 100', 'done 100']);
});
