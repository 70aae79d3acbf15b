/** The informer with a server that misbehaves: it loses no event, repeats none, and never hangs. */
import assert from 'node:assert/strict';
import { getEventListeners, once } from 'node:events';
import { readFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { ApiError } from '../../lib/kube/client.ts';
import { ACCEPT, entriesOf } from '../../lib/kube/encoding.ts';
import { Informer, type InformerEvent, type InformerOptions } from '../../lib/kube/informer.ts';
import { suite } from '../suite.ts';
import { isOver, patience } from '../support/patience.ts';
import { launch } from '../support/process.ts';
import { type Pod, startWatchServer, status, type WatchServer } from '../support/watch-server.ts';
import { WIRES } from '../support/wire.ts';

interface Trimmed {
  uid: string;
  name: string;
  note: string;
}

const TIMINGS = { backoffMs: [20, 100] as [number, number], shortMs: 200 };

let server: WatchServer;
let stop: AbortController;
let ended: Promise<void> | undefined;
let informer: Informer<Trimmed>;
let events: string[];
let errors: string[];
/** Whose `trim` was called, and what was held of it. */
let trims: string[];

const suites = Object.entries(WIRES).map(([form, wire]) => {
  const one = suite(`informer, ${form}`);
  one.before.each(async () => {
    server = await startWatchServer(wire);
    stop = new AbortController();
    ended = undefined;
    events = [];
    errors = [];
    trims = [];
  });
  one.after.each(async () => {
    stop.abort();
    await ended;
    await server.close();
  });
  return one;
});
/** Of both forms. */
function test(name: string, run: () => void | Promise<void>): void {
  for (const one of suites) one(name, run);
}

const noteOf = (object: unknown) => String(new Map(entriesOf((object as Pod).metadata.annotations)).get('note'));

const trim = (object: unknown, held?: Trimmed): Trimmed => {
  const { uid, name } = (object as Pod).metadata;
  assert.equal(held === undefined || held.uid === uid, true, 'held of another uid');
  if (name !== 'marker') trims.push(held === undefined ? uid : `${uid}, held: ${held.note}`);
  return { uid, name, note: noteOf(object) };
};

/** `+ name uid`, `~ name uid note`, `- name uid`. */
function tell({ type, object, old }: InformerEvent<Trimmed>): void {
  const sign = { added: '+', changed: '~', deleted: '-' }[type];
  assert.equal(old === undefined, type === 'added');
  assert.equal(old === undefined || old.uid === object.uid, true, 'of another uid');
  events.push(`${sign} ${object.uid}${object.note && ` ${object.note}`}`);
}

async function start(options: Partial<InformerOptions<Trimmed>> = {}): Promise<void> {
  informer = new Informer({
    kube: server.kube,
    path: '/api/v1/pods',
    fieldSelector: 'spec.nodeName=node',
    trim,
    onEvent: tell,
    log: { debug: () => {}, warn: () => {}, error: (...said: unknown[]) => errors.push(JSON.stringify(said)) } as never,
    ...options,
    timings: { ...TIMINGS, ...options.timings },
  });
  ended = informer.start(stop.signal);
  await informer.synced;
  await watching();
}

async function until(what: string, right: () => boolean, limitMs = 5000): Promise<void> {
  const began = performance.now();
  while (!right()) {
    if (isOver(began, limitMs)) throw new Error(`not ${what}; events: ${events}; ${JSON.stringify(informer?.stats())}`);
    await sleep(2);
  }
}

const watching = () => until('watching', () => server.watches.size === 1);
const asked = (kind: 'list' | 'watch') => server.asked.filter((request) => request.kind === kind);

/** Puts a pod and waits until it is told: all that came before it has been told then. */
async function settle(): Promise<void> {
  const { metadata } = server.put('marker', '', { recreated: true });
  await until('settled', () => events.includes(`+ ${metadata.uid}`));
  events = events.filter((event) => !event.includes('marker'));
  const held = informer.store().map(({ uid, note }) => `${uid} ${note}`);
  assert.deepEqual(
    held.sort(),
    server
      .pods()
      .map(({ metadata: { uid, annotations } }) => `${uid} ${annotations.note}`)
      .sort(),
  );
}

const head = (response: ServerResponse) => {
  response.writeHead(200);
  response.flushHeaders();
};

/** Of the lists: what was asked for. */
const pages = () => asked('list').map(({ query }) => [query.get('limit'), query.get('continue')]);

test('lists in pages, then watches from the version of the list', async () => {
  for (let at = 0; at < 1203; at++) server.put(`p${at}`);
  await start();
  assert.equal(events.length, 1203);
  assert.deepEqual(pages(), [
    ['50', null],
    ['500', '50'],
    ['500', '550'],
    ['500', '1050'],
  ]);
  assert.equal(asked('list')[0]?.headers.accept, ACCEPT.object);
  assert.equal(asked('watch')[0]?.headers.accept, ACCEPT.watch);
  const { query } = asked('watch')[0] ?? {};
  assert.equal(query?.get('resourceVersion'), '1204');
  assert.equal(query?.get('allowWatchBookmarks'), 'true');
  assert.equal(query?.get('fieldSelector'), 'spec.nodeName=node');
  const seconds = Number(query?.get('timeoutSeconds'));
  assert.ok(seconds >= 300 && seconds <= 600, `${seconds}`);
  await settle();
});

test('tells what is added, changed and deleted, with what was before', async () => {
  const { uid } = server.put('a').metadata;
  const seen: InformerEvent<Trimmed>[] = [];
  await start({
    onEvent: (event) => {
      tell(event);
      seen.push(event);
    },
  });
  server.put('a', 'one');
  server.delete('a');
  await settle();
  assert.deepEqual(events, [`+ ${uid}`, `~ ${uid} one`, `- ${uid} one`]);
  assert.deepEqual(trims, [uid, `${uid}, held: `], 'nothing is read of what is deleted');
  assert.equal(seen[1]?.old?.note, '');
  assert.equal(informer.get('a', 'default'), undefined);
  assert.equal(informer.get('marker', 'default')?.name, 'marker');
  assert.equal(informer.stats().resourceVersion, server.pods()[0]?.metadata.resourceVersion);
});

test('an event that is cut in two is dropped, and comes again from the last valid version', async () => {
  await start();
  const { uid } = server.put('a').metadata;
  await until('told', () => events.length === 1);
  let half: Buffer = Buffer.alloc(0);
  server.silently(() => {
    half = server.wire.event('MODIFIED', server.put('a', 'x'.repeat(100)));
  });
  const good = informer.stats().resourceVersion;
  server.cut(half.subarray(0, -20));
  await settle();
  assert.deepEqual(events, [`+ ${uid}`, `~ ${uid} ${'x'.repeat(100)}`]);
  assert.equal(asked('watch')[1]?.query.get('resourceVersion'), good);
  assert.equal(asked('list').length, 1);
  assert.equal(informer.stats().restarts.connection, 1);
});

test('so is one cut by an orderly end, even where what is left would parse', async () => {
  await start();
  server.silently(() => server.put('a'));
  server.end(server.wire.event('ADDED', server.pods()[0]).subarray(0, -1));
  await settle();
  assert.equal(events.length, 1);
  assert.equal(informer.stats().restarts.connection, 1);
  assert.equal(asked('list').length, 1);
});

for (const [form, fault] of Object.entries<(response: ServerResponse) => void>({
  'a status': (response) => status(response, 410, 'Expired'),
  'an event': (response) => {
    response.writeHead(200, { 'Content-Type': server.wire.watchType });
    response.end(server.wire.event('ERROR', { kind: 'Status', code: 410, reason: 'Expired', message: 'too old' }));
  },
})) {
  test(`410 as ${form}: lists again, and tells the difference`, async () => {
    for (const name of ['stays', 'changes', 'goes', 'returns']) server.put(name);
    await start();
    events = [];
    const uids = Object.fromEntries(server.pods().map(({ metadata }) => [metadata.name, metadata.uid]));
    server.faults.watch.push(fault);
    server.cut();
    server.put('changes', 'now');
    server.delete('goes');
    const returned = server.put('returns', '', { recreated: true }).metadata.uid;
    const fresh = server.put('new').metadata.uid;
    server.compact();
    await until('told', () => events.length >= 5);
    await watching();
    await settle();
    assert.deepEqual([...events].sort(), [
      `+ ${fresh}`,
      `+ ${returned}`,
      `- ${uids.goes}`,
      `- ${uids.returns}`,
      `~ ${uids.changes} now`,
    ]);
    assert.ok(events.indexOf(`- ${uids.returns}`) < events.indexOf(`+ ${returned}`));
    assert.deepEqual(
      trims.slice(-4).sort(),
      [fresh, returned, `${uids.changes}, held: `, `${uids.stays}, held: `].sort(),
    );
    assert.equal(informer.stats().restarts.expired, 1);
    assert.equal(asked('list').length, 2);
  });
}

test('410 without end: the lists come slower and slower', async () => {
  await start({ timings: { backoffMs: [50, 10_000] } });
  for (let at = 0; at < 5; at++) server.faults.watch.push((response) => status(response, 410, 'Expired'));
  server.cut();
  await until('over it', () => server.faults.watch.length === 0 && server.watches.size === 1);
  const times = asked('list').map(({ at }) => at);
  const [first = 0, last = 0] = [times[1], times.at(-1)];
  assert.equal(times.length, 6);
  // 25 + 50 + 100 + 200 at least, each with its jitter.
  assert.ok(last - first >= 370, `${last - first} ms`);
});

test('pages are as large as the objects of the page before let them be', async () => {
  const large = 'x'.repeat(100_000);
  for (let at = 0; at < 80; at++) server.put(`p${at}`, large);
  for (let at = 0; at < 100; at++) server.put(`q${at}`, 'x'.repeat(3_000_000 * Number(at === 9)));
  await start();
  assert.equal(events.length, 180);
  // 2 MiB are 20 pods of 100 KB, then less than one of 3 MB among small ones, then all that is left.
  const limits = pages().map(([limit]) => Number(limit));
  assert.equal(limits[0], 50);
  assert.ok((limits[1] ?? 0) <= 20 && (limits[1] ?? 0) >= 15, `${limits}`);
  assert.ok(limits.some((limit) => limit < 15) && limits.at(-1) === 500, `${limits}`);
});

test('410 for a page: the list begins anew', async () => {
  for (let at = 0; at < 600; at++) server.put(`p${at}`);
  server.faults.list.push(
    (response) => {
      response.end(
        server.wire.list({ metadata: { resourceVersion: '601', continue: '50' }, items: server.pods().slice(0, 50) }),
      );
    },
    (response) => status(response, 410, 'Expired'),
  );
  await start();
  assert.deepEqual(
    asked('list').map(({ query }) => query.get('continue')),
    [null, '50', null, '50', '550'],
  );
  assert.equal(events.length, 600);
});

test('an ERROR event of another kind: waits, and lists', async () => {
  await start();
  server.write(server.wire.event('ERROR', { kind: 'Status', code: 500, reason: 'InternalError', message: 'etcd' }));
  await until('listed', () => asked('list').length === 2);
  await watching();
  await settle();
  assert.equal(informer.stats().restarts.refused, 1);
});

test('an invalid event: the informer waits, then lists', async () => {
  await start();
  const { wire } = server;
  const unknown = wire.event('?', { metadata: { resourceVersion: '1' } });
  for (const [at, nonsense] of [wire.garbage, wire.event('ADDED'), unknown].entries()) {
    server.write(nonsense);
    await until('listed', () => asked('list').length === at + 2);
    await watching();
  }
  await settle();
  assert.equal(informer.stats().restarts.malformed, 3);
});

test('500s: the waits grow to their bound, and the watch goes on from where it was', async () => {
  await start({ timings: { backoffMs: [40, 160] } });
  for (let at = 0; at < 6; at++) server.faults.watch.push((response) => status(response, 500, 'InternalError'));
  server.cut();
  server.put('a');
  await until('told', () => events.length === 1);
  const times = asked('watch').map(({ at }) => at);
  const gaps = times.slice(2).map((at, index) => at - (times[index + 1] ?? 0));
  assert.equal(gaps.length, 6);
  for (const [index, gap] of gaps.entries()) {
    const longest = Math.min(160, 40 * 2 ** (index + 1));
    assert.ok(
      gap >= longest / 2 - 1 && gap < longest + 60 * patience(),
      `${gap} ms as wait ${index}, ${longest} ms at most`,
    );
  }
  assert.equal(asked('list').length, 1);
});

test('429: not before its Retry-After, and not after more than ours', async () => {
  await start({ timings: { retryAfterMs: 2000 } });
  server.faults.watch.push(
    (response) => status(response, 429, 'TooManyRequests', { 'Retry-After': '1' }),
    (response) => status(response, 503, 'ServiceUnavailable', { 'Retry-After': '86400' }),
  );
  server.cut();
  server.put('a');
  await until('told', () => events.length === 1);
  const [, first = 0, second = 0, third = 0] = asked('watch').map(({ at }) => at);
  assert.ok(second - first >= 1000, `${second - first} ms`);
  assert.ok(third - second >= 2000, `${third - second} ms`);
  assert.equal(asked('list').length, 1);
});

test('an orderly end after a while: the watch continues at once', async () => {
  await start({ timings: { backoffMs: [5000, 5000] } });
  for (let round = 1; round <= 20; round++) {
    server.put('a', `${round}`);
    await until('told', () => events.length === round);
    server.end();
    await until('on again', () => asked('watch').length === round + 1, 200);
    await watching();
  }
  assert.equal(informer.stats().restarts.ended, 20);
  assert.equal(asked('list').length, 1);
});

test('repeated orderly ends at once do not cause a hot loop', async () => {
  await start({ timings: { backoffMs: [40, 80], shortMs: 1000 } });
  server.faults.watch.push(...Array.from({ length: 1000 }, () => (response: ServerResponse) => void response.end()));
  server.cut();
  await sleep(500);
  assert.ok(asked('watch').length < 20, `${asked('watch').length} watches within half a second`);
  server.faults.watch.length = 0;
  await watching();
  await settle();
});

test('bookmarks move the version on', async () => {
  await start();
  const began = Date.now();
  server.bookmark();
  server.bookmark();
  server.compact();
  await until('moved', () => informer.stats().resourceVersion === '3');
  server.cut();
  await settle();
  assert.equal(asked('watch')[1]?.query.get('resourceVersion'), '3');
  assert.equal(asked('list').length, 1);
  assert.ok((informer.stats().lastEventTime ?? 0) >= began);
});

test('a watch that falls silent without an end is given up, and nothing is missed', async () => {
  await start({ timings: { watchSeconds: [1, 1], graceMs: 200 } });
  server.silently(() => server.put('a'));
  await until('told', () => events.length === 1);
  assert.equal(informer.stats().restarts.hung, 1);
  const [first = 0, second = 0] = asked('watch').map(({ at }) => at);
  assert.ok(second - first >= 1200, `${second - first} ms`);
  // A bookmark is a sign of life.
  for (let at = 0; at < 4; at++) {
    await sleep(400);
    server.bookmark();
  }
  assert.equal(informer.stats().restarts.hung, 1);
});

test('TCP detects a peer that disappeared silently', async () => {
  await start();
  // The remote port, and which timer runs to when, in hundredths of a second: proc_net_tcp(5), all hexadecimal.
  const port = Number(new URL(server.url).port).toString(16).toUpperCase().padStart(4, '0');
  const sockets = readFileSync('/proc/net/tcp', 'utf8').matchAll(/ \w+:\w+ \w+:(\w+) 01 \S+ (\w+):(\w+) /g);
  const ours = [...sockets].filter(([, remote]) => remote === port);
  assert.ok(ours.length > 0);
  for (const [, , timer, when = ''] of ours) {
    assert.equal(timer, '02', 'the keep-alive timer');
    assert.ok(Number.parseInt(when, 16) <= 1500, when);
  }
});

test('no head of an answer: given up after its limit', async () => {
  server.faults.other.push(() => {});
  await assert.rejects(server.kube.list('/silent', {}, { timeoutMs: 300 }), { code: 'ERR_API_TIMEOUT' });
  server.faults.other.push((response) => {
    head(response);
    response.write('{');
  });
  await assert.rejects(server.kube.list('/half', {}, { timeoutMs: 300 }), { code: 'ERR_API_TIMEOUT' });
  server.faults.watch.push(() => {});
  await assert.rejects(server.kube.watch('/api/v1/pods', {}, { headersMs: 300, idleMs: 300 }), {
    code: 'ERR_API_TIMEOUT',
  });
});

test('a pod recreated between two events is deleted and added', async () => {
  const { uid } = server.put('a').metadata;
  await start();
  let last: Pod | undefined;
  server.silently(() => {
    last = server.put('a', '', { recreated: true });
  });
  // As from a server that joined both into one.
  server.write(server.wire.event('MODIFIED', last));
  await settle();
  assert.deepEqual(events, [`+ ${uid}`, `- ${uid}`, `+ ${last?.metadata.uid}`]);
  assert.deepEqual(trims, [uid, last?.metadata.uid], 'nothing is held of the new one');
});

test('a repeated event is reported once, and a late deletion of the old object does not affect the new one', async () => {
  const old = server.put('a');
  await start();
  const fresh = server.put('a', '', { recreated: true });
  server.write(
    server.wire.event('ADDED', fresh),
    server.wire.event('MODIFIED', fresh),
    server.wire.event('DELETED', old),
  );
  await settle();
  assert.deepEqual(events, [`+ ${old.metadata.uid}`, `- ${old.metadata.uid}`, `+ ${fresh.metadata.uid}`]);
});

test('a relist of what has not changed tells nothing', async () => {
  for (let at = 0; at < 10; at++) server.put(`p${at}`);
  await start();
  events = [];
  server.compact();
  server.write(server.wire.event('ERROR', { code: 410 }));
  await until('listed', () => informer.stats().lists === 2);
  await watching();
  await settle();
  assert.deepEqual(events, []);
});

test('long ones, and characters cut in two', async () => {
  await start();
  const note = `${'ä€😀'.repeat(150_000)}.`;
  let bytes: Buffer = Buffer.alloc(0);
  server.silently(() => {
    bytes = Buffer.concat([
      server.wire.event('ADDED', server.put('big', note)),
      server.wire.event('ADDED', server.put('small', 'ß😀')),
    ]);
  });
  assert.ok(bytes.length > 1_300_000);
  // The last pieces cut within characters; each is a segment of its own.
  const at = bytes.lastIndexOf(Buffer.from('😀'));
  const pieces = [1, 400_003, 800_001, at - 1, at + 1, at + 2, at + 3, bytes.length];
  for (const [index, end] of pieces.entries()) {
    server.write(bytes.subarray(pieces[index - 1] ?? 0, end));
    await sleep(5);
  }
  await until('told', () => events.length === 2);
  assert.equal(informer.get('big', 'default')?.note, note);
  assert.equal(informer.get('small', 'default')?.note, 'ß😀');
  assert.equal(informer.stats().restarts.malformed, 0);
});

test('many events in one piece are reported in order', async () => {
  await start();
  for (let at = 0; at < 2000; at++) server.put('a', `${at}`);
  await until('told', () => events.length === 2000);
  assert.deepEqual(
    events.map((event) => Number(event.split(' ')[2])),
    Array.from({ length: 2000 }, (_, at) => at),
  );
});

test('a throwing onEvent, onState or trim is reported, and the loop goes on', async () => {
  server.put('a');
  await start({
    onEvent: (event) => {
      tell(event);
      throw new Error('of onEvent');
    },
    onState: () => {
      throw new Error('of onState');
    },
    trim: (object, held) => {
      if (noteOf(object) === 'poison') throw new Error('of trim');
      return trim(object, held);
    },
  });
  server.put('a', 'poison');
  server.put('b', 'poison');
  server.put('a', 'good');
  await until('told', () => events.length === 2);
  server.put('a', 'poison');
  server.write(server.wire.event('ERROR', { code: 410 }));
  await until('listed', () => informer.stats().lists === 2);
  assert.equal(events.length, 2, 'what could not be trimmed is not taken for gone');
  assert.equal(informer.get('a', 'default')?.note, 'good');
  assert.equal(informer.stats().restarts.connection, 0);
  for (const callback of ['onEvent', 'onState', 'trim']) assert.ok(errors.some((error) => error.includes(callback)));
  assert.equal(errors.length, informer.stats().handlerErrors);
});

test('a trim that says SyntaxError: what came is malformed, and the list begins anew', async () => {
  server.put('a');
  await start({
    trim: (object, held) => {
      if (noteOf(object) === 'cut') throw new SyntaxError('cut');
      return trim(object, held);
    },
  });
  server.silently(() => server.put('a', 'good'));
  const { uid } = server.pods()[0]?.metadata ?? {};
  const damaged = {
    metadata: { ...server.pods()[0]?.metadata, annotations: { note: 'cut' }, resourceVersion: '1000' },
  };
  server.write(server.wire.event('MODIFIED', damaged));
  await until('listed', () => informer.stats().lists === 2);
  await watching();
  await settle();
  assert.deepEqual(events, [`+ ${uid}`, `~ ${uid} good`]);
  assert.equal(informer.stats().restarts.malformed, 1);
  assert.equal(informer.stats().handlerErrors, 0);
});

test('a refused token is read anew, once', async () => {
  await start();
  server.token.onFile = 'second';
  server.token.valid = 'second';
  server.cut();
  server.put('a');
  await until('told', () => events.length === 1);
  assert.deepEqual(
    asked('watch').map(({ headers }) => headers.authorization),
    ['Bearer first', 'Bearer first', 'Bearer second'],
  );
  assert.equal(informer.stats().restarts.refused, 0);
  server.token.valid = 'third';
  await assert.rejects(server.kube.list('/x', {}, {}), { name: 'ApiError', status: 401, reason: 'Unauthorized' });
});

test('many requests that are refused together load the credentials once', async () => {
  server.token.valid = server.token.onFile = 'second';
  await Promise.all(Array.from({ length: 20 }, () => server.kube.list('/x', {}, {})));
  const refused = server.asked.filter(({ headers }) => headers.authorization === 'Bearer first').length;
  assert.equal(refused, 20);
  assert.equal(server.asked.length, 40);
  assert.equal(server.token.loads, 2);
});

test('errors carry status, reason and Retry-After', async () => {
  server.faults.other.push((response) => status(response, 409, 'Conflict'));
  await assert.rejects(server.kube.patch('/x', 'merge', {}), {
    name: 'ApiError',
    status: 409,
    reason: 'Conflict',
    answer: 'stand-in: Conflict',
    code: 'ERR_API_CONFLICT',
  });
  server.faults.other.push((response) => void response.writeHead(502, { 'Retry-After': '2' }).end('<html>'));
  const error = await server.kube.post('/x', {}).then(
    () => undefined,
    (error: unknown) => error,
  );
  assert.ok(error instanceof ApiError);
  assert.deepEqual([error.status, error.reason, error.answer, error.retryAfterMs], [502, '', 'Bad Gateway', 2000]);
});

test('a kept connection that the server closed is an error only for POST', async () => {
  const drop = (response: ServerResponse) => void response.socket?.destroy();
  await server.kube.list('/x', {}, {});
  server.faults.other.push(drop);
  await server.kube.patch('/x', 'merge', {});
  server.faults.other.push(drop);
  await assert.rejects(server.kube.post('/x', {}), { code: 'ERR_API_UNREACHABLE' });
  server.faults.other.push(drop);
  await assert.rejects(
    server.kube.list('/x', {}, {}),
    { code: 'ERR_API_UNREACHABLE' },
    'on a fresh connection it is one',
  );
});

test('the signal ends it at once, wherever it is', async () => {
  const silence = () => {};
  const places: Record<string, () => void> = {
    list: () => server.faults.list.push(silence),
    'head of the watch': () => server.faults.watch.push(silence),
    watch: () => {},
    waiting: () =>
      server.faults.watch.push((response) => status(response, 503, 'ServiceUnavailable', { 'Retry-After': '60' })),
  };
  for (const [place, prepare] of Object.entries(places)) {
    const kinds = server.asked.length;
    prepare();
    const controller = new AbortController();
    const states: string[] = [];
    const one = new Informer({
      kube: server.kube,
      path: '/api/v1/pods',
      trim,
      onEvent: () => {},
      onState: (state) => states.push(state),
    });
    const over = one.start(controller.signal);
    await until(place, () => server.asked.length >= kinds + (place === 'list' ? 1 : 2));
    if (place === 'waiting') await until(place, () => states.at(-1) === 'waiting');
    if (place === 'watch') await until(place, () => states.at(-1) === 'watching');
    const began = performance.now();
    controller.abort();
    await over;
    assert.ok(!isOver(began, 5_000), place);
    assert.equal(states.at(-1), 'stopped');
    if (place === 'list') await assert.rejects(one.synced, { name: 'AbortError' });
    assert.equal(getEventListeners(controller.signal, 'abort').length, 0, `listeners: ${place}`);
  }
});

test('nothing is reported after the signal, not even events of the same piece', async () => {
  await start({
    onEvent: (event) => {
      tell(event);
      stop.abort();
    },
  });
  server.silently(() => {
    server.write(server.wire.event('ADDED', server.put('a')), server.wire.event('ADDED', server.put('b')));
  });
  await ended;
  assert.equal(events.length, 1);
});

test('nor what came in the same list', async () => {
  server.put('a');
  server.put('b');
  let told = 0;
  const controller = new AbortController();
  const onEvent = () => {
    told++;
    controller.abort();
  };
  await new Informer({ kube: server.kube, path: '/api/v1/pods', trim, onEvent }).start(controller.signal);
  assert.equal(told, 1);
});

test('restarts leave neither listeners nor connections behind', async () => {
  await start();
  for (let round = 1; round <= 30; round++) {
    if (round % 2) server.end(server.wire.event('BOOKMARK', { metadata: { resourceVersion: '1' } }));
    else server.cut();
    await until('on again', () => asked('watch').length === round + 1);
    await watching();
  }
  assert.ok(
    getEventListeners(stop.signal, 'abort').length <= 2,
    `${getEventListeners(stop.signal, 'abort').length} listeners`,
  );
});

test('a process ends by itself once the signal has come', async () => {
  const script = `
    import { Informer } from './lib/kube/informer.ts';
    import { ApiClient } from './lib/kube/client.ts';
    import { KubeConfig } from '@kubernetes/client-node';
    const config = new KubeConfig();
    config.loadFromClusterAndUser({ name: 'c', server: '${server.url}', skipTLSVerify: true }, { name: 'u' });
    const kube = new ApiClient(() => config);
    const stop = new AbortController();
    const informer = new Informer({
      kube, path: '/api/v1/pods', trim: (object) => object, onEvent: () => stop.abort(),
      onState: (state) => { if (state === 'watching') console.log(state); },
    });
    await informer.start(stop.signal);
  `;
  const child = launch(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: 10_000 * patience(),
  });
  const output = text(child.stdout);
  await watching();
  server.put('a');
  const [code] = await once(child, 'exit');
  assert.equal(code, 0);
  assert.equal(await output, 'watching\n');
});
