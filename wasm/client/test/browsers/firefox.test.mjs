// FIREFOX names the browser; without it, and without one on the PATH, this is skipped.
import { test } from 'node:test';
import puppeteer from 'puppeteer-core';
import { find } from '../../../test/browsers/find.mjs';
import { suite } from './suite.mjs';

const firefox = process.env.FIREFOX || find(['firefox-esr', 'firefox']);
if (!firefox) {
  test('Firefox', { skip: 'no Firefox found: install it, or set FIREFOX to its path' });
} else {
  suite('Firefox', async () => {
    const browser = await puppeteer.launch({ browser: 'firefox', executablePath: firefox, headless: true });
    return { page: () => browser.newPage(), close: () => browser.close() };
  });
}
