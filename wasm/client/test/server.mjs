// The real server, internal/clientserver, built once and started as often as a test likes.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import readline from 'node:readline';

let dir, binary;

export function build() {
  dir = mkdtempSync(path.join(tmpdir(), 'clientserver-'));
  binary = path.join(dir, 'clientserver');
  execFileSync('go', ['build', '-buildvcs=false', '-o', binary, './internal/clientserver'], { cwd: path.resolve(import.meta.dirname, '../..'), stdio: 'inherit' });
}

export function remove() {
  rmSync(dir, { recursive: true, force: true });
}

export async function start(t, ...flags) {
  const server = { url: undefined, start: run, kill, post, publish: (id, ...lines) => post(`/publish/${id}`, lines.map((line) => `${line}\n`).join('')), requests };
  let child;
  async function run(...more) {
    child = spawn(binary, [...flags, ...(server.url ? ['-addr', new URL(server.url).host] : []), ...more], { stdio: ['pipe', 'pipe', 'inherit'] });
    const [line] = await once(readline.createInterface({ input: child.stdout }), 'line');
    server.url = line;
  }
  async function kill() {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  async function post(what, body) {
    const response = await fetch(server.url + what, { method: 'POST', body });
    if (!response.ok) throw new Error(`${what}: ${await response.text()}`);
  }
  async function requests() {
    return Number(await (await fetch(`${server.url}/requests`)).text());
  }
  t.after(kill);
  await run();
  return server;
}
