// FIREFOX names the browser, if it is not on the PATH.
import puppeteer from 'puppeteer-core';
import { find } from './find.mjs';
import { suite } from './suite.mjs';

suite('Firefox', async () => {
  const executablePath = process.env.FIREFOX || find(['firefox-esr', 'firefox']);
  if (!executablePath) throw new Error('no Firefox found: install it, or set FIREFOX to its path');
  const browser = await puppeteer.launch({ browser: 'firefox', executablePath, headless: true, protocolTimeout: 600_000 });
  return {
    async page() {
      const context = await browser.createBrowserContext();
      const page = await context.newPage();
      return { goto: (url) => page.goto(url), evaluate: (f) => page.evaluate(f), close: () => context.close() };
    },
    close: () => browser.close(),
  };
});
