import puppeteer from 'puppeteer-core';
import { find, suite } from './suite.mjs';

suite('Firefox', () => {
  const executablePath = find('FIREFOX', ['firefox-esr', 'firefox']);
  if (!executablePath) throw new Error('no Firefox found: install it, or set FIREFOX to its path');
  return puppeteer.launch({ browser: 'firefox', executablePath });
});
