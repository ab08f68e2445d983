import { call, isReady, lengths, maxBytes, put, result, text } from './core.js';
import { ExeccastError, FrameError } from './errors.js';

// Bits of a frame's flags; see frame.go.
const hasID = 1, hasData = 2, hasRetry = 4, hasType = 8, hasComment = 16, hasTraceparent = 32, hasError = 128;

// encode returns a frame as text/event-stream.
export function encode(frame) {
  if (frame === null || typeof frame !== 'object') throw new TypeError('execcast: a frame is an object');
  const { data, retry } = frame;
  const id = optional('id', frame.id);
  const event = optional('event', frame.event);
  const comment = optional('comment', frame.comment);
  const traceparent = optional('traceparent', frame.traceparent);
  let flags = 0;
  let content = '';
  if (frame.id !== undefined) flags |= hasID;
  if (data !== undefined) {
    flags |= hasData;
    content = toText(data);
    if (content.length > maxLength) throw new FrameError('data', 'is too large');
  }
  if (retry !== undefined) {
    flags |= hasRetry;
    if (typeof retry !== 'number' || !Number.isFinite(retry)) throw new FrameError('retry', 'is not a finite number');
    if (retry > Number.MAX_SAFE_INTEGER / 1000) throw new FrameError('retry', 'is too large');
  }
  put(id, event, comment, traceparent, content);
  const n = call((core) => core.encode(flags, lengths[0], lengths[1], lengths[2], lengths[3], lengths[4],
    flags & hasRetry ? retry : 0));
  const p = result();
  if (n < 0) throw new FrameError(...text(p).split('\0'));
  return p;
}

// Strings longer than this are refused, so that all five together fit.
const maxLength = maxBytes / 16;

function optional(field, value) {
  if (value === undefined) return '';
  if (typeof value !== 'string') throw new FrameError(field, 'is not a string');
  if (value.length > maxLength) throw new FrameError(field, 'is too large');
  return value;
}

// encodeText is encode for those who need a string.
export function encodeText(frame) {
  return text(encode(frame));
}

// toText returns data as a frame carries it: strings as they are, everything else as JSON.
export function toText(data) {
  if (typeof data === 'string') return data;
  let json;
  try {
    json = JSON.stringify(data);
  } catch (err) {
    throw new FrameError('data', `is not JSON: ${err.message}`, { cause: err });
  }
  if (json === undefined) throw new FrameError('data', `is not JSON: ${typeof data}`);
  return json;
}

const chunk = 64 << 10;

// decode yields the frames of an event stream, as core reads it: those with data are events. source is bytes, or a stream or
// an iterable of bytes. It ends with the stream, or throws what the stream threw.
export async function* decode(source, { maxFrameBytes = 0 } = {}) {
  if (!Number.isInteger(maxFrameBytes) || maxFrameBytes < 0) throw new TypeError('execcast: maxFrameBytes is a whole number');
  const chunks = chunksOf(source);
  const decoder = call((core) => core.decoderNew(maxFrameBytes));
  let ended = false;
  function* feed(bytes, end) {
    put(bytes);
    ended = call((core) => core.decoderFeed(decoder, lengths[0], end)) === 1;
    yield* readFrames(result());
  }
  try {
    for await (const bytes of chunks) {
      const all = toBytes(bytes);
      for (let at = 0; at < all.length && !ended; at += chunk) yield* feed(all.subarray(at, at + chunk), 0);
    }
    if (!ended) yield* feed(new Uint8Array(0), 1);
  } finally {
    if (!ended && isReady()) call((core) => core.decoderFree(decoder));
  }
}

function chunksOf(source) {
  if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) return [source];
  if (source && typeof source === 'object') {
    if (typeof source.getReader === 'function') return readAll(source);
    if (typeof source[Symbol.asyncIterator] === 'function' || typeof source[Symbol.iterator] === 'function') return source;
  }
  throw new TypeError('execcast: decode takes bytes, or a stream or an iterable of bytes');
}

// readAll is for browsers whose streams are not iterable, and for streams that were cloned, as MSW clones them: an iterator that
// is left waits until the clone is cancelled, too.
async function* readAll(stream) {
  const reader = stream.getReader();
  let done = false;
  try {
    for (;;) {
      const next = await reader.read();
      done = next.done;
      if (done) return;
      yield next.value;
    }
  } finally {
    if (!done) reader.cancel().catch(() => {});
    reader.releaseLock();
  }
}

function toBytes(bytes) {
  if (bytes instanceof ArrayBuffer) return new Uint8Array(bytes);
  if (ArrayBuffer.isView(bytes)) return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  throw new TypeError('execcast: decode takes bytes, or a stream or an iterable of bytes');
}

function* readFrames(bytes) {
  const view = new DataView(bytes.buffer);
  let at = 0;
  const take = (length) => {
    at += length;
    return text(bytes.subarray(at - length, at));
  };
  while (at < bytes.length) {
    const flags = view.getUint32(at, true);
    const [id, event, comment, traceparent, data] = [4, 8, 12, 16, 20].map((offset) => view.getUint32(at + offset, true));
    const retry = view.getFloat64(at + 24, true);
    at += 32;
    const frame = {};
    if (flags & hasID) frame.id = take(id);
    if (flags & hasType) frame.event = take(event);
    const note = take(comment);
    if (flags & hasError) throw new ExeccastError('ErrFrameTooLarge', note);
    if (flags & hasTraceparent) frame.traceparent = take(traceparent);
    if (flags & hasData) frame.data = take(data);
    if (flags & hasRetry) frame.retry = retry;
    if (flags & hasComment) frame.comment = note;
    yield frame;
  }
}
