/** The report in a real browser: on a desk and on a phone, light and dark. */

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { reportPage } from '../../bench/report/html.ts';
import { picture } from '../../bench/report/picture.ts';
import { chromium } from '../needs.ts';
import { suite } from '../suite.ts';
import { Browser, type Look } from './browser.ts';
import { sample } from './sample.ts';

const test = suite('bench, report');
test.needs('browser');

let folder: string;
let browser: Browser;
let page: string;

test.before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'ipnc-report-'));
  const path = join(folder, 'report.html');
  writeFileSync(path, reportPage(sample({ seed: 1 })));
  page = pathToFileURL(path).href;
  browser = await Browser.start(chromium() ?? '');
});
test.after(async () => {
  await browser[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

const desk: Look = { width: 1280, height: 900, scheme: 'light' };
const phone: Look = { width: 360, height: 740, scheme: 'dark' };

/** Lightness of the page and of its text, 0 to 255. */
const lightness = () =>
  browser.evaluate<{ back: number; text: number }>(`(() => {
    const style = getComputedStyle(document.body);
    const light = (color) => color.match(/[\\d.]+/g).slice(0, 3).reduce((sum, each) => sum + Number(each), 0) / 3;
    return { back: light(style.backgroundColor), text: light(style.color) };
  })()`);

for (const [name, look] of Object.entries({ desk, phone })) {
  test(`on a ${name} all of it is drawn, nothing is cut off, nothing is fetched`, async () => {
    browser.requests.length = 0;
    await browser.open(page, look);
    assert.deepEqual(browser.requests, [page]);
    assert.deepEqual(browser.complaints, []);
    const drawn = await browser.evaluate<{ charts: number; empty: number; broken: number; rows: number }>(`(() => {
      const charts = [...document.querySelectorAll('svg')];
      return {
        charts: charts.length,
        empty: charts.filter((chart) => chart.getBoundingClientRect().height < 50).length,
        broken: [...document.querySelectorAll('svg *')].filter((part) => /NaN|undefined|Infinity/.test(part.outerHTML)).length,
        rows: document.querySelectorAll('tr').length,
      };
    })()`);
    assert.equal(drawn.charts, 3);
    assert.equal(drawn.empty, 0);
    assert.equal(drawn.broken, 0);
    assert.ok(drawn.rows > 30);
    const { wide, small } = await browser.evaluate<{ wide: number; small: number }>(`({
      wide: document.documentElement.scrollWidth,
      small: Math.min(...[...document.querySelectorAll('svg')].map((chart) =>
        parseFloat(getComputedStyle(chart.querySelector('text')).fontSize) * chart.getBoundingClientRect().width / chart.viewBox.baseVal.width)),
    })`);
    assert.ok(wide <= look.width, `the page is ${wide} px wide, and scrolls sideways`);
    assert.ok(small >= 9, `text in a chart is ${small} px high`);
  });

  test(`on a ${name} no text of a chart leaves it`, async () => {
    await browser.open(page, look);
    const out = await browser.evaluate<string[]>(`[...document.querySelectorAll('svg text')].filter((text) => {
      const [inner, outer] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
      return inner.left < outer.left - 1 || inner.right > outer.right + 1 || inner.bottom > outer.bottom + 1;
    }).map((text) => text.textContent)`);
    assert.deepEqual(out, []);
  });
}

test('it is light or dark as the reader has it', async () => {
  await browser.open(page, desk);
  const light = await lightness();
  await browser.open(page, { ...desk, scheme: 'dark' });
  const dark = await lightness();
  assert.ok(light.back > 200 && light.text < 80, JSON.stringify(light));
  assert.ok(dark.back < 60 && dark.text > 180, JSON.stringify(dark));
});

test('names are shown as they are, not as markup', async () => {
  await browser.open(page, desk);
  for (const place of ['svg .label', 'td'])
    assert.ok(
      await browser.evaluate<boolean>(
        `[...document.querySelectorAll('${place}')].some((each) => each.textContent === 'ours <of nftables>')`,
      ),
      place,
    );
});

test('refused and failed workloads are marked', async () => {
  const results = sample({ seed: 1 });
  const [single, controller] = results.workloads;
  if (single) single.refused = 'the fan was loud';
  if (controller) controller.failed = 'Error: it fell over\n  at somewhere';
  const path = join(folder, 'refused.html');
  writeFileSync(path, reportPage(results));
  await browser.open(pathToFileURL(path).href, desk);
  const bad = await browser.evaluate<string[]>(
    `[...document.querySelectorAll('p.bad')].map((each) => each.textContent)`,
  );
  assert.match(bad[0] ?? '', /the fan was loud/);
  assert.equal(bad[1], 'Failed: Error: it fell over');
});

test('the picture for the README is drawn by itself, a bar for each way', async () => {
  const [single] = sample({ seed: 1 }).workloads;
  if (single === undefined) throw new Error('no workload');
  const path = join(folder, 'picture.svg');
  writeFileSync(path, picture(single));
  await browser.open(pathToFileURL(path).href, desk);
  const bars = await browser.evaluate<number[]>(
    `[...document.querySelectorAll('rect')].map((bar) => bar.getBBox().width)`,
  );
  assert.equal(bars.length, single.series.length);
  assert.ok(bars.every((width) => width > 1));
  assert.ok((bars[2] ?? 0) > (bars[1] ?? 0) && (bars[1] ?? 0) > (bars[0] ?? 0), String(bars));
  const outside = await browser.evaluate<string[]>(`[...document.querySelectorAll('text')].filter((text) => {
    const [inner, outer] = [text.getBBox(), document.documentElement.viewBox.baseVal];
    return inner.x < -1 || inner.x + inner.width > outer.width + 1 || inner.y + inner.height > outer.height + 1;
  }).map((text) => text.textContent)`);
  assert.deepEqual(outside, []);
  assert.ok((await browser.screenshot()).length > 5000);
});
