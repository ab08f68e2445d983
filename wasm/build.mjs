// Builds dist: the core for GOOS=js, as a file and as a module that contains it, and the wasm_exec.js of the same toolchain.
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const here = import.meta.dirname;
const dist = path.join(here, 'dist');
const go = (args, env) => execFileSync('go', args, { cwd: here, encoding: 'utf8', env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'inherit'] });

rmSync(dist, { recursive: true, force: true });
mkdirSync(dist);
const file = path.join(dist, 'execcast.wasm');
// Without inlining what a page loads is a twelfth smaller; the packages that encoding leans on keep it.
const inlined = ['github.com/execcast/execcast/...', 'bytes', 'strings', 'strconv', 'unicode/utf8', 'internal/bytealg', 'internal/stringslite'];
// An overlay puts a log/slog in the place of Go's that formats nothing; see there.
const slog = path.join(go(['env', 'GOROOT']).trim(), 'src', 'log', 'slog');
const overlay = path.join(dist, 'overlay.json');
const replace = Object.fromEntries(readdirSync(slog).filter((f) => f.endsWith('.go')).map((f) => [path.join(slog, f), '']));
replace[path.join(slog, 'slog.go')] = path.join(here, 'internal', 'slog', 'slog.go');
writeFileSync(overlay, JSON.stringify({ Replace: replace }));
go(['build', '-overlay', overlay, '-trimpath', '-buildvcs=false', '-ldflags=-s -w', '-gcflags=all=-l', ...inlined.map((p) => `-gcflags=${p}=`),
  '-o', file, '.'], { GOOS: 'js', GOARCH: 'wasm', GOWORK: 'off', GOFLAGS: '' });
rmSync(overlay);

// wasm_exec.js defines a global Go, which may be another program's.
const goroot = go(['env', 'GOROOT']).trim();
const runtime = readFileSync(path.join(goroot, 'lib', 'wasm', 'wasm_exec.js'), 'utf8');
writeFileSync(path.join(dist, 'wasm_exec.js'), `const before = Object.getOwnPropertyDescriptor(globalThis, 'Go');
${runtime}
export const Go = globalThis.Go;
delete globalThis.Go;
if (before) Object.defineProperty(globalThis, 'Go', before);
`);

// A string with a character for each byte compresses nearly as well as the bytes do, which base64 does not, and unlike a file
// it needs no fetch: it loads under every bundler, in service workers, and where fetch is mocked. The bytes that a string
// literal must escape change places with the rarest of ASCII: zero is a seventh of all.
const bytes = readFileSync(file);
const counts = new Uint32Array(128);
for (const byte of bytes) if (byte < 128) counts[byte]++;
const escapes = { 0: '\\x00', 10: '\\n', 13: '\\r', 39: "\\'", 92: '\\\\' };
const rarest = [...counts.keys()].filter((byte) => !(byte in escapes)).sort((a, b) => counts[a] - counts[b]);
const swaps = Object.keys(escapes).map((byte, i) => [Number(byte), rarest[i]]);
const swapped = Array.from({ length: 256 }, (_, byte) => byte);
for (const [a, b] of swaps) [swapped[a], swapped[b]] = [b, a];
const chars = swapped.map((byte) => escapes[byte] ?? String.fromCharCode(byte));
let literal = '';
for (const byte of bytes) literal += chars[byte];
writeFileSync(path.join(dist, 'code.js'), `const chars = '${literal}';
export function code() {
  const byte = Uint8Array.from({ length: 256 }, (_, i) => i);
  for (const [a, b] of ${JSON.stringify(swaps)}) [byte[a], byte[b]] = [b, a];
  const bytes = new Uint8Array(chars.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = byte[chars.charCodeAt(i)];
  return bytes;
}
`);

// Go's licence covers its runtime, which the module contains; some distributions keep it elsewhere.
const licence = [path.join(goroot, 'LICENSE'), '/usr/share/doc/golang-go/copyright'].find(existsSync);
if (licence) copyFileSync(licence, path.join(dist, 'LICENSE-go'));
