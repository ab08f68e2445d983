import { chromium } from 'playwright-core';
import { find } from './find.mjs';

// options are those that start Chromium: CHROMIUM names it, if it is not on the PATH.
export function options() {
  const executablePath = process.env.CHROMIUM || find(['chromium', 'chromium-browser', 'google-chrome']);
  if (!executablePath) throw new Error('no Chromium found: install it, or set CHROMIUM to its path');
  return {
    executablePath,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync'],
  };
}

export const launch = () => chromium.launch(options());
