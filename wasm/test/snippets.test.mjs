// The snippets in JavaScript of all the project's Markdown files. Those in Go and for the shell are tested by examples/guides.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, test } from 'node:test';
import { FakeEventSource, init, Registry } from '@execcast/wasm';

const wasm = path.resolve(import.meta.dirname, '..');
const project = path.resolve(wasm, '..');

function* documents(folder = project) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const file = path.join(folder, entry.name);
    if (entry.isDirectory() && !['.git', 'node_modules', 'dist', 'testdata'].includes(entry.name)) yield* documents(file);
    if (entry.isFile() && entry.name.endsWith('.md')) yield file;
  }
}

const snippets = [...documents()].flatMap((file) => {
  const text = readFileSync(file, 'utf8');
  return [...text.matchAll(/^```js\n([^]*?)^```$/gm)].map(({ 1: code, index }) => ({
    code,
    name: `${path.relative(project, file)}:${text.slice(0, index).split('\n').length + 1}`,
  }));
});

// Inside the package, where its own name can be imported.
const folder = mkdtempSync(path.join(wasm, 'dist/snippets-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const file = (name, extension) => path.join(folder, name.replaceAll(/[^\w]/g, '-') + extension);

for (const { name, code } of snippets) {
  test(`${name} parses`, () => {
    writeFileSync(file(name, '.mjs'), code);
    execFileSync(process.execPath, ['--check', file(name, '.mjs')], { stdio: 'pipe' });
  });
}

test('the tests pass that the documents show', (t) => {
  const tests = snippets.filter(({ code }) => code.includes("from 'vitest'"));
  assert.ok(tests.some(({ name }) => name.startsWith('wasm/README.md:')));
  for (const { name, code } of tests) writeFileSync(file(name, '.test.mjs'), code);
  const report = file('report', '.json');
  const vitest = path.join(wasm, 'node_modules/vitest/vitest.mjs');
  execFileSync(process.execPath, [vitest, 'run', '--root', folder, '--reporter=json', `--outputFile=${report}`], { stdio: 'pipe' });
  const { numPassedTests, numTotalTests } = JSON.parse(readFileSync(report, 'utf8'));
  assert.deepEqual([numPassedTests, numTotalTests], [tests.length, tests.length]);
});

test("the README's page shows events, gaps, and the end", async () => {
  const page = snippets.find(({ name, code }) => name.startsWith('README.md:') && code.includes('new EventSource('));
  await init();
  const registry = new Registry({ maxEvents: 2 });
  const opened = [];
  class Source extends FakeEventSource.for(registry, { executionId: ({ pathname }) => pathname.split('/').at(-2) }) {
    constructor(url) {
      super(url);
      opened.push(this);
    }
  }
  for (let done = 0; done < 3; done++) registry.publish('job', { event: 'progress', data: { done } });
  const seen = [];
  Function('EventSource', 'id', 'show', 'note', page.code)(Source, 'job', (data) => seen.push(data), () => seen.push('gap'));
  const [source] = opened;
  await new Promise((resolve) => {
    source.addEventListener('stream-end', resolve);
    registry.close('job');
  });
  assert.deepEqual(seen, ['gap', { done: 1 }, { done: 2 }]);
  assert.equal(source.readyState, source.CLOSED);
});
