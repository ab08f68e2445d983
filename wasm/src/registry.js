import { call, callbacks, copy, enter, lengths, notBefore, put, result, text, waiting } from './core.js';
import { DrainError, ExeccastError } from './errors.js';
import { toText } from './frame.js';

// Names in the order in which registry.go reads and writes their values.
const optionNames = ['maxEventBytes', 'maxEvents', 'maxBytes', 'maxTotalBytes', 'maxExecutions', 'maxClients',
  'maxExecutionClients', 'retention', 'idle', 'heartbeat', 'maxAge', 'shutdownSpread', 'heartbeatEvents', 'awaitUnknown', 'lag', 'hooks'];
const hookNames = ['firstViewer', 'lastViewer', 'published', 'registered', 'left', 'delivered', 'gap', 'slow', 'finished'];
const statNames = ['executions', 'clients', 'bytes', 'published', 'delivered', 'deliveredBytes', 'gaps', 'slow', 'evicted', 'panics',
  'tooLarge', 'tooManyExecutions', 'tooManyClients', 'tooManyExecutionClients'];
const lagPolicies = ['gap', 'disconnect'];

// What write answers; see registry.go.
const written = 0, failed = 1, pending = 2;

const clients = new Map(); // handle -> Client, until its end
const calls = new Map(); // handle -> {resolve, reject}
let lastID = 0; // the highest that any registry has given
const registries = new Map(); // handle -> WeakRef of the Registry that has it
const unused = new FinalizationRegistry(free);

function free(handle) {
  registries.delete(handle);
  call((core) => core.registryFree(handle));
}

// Registry is core.Registry. Durations are milliseconds; options are core.Options in lower case, zero meaning the default.
export class Registry {
  #handle;
  #options;
  #hooks;
  #logger;
  #thrown; // by a hook that core is about to log

  constructor(options = {}) {
    this.#options = checkOptions(options);
    this.#hooks = options.hooks;
    this.#logger = options.logger;
    this.#start();
  }

