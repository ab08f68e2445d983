// Vitest in browser mode: the page's elements in Chromium, without a server.
import { expect, test, vi } from 'vitest';
import { FakeEventSource, init, Registry } from '@execcast/wasm';
import { follow, render } from '../progress.js';

test('a viewer who comes late sees everything', async () => {
  await init();
  const registry = new Registry();
  vi.stubGlobal('EventSource', FakeEventSource.for(registry));
  document.body.innerHTML = '<p id="status"></p><ul id="tasks"></ul>';
  registry.publish('job-1', { event: 'task', data: { name: 'build', progress: 100 } });
  registry.publish('job-1', { event: 'task', data: { name: 'test', progress: 40 } });
  follow('/executions/job-1', (state) => render(document, state));
  await expect.poll(() => document.body.innerText).toMatch(/live\s+build: 100 %\s+test: 40 %/);
  await registry.close('job-1');
  await expect.poll(() => document.querySelector('#status').textContent).toBe('done');
});
