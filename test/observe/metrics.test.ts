/** Metrics as Prometheus reads them, and log lines as people and programs do. */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { Failure } from '../../lib/errors.ts';
import { createLogger, type LogOptions, podLine } from '../../lib/observe/log.ts';
import { createMetrics, type Observed } from '../../lib/observe/metrics.ts';
import { suite } from '../suite.ts';

const OBSERVED: Observed = {
  queue: () => ({
    waiting: { new: 2, resync: 5, costly: 0 },
    running: 1,
    backingOff: 3,
    oldestMs: 1500,
    longestRunMs: 2500,
  }),
  pods: () => ({ pending: 1, initialized: 7, failed: 0, skipped: 4 }),
  watches: () => [{ resource: 'pods', restarts: { ended: 3, expired: 1 } }],
  preempted: () => 1,
  threads: () => ({ busy: 2, stuck: 1, lost: 0 }),
  events: () => ({ sent: 9, dropped: 2 }),
  runtimeEvents: () => ({ source: 'nri', losses: 2, dropped: 7 }),
};

/** Values by name and labels as written, without our prefix. */
async function scrape(metrics: ReturnType<typeof createMetrics>): Promise<Record<string, number>> {
  const lines = (await metrics.text()).split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return Object.fromEntries(
    lines.map((line) => {
      const [name = '', value] = line.replace('istio_pod_network_controller_', '').split(/ (?=\S+$)/);
      return [name, Number(value)];
    }),
  );
}

const measuring = suite('metrics');

measuring('stages are observed in seconds, with buckets from 50 us to 30 s', async () => {
  const metrics = createMetrics('1.2.3', OBSERVED);
  metrics.installed('nftables', { decide: 40, install: 320, total: 1_500_000 });
  metrics.installed('iptables-legacy', { install: 80 });
  const read = await scrape(metrics);
  const bucket = (le: string, stage: string) =>
    read[`init_duration_seconds_bucket{le="${le}",stage="${stage}",backend="nftables"}`];
  assert.deepEqual([bucket('0.00005', 'decide'), bucket('0.00025', 'install'), bucket('0.0005', 'install')], [1, 0, 1]);
  assert.deepEqual([bucket('1', 'total'), bucket('2.5', 'total'), bucket('30', 'total')], [0, 1, 1]);
  assert.equal(read['init_duration_seconds_sum{stage="total",backend="nftables"}'], 1.5);
  assert.equal(read['init_duration_seconds_count{stage="install",backend="iptables-legacy"}'], 1);
  assert.equal(read['init_duration_seconds_count{stage="mark",backend="nftables"}'], undefined);
  assert.equal(read['installs_total{backend="nftables"}'], 1);
});

measuring('what others count is read at each scrape, and not added up', async () => {
  const metrics = createMetrics('1.2.3', OBSERVED);
  await metrics.text();
  const read = await scrape(metrics);
  const expected = {
    'queue_depth{priority="new"}': 2,
    'queue_depth{priority="resync"}': 5,
    queue_running: 1,
    queue_backing_off: 3,
    queue_oldest_age_seconds: 1.5,
    'pods{state="initialized"}': 7,
    'pods{state="failed"}': 0,
    'watch_restarts_total{resource="pods",reason="expired"}': 1,
    'events_total{result="dropped"}': 2,
    'runtime_event_source{source="nri"}': 1,
    runtime_event_losses_total: 2,
    runtime_hints_dropped_total: 7,
    [`build_info{version="1.2.3",node_version="${process.version}"}`]: 1,
  };
  assert.deepEqual(Object.fromEntries(Object.keys(expected).map((key) => [key, read[key]])), expected);
});

measuring("the runtime's waits are observed in seconds", async () => {
  const metrics = createMetrics('1.2.3', OBSERVED);
  metrics.runtimeWaited(0.4);
  metrics.runtimeWaited(500);
  const read = await scrape(metrics);
  assert.deepEqual(
    ['bucket{le="0.00025"}', 'bucket{le="0.0005"}', 'bucket{le="0.5"}', 'count'].map(
      (of) => read[`runtime_wait_seconds_${of}`],
    ),
    [0, 1, 2, 2],
  );
});

measuring('the source in use is the only one shown', async () => {
  let source = 'nri';
  const metrics = createMetrics('1.2.3', {
    ...OBSERVED,
    runtimeEvents: () => ({ ...OBSERVED.runtimeEvents(), source }),
  });
  await metrics.text();
  source = 'none';
  const read = await scrape(metrics);
  assert.equal(read['runtime_event_source{source="none"}'], 1);
  assert.equal(read['runtime_event_source{source="nri"}'], undefined);
});

measuring('reasons are counted, and their number is bounded', async () => {
  const metrics = createMetrics('1.2.3', OBSERVED);
  for (let i = 0; i < 40; i++) metrics.skipped(`reason ${i}`);
  metrics.skipped('reason 0');
  metrics.failed('ERR_RBAC');
  metrics.driftRepaired('nftables');
  const read = await scrape(metrics);
  assert.equal(read['skips_total{reason="reason 0"}'], 2);
  assert.equal(read['skips_total{reason="other"}'], 8);
  assert.equal(Object.keys(read).filter((name) => name.startsWith('skips_total')).length, 33);
  assert.equal(read['failures_total{reason="ERR_RBAC"}'], 1);
  assert.equal(read['drift_repaired_total{backend="nftables"}'], 1);
});

