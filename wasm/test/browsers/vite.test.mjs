// The packed package in an empty Vite project, in development and built, without configuration.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { launch, options } from './chromium.mjs';

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

// project makes an empty project that has the package as its users get it, and from here what else it needs.
function project(name, ...modules) {
  const folder = path.join(dir, name);
  mkdirSync(folder);
  writeFileSync(path.join(folder, 'package.json'), '{"type":"module"}');
  execFileSync('npm', ['install', '--offline', '--no-audit', '--no-fund', tarball], { cwd: folder });
  for (const module of modules) {
    const target = path.join(folder, 'node_modules', module);
    mkdirSync(path.dirname(target), { recursive: true });
    symlinkSync(path.join(root, 'node_modules', module), target);
  }
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

// In Node, and in a browser, whose configuration is Vitest's own: it says nothing of this package.
const configs = {
  Node: 'export default {};',
  'browser mode': `import { playwright } from '@vitest/browser-playwright';
export default { test: { browser: { enabled: true, headless: true, screenshotFailures: false, instances: [{ browser: 'chromium' }],
  provider: playwright({ launchOptions: ${JSON.stringify(options())} }) } } };`,
};

for (const [mode, config] of Object.entries(configs)) {
  test(`Vitest, ${mode}: the README's test`, () => {
    const folder = project(mode.replace(' ', '-'), 'vitest', '@vitest/browser-playwright');
    const [, code] = /```js\n([^]*?)```/.exec(readFileSync(path.join(folder, 'node_modules/@execcast/wasm/README.md'), 'utf8'));
    writeFileSync(path.join(folder, 'readme.test.js'), code);
    writeFileSync(path.join(folder, 'vitest.config.js'), config);
    const output = execFileSync(process.execPath, ['node_modules/vitest/vitest.mjs', 'run'],
      { cwd: folder, encoding: 'utf8', env: { ...process.env, NO_COLOR: '1' } });
    console.log(`Vitest, ${mode}: ${/Tests .*/.exec(output)}`);
    assert.match(output, /Tests +1 passed/);
  });
}
