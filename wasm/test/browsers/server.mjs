// Serves what the pages under test load, on loopback: this package as it is, a service worker, a corpus, and core's own tests.
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';

const root = path.resolve(import.meta.dirname, '../..');
const types = { '.js': 'text/javascript', '.mjs': 'text/javascript', '.wasm': 'application/wasm', '.html': 'text/html', '.txt': 'text/plain' };

const pages = {
  '/': { 'Content-Type': 'text/html' },
  '/forbidden': { 'Content-Type': 'text/html', 'Content-Security-Policy': "script-src 'self'" },
  '/allowed': { 'Content-Type': 'text/html', 'Content-Security-Policy': "script-src 'self' 'wasm-unsafe-eval'" },
};

const worker = `import { init, Registry, eventStreamResponse } from '/src/index.js';
let registry, seen = [];
self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
self.addEventListener('fetch', (event) => {
  const match = /^\\/executions\\/(.+)$/.exec(new URL(event.request.url).pathname);
  if (!match) return;
  event.respondWith(init().then(() => {
    seen.push(event.request.headers.get('Last-Event-ID'));
    return eventStreamResponse(registry ??= new Registry(), match[1], event.request, { retry: 10 });
  }));
});
self.addEventListener('message', (event) => event.waitUntil(init().then(async () => {
  registry ??= new Registry();
  const [method, ...args] = event.data;
  event.ports[0].postMessage(method === 'seen' ? seen : await registry[method](...args));
})));
`;

export async function serve(t) {
  const dir = mkdtempSync(path.join(tmpdir(), 'execcast-'));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const goroot = execFileSync('go', ['env', 'GOROOT'], { encoding: 'utf8' }).trim();
  const server = http.createServer((req, res) => {
    const url = new URL(req.url, 'http://localhost');
    if (pages[url.pathname]) {
      res.writeHead(200, pages[url.pathname]);
      res.end('<!doctype html><title>test</title>');
      return;
    }
    if (url.pathname === '/worker.js') {
      res.writeHead(200, { 'Content-Type': 'text/javascript' });
      res.end(worker);
      return;
    }
    const file = {
      '/corpus.txt': path.join(dir, 'corpus.txt'),
      '/core.test.wasm': path.join(dir, 'core.test.wasm'),
      '/go/wasm_exec.js': path.join(goroot, 'lib/wasm/wasm_exec.js'),
    }[url.pathname] ?? path.join(root, path.normalize(url.pathname));
    if (!existsSync(file) || !types[path.extname(file)]) {
      res.writeHead(404).end();
      return;
    }
    res.writeHead(200, { 'Content-Type': types[path.extname(file)] });
    createReadStream(file).pipe(res);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return {
    // Service workers want a host that counts as secure.
    url: `http://localhost:${server.address().port}`,
    corpus(frames) {
      const file = path.join(dir, 'corpus.txt');
      execFileSync('sh', ['-c', `go run ./internal/corpus -n ${Number(frames)} -seed ${Date.now()} >'${file}'`], { cwd: root });
      return readFileSync(file, 'utf8').split('\n').length - 1;
    },
    // coreTests compiles the tests of package core.
    coreTests() {
      execFileSync('go', ['test', '-c', '-o', path.join(dir, 'core.test.wasm'), './core'],
        { cwd: path.dirname(root), env: { ...process.env, GOOS: 'js', GOARCH: 'wasm', GOFLAGS: '-buildvcs=false' } });
    },
  };
}
