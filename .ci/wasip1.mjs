// Runs a wasip1 program under Node, as go_wasip1_wasm_exec does under other runtimes: node wasip1.mjs PROGRAM ARGS…
import { readFile } from 'node:fs/promises';
import { WASI } from 'node:wasi';

const [program, ...args] = process.argv.slice(2);
const wasi = new WASI({
  version: 'preview1',
  returnOnExit: false, // returning from proc_exit can crash Node 20
  args: [program, ...args],
  env: { ...process.env, PWD: process.cwd() }, // Go learns its working directory from PWD
  preopens: { '/': '/' },
});
const module = await WebAssembly.compile(await readFile(program));
wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject()));
