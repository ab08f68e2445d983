// A service worker that is the server: it answers for executions, and does what the test asks of its registry.
import { eventStreamResponse, init, Registry } from '@execcast/wasm';

const registry = init().then(() => new Registry());

addEventListener('install', () => skipWaiting());
addEventListener('activate', (event) => event.waitUntil(clients.claim()));
addEventListener('fetch', (event) => {
  const [, id] = /^\/executions\/(.+)$/.exec(new URL(event.request.url).pathname) ?? [];
  if (id) event.respondWith(registry.then((r) => eventStreamResponse(r, id, event.request, { retry: 100 })));
});
addEventListener('message', (event) => event.waitUntil(registry.then(async (r) => {
  const [method, ...args] = event.data;
  event.ports[0].postMessage(await r[method](...args));
})));
