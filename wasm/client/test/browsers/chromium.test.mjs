import { launch } from '../../../test/browsers/chromium.mjs';
import { suite } from './suite.mjs';

suite('Chromium', async () => {
  const browser = await launch();
  return { page: () => browser.newPage(), close: () => browser.close() };
});
