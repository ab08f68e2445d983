// CHROMIUM names the browser, if it is not on the PATH.
import { accessSync, constants } from 'node:fs';
import path from 'node:path';
import { chromium } from 'playwright-core';
import { suite } from './suite.mjs';

function find(names) {
  for (const folder of process.env.PATH.split(path.delimiter)) {
    for (const name of names) {
      const file = path.join(folder, name);
      try {
        accessSync(file, constants.X_OK);
        return file;
      } catch {}
    }
  }
  throw new Error('no Chromium found: install it, or set CHROMIUM to its path');
}

suite('Chromium', async () => {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || find(['chromium', 'chromium-browser', 'google-chrome']),
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync'],
  });
  return {
    async page() {
      const context = await browser.newContext();
      const page = await context.newPage();
      return { goto: (url) => page.goto(url), evaluate: (f, arg) => page.evaluate(f, arg), close: () => context.close() };
    },
    close: () => browser.close(),
  };
});
