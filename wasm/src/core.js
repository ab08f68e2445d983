// The one running instance of the core: starting it, calling it, its memory.
import { Go } from '../dist/wasm_exec.js';
import { code } from '../dist/code.js';
import { installClock } from './clock.js';
import { ExeccastError } from './errors.js';

let starting; // the promise of init
let exports; // of the instance, once it runs
let clock;
let stopped; // why it no longer runs
let depth = 0; // calls into Go on the stack
let again = false; // Go has to run once more before the outermost of them returns
let bytes = new Uint8Array(0); // the instance's memory, as long as it has not grown
let words;
let resultAt; // index in words: where the last call has put its result, and how long it is

// What Go imports; see registry.go. Set by registry.js.
export const callbacks = { write: () => 1, end() {}, done() {}, hook: () => 0, log() {} };

// Calls whose promises the program waits for keep a Node process alive.
export const waiting = new Set();

// init starts the core. It may be called any number of times; all calls return the same promise, unless it has failed.
export function init(options = {}) {
  starting ??= start(options).catch((err) => {
    starting = exports = stopped = undefined;
    throw err;
  });
  return starting;
}

export function isReady() {
  return exports !== undefined && stopped === undefined;
}

async function start({ wasm } = {}) {
  if (typeof WebAssembly !== 'object') throw new ExeccastError('ErrLoad', 'execcast: this environment has no WebAssembly');
  const go = new Go();
  let view = new DataView(new ArrayBuffer(0));
  const gojs = { ...go.importObject.gojs };
  const memoryView = () => (view.buffer === exports.mem.buffer ? view : (view = new DataView(exports.mem.buffer)));
  const newClock = installClock(gojs, memoryView, fired, () => waiting.size > 0);
  const instance = await instantiate(await compile(wasm ?? code()), { ...go.importObject, gojs, execcast: {
    write: (...args) => callbacks.write(...args),
    end: (...args) => callbacks.end(...args),
    done: (...args) => callbacks.done(...args),
    hook: (...args) => callbacks.hook(...args),
    log: (...args) => callbacks.log(...args),
  } });
  if (typeof instance.exports.output !== 'function') throw new ExeccastError('ErrLoad', 'execcast: the module is not this package\'s');
  exports = instance.exports;
  bytes = new Uint8Array(0);
  clock = newClock;
  go.exit = (status) => stop(new Error(`exit status ${status}`));
  go.run(instance); // until main waits; what it returns is settled when the program exits
  if (stopped) throw failure();
  resultAt = exports.output() >>> 2;
}

async function compile(source) {
  source = await source;
  try {
    if (source instanceof WebAssembly.Module) return source;
    if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) return await WebAssembly.compile(source);
  } catch (err) {
    throw loadError(err);
  }
  if (typeof source === 'string' || source instanceof URL) {
    const url = String(source);
    try {
      source = await fetch(url);
    } catch (err) {
      throw new ExeccastError('ErrLoad', `execcast: cannot fetch ${url}: ${err.message}`, { cause: err });
    }
  }
  if (typeof Response !== 'function' || !(source instanceof Response)) {
    throw new TypeError('execcast: the option wasm is a URL, a Response, bytes or a WebAssembly.Module');
  }
  return compileResponse(source);
}

async function compileResponse(response) {
  const where = response.url || 'the response';
  const type = (response.headers.get('Content-Type') ?? '').split(';')[0].trim().toLowerCase();
  if (!response.ok) throw new ExeccastError('ErrLoad', `execcast: ${where} answered ${response.status} instead of the module`);
  const body = new Uint8Array(await response.arrayBuffer());
  if (!(body[0] === 0 && body[1] === 0x61 && body[2] === 0x73 && body[3] === 0x6d)) {
    const html = type === 'text/html' || new TextDecoder().decode(body.subarray(0, 512)).trimStart().startsWith('<');
    throw new ExeccastError('ErrLoad', html
      ? `execcast: ${where} is an HTML page, not the module: the server has no such file and answers with its index page`
      : `execcast: ${where} is not a WebAssembly module`);
  }
  if (type !== 'application/wasm') {
    throw new ExeccastError('ErrLoad', `execcast: ${where} has the MIME type "${type}", it must be application/wasm`);
  }
  try {
    return await WebAssembly.compile(body);
  } catch (err) {
    throw loadError(err);
  }
}

async function instantiate(module, imports) {
  try {
    return await WebAssembly.instantiate(module, imports);
  } catch (err) {
    throw loadError(err);
  }
}

function loadError(err) {
  if (/unsafe-eval|Content Security Policy|\bCSP\b|call to WebAssembly/i.test(err.message)) {
    return new ExeccastError('ErrLoad',
      `execcast: the page's Content-Security-Policy forbids WebAssembly: add 'wasm-unsafe-eval' to its script-src`, { cause: err });
  }
  if (err instanceof WebAssembly.LinkError) {
    return new ExeccastError('ErrLoad', `execcast: the module is of another version than this package: ${err.message}`, { cause: err });
  }
  return new ExeccastError('ErrLoad', `execcast: cannot compile the module: ${err.message}`, { cause: err });
}

