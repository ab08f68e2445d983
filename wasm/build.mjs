// Builds dist: the core for GOOS=js, as a file and as a module that contains it, and the wasm_exec.js of the same toolchain.
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const here = import.meta.dirname;
const dist = path.join(here, 'dist');
const go = (args, env) => execFileSync('go', args, { cwd: here, encoding: 'utf8', env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'inherit'] });

rmSync(dist, { recursive: true, force: true });
mkdirSync(dist);
const file = path.join(dist, 'execcast.wasm');
// Without inlining what a page loads is a twelfth smaller; the packages that encoding leans on keep it.
const inlined = ['github.com/execcast/execcast/...', 'bytes', 'strings', 'strconv', 'unicode/utf8', 'internal/bytealg', 'internal/stringslite'];
go(['build', '-trimpath', '-buildvcs=false', '-ldflags=-s -w', '-gcflags=all=-l', ...inlined.map((p) => `-gcflags=${p}=`),
  '-o', file, '.'], { GOOS: 'js', GOARCH: 'wasm', GOWORK: 'off', GOFLAGS: '' });

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
// it needs no fetch: it loads under every bundler, in service workers, and where fetch is mocked. The most frequent byte, zero,
// becomes a space.
const escapes = { 0: '\\x00', 10: '\\n', 13: '\\r', 39: "\\'", 92: '\\\\' };
const chars = Array.from({ length: 256 }, (_, byte) => escapes[byte ^ 32] ?? String.fromCharCode(byte ^ 32));
let literal = '';
for (const byte of readFileSync(file)) literal += chars[byte];
writeFileSync(path.join(dist, 'code.js'), `const chars = '${literal}';
export function code() {
  const bytes = new Uint8Array(chars.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = chars.charCodeAt(i) ^ 32;
  return bytes;
}
`);

// Go's licence covers its runtime, which the module contains; some distributions keep it elsewhere.
const licence = [path.join(goroot, 'LICENSE'), '/usr/share/doc/golang-go/copyright'].find(existsSync);
if (licence) copyFileSync(licence, path.join(dist, 'LICENSE-go'));
