// What a terminal would show of a command's output, as text and the styles of its parts.

const maxRuns = 200; // of one line: beyond it the line is shown plain
const sequence = /\x1b(?:\[([0-?]*)[ -/]*([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g;
const flags = { 1: 'bold', 2: 'dim', 3: 'italic', 4: 'underline', 7: 'inverse', 9: 'strike', 21: 'underline' };
const ends = { 22: ['bold', 'dim'], 23: ['italic'], 24: ['underline'], 27: ['inverse'], 29: ['strike'], 39: ['fg'], 49: ['bg'] };

// sixteen are the colours a terminal chooses.
export const sixteen = [
  [26, 32, 48], [190, 40, 58], [22, 125, 84], [178, 120, 10], [58, 78, 205], [140, 60, 175], [14, 120, 140], [205, 211, 222],
  [100, 110, 128], [240, 92, 108], [70, 205, 150], [245, 205, 90], [125, 145, 255], [214, 140, 245], [90, 205, 225], [255, 255, 255],
];

// reader returns a function that reads a stream's lines, one after the other, since a style lasts until another one is set. It
// returns { text, runs }: runs, if there are any, are { start, end, style } in the order of the text; what lies between them is
// plain. A style is { fg, bg, bold, dim, italic, underline, inverse, strike }: a colour is a number, 0 to 15, which the terminal
// chooses, or [red, green, blue].
export function reader() {
  let style;
  return (line) => {
    if (!style && !/[\x1b\r]/.test(line)) return { text: line };
    let text = '', runs = [], at = 0;
    const add = (part) => {
      const overwritten = part.slice(0, -1).lastIndexOf('\r') + 1; // a carriage return at the end has overwritten nothing yet
      if (overwritten || (text.endsWith('\r') && part)) [text, runs] = ['', []];
      part = part.slice(overwritten);
      if (style && part) runs.push({ start: text.length, end: text.length + part.length, style });
      text += part;
    };
    for (const { index, 0: { length }, 1: parameters, 2: command } of line.matchAll(sequence)) {
      add(line.slice(at, index));
      at = index + length;
      if (command === 'm' && /^[\d;:]*$/.test(parameters)) style = select(style, parameters);
    }
    add(line.slice(at));
    return runs.length && runs.length <= maxRuns ? { text, runs } : { text };
  };
}

// select applies "select graphic rendition" (ECMA-48, section 8.3.117, and what terminals have agreed on for colours).
function select(style, parameters) {
  const next = { ...style };
  const codes = parameters.split(';');
  while (codes.length) {
    const [code, ...rest] = codes.shift().split(':').map(Number);
    if (code === 0) {
      for (const name in next) delete next[name];
    } else if (code === 4 && rest[0] === 0) {
      delete next.underline;
    } else if (flags[code]) {
      next[flags[code]] = true;
    } else if (ends[code]) {
      for (const name of ends[code]) delete next[name];
    } else if (code === 38 || code === 48) {
      const colour = rest.length ? extended(rest, true) : extended(codes);
      if (colour !== undefined) next[code === 38 ? 'fg' : 'bg'] = colour;
    } else if (code >= 30 && code <= 37) {
      next.fg = code - 30;
    } else if (code >= 40 && code <= 47) {
      next.bg = code - 40;
    } else if (code >= 90 && code <= 97) {
      next.fg = code - 82;
    } else if (code >= 100 && code <= 107) {
      next.bg = code - 92;
    }
  }
  return Object.keys(next).length ? next : undefined;
}

// extended takes a colour from the front of values: 5, index, or 2, red, green, blue. Between colons the latter has the number
// of a colour space before them, or should have.
function extended(values, colons) {
  const kind = Number(values.shift());
  if (kind === 5) return indexed(Number(values.shift()));
  if (kind !== 2) return undefined;
  if (colons && values.length > 3) values.shift();
  const rgb = values.splice(0, 3).map(Number);
  return rgb.length === 3 && rgb.every(isByte) ? rgb : undefined;
}

function indexed(n) {
  if (!isByte(n)) return undefined;
  if (n < 16) return n;
  if (n >= 232) return Array(3).fill(8 + 10 * (n - 232));
  return [36, 6, 1].map((step) => Math.floor((n - 16) / step) % 6).map((level) => level && 55 + 40 * level);
}

function isByte(n) {
  return Number.isInteger(n) && n >= 0 && n <= 255;
}
