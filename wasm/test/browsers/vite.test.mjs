// The packed package in an empty Vite project, in development and built, without configuration.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { launch } from './chromium.mjs';

const root = path.resolve(import.meta.dirname, '../..');
const main = `import { encodeText, init } from '@execcast/wasm';
init().then(() => document.title = encodeText({ data: 'it works' }), (err) => document.title = err);
`;

let dir, tarball, browser;

before(async () => {
  dir = mkdtempSync(path.join(tmpdir(), 'execcast-'));
  const [{ filename }] = JSON.parse(execFileSync('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', dir], { cwd: root, encoding: 'utf8' }));
  tarball = path.join(dir, filename);
  browser = await launch();
});

after(async () => {
  await browser?.close();
  rmSync(dir, { recursive: true, force: true });
});

function project(name) {
  const folder = path.join(dir, name);
  const target = path.join(folder, 'node_modules/@execcast/wasm');
  mkdirSync(target, { recursive: true });
  execFileSync('tar', ['-xzf', tarball, '--strip-components=1', '-C', target]);
  writeFileSync(path.join(folder, 'package.json'), '{"type":"module","dependencies":{"@execcast/wasm":"*"}}');
  writeFileSync(path.join(folder, 'index.html'), '<!doctype html><title></title><script type="module" src="/main.js"></script>');
  writeFileSync(path.join(folder, 'main.js'), main);
  return folder;
}

async function works(server) {
  const page = await browser.newPage();
  try {
    await page.goto(server.resolvedUrls.local[0]);
    await page.waitForFunction(() => document.title, undefined, { timeout: 30_000 });
    assert.equal(await page.title(), 'data: it works');
  } finally {
    await page.close();
  }
}

for (const name of ['vite7', 'vite8']) {
  test(`${name}: development and build`, async () => {
    const vite = await import(name);
    const options = { root: project(name), configFile: false, logLevel: 'error', server: { port: 0, host: 'localhost' }, preview: { port: 0, host: 'localhost' } };
    const dev = await vite.createServer(options);
    try {
      await dev.listen();
      await works(dev);
    } finally {
      await dev.close();
    }
    await vite.build(options);
    const preview = await vite.preview(options);
    try {
      await works(preview);
    } finally {
      await preview.close();
    }
    console.log(`Vite ${vite.version}: development and build work`);
  });
}

test('Node: the packed package', () => {
  const folder = project('node');
  writeFileSync(path.join(folder, 'main.mjs'), `import { encodeText, init } from '@execcast/wasm'; await init(); console.log(encodeText({ data: 'it works' }).trim());`);
  assert.equal(execFileSync(process.execPath, ['main.mjs'], { cwd: folder, encoding: 'utf8' }), 'data: it works\n');
});

test("Vitest: the README's test", () => {
  const folder = project('vitest');
  symlinkSync(path.join(root, 'node_modules/vitest'), path.join(folder, 'node_modules/vitest'));
  const [, code] = /```js\n([^]*?)```/.exec(readFileSync(path.join(folder, 'node_modules/@execcast/wasm/README.md'), 'utf8'));
  writeFileSync(path.join(folder, 'readme.test.js'), code);
  const output = execFileSync(process.execPath, [path.join(root, 'node_modules/vitest/vitest.mjs'), 'run'], { cwd: folder, encoding: 'utf8' });
  assert.match(output, /1 passed/);
});
