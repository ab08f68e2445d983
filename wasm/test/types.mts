// Compiled, not run: what must, and what must not, be allowed by index.d.ts.
import { DrainError, type Client, type Step, decode, encode, encodeText, eventStreamResponse, ExeccastError, FakeEventSource, FrameError, init, Registry, scenario } from '@execcast/wasm';

await init();
await init({ wasm: new URL('https://example.com/execcast.wasm') });
const bytes: Uint8Array = encode({ id: '1', event: 'x', data: { any: 'thing' }, retry: 1, comment: 'c' });
const text: string = encodeText({});
for await (const { data, id } of decode(bytes)) {
  const s: string | undefined = data ?? id ?? text;
  void s;
}
const registry = new Registry({ heartbeat: 1000, lag: 'disconnect' });
const id: string = registry.publish('x', { event: 'e', data: 1, key: 'k' });
const client: Client = registry.register('x', { write: (p) => p.length }, { lastEventId: id });
const reason: Error | undefined = await client.ended;
void reason;
await registry.close('x', { signal: AbortSignal.timeout(1) }).catch((err: unknown) => {
  if (err instanceof DrainError) err.cut.toFixed();
  if (err instanceof FrameError) err.field === 'id';
});
const response: Response = eventStreamResponse(registry, 'x', new Request('https://example.com'), { chunking: 'byte' });
void response;
eventStreamResponse(registry, (request) => new URL(request.url).pathname, new Request('https://example.com'), { allowedOrigins: ['*'] });
eventStreamResponse(registry, () => { throw new ExeccastError('ErrForbidden'); });
new Registry({ logger: console, hooks: {
  published: (id, { data }) => id + data,
  left: (id, reason) => reason?.message,
  delivered: async (id, events, bytes) => events + bytes,
} });
const Fake: typeof EventSource = FakeEventSource.for(registry);
const source = new Fake('/x');
source.onmessage = ({ data }) => data;
const steps: Step[] = [{ event: 'a' }, { wait: 1 }, { disconnect: true }, { restart: true }, { finish: true }];
const ids: string[] = await scenario(registry, 'x', steps);
void ids;

// @ts-expect-error an ID is a string
encode({ id: 1 });
// @ts-expect-error no such option
new Registry({ hartbeat: 1 });
// @ts-expect-error no such hook
new Registry({ hooks: { publish() {} } });
// @ts-expect-error a function takes a request or none
eventStreamResponse(registry, (request: number) => 'x', new Request('https://example.com'));
// @ts-expect-error there is no network to be protected from
FakeEventSource.for(registry, { allowedOrigins: [] });
// @ts-expect-error a writer writes
registry.register('x', {});
// @ts-expect-error not constructed directly
new FakeEventSource('/x');
// @ts-expect-error neither one nor the other
eventStreamResponse(registry, 'x', undefined, { chunking: 'lines' });

