import { Registry } from './registry.js';

const kinds = ['wait', 'disconnect', 'restart', 'finish'];

// scenario plays steps into an execution, one after the other, and returns the IDs of the events it published:
//
//	{event, data, key}   an event
//	{wait: milliseconds} time passes, by the setTimeout of that moment
//	{disconnect: true}   the execution's viewers lose their connections
//	{restart: true}      the server is restarted: see Registry.restart
//	{finish: true}       the execution ends; the next step waits until all viewers have everything
export async function scenario(registry, executionID, steps, { signal } = {}) {
  if (!(registry instanceof Registry)) throw new TypeError('execcast: the first argument is a Registry');
  if (typeof steps?.[Symbol.iterator] !== 'function') throw new TypeError('execcast: the steps of a scenario are an array');
  const plan = Array.from(steps, check);
  const ids = [];
  for (const { kind, step } of plan) {
    signal?.throwIfAborted();
    switch (kind) {
      case 'wait':
        await wait(step.wait, signal);
        break;
      case 'disconnect':
        registry.disconnect(executionID);
        break;
      case 'restart':
        registry.restart();
        break;
      case 'finish':
        await registry.close(executionID, { signal });
        break;
      default:
        ids.push(registry.publish(executionID, step));
    }
  }
  return ids;
}

function check(step, i) {
  const wrong = (why) => new TypeError(`execcast: step ${i} of the scenario ${why}`);
  if (step === null || typeof step !== 'object') throw wrong('is not an object');
  const kind = kinds.find((k) => k in step);
  if (!kind) {
    if ('event' in step || 'data' in step) return { kind: 'event', step };
    throw wrong(`has none of event, data, ${kinds.join(', ')}`);
  }
  if (Object.keys(step).length > 1) throw wrong(`has more than ${kind}`);
  if (kind === 'wait' ? !(step.wait >= 0) : step[kind] !== true) {
    throw wrong(kind === 'wait' ? 'waits for no number of milliseconds' : `needs ${kind}: true`);
  }
  return { kind, step };
}

function wait(ms, signal) {
  return new Promise((resolve, reject) => {
    const { clearTimeout } = globalThis;
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = globalThis.setTimeout(() => {
      signal?.removeEventListener('abort', abort);
      resolve();
    }, ms);
    signal?.addEventListener('abort', abort, { once: true });
  });
}
