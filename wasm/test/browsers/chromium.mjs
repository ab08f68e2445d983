import { accessSync, constants } from 'node:fs';
import path from 'node:path';
import { chromium } from 'playwright-core';

// launch starts Chromium: CHROMIUM names it, if it is not on the PATH.
export const launch = () => chromium.launch({
  executablePath: process.env.CHROMIUM || find(['chromium', 'chromium-browser', 'google-chrome']),
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});

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
