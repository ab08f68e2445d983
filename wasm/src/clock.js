// The time that Go's runtime sees. It comes from Date and setTimeout, looked up at each call, so that a test runner's fake
// timers drive every timer in the core: heartbeats, timeouts, retention.

const realDate = globalThis.Date;
const realNow = realDate.now;
const realSetTimeout = globalThis.setTimeout;

// installClock replaces the time functions in gojs, what wasm_exec.js gives a program to import. view returns a DataView of
// its memory; fired is called when a timer has fired; busy reports whether the process must stay alive for Go's timers.
export function installClock(gojs, view, fired, busy) {
  let date = globalThis.Date;
  let dateNow = date.now;
  let read = wall(); // what it last said
  let target = 1; // milliseconds that have passed: only while one and the same Date counts them, and never backwards
  let elapsed = 1; // what of these Go has been told
  let held = false;
  let floor = 0;
  let lastID = 0;
  const timeouts = new Map(); // id -> {due, cancel}

  function wall() {
    const t = Number(globalThis.Date.now());
    return t > 0 && t < 8.64e15 ? t : 0;
  }

  function advance() {
    const t = wall();
    if (globalThis.Date === date && date.now === dateNow) {
      target += Math.max(0, t - read);
    } else {
      date = globalThis.Date; // fake timers have come or gone, which is not time that passed
      dateNow = date.now;
    }
    read = t;
  }

  // With fake timers time stands still while Go runs, and stops at each of Go's timers on its way: those of node:test jump
  // to the end of a tick at once, and an hour of heartbeats would be one heartbeat.
  const faked = () => globalThis.Date !== realDate || realDate.now !== realNow;

  function now() {
    advance();
    if (!held) elapsed = Math.max(elapsed, faked() ? Math.min(target, nextDue()) : target);
    return elapsed;
  }

  function nextDue() {
    let due = Infinity;
    for (const t of timeouts.values()) due = Math.min(due, t.due);
    return due;
  }

  const setInt64 = (address, n) => {
    view().setUint32(address, n % 4294967296, true);
    view().setUint32(address + 4, Math.floor(n / 4294967296), true);
  };

  gojs['runtime.nanotime1'] = (sp) => setInt64((sp >>> 0) + 8, now() * 1e6);

  gojs['runtime.walltime'] = (sp) => {
    sp >>>= 0;
    const microseconds = Math.max(Math.round(wall() * 1000), floor);
    setInt64(sp + 8, Math.floor(microseconds / 1e6));
    view().setInt32(sp + 16, (microseconds % 1e6) * 1000, true);
  };

  gojs['runtime.scheduleTimeoutEvent'] = (sp) => {
    sp >>>= 0;
    const delay = view().getUint32(sp + 8, true) + view().getInt32(sp + 12, true) * 4294967296;
    const due = now() + delay;
    const id = ++lastID;
    const { setTimeout, clearTimeout, Date } = globalThis;
    const timeout = setTimeout(() => {
      if (!timeouts.delete(id)) return;
      advance();
      target = Math.max(target, due); // whatever Date says: it may not be faked, or lag
      if (!held && faked()) {
        elapsed = Math.max(elapsed, due);
        held = true; // until Go has run
      }
      fired();
    }, Math.min(Math.max(0, due - target), 2147483647));
    if (!busy()) timeout?.unref?.();
    // A timeout of fake timers that have gone must not be cleared: those of node:test, reset and enabled again, would clear
    // another in its place, and without a fake Date they cannot be told from those before.
    const cancel = () => {
      const same = globalThis.setTimeout === setTimeout && globalThis.Date === Date;
      if (same && (setTimeout === realSetTimeout || faked())) clearTimeout(timeout);
    };
    timeouts.set(id, { due, cancel });
    view().setInt32(sp + 16, id, true);
  };

  gojs['runtime.clearTimeoutEvent'] = (sp) => {
    const id = view().getInt32((sp >>> 0) + 8, true);
    const timeout = timeouts.get(id);
    timeouts.delete(id);
    timeout?.cancel();
  };

  return {
    // hold keeps fake time from moving until release.
    hold() {
      now();
      held = faked();
    },
    release() {
      held = false;
    },
    // notBefore calls f while the wall clock is at least at that many microseconds.
    notBefore(microseconds, f) {
      floor = microseconds;
      try {
        return f();
      } finally {
        floor = 0;
      }
    },
  };
}
