// Compares what encode makes of a corpus (see internal/corpus) with what the same code, natively compiled, has made of it.
// Runs in Node and in browsers.
export function comparison(encode) {
  const counts = {};
  const result = { frames: 0, refused: 0, differences: 0, counts, first: undefined };
  return {
    result,
    add(line) {
      const { class: name, frame, bytes, field, reason } = JSON.parse(line);
      const key = `${name}: ${field ? `refused ${field}` : 'encoded'}`;
      counts[key] = (counts[key] ?? 0) + 1;
      result.frames++;
      let got;
      try {
        got = base64(encode(frame));
      } catch (err) {
        got = `${err.name}: ${err.field} ${err.reason}`;
      }
      if (field) result.refused++;
      const want = field ? `FrameError: ${field} ${reason}` : bytes;
      if (got !== want) {
        result.differences++;
        result.first ??= { frame: JSON.stringify(frame), got, want };
      }
    },
  };
}

function base64(bytes) {
  if (typeof Buffer === 'function') return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('base64');
  let s = '';
  for (const b of bytes) s += String.fromCharCode(b);
  return btoa(s);
}

// What a corpus must contain to be worth the name.
export const classes = ['byte order mark: encoded', 'empty fields: encoded', 'field names in data: encoded', 'large: encoded',
  'line break in comment: encoded', 'line break in data: encoded', 'line break in event: refused event',
  'line break in id: refused id', 'line break in traceparent: refused traceparent', 'lone surrogate: refused comment', 'lone surrogate: refused data',
  'lone surrogate: refused event', 'lone surrogate: refused id', 'NUL: refused event', 'NUL: refused id',
  'outer space: refused event', 'outer space: refused id', 'plain: encoded', 'retry: encoded', 'retry: refused retry'];

export function report(where, { frames, refused, differences, counts }) {
  const lines = Object.keys(counts).sort().map((key) => `  ${String(counts[key]).padStart(8)} ${key}`);
  return `${where}: ${frames} frames, ${refused} of them refused, ${differences} differences\n${lines.join('\n')}`;
}
