/** The page of pods in a real browser: with 1,000 pods and hostile names, on a desk and on a phone, light and dark. */
import assert from 'node:assert/strict';
import { type HttpServer, healthRoutes, observedRoutes, startHttp } from '../../lib/observe/http.ts';
import { type PodView, podsPage } from '../../lib/observe/page.ts';
import { Browser, type Look } from '../bench/browser.ts';
import { chromium } from '../needs.ts';
import { suite } from '../suite.ts';
import { podRules } from '../support/pod-rules.ts';

const NOW = Date.parse('2026-01-02T12:00:00.000Z');
const HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror="document.title=1">';

const PODS: PodView[] = Array.from({ length: 1000 }, (_, at): PodView => {
  const known = { namespace: `team-${at % 10}`, name: `web-${at}`, uid: `u-${at}` };
  if (at === 7) return { ...known, state: 'failed', reason: HOSTILE, since: '2026-01-02T11:57:30.000Z' };
  if (at === 8) return { ...known, state: 'pending', reason: `no-sandbox ${HOSTILE}` };
  const stages = { plan: 12.3456, install: 345.678, total: 1234.5678 };
  return { ...known, state: 'initialized', backend: 'nftables', netns: 'boot:7', rules: 'abc', stages };
});

const page = suite('page of pods');

page('pods that need someone come first, with relative times and durations of three digits', () => {
  const html = podsPage(PODS, NOW);
  assert.match(html, /1 failed, 1 pending, 998 initialized/);
  assert.ok(html.indexOf('web-7<') < html.indexOf('web-8<') && html.indexOf('web-8<') < html.indexOf('web-0<'));
  assert.match(html, /title="2026-01-02T11:57:30\.000Z">2 min ago</);
  assert.match(html, /plan 0\.0123 ms, install 0\.346 ms/);
  assert.match(html, /kubectl -n team-7 describe pod web-7</);
  assert.equal(html.split('<script').length, 2);
});

page('an invalid time and a time in the future are shown too', () => {
  const pod = { namespace: 'a', name: 'b', uid: 'c', state: 'failed' } as const;
  assert.match(podsPage([{ ...pod, since: 'soon"' }], NOW), />soon&quot;</);
  assert.match(podsPage([{ ...pod, since: '2027-01-01T00:00:00Z' }], NOW), />0 s ago</);
});

const test = suite('page of pods in a browser');
test.needs('browser');

let browser: Browser;
let server: HttpServer;

test.before(async () => {
  const metrics = { contentType: 'text/plain', text: async () => '' };
  const routes = new Map([
    ...healthRoutes({ livez: () => [], readyz: () => [] }),
    ...observedRoutes({ metrics, pods: () => PODS, rules: async () => podRules(HOSTILE, [HOSTILE, '$'.repeat(399)]) }),
  ]);
  server = await startHttp({ listen: { host: '127.0.0.1', port: 0 }, routes, onError: () => {} });
  browser = await Browser.start(chromium() ?? '');
});
test.after(async () => {
  await browser[Symbol.asyncDispose]();
  await server.close();
});

const looks: Record<string, Look> = {
  desk: { width: 1280, height: 900, scheme: 'light' },
  phone: { width: 360, height: 740, scheme: 'dark' },
};

for (const [name, look] of Object.entries(looks)) {
  test(`on a ${name} it fetches nothing else, runs nothing hostile and fits the screen`, async () => {
    browser.requests.length = 0;
    browser.complaints.length = 0;
    const url = `http://${server.address}/pods`;
    await browser.open(url, look);
    const seen = await browser.evaluate<{ title: string; width: number; rows: number; images: number }>(`({
      title: document.title,
      width: document.documentElement.scrollWidth,
      rows: document.querySelectorAll('tbody tr').length,
      images: document.images.length,
    })`);
    const { width, ...rest } = seen;
    assert.deepEqual(rest, { title: 'Pods of this node', rows: 1000, images: 0 });
    assert.ok(width <= look.width, `the page is ${width} px wide`);
    assert.deepEqual(
      browser.requests.filter((each) => !each.endsWith('/favicon.ico')),
      [url],
    );
    assert.deepEqual(
      browser.complaints.filter((each) => !each.includes('favicon')),
      [],
    );
  });
}

test('the link of a pod leads to its rules, which fit a phone and run nothing hostile', async () => {
  browser.complaints.length = 0;
  await browser.open(`http://${server.address}/pods`, looks.phone as Look);
  const link = await browser.evaluate<string>(`document.querySelector('a').href`);
  assert.match(link, /\/rules\?uid=u-\d+$/);
  await browser.open(link, looks.phone as Look);
  const seen = await browser.evaluate<{ title: string; width: number; surplus: number; scripts: number }>(`({
    title: document.title,
    width: document.documentElement.scrollWidth,
    surplus: document.querySelectorAll('.surplus').length,
    scripts: document.scripts.length,
  })`);
  const { width, ...rest } = seen;
  assert.deepEqual(rest, { title: 'Rules of a pod', surplus: 4, scripts: 0 });
  assert.ok(width <= 360, `the page is ${width} px wide`);
  assert.deepEqual(
    browser.complaints.filter((each) => !each.includes('favicon')),
    [],
  );
});

test('a search hides all other pods, and an empty one shows all', async () => {
  await browser.open(`http://${server.address}/pods`, looks.desk as Look);
  const search = (words: string) =>
    browser.evaluate<{ shown: string[]; said: string }>(`(() => {
      const input = document.querySelector('input');
      input.value = ${JSON.stringify(words)};
      input.dispatchEvent(new Event('input'));
      const rows = [...document.querySelectorAll('tbody tr')].filter((row) => row.getBoundingClientRect().height > 0);
      const shown = rows.map((row) => row.querySelector('b').textContent);
      return { shown, said: document.querySelector('output').textContent };
    })()`);
  assert.deepEqual(await search('FAILED team-7/'), { shown: ['web-7'], said: '1 of 1000 pods' });
  assert.equal((await search('team-3/ initialized')).shown.length, 100);
  assert.deepEqual((await search('.*')).shown, []);
  assert.equal((await search('')).shown.length, 1000);
});
