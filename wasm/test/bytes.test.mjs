// The wasm build encodes and refuses as the native one does. FRAMES is how many frames are compared.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import path from 'node:path';
import readline from 'node:readline';
import { before, test } from 'node:test';
import { encode, init } from '@execcast/wasm';
import { classes, comparison, report } from './compare.mjs';

const frames = Number(process.env.FRAMES ?? 20_000);

before(() => init());

test(`${frames} frames: same bytes, same refusals`, async () => {
  const corpus = spawn('go', ['run', './internal/corpus', '-n', String(frames), '-seed', String(Date.now())],
    { cwd: path.dirname(import.meta.dirname), stdio: ['ignore', 'pipe', 'inherit'] });
  const { add, result } = comparison(encode);
  for await (const line of readline.createInterface({ input: corpus.stdout })) add(line);
  console.log(report(`Node ${process.version}`, result));
  assert.equal(result.frames, frames);
  assert.equal(result.differences, 0, JSON.stringify(result.first));
  for (const name of classes) assert.ok(result.counts[name] > 0, `no frame of the class ${name}`);
});