  #start() {
    put(new Uint8Array(Float64Array.from(this.#options).buffer));
    // IDs begin with the clock, which fake timers stop: a registry made after another must not repeat its IDs.
    this.#handle = notBefore(lastID + 1, () => call((core) => core.registryNew()));
    registries.set(this.#handle, new WeakRef(this));
    unused.register(this, this.#handle, this);
  }

  // publish appends an event {event, data, key, traceparent} and returns its ID. Data that is not a string becomes JSON.
  publish(executionID, event = {}) {
    if (event === null || typeof event !== 'object') throw new TypeError('execcast: an event is an object');
    if (event.id !== undefined) throw new ExeccastError('ErrEventID', 'execcast: event already has an ID');
    const data = event.data === undefined ? '' : toText(event.data);
    put(string('execution ID', executionID), string('event', event.event ?? ''), string('key', event.key ?? ''),
      string('traceparent', event.traceparent ?? ''), data);
    const id = enter((core) => accepted(core.publish(this.#handle, lengths[0], lengths[1], lengths[2], lengths[3], lengths[4])));
    lastID = Math.max(lastID, id);
    return String(id);
  }

  // register adds a client: an object with write(bytes) and, if it likes, end(reason).
  register(executionID, writer, { lastEventId = '', heartbeat = 0, writeTimeout = 10_000 } = {}) {
    if (writer === null || typeof writer !== 'object' || typeof writer.write !== 'function') {
      throw new TypeError('execcast: a writer is an object with a method write');
    }
    number('heartbeat', heartbeat);
    number('writeTimeout', writeTimeout);
    put(string('execution ID', executionID), string('lastEventId', lastEventId));
    const handle = enter((core) => accepted(core.register(this.#handle, lengths[0], lengths[1], heartbeat, writeTimeout || 10_000)));
    const client = new Client(token, handle, this, executionID, writer);
    clients.set(handle, client);
    enter((core) => core.start(handle));
    return client;
  }

  // unregister ends the client that has this writer. It reports whether there was one.
  unregister(executionID, writer) {
    for (const client of this.#clients(executionID)) {
      if (client.writer === writer) {
        client.unregister();
        return true;
      }
    }
    return false;
  }

  clientCount(executionID) {
    put(string('execution ID', executionID));
    return call((core) => core.clientCount(this.#handle, lengths[0]));
  }

  // close finishes an execution. The promise is fulfilled when every client has been written everything; a signal cuts off
  // those that have not, and rejects it with a DrainError.
  async close(executionID, { signal } = {}) {
    put(string('execution ID', executionID));
    return later(signal, (core) => core.closeExecution(this.#handle, lengths[0]));
  }

  // forget drops an execution with its events and ends its clients.
  forget(executionID) {
    put(string('execution ID', executionID));
    enter((core) => core.forget(this.#handle, lengths[0]));
  }

  // shutdown ends all clients so that they may resume elsewhere.
  async shutdown({ signal } = {}) {
    return later(signal, (core) => core.shutdown(this.#handle));
  }

  stats() {
    call((core) => core.stats(this.#handle));
    const values = new Float64Array(result().buffer);
    return Object.fromEntries(statNames.map((name, i) => [name, values[i]]));
  }

  // disconnect breaks the connections of an execution's viewers, or of all, as a network does: they may come back.
  disconnect(executionID) {
    for (const client of this.#clients(executionID)) client.unregister();
  }

  // restart is what viewers see when the server's process dies and starts again: connections break, and events, executions
  // and what was finished are gone. IDs go on rising.
  restart() {
    this.disconnect();
    const handle = this.#handle;
    unused.unregister(this);
    const shutdown = enter((core) => core.shutdown(handle));
    enter((core) => core.cancel(shutdown));
    free(handle);
    this.#start();
  }

  // #hook calls a hook. One that throws is core's to count and log.
  #hook(name, args) {
    const rejected = (err) => this.#log('error', 'execcast: hook rejected', { hook: name, panic: err });
    try {
      const answer = this.#hooks[name](...args);
      if (typeof answer?.then === 'function') Promise.resolve(answer).catch(rejected);
      return 0;
    } catch (err) {
      this.#thrown = { hook: name, panic: err };
      return 1;
    }
  }

  #log(level, message, attrs) {
    try {
      (this.#logger ?? globalThis.console)[level]?.(message, attrs);
    } catch {
      // There is nobody left to tell.
    }
  }

  static {
    callbacks.hook = (handle, number, at, length, executionID, x, y) => {
      const registry = registries.get(handle)?.deref();
      if (!registry) return 0;
      const bytes = copy(at, length);
      const name = hookNames[number];
      return registry.#hook(name, [text(bytes.subarray(0, executionID)), ...hookArgs(name, bytes.subarray(executionID), x, y)]);
    };
    callbacks.log = (handle, level, at, length) => {
      const registry = registries.get(handle)?.deref();
      if (!registry) return;
      const [message, ...pairs] = strings(copy(at, length));
      const attrs = {};
      for (let i = 0; i < pairs.length; i += 2) {
        const value = pairs[i + 1].slice(1);
        attrs[pairs[i]] = pairs[i + 1][0] === 'n' ? Number(value) : value;
      }
      if (registry.#thrown) {
        Object.assign(attrs, registry.#thrown);
        delete attrs.stack; // Go's
        registry.#thrown = undefined;
      }
      registry.#log(level >= 8 ? 'error' : level >= 4 ? 'warn' : 'info', message, attrs);
    };
  }

  #clients(executionID) {
    return [...clients.values()].filter((c) => c.registry === this && (executionID === undefined || c.executionID === executionID));
  }
}

// hookArgs reads what observe.go tells a hook besides the execution ID.
function hookArgs(name, bytes, x, y) {
  switch (name) {
    case 'published': {
      const afterType = bytes.indexOf(0);
      const afterTrace = bytes.indexOf(0, afterType + 1);
      const event = { id: String(x), data: text(bytes.subarray(afterTrace + 1 + y)) };
      if (afterType > 0) event.event = text(bytes.subarray(0, afterType));
      if (afterTrace > afterType + 1) event.traceparent = text(bytes.subarray(afterType + 1, afterTrace));
      if (y > 0) event.key = text(bytes.subarray(afterTrace + 1, afterTrace + 1 + y));
      return [event];
    }
    case 'left':
      return [describe(bytes)];
    case 'delivered':
      return [x, y];
    default:
      return [];
  }
}

// strings reads strings that come each after its length.
function strings(bytes) {
  const view = new DataView(bytes.buffer);
  const all = [];
  for (let at = 0; at < bytes.length;) {
    const length = view.getUint32(at, true);
    all.push(text(bytes.subarray(at + 4, at + 4 + length)));
    at += 4 + length;
  }
  return all;
}

const token = Symbol();

// Client is one registered writer.
class Client {
  #handle;
  #resolve;
  #isStream;
  error; // what the writer threw

  constructor(t, handle, registry, executionID, writer) {
    if (t !== token) throw new TypeError('execcast: clients come from Registry.register');
    this.#handle = handle;
    this.registry = registry;
    this.executionID = executionID;
    this.writer = writer;
    this.ended = new Promise((resolve) => (this.#resolve = resolve));
    this.#isStream = typeof writer.once === 'function' && typeof writer.end === 'function';
    if (this.#isStream) {
      writer.once('error', (err) => this.#fail(err));
      writer.once('close', () => this.unregister());
    }
  }

  unregister() {
    if (clients.get(this.#handle) === this) enter((core) => core.unregister(this.#handle));
  }

  #fail(err) {
    this.error ??= err;
    this.unregister();
  }

  #settle(ok) {
    if (clients.get(this.#handle) === this) enter((core) => core.settle(this.#handle, ok));
  }

  _write(bytes) {
    try {
      if (this.#isStream && (this.writer.destroyed || this.writer.writableEnded)) return failed;
      const answer = this.writer.write(bytes);
      if (typeof answer?.then === 'function') {
        Promise.resolve(answer).then(() => this.#settle(1), (err) => {
          this.error = err;
          this.#settle(0);
        });
        return pending;
      }
      if (answer === false && this.#isStream) {
        this.writer.once('drain', () => this.#settle(1));
        return pending;
      }
      return written;
    } catch (err) {
      this.error = err;
      return failed;
    }
  }

  _end(reason) {
    clients.delete(this.#handle);
    if (reason?.code === 'ErrWrite' && this.error) reason = this.error;
    try {
      // A Node stream would take the reason for a last chunk.
      const answer = this.#isStream ? endStream(this.writer, reason) : this.writer.end?.(reason);
      if (typeof answer?.then === 'function') Promise.resolve(answer).catch(() => {});
    } catch {
      // There is nobody left to tell.
    }
    this.#resolve(reason);
  }
}

function endStream(stream, reason) {
  if (reason?.code === 'ErrSlowClient') stream.destroy?.();
  else stream.end();
}

callbacks.write = (handle, at, length) => clients.get(handle)?._write(copy(at, length)) ?? failed;
callbacks.end = (handle, at, length) => clients.get(handle)?._end(describe(copy(at, length)));
callbacks.done = (handle, at, length, cut) => {
  const outcome = calls.get(handle);
  calls.delete(handle);
  waiting.delete(outcome);
  const err = describe(copy(at, length));
  outcome?.detach();
  if (cut >= 0) outcome?.reject(new DrainError(cut, err.message));
  else if (err) outcome?.reject(err);
  else outcome?.resolve();
};

// later returns the promise of a call that start begins, of which done will tell.
async function later(signal, start) {
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw new TypeError('execcast: signal is an AbortSignal');
  return new Promise((resolve, reject) => {
    let handle;
    const abort = () => enter((core) => core.cancel(handle));
    const outcome = { resolve, reject, detach: () => signal?.removeEventListener('abort', abort) };
    waiting.add(outcome);
    try {
      enter((core) => {
        handle = start(core);
        calls.set(handle, outcome);
      });
    } catch (err) {
      waiting.delete(outcome);
      throw err;
    }
    if (!calls.has(handle)) return;
    if (signal?.aborted) abort();
    else signal?.addEventListener('abort', abort, { once: true });
  });
}

// describe reads an error as registry.go's function of that name writes it.
function describe(bytes) {
  if (bytes.length === 0) return undefined;
  const message = text(bytes);
  const end = message.indexOf('\0');
  return new ExeccastError(message.slice(0, end) || 'Error', message.slice(end + 1));
}

// accepted returns what a call has returned, or throws why it was refused. Callbacks may make further calls, so it comes before
// Go runs on.
function accepted(n) {
  if (n < 0) throw describe(result());
  return n;
}

function string(name, value) {
  if (typeof value !== 'string') throw new TypeError(`execcast: ${name} is a string`);
  return value;
}

function number(name, value) {
  if (typeof value !== 'number' || Number.isNaN(value)) throw new TypeError(`execcast: ${name} is a number`);
  return value;
}

function checkOptions(options) {
  if (options === null || typeof options !== 'object') throw new TypeError('execcast: options are an object');
  for (const name of Object.keys(options)) {
    if (name !== 'logger' && !optionNames.includes(name)) throw new TypeError(`execcast: unknown option ${name}`);
  }
  const { logger = {} } = options;
  if (logger === null || typeof logger !== 'object') throw new TypeError('execcast: option logger is an object');
  for (const level of ['info', 'warn', 'error']) {
    if (!['function', 'undefined'].includes(typeof logger[level])) throw new TypeError(`execcast: the logger's ${level} is no function`);
  }
  return optionNames.map((name) => {
    const value = options[name];
    switch (name) {
      case 'hooks':
        return value === undefined ? 0 : checkHooks(value);
      case 'heartbeatEvents':
      case 'awaitUnknown':
        if (value !== undefined && typeof value !== 'boolean') throw new TypeError(`execcast: option ${name} is a boolean`);
        return value ? 1 : 0;
      case 'lag':
        if (value !== undefined && !lagPolicies.includes(value)) throw new TypeError(`execcast: option lag is ${lagPolicies.join(' or ')}`);
        return Math.max(0, lagPolicies.indexOf(value));
      default:
        return value === undefined ? 0 : Math.min(Math.max(number(`option ${name}`, value), -(2 ** 53)), 2 ** 53);
    }
  });
}

// checkHooks returns a bit for each hook that is set.
function checkHooks(hooks) {
  if (hooks === null || typeof hooks !== 'object') throw new TypeError('execcast: option hooks is an object');
  let bits = 0;
  for (const [name, hook] of Object.entries(hooks)) {
    if (!hookNames.includes(name)) throw new TypeError(`execcast: unknown hook ${name}`);
    if (hook === undefined) continue;
    if (typeof hook !== 'function') throw new TypeError(`execcast: hook ${name} is no function`);
    bits |= 1 << hookNames.indexOf(name);
  }
  return bits;
}
