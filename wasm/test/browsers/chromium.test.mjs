import { launch } from './chromium.mjs';
import { suite } from './suite.mjs';

suite('Chromium', async () => {
  const browser = await launch();
  return {
    async page() {
      const context = await browser.newContext();
      const page = await context.newPage();
      return { goto: (url) => page.goto(url), evaluate: (f) => page.evaluate(f), close: () => context.close() };
    },
    close: () => browser.close(),
  };
});
