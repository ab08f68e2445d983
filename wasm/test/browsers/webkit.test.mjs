// WebKitGTK, through its WebDriver: Debian's webkit2gtk-driver, with xvfb.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import readline from 'node:readline';
import { find } from './find.mjs';
import { suite } from './suite.mjs';

const driver = find(['WebKitWebDriver']);
const xvfb = find(['Xvfb']);
const browser = miniBrowser();

suite('WebKit', open);

function miniBrowser() {
  const onPath = find(['MiniBrowser']);
  if (onPath) return onPath;
  try {
    const folders = ['/usr/lib', '/usr/lib64', ...readdirSync('/usr/lib').filter((n) => n.includes('-linux-gnu')).map((n) => path.join('/usr/lib', n))];
    for (const folder of folders) {
      for (const name of readdirSync(folder)) {
        if (name.startsWith('webkit2gtk-') && readdirSync(path.join(folder, name)).includes('MiniBrowser')) return path.join(folder, name, 'MiniBrowser');
      }
    }
  } catch {
    // no such system
  }
  return undefined;
}

async function open() {
  if (!driver || !xvfb || !browser) throw new Error('no WebKitWebDriver, MiniBrowser or Xvfb found: install webkit2gtk-driver and xvfb');
  const screen = spawn(xvfb, ['-displayfd', '3', '-screen', '0', '1024x768x24', '-nolisten', 'tcp'], { stdio: ['ignore', 'ignore', 'ignore', 'pipe'] });
  const [display] = await once(readline.createInterface({ input: screen.stdio[3] }), 'line');
  const port = await freePort();
  const service = spawn(driver, ['--host=127.0.0.1', `--port=${port}`], {
    stdio: 'ignore',
    env: { ...process.env, DISPLAY: `:${display}`, WEBKIT_DISABLE_COMPOSITING_MODE: '1', LIBGL_ALWAYS_SOFTWARE: '1' },
  });
  const stop = () => {
    service.kill();
    screen.kill();
  };
  try {
    for (let i = 0; i < 100 && !(await listening(port)); i++) await new Promise((resolve) => setTimeout(resolve, 100));
    return await session(`http://127.0.0.1:${port}/session`, stop);
  } catch (err) {
    stop();
    throw err;
  }
}

async function session(url, stop) {
  const call = async (method, path, body) => {
    const response = await fetch(url + path, { method, body: body && JSON.stringify(body), signal: AbortSignal.timeout(600_000) });
    const { value } = await response.json();
    if (!response.ok) throw new Error(`${value.error}: ${value.message}`);
    return value;
  };
  const { sessionId } = await call('POST', '', { capabilities: { alwaysMatch: {
    'webkitgtk:browserOptions': { binary: browser, args: ['--automation'] },
    timeouts: { script: 600_000, pageLoad: 30_000 },
  } } });
  const id = `/${sessionId}`;
  return {
    page: async () => ({
      goto: (to) => call('POST', `${id}/url`, { url: to }),
      async evaluate(f) {
        const { value, error } = await call('POST', `${id}/execute/async`, {
          script: `const done = arguments[arguments.length - 1]; (${f})().then((value) => done({ value }), (err) => done({ error: String(err) }));`,
          args: [],
        });
        if (error) throw new Error(error);
        return value;
      },
      close: async () => {},
    }),
    async close() {
      await call('DELETE', id).catch(() => {});
      stop();
    },
  };
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

function listening(port) {
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}
