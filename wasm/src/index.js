export { init, isReady } from './core.js';
export { encode, encodeText, decode } from './frame.js';
export { Registry } from './registry.js';
export { eventStreamResponse } from './response.js';
export { FakeEventSource } from './eventsource.js';
export { scenario } from './scenario.js';
export { ExeccastError, FrameError, DrainError } from './errors.js';
