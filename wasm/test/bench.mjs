// Encoding to bytes: this package against npm's eventsource-encoder and a TextEncoder, in turn, in one run. Prints medians.
import { encode, init } from '@execcast/wasm';
import { encode as peer } from 'eventsource-encoder';

const rounds = 15;
const frames = {
  '30 B': { id: '1', event: 'tick', data: '{"a":1}' },
  '4 KB': { id: '17', event: 'log', data: JSON.stringify({ text: 'x'.repeat(4000) }) },
  '4 KB, 200 lines': { id: '17', event: 'log', data: 'some text of a line\n'.repeat(200) },
};
const encoder = new TextEncoder();
const contestants = {
  '@execcast/wasm': encode,
  'eventsource-encoder + TextEncoder': (frame) => encoder.encode(peer(frame)),
};

await init();
let bytes = 0;
const results = {};
for (const [size, frame] of Object.entries(frames)) {
  const times = Object.fromEntries(Object.keys(contestants).map((name) => [name, []]));
  const n = size === '30 B' ? 30_000 : 6_000;
  for (let round = 0; round < rounds; round++) {
    for (const [name, f] of Object.entries(contestants)) {
      const start = performance.now();
      for (let i = 0; i < n; i++) bytes += f(frame).length;
      times[name].push(((performance.now() - start) / n) * 1e6);
    }
  }
  const median = (name) => times[name].sort((a, b) => a - b)[rounds >> 1];
  const [ours, theirs] = Object.keys(contestants).map(median);
  results[size] = { 'ours, ns': Math.round(ours), 'peer, ns': Math.round(theirs), 'ours ÷ peer': Number((ours / theirs).toFixed(2)) };
}
console.log(`Node ${process.version}, ${bytes} bytes`);
console.table(results);