measuring('the process itself: memory, CPU, event loop', async () => {
  const read = await scrape(createMetrics('1.2.3', OBSERVED));
  for (const name of ['process_resident_memory_bytes', 'process_cpu_seconds_total']) assert.ok(name in read, name);
});

measuring('an event loop that is held up shows it, in seconds, until the next scrape', async () => {
  const metrics = createMetrics('1.2.3', OBSERVED);
  // Two samples: the first tells nothing but when the second was due.
  await sleep(120);
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 400);
  await sleep(60);
  const longest = 'event_loop_lag_seconds{quantile="1"}';
  const lag = (await scrape(metrics))[longest] ?? 0;
  assert.ok(lag >= 0.3, `${lag}`);
  assert.ok(((await scrape(metrics))[longest] ?? lag) < lag);
});

const logging = suite('log');

function logged(options: Partial<LogOptions> = {}) {
  const lines: string[] = [];
  const log = createLogger({ level: 'debug', pretty: false, write: (line) => lines.push(line), ...options });
  const parsed = () => lines.map((line) => JSON.parse(line));
  return { log, lines, parsed };
}

const POD = { namespace: 'default', name: 'web', uid: 'u-1' };

logging('one line a pod, with what each stage took', () => {
  const { log, parsed } = logged();
  podLine(log, { pod: POD, outcome: 'initialized', backend: 'nftables', stages: { install: 320, total: 412 } });
  const [{ time, ...line }] = parsed();
  assert.match(time, /^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
  assert.deepEqual(line, {
    level: 'info',
    pod: 'default/web',
    uid: 'u-1',
    backend: 'nftables',
    us: { install: 320, total: 412 },
    msg: 'initialized',
  });
});

logging('the level is that of the outcome, and the option bounds it', () => {
  const { log, parsed } = logged({ level: 'info' });
  podLine(log, { pod: POD, outcome: 'skipped', reason: 'no sidecar' });
  podLine(log, {
    pod: POD,
    outcome: 'failed',
    error: new Failure('ENOENT', { subject: '/run/netns/x', remedy: 'try again' }),
  });
  assert.deepEqual(
    parsed().map(({ level, err }) => [level, err]),
    [['error', { type: 'Failure', message: '/run/netns/x does not exist', code: 'ENOENT', remedy: 'try again' }]],
  );
});

logging('of an error only what is known to be harmless, and its causes', () => {
  const { log, lines, parsed } = logged();
  const cause = Object.assign(new Error('refused'), { code: 'ECONNREFUSED', headers: { x: 'hidden' } });
  log.error({ err: new Error('no answer', { cause }) }, 'request');
  const [{ err }] = parsed();
  assert.deepEqual(err.cause, { type: 'Error', message: 'refused', code: 'ECONNREFUSED' });
  assert.match(err.stack, /metrics\.test\.ts/);
  assert.ok(!lines.join('').includes('hidden'));
});

logging('secrets do not appear, by whatever name, depth or form', () => {
  const jwt = `eyJ${'a'.repeat(20)}.eyJ${'b'.repeat(20)}.${'c'.repeat(20)}`;
  const secret = 'hunter2';
  for (const pretty of [false, true]) {
    const { log, lines, parsed } = logged({ pretty });
    log.info({ user: { token: secret, 'client-key-data': secret } }, 'one');
    log.info({ headers: { Authorization: `Basic ${secret}` } }, 'two');
    log.info(`three Authorization: Bearer ${secret} and ${jwt}`);
    log.info({ body: JSON.stringify({ access_token: `${secret}"more`, rest: 1 }) }, 'four');
    log.error({ err: new Error(`five ${jwt}`) });
    log.info({ key: `-----BEGIN EC PRIVATE KEY-----\n${secret}\n-----END EC PRIVATE KEY-----` }, 'six');
    assert.ok(!/hunter2|more|eyJ/.test(lines.join('')), lines.join(''));
    if (!pretty) assert.deepEqual(parsed()[0].user, { token: '[redacted]', 'client-key-data': '[redacted]' });
  }
});

logging('a long text that looks almost like a secret is searched in linear time', () => {
  const { log, parsed } = logged();
  const texts = ['a'.repeat(200_000), 'token'.repeat(40_000), 'eyJ'.repeat(60_000), '-----BEGIN '.repeat(20_000)];
  for (const text of texts) log.info({ text });
  // In quadratic time the suite's limit would be over long before.
  assert.deepEqual(
    parsed().map(({ text }) => text),
    texts,
  );
});

logging('for people: a line each, nothing of which moves the cursor', () => {
  const { log, lines } = logged({ pretty: true, colour: false });
  podLine(log, { pod: POD, outcome: 'initialized', stages: { total: 412 } });
  log.warn({ value: 'two words', evil: 'a\n\u001b[2J\u202e' }, 'break\nout');
  assert.match(lines[0] ?? '', /^[\d:.]{12} info {2}initialized pod=default\/web uid=u-1 us\.total=412\n$/);
  assert.match(lines[1] ?? '', /warn {2}break\\u\{a\}out value="two words" evil="a\\n\\u001b\[2J\\u\{202e\}"\n$/);
});

logging('colours where they are wanted', () => {
  const { log, lines } = logged({ pretty: true, colour: true });
  log.error('x');
  assert.ok(lines[0]?.includes('\u001b[31merror\u001b[39m'), lines[0]);
});
