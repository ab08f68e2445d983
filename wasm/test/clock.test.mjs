// Time follows the test runner's fake timers: those of node:test, which jump to the end of a tick, and those of Vitest, Jest
// and Playwright, which stop at each timer.
import assert from 'node:assert/strict';
import { before, mock, test } from 'node:test';
import FakeTimers from '@sinonjs/fake-timers';
import { FakeEventSource, init, Registry, scenario } from '@execcast/wasm';

before(() => init());

const minute = 60_000;
const hour = 60 * minute;
const text = new TextDecoder();

const runners = {
  'node:test': (t, now) => {
    mock.timers.enable({ apis: ['setTimeout', 'Date'], now });
    t.after(() => mock.timers.reset());
    return { tick: (ms) => mock.timers.tick(ms), restore: () => mock.timers.reset() };
  },
  '@sinonjs/fake-timers': (t, now) => {
    const clock = FakeTimers.install({ now });
    t.after(() => clock.uninstall());
    return { tick: (ms) => clock.tick(ms), restore: () => clock.uninstall() };
  },
};

for (const [name, install] of Object.entries(runners)) {
  for (const now of [0, 1.7e12]) {
    test(`${name}, from ${now}: an hour of heartbeats at once`, (t) => {
      const { tick } = install(t, now);
      const r = new Registry();
      let beats = 0;
      r.register('x', { write: (bytes) => { if (text.decode(bytes) === ':\n\n') beats++; } });
      tick(14_999);
      assert.equal(beats, 0);
      tick(1);
      assert.equal(beats, 1);
      tick(hour);
      assert.equal(beats, 241);
      r.publish('x', { data: 'still there' });
      tick(hour);
      assert.equal(beats, 481);
    });

    test(`${name}, from ${now}: retention, idleness, age and the write timeout`, async (t) => {
      const { tick } = install(t, now);
      const r = new Registry({ idle: hour, retention: 10 * minute, maxAge: 20 * minute });
      r.publish('finished', {});
      await r.close('finished');
      r.publish('idle', {});
      const ends = [];
      const end = (reason) => ends.push(reason.code);
      r.register('x', { write: () => new Promise(() => {}), end });
      r.publish('x', {});
      r.register('x', { write() {}, end });
      tick(9_999);
      assert.deepEqual(ends, []);
      tick(1);
      assert.deepEqual(ends, ['ErrSlowClient']);
      tick(10 * minute - 10_001);
      assert.equal(r.stats().executions, 3);
      tick(1);
      assert.equal(r.stats().executions, 2);
      tick(10 * minute);
      assert.deepEqual(ends, ['ErrSlowClient', 'ErrMaxAge']);
      tick(hour);
      assert.equal(r.stats().executions, 0);
    });
  }

  test(`${name}: what comes and goes with fake timers is not time`, (t) => {
    const r = new Registry({ idle: hour });
    let beats = 0;
    r.register('x', { write: () => beats++ });
    const { tick, restore } = install(t, 0); // decades ago
    r.publish('y', {}); // timers set before the fake ones came move to those with the next call
    tick(minute);
    const seen = beats;
    assert.ok(seen >= 3 && seen <= 4, `${seen} heartbeats in a minute`);
    restore(); // decades later
    r.publish('y', {});
    assert.equal(beats, seen);
    assert.equal(r.clientCount('x'), 1);
  });

  test(`${name}: a scenario of an hour, watched through FakeEventSource`, async (t) => {
    const { tick } = install(t, 1.7e12);
    const r = new Registry();
    const EventSource = FakeEventSource.for(r);
    const source = new EventSource('/executions/job');
    const seen = [];
    source.onerror = () => seen.push('error');
    source.addEventListener('task', (event) => seen.push(event.data));
    source.addEventListener('stream-end', () => { seen.push('end'); source.close(); });
    let ids;
    scenario(r, 'job', [{ event: 'task', data: 1 }, { wait: hour }, { disconnect: true }, { event: 'task', data: 2 }, { wait: hour },
      { event: 'task', data: 3 }, { finish: true }]).then((done) => (ids = done));
    for (let i = 0; i < 500 && !ids; i++) {
      await turn();
      tick(minute);
    }
    assert.deepEqual(seen, ['1', 'error', '2', '3', 'end']);
    assert.equal(ids.length, 3);
  });
}

// turn lets promises settle; fake timers may hold setImmediate.
async function turn() {
  for (let i = 0; i < 50; i++) await null;
}

test('with only setTimeout faked, time passes when timers fire', (t) => {
  mock.timers.enable({ apis: ['setTimeout'] });
  t.after(() => mock.timers.reset());
  let beats = 0;
  new Registry().register('x', { write: () => beats++ });
  for (let i = 0; i < 240 && beats < 3; i++) mock.timers.tick(15_000);
  assert.equal(beats, 3);
});

test('a clock that shows nonsense', (t) => {
  const { now } = Date;
  t.after(() => (Date.now = now));
  for (const value of [NaN, -1, Infinity, 'x', undefined, 1e300]) {
    Date.now = () => value;
    const r = new Registry();
    const id = Number(r.publish('x', {}));
    assert.ok(id > 0 && id < 2 ** 53, `${id}`);
  }
});
