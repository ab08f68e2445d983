// Compiled, not run: what must, and what must not, be allowed by client.d.ts.
import { follow, StreamError, type State, type StateChange, type Stream, type StreamEvent } from '@execcast/wasm/client';

interface Events {
  'task-start': { taskId: string };
  'task-output': { taskId: string; line: string };
}

const stream: Stream<Events> = follow<Events>('/events', {
  transport: 'websocket', lastEventId: '1', signal: AbortSignal.timeout(1), executions: ['a', 'b'], types: new Set(['x']),
  onState({ state, delay, resumedAfter }) {
    if (state === 'reconnecting') delay?.toFixed();
    resumedAfter?.trim();
  },
});
const off: () => void = stream.on('task-output', ({ data, execution, id }) => data.line + data.taskId + id + execution?.trim());
off();
stream.on('stream-gap', ({ data }) => data.count?.toFixed());
stream.on('task-start', (event: StreamEvent<'task-start', { taskId: string }>) => event.data.taskId);
stream.onState((change: StateChange) => change.error);
for await (const event of stream) {
  if (event.type === 'task-output') event.data.line.trim();
  else if (event.type === 'stream-gap') event.data.to?.toString();
  // @ts-expect-error which type it is decides what there is
  event.data.line;
}
if (stream.error instanceof StreamError) stream.error.status?.toFixed();
const state: State = stream.state;
void state;
stream.close();
follow(async () => new URL('https://example.com/'), { headers: async () => ({ Authorization: 'Bearer x' }) });
follow('/any').on('anything', ({ data }) => data.whatever);
for await (const { type, data } of follow('/any')) type.trim() + data.whatever;

// @ts-expect-error no such transport
follow('/events', { transport: 'carrier pigeon' });
// @ts-expect-error no such event
stream.on('task-stop', () => {});
// @ts-expect-error no such field
stream.on('task-start', ({ data }) => data.line);
// @ts-expect-error not for users to set
stream.state = 'live';
