import assert from 'node:assert/strict';
import { test } from 'node:test';
import { reader } from '../page/ansi.js';

// Of a line, each part with its style; parts that are plain are strings.
function parts({ text, runs = [] }) {
  const all = [];
  let at = 0;
  for (const { start, end, style } of runs) {
    if (start > at) all.push(text.slice(at, start));
    all.push([text.slice(start, end), style]);
    at = end;
  }
  if (at < text.length) all.push(text.slice(at));
  return all;
}
const read = (line) => parts(reader()(line));

test('what a terminal shows of a line', () => {
  for (const [line, want] of [
    ['plain', ['plain']],
    ['', []],
    ['\x1b[31mred\x1b[0m plain', [['red', { fg: 1 }], ' plain']],
    ['\x1b[91;44mx\x1b[39my\x1b[49mz', [['x', { fg: 9, bg: 4 }], ['y', { bg: 4 }], 'z']],
    ['\x1b[1;2;3;4;7;9mx\x1b[22;23my\x1b[24;27;29mz', [['x', { bold: true, dim: true, italic: true, underline: true, inverse: true, strike: true }],
      ['y', { underline: true, inverse: true, strike: true }], 'z']],
    ['\x1b[38;5;9ma\x1b[38;5;196mb\x1b[48;5;244mc', [['a', { fg: 9 }], ['b', { fg: [255, 0, 0] }], ['c', { fg: [255, 0, 0], bg: [128, 128, 128] }]]],
    ['\x1b[38;2;1;2;3;1mx', [['x', { fg: [1, 2, 3], bold: true }]]],
    ['\x1b[38:2::1:2:3mx\x1b[38:2:4:5:6my\x1b[38:5:1;4:3mz\x1b[4:0m.', [['x', { fg: [1, 2, 3] }], ['y', { fg: [4, 5, 6] }], ['z', { fg: 1, underline: true }], ['.', { fg: 1 }]]],
    ['\x1b[mx\x1b[31;mx', ['xx']],
    ['\x1b[38;5;256mx\x1b[38;2;1;2mx\x1b[38mx\x1b[38;9mx\x1b[999mx', ['xxxxx']],
    ['10%\r20%\r30%', ['30%']],
    ['\x1b[31m10%\r\x1b[32m20%', [['20%', { fg: 2 }]]],
    ['ends so\r', ['ends so\r']],
    ['\x1b[2K\x1b[1Ga\x1b]0;title\x07b\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\x1bMc\x1b[?25l', ['ablinkc']],
    ['<b>\x1b[1m</b>"', ['<b>', ['</b>"', { bold: true }]]],
  ]) assert.deepEqual(read(line), want, JSON.stringify(line));
});

test('a style lasts to the next lines of its stream', () => {
  const one = reader(), other = reader();
  assert.deepEqual(parts(one('a\x1b[33mb')), ['a', ['b', { fg: 3 }]]);
  assert.deepEqual(parts(other('c')), ['c']);
  assert.deepEqual(parts(one('d')), [['d', { fg: 3 }]]);
  assert.deepEqual(parts(one('\x1b[0me')), ['e']);
  assert.deepEqual(parts(one('f')), ['f']);
});

test('a line of nothing but changes costs no more than its text', () => {
  const { text, runs } = reader()('\x1b[31mx\x1b[32my'.repeat(3000));
  assert.equal(text, 'xy'.repeat(3000));
  assert.equal(runs, undefined);
});