function stop(err) {
  stopped ??= err;
}

function failure() {
  return new ExeccastError('ErrStopped', `execcast: the core has stopped (${stopped.message}); its console output says why`,
    { cause: stopped });
}

// running returns the instance's exports.
function running() {
  if (stopped) throw failure();
  if (!exports) throw new ExeccastError('ErrNotReady', 'execcast: not ready: await init() first');
  return exports;
}

// call has f call an exported function that wakes nobody.
export function call(f) {
  const core = running();
  let n;
  try {
    n = f(core);
  } catch (err) {
    throw crashed(err);
  }
  if (stopped) throw failure();
  return n;
}

// enter is call for all others: it then lets Go run until all of it waits.
export function enter(f) {
  const core = running();
  const outermost = depth++ === 0;
  if (outermost) clock.hold();
  let n;
  try {
    n = f(core);
    if (outermost) drain();
  } catch (err) {
    throw crashed(err);
  } finally {
    depth--;
    if (outermost) clock.release();
  }
  if (stopped) throw failure();
  return n;
}

function drain() {
  do {
    again = false;
    exports.resume();
  } while (again && !stopped);
}

function fired() {
  if (stopped) return;
  if (depth > 0) again = true;
  else enter(() => {});
}

function crashed(err) {
  if (err instanceof ExeccastError) return err;
  stop(err);
  return failure();
}

// notBefore calls f while Go's wall clock shows at least that many microseconds.
export const notBefore = (microseconds, f) => clock.notBefore(microseconds, f);

function memory() {
  if (bytes.length === 0) { // it has grown, which detaches the array
    bytes = new Uint8Array(exports.mem.buffer);
    words = new Uint32Array(exports.mem.buffer);
  }
  return bytes;
}

// copy returns bytes of the instance's memory.
export const copy = (at, length) => memory().slice(at >>> 0, (at >>> 0) + length);

// result returns a copy of what the last call has given.
export function result() {
  const mem = memory();
  const at = words[resultAt];
  return mem.slice(at, at + words[resultAt + 1]);
}

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
export const text = (p) => decoder.decode(p);

// What core could not take without a good chance of running out of memory, strings counted as their longest encoding.
export const maxBytes = 256 << 20;

let inAt = 0;
let inSize = 0;
const keep = 1 << 20;

// input makes room for what the next call takes, at most size bytes, and returns where it goes.
function input(size) {
  if (size > inSize || inSize > keep) {
    inAt = call((core) => core.input(size)) >>> 0;
    inSize = Math.max(size, 4096);
  }
  return inAt;
}

// put writes strings and byte arrays one behind the other for the next call, and their lengths into lengths.
export const lengths = new Uint32Array(5);
export function put(a, b = '', c = '', d = '', e = '') {
  const size = room(a) + room(b) + room(c) + room(d) + room(e);
  if (size > maxBytes) throw new RangeError(`execcast: ${size} bytes are more than one call can take`);
  let at = input(size);
  const mem = memory();
  at += lengths[0] = putValue(mem, at, a);
  at += lengths[1] = putValue(mem, at, b);
  at += lengths[2] = putValue(mem, at, c);
  at += lengths[3] = putValue(mem, at, d);
  lengths[4] = putValue(mem, at, e);
}

const room = (v) => (typeof v === 'string' ? 3 * v.length : v.length);

function putValue(mem, at, v) {
  if (typeof v === 'string') return putString(mem, at, v);
  mem.set(v, at);
  return v.length;
}

// putString writes s as UTF-8, but for lone surrogates, which become what they would be in UTF-8 if it had them (and
// TextEncoder would make U+FFFD of): core shall see that they are wrong, and refuse them. It returns the length.
function putString(mem, at, s) {
  const n = s.length;
  if (n < 64) {
    let i = 0;
    for (; i < n; i++) {
      const c = s.charCodeAt(i);
      if (c > 127) break;
      mem[at + i] = c;
    }
    if (i === n) return n;
  }
  if (wellFormed(s)) return encoder.encodeInto(s, mem.subarray(at, at + 3 * n)).written;
  const start = at;
  for (const char of s) {
    const c = char.codePointAt(0);
    if (c >= 0xd800 && c <= 0xdfff) {
      mem[at++] = 0xe0 | (c >> 12);
      mem[at++] = 0x80 | ((c >> 6) & 63);
      mem[at++] = 0x80 | (c & 63);
    } else {
      at += encoder.encodeInto(char, mem.subarray(at, at + 4)).written;
    }
  }
  return at - start;
}

const wellFormed = typeof String.prototype.isWellFormed === 'function'
  ? (s) => s.isWellFormed()
  : (s) => !/\p{Surrogate}/u.test(s);
