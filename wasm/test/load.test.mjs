import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { once } from 'node:events';
import path from 'node:path';
import { test } from 'node:test';
import { brotliCompressSync, constants } from 'node:zlib';
import { encodeText, init, isReady } from '@execcast/wasm';

const root = path.dirname(import.meta.dirname);
const wasm = readFileSync(path.join(root, 'dist/execcast.wasm'));

test('what is wrong with a module from elsewhere is said, and init can be tried again', async (t) => {
  const server = http.createServer((req, res) => {
    const [status, type, body] = {
      '/page.wasm': [200, 'text/html', '<!doctype html><title>index</title>'],
      '/untyped.wasm': [200, 'application/wasm', '\n<html>'],
      '/type.wasm': [200, 'application/octet-stream', wasm],
      '/garbage.wasm': [200, 'application/wasm', 'garbage'],
      '/cut.wasm': [200, 'application/wasm', wasm.subarray(0, 1000)],
    }[req.url] ?? [404, 'text/plain', 'not found'];
    res.writeHead(status, { 'Content-Type': type });
    res.end(body);
  }).listen(0, '127.0.0.1');
  t.after(() => server.close());
  await once(server, 'listening');
  const base = `http://127.0.0.1:${server.address().port}`;
  for (const [source, message] of [
    [`${base}/page.wasm`, /page\.wasm is an HTML page, not the module/],
    [new URL(`${base}/untyped.wasm`), /is an HTML page/],
    [fetch(`${base}/type.wasm`), /MIME type "application\/octet-stream", it must be application\/wasm/],
    [`${base}/garbage.wasm`, /not a WebAssembly module/],
    [`${base}/cut.wasm`, /cannot compile the module/],
    [`${base}/none.wasm`, /answered 404 instead of the module/],
    ['http://127.0.0.1:1/x.wasm', /cannot fetch http:\/\/127\.0\.0\.1:1\/x\.wasm/],
    [new Response('<html>'), /the response is an HTML page/],
    [new Uint8Array(8), /cannot compile/],
    [Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0), /is not this package's/], // an empty module
  ]) {
    await assert.rejects(init({ wasm: source }), { code: 'ErrLoad', message });
    assert.equal(isReady(), false);
  }
  for (const source of [5, {}, true]) await assert.rejects(init({ wasm: source }), TypeError);
  await init({ wasm: await WebAssembly.compile(wasm) });
  assert.equal(encodeText({ data: 'x' }), 'data: x\n\n');
});

// What a page loads: the module that contains the core, and all others.
test('size: at most 850 KB after brotli', (t) => {
  const { files } = JSON.parse(execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: root, encoding: 'utf8' }))[0];
  const sizes = Object.fromEntries(files.filter((f) => f.path.endsWith('.js') || f.path.endsWith('.wasm')).map((f) => {
    const bytes = readFileSync(path.join(root, f.path));
    return [f.path, brotliCompressSync(bytes, { params: {
      [constants.BROTLI_PARAM_QUALITY]: 11,
      [constants.BROTLI_PARAM_LGWIN]: 24,
      [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length,
    } }).length];
  }));
  const page = Object.keys(sizes).filter((p) => p.endsWith('.js') && !p.startsWith('client/')).reduce((sum, p) => sum + sizes[p], 0);
  t.diagnostic(`a page loads ${page} bytes; the module alone, dist/execcast.wasm, is ${sizes['dist/execcast.wasm']}`);
  assert.ok(page <= 850_000, `${page} bytes`);
});

test('the package is complete', () => {
  const { files } = JSON.parse(execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: root, encoding: 'utf8' }))[0];
  const have = files.map((f) => f.path);
  for (const file of ['README.md', 'LICENSE', 'package.json', 'src/index.js', 'src/index.d.ts', 'client/client.js', 'client/client.d.ts', 'dist/code.js', 'dist/execcast.wasm', 'dist/wasm_exec.js', 'dist/LICENSE-go']) {
    assert.ok(have.includes(file), `${file} is missing`);
  }
  assert.deepEqual(have.filter((p) => !/^(src|dist|client\/client)[/.]/.test(p)).sort(), ['LICENSE', 'README.md', 'package.json']);
});

test('the types are those of the code', () => {
  execFileSync(path.join(root, 'node_modules/.bin/tsc'), ['--project', path.join(root, 'test')], { stdio: 'inherit' });
});
