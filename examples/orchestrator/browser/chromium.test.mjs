import puppeteer from 'puppeteer-core';
import { find, suite } from './suite.mjs';

suite('Chromium', () => {
  const executablePath = find('CHROMIUM', ['chromium', 'chromium-browser', 'google-chrome']);
  if (!executablePath) throw new Error('no Chromium found: install it, or set CHROMIUM to its path');
  return puppeteer.launch({
    executablePath,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync'],
  });
});
