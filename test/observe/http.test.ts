/** A real server on a port of its own, asked by Node's client, and by sockets that misbehave. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type IncomingHttpHeaders, request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { Failure } from '../../lib/errors.ts';
import {
  type Health,
  type HttpOptions,
  type HttpServer,
  healthRoutes,
  type Observed,
  observedRoutes,
  startHttp,
} from '../../lib/observe/http.ts';
import type { PodView } from '../../lib/observe/page.ts';
import type { PodRules } from '../../lib/observe/rules.ts';
import { suite } from '../suite.ts';
import { podRules } from '../support/pod-rules.ts';
import { launch } from '../support/process.ts';

const PODS: PodView[] = [
  { namespace: 'default', name: 'web', uid: 'u-1', state: 'initialized', backend: 'nftables', stages: { total: 1234 } },
  { namespace: 'default', name: 'bad', uid: 'u-2', state: 'failed', reason: '<script>alert("&\'")</script>' },
];

const servers: HttpServer[] = [];
const errors: unknown[] = [];

/** The controller has a server for each of the two; here both are answered by one. */
type Served = Health & Observed & Omit<HttpOptions, 'routes'>;

async function serve(options: Partial<Served> = {}): Promise<HttpServer> {
  errors.length = 0;
  const {
    livez = () => [],
    readyz = () => [],
    metrics = { contentType: 'text/plain; version=0.0.4', text: async () => 'up 1\n' },
    pods = () => PODS,
    rules = async () => undefined,
    ...rest
  } = options;
  const server = await startHttp({
    listen: { host: '127.0.0.1', port: 0 },
    routes: new Map([...healthRoutes({ livez, readyz }), ...observedRoutes({ metrics, pods, rules })]),
    onError: (error) => errors.push(error),
    ...rest,
  });
  servers.push(server);
  return server;
}

interface Reply {
  status: number | undefined;
  headers: IncomingHttpHeaders;
  body: string;
}

async function ask({ address }: HttpServer, path: string, headers = {}, method = 'GET'): Promise<Reply> {
  const [host, port] = address.split(/:(?=\d+$)/);
  const asked = request({ host: host?.replace(/[[\]]/g, ''), port, path, headers, method, agent: false });
  asked.end();
  const [response] = await once(asked, 'response');
  return { status: response.statusCode, headers: response.headers, body: await text(response) };
}

interface Raw {
  socket: Socket;
  ended: Promise<string>;
}

/** A connection that says what it is told to, and when it was ended by the other side. `from`: its own address. */
async function raw({ address }: HttpServer, words: string, from = '127.0.0.1'): Promise<Raw> {
  const [host, port] = address.split(':');
  const socket = connect({ host: host ?? '', port: Number(port), localAddress: from });
  socket.on('error', () => {});
  await once(socket, 'connect');
  socket.write(words);
  return { socket, ended: text(socket).catch(() => '') };
}

const test = suite('http');
test.after.each(async () => {
  await Promise.all(servers.splice(0).map((server) => server.close()));
});

test('healthy and ready, or what is missing', async () => {
  const missing: string[] = [];
  const server = await serve({ readyz: () => missing });
  assert.deepEqual([(await ask(server, '/livez')).status, (await ask(server, '/readyz')).body], [200, 'ok\n']);
  missing.push('pods: first list', 'namespaces: first list');
  const { status, body } = await ask(server, '/readyz');
  assert.deepEqual([status, body], [503, 'pods: first list\nnamespaces: first list\n']);
  assert.equal((await ask(server, '/livez?verbose')).status, 200);
});

test('metrics, as their registry has them', async () => {
  const { status, headers, body } = await ask(await serve(), '/metrics');
  assert.deepEqual([status, headers['content-type'], body], [200, 'text/plain; version=0.0.4', 'up 1\n']);
});

test('pods: JSON for programs', async () => {
  const server = await serve();
  for (const accept of [undefined, '*/*', 'application/json', 'text/html;q=0.5,application/json', 'text/html;q=0']) {
    const { headers, body } = await ask(server, '/pods', accept === undefined ? {} : { accept });
    assert.equal(headers['content-type'], 'application/json', accept);
    assert.deepEqual(JSON.parse(body), { pods: PODS });
  }
});

test('pods: a page for browsers that fetches nothing, runs only its own script and shows names as text', async () => {
  const accept = 'text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8';
  const { headers, body } = await ask(await serve(), '/pods', { accept });
  assert.equal(headers['content-type'], 'text/html; charset=utf-8');
  assert.equal(headers.vary, 'Accept');
  assert.match(body, /&lt;script&gt;alert\(&quot;&amp;&#39;&quot;\)&lt;\/script&gt;/);
  assert.ok(!/<link|<img|src=|url\(|https?:/.test(body));
  assert.equal(body.split('<script').length, 2, 'the page has one script');
  assert.match(body, /1 failed, 1 initialized/);
  assert.match(body, /1\.23 ms/);
  const policy = `${headers['content-security-policy']}`;
  assert.match(policy, /^default-src 'none'; style-src 'sha256-/);
  for (const part of ['style', 'script']) {
    const content = new RegExp(`<${part}>([\\s\\S]*)</${part}>`).exec(body)?.[1] ?? '';
    const hash = createHash('sha256').update(content).digest('base64');
    assert.ok(policy.includes(`${part}-src 'sha256-${hash}'`), `the browser would refuse the ${part}`);
  }
  assert.match(body, /<meta name="viewport"/);
});

test('rules: the plan and the differences of one pod, as text and as a page', async () => {
  const hostile = `</pre><script>document.title="owned"</script>\u001b[31m`;
  const known: Record<string, PodRules> = {
    good: podRules('good', []),
    bad: podRules('bad', [hostile, '$'.repeat(999)]),
  };
  const get = async (uid: string, accept?: string) =>
    ask(await serve({ rules: async (uid) => known[uid] }), `/rules?uid=${uid}`, accept === undefined ? {} : { accept });
  const good = await get('good');
  assert.equal(good.headers['content-type'], 'text/plain; charset=utf-8');
  assert.match(good.body, /^## shop\/good\nnftables\. The installed rules are as planned\.\n/);
  assert.match(good.body, /## The plan\n# IPv4 and IPv6: nft -f\ntable inet istio-proxy-nat/);
  const { headers, body } = await get('bad', 'text/html');
  assert.match(body, /Differences: table inet istio-proxy-nat/);
  assert.match(body, /<span class="surplus">\+ .*unknown to this version: &lt;\/pre&gt;&lt;script&gt;/);
  assert.ok(body.includes('\\u{1b}[31m') && !body.includes('<script') && !body.includes('$'.repeat(500)));
  const style = /<style>([\s\S]*)<\/style>/.exec(body)?.[1] ?? '';
  const hash = createHash('sha256').update(style).digest('base64');
  assert.ok(`${headers['content-security-policy']}`.includes(`style-src 'sha256-${hash}'`));
});

test('rules: one reading a second, of one pod at a time', async () => {
  let reads = 0;
  const read = Promise.withResolvers<void>();
  const server = await serve({
    rules: async () => {
      reads++;
      await read.promise;
      return podRules('slow', []);
    },
  });
  const began = performance.now();
  const first = ask(server, '/rules?uid=a');
  while (reads === 0) await sleep(1);
  const other = await ask(server, '/rules?uid=b');
  assert.deepEqual([other.status, other.headers['retry-after']], [503, '1']);
  read.resolve();
  assert.equal((await first).status, 200);
  for (let more = 0; more < 10; more++) await ask(server, '/rules?uid=a');
  const seconds = Math.floor((performance.now() - began) / 1000);
  assert.ok(reads <= 1 + seconds, `${reads} readings in ${seconds} s`);
});

test('rules: no uid, an unknown one, rules that cannot be read, and too many of them', async () => {
  const known: Record<string, () => PodRules> = {
    gone: () => {
      throw new Failure('ENOENT', { subject: '/run/netns/gone' });
    },
    many: () =>
      podRules(
        'many',
        Array.from({ length: 8193 }, () => 'x'),
      ),
    long: () =>
      podRules(
        'long',
        Array.from({ length: 3000 }, () => 'x'),
      ),
  };
  const get = async (query: string) => ask(await serve({ rules: async (uid) => known[uid]?.() }), `/rules${query}`);
  assert.equal((await get('')).status, 400);
  assert.equal((await get('?uid=other')).status, 404);
  const gone = await get('?uid=gone');
  assert.deepEqual(
    [gone.status, gone.body],
    [503, 'The rules of this pod cannot be read: /run/netns/gone does not exist\n'],
  );
  assert.match((await get('?uid=many')).body, /have 8193 rules, which are too many to show/);
  assert.match((await get('?uid=long')).body, /^ \.\.\. and \d+ more lines$/m);
});

test('an unknown path, and a method that is not supported', async () => {
  const server = await serve();
  for (const path of ['/', '/pods/', '/livez/x', '//livez', '/..%2flivez']) {
    assert.equal((await ask(server, path)).status, 404, path);
  }
  assert.match((await ask(server, '/')).body, /\/livez, \/readyz, \/metrics, \/pods/);
  for (const method of ['POST', 'DELETE', 'OPTIONS']) {
    const { status, headers } = await ask(server, '/metrics', {}, method);
    assert.deepEqual([status, headers.allow], [405, 'GET, HEAD'], method);
  }
});

test('HEAD says what GET would, without a body', async () => {
  const server = await serve();
  for (const path of ['/livez', '/metrics', '/pods', '/nowhere']) {
    const [get, head] = [await ask(server, path), await ask(server, path, {}, 'HEAD')];
    assert.deepEqual(
      [head.status, head.headers['content-length'], head.body],
      [get.status, `${Buffer.byteLength(get.body)}`, ''],
    );
  }
});

test('a handler that throws leads to a 500 without details, and calls onError', async () => {
  const fault = new Error('inner workings');
  const server = await serve({
    metrics: { contentType: 'text/plain', text: () => Promise.reject(fault) },
    pods: () => {
      throw fault;
    },
  });
  for (const path of ['/metrics', '/pods']) {
    const { status, body } = await ask(server, path);
    assert.equal(status, 500);
    assert.ok(!body.includes('inner'));
  }
  assert.deepEqual(errors, [fault, fault]);
});

test(
  'without an address it listens on all, in both families',
  async () => {
    const { address, ...server } = await serve({ listen: { port: 0 } });
    const port = address.split(':').at(-1);
    for (const host of ['127.0.0.1', '[::1]']) {
      assert.equal((await ask({ ...server, address: `${host}:${port}` }, '/livez')).status, 200, host);
    }
  },
  { needs: ['ipv6'] },
);

test('a port in use, and an address of another machine, are reported', async () => {
  const first = await serve();
  const port = Number(first.address.split(':')[1]);
  await assert.rejects(serve({ listen: { host: '127.0.0.1', port } }), (error: Failure) => {
    assert.equal(error.code, 'ERR_LISTEN');
    assert.ok(error.message.startsWith(`the controller cannot listen on 127.0.0.1:${port}: `), error.message);
    assert.match(error.message, /EADDRINUSE/);
    assert.match(error.remedy, /ss -ltnp/);
    return true;
  });
  await assert.rejects(serve({ listen: { host: '192.0.2.1', port: 0 } }), {
    code: 'ERR_LISTEN',
    message: /EADDRNOTAVAIL/,
  });
});

test(
  'a controller that cannot have its port says so and ends',
  async () => {
    const first = await serve();
    const folder = mkdtempSync(join(tmpdir(), 'ipnc-'));
    const kubeconfig = join(folder, 'config');
    const named = (kind: string, value: object) => ({ [`${kind}s`]: [{ name: 'x', [kind]: value }] });
    const server = { server: 'http://127.0.0.1:1' };
    const parts = [named('cluster', server), named('user', {}), named('context', { cluster: 'x', user: 'x' })];
    writeFileSync(kubeconfig, JSON.stringify(Object.assign({ 'current-context': 'x' }, ...parts)));
    const flags = [
      '--node-name',
      'x',
      '--kubeconfig',
      kubeconfig,
      '--health-address',
      'off',
      '--metrics-address',
      first.address,
    ];
    const child = launch(process.execPath, [join(import.meta.dirname, '../../lib/main.ts'), 'run', ...flags]);
    try {
      const said = text(child.stderr);
      assert.deepEqual(await once(child, 'exit'), [1, null]);
      assert.match(await said, /cannot listen on .*EADDRINUSE/);
    } finally {
      child.kill('SIGKILL');
      rmSync(folder, { recursive: true });
    }
  },
  { needs: ['addon', 'netns'], timeoutMs: 20_000 },
);

test('a stop ends idle connections, incomplete requests and incomplete answers at once', async () => {
  const asked = Promise.withResolvers<void>();
  const never = new Promise<string>(() => {});
  const text = () => {
    asked.resolve();
    return never;
  };
  const limits = { requestMs: 60_000, idleMs: 60_000 };
  const server = await serve({ limits, metrics: { contentType: 'text/plain', text } });
  const idle = await raw(server, '');
  const half = await raw(server, 'GET /livez HTTP/1.1\r\nHost: localhost\r\n');
  const waiting = await raw(server, 'GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n');
  await asked.promise;
  await server.close();
  assert.deepEqual(await Promise.all([idle.ended, half.ended, waiting.ended]), ['', '', '']);
});

test('who is slow to ask is shown the door', async () => {
  const server = await serve({ limits: { requestMs: 50, idleMs: 60_000 } });
  const silent = await raw(server, '');
  const half = await raw(server, 'GET /livez HTTP/1.1\r\nHost: localhost\r\n');
  const trickling = await raw(server, 'GET /livez HTTP/1.1\r\n');
  const trickle = setInterval(() => trickling.socket.write('X-A: b\r\n'), 10);
  try {
    for (const { ended } of [silent, half]) assert.match(await ended, /^HTTP\/1.1 408 /);
    // A client that writes after the server has closed gets a reset, which can discard the answer before it is read.
    assert.match(await trickling.ended, /^(HTTP\/1.1 408 |$)/);
  } finally {
    clearInterval(trickle);
  }
});

test('who says nothing is too, and who announces more than it sends is not waited for', async () => {
  const server = await serve({ limits: { requestMs: 60_000, idleMs: 50 } });
  const silent = await raw(server, '');
  assert.equal(await silent.ended, '');
  const head = 'POST /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 9\r\n\r\n';
  assert.match(await (await raw(server, head)).ended, /^HTTP\/1.1 405 /);
});

/** Asks anew as long as the server takes no further connection. */
async function whenLetIn(server: HttpServer): Promise<string> {
  for (;;) {
    const reply = await (await raw(server, 'GET /livez HTTP/1.0\r\n\r\n')).ended;
    if (reply !== '') return reply;
  }
}

test('who never reads the answer is shown the door', async () => {
  const asked = Promise.withResolvers<void>();
  const text = async () => {
    asked.resolve();
    // More than the sockets hold.
    return 'x'.repeat(50_000_000);
  };
  const server = await serve({ limits: { idleMs: 100, connections: 1 }, metrics: { contentType: 'text/plain', text } });
  const [host, port] = server.address.split(':');
  const reader = connect({ host: host ?? '', port: Number(port) });
  reader.on('error', () => {});
  reader.write('GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n');
  await asked.promise;
  assert.match(await whenLetIn(server), /200 OK/);
  reader.destroy();
});

/** The status line of an answer to a probe, on a connection of its own. */
async function probe(server: HttpServer, from: string): Promise<string> {
  const { ended } = await raw(server, 'GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n', from);
  return (await ended).split('\r\n')[0] ?? '';
}

const ODD_ONES: [what: string, words: string, addresses: number][] = [
  ['silent connections of one address', '', 1],
  ['connections of one address that ask slowly', 'GET /livez HTTP/1.1\r\nHost: localhost\r\n', 1],
  ['connections that ask slowly, of fifty addresses', 'GET /metrics HTTP/1.1\r\n', 50],
  [
    'connections that never read their answers, of fifty addresses',
    'GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n',
    50,
  ],
];
for (const [what, words, addresses] of ODD_ONES) {
  test(`200 ${what}: every probe is answered`, async () => {
    const large = { status: 200, type: 'text/plain', body: Buffer.alloc(8_000_000) };
    const routes = new Map(healthRoutes({ livez: () => [], readyz: () => [] })).set('/large', () => large);
    const server = await startHttp({ listen: { host: '127.0.0.1', port: 0 }, routes, onError: () => {} });
    servers.push(server);
    const open: Socket[] = [];
    for (let at = 0; at < 200; at++) {
      const { socket } = await raw(server, words, `127.0.1.${at % addresses}`);
      socket.pause();
      open.push(socket);
      if (at % 10 === 0) assert.equal(await probe(server, '127.0.0.1'), 'HTTP/1.1 200 OK', `${at}`);
    }
    for (let at = 0; at < 50; at++) assert.equal(await probe(server, '127.0.0.1'), 'HTTP/1.1 200 OK', `${at}`);
    if (addresses === 1)
      assert.equal(await probe(server, '127.0.1.0'), 'HTTP/1.1 200 OK', 'from their own address too');
    for (const socket of open) socket.destroy();
  });
}

test('of too many connections of one address the oldest goes that is not being answered', async () => {
  const asked = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<string>();
  const text = () => {
    asked.resolve();
    return answer.promise;
  };
  const server = await serve({ limits: { perAddress: 2 }, metrics: { contentType: 'text/plain', text } });
  const busy = await raw(server, 'GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n');
  await asked.promise;
  const idle = await raw(server, '');
  const other = await raw(server, '', '127.0.0.2');
  const newest = await raw(server, '');
  assert.equal(await idle.ended, '');
  answer.resolve('up 1');
  assert.match(await busy.ended, /up 1$/);
  newest.socket.write('GET /livez HTTP/1.0\r\n\r\n');
  assert.match(await newest.ended, /200 OK/);
  other.socket.write('GET /livez HTTP/1.0\r\n\r\n');
  assert.match(await other.ended, /200 OK/);
});

test('of too many connections in all one goes of the address that has the most', async () => {
  const server = await serve({ limits: { connections: 4, perAddress: 4 } });
  const first = await raw(server, '', '127.0.0.2');
  const many = [await raw(server, ''), await raw(server, ''), await raw(server, '')];
  const last = await raw(server, '', '127.0.0.3');
  assert.equal(await many[0]?.ended, '');
  for (const { socket, ended } of [first, last]) {
    socket.write('GET /livez HTTP/1.0\r\n\r\n');
    assert.match(await ended, /200 OK/);
  }
});

test('an answer that is not made in time is given up', async () => {
  const never = { contentType: 'text/plain', text: () => new Promise<string>(() => {}) };
  const server = await serve({ limits: { answerMs: 50 }, metrics: never });
  const { ended } = await raw(server, 'GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n');
  assert.equal(await ended, '');
  assert.equal(await probe(server, '127.0.0.1'), 'HTTP/1.1 200 OK');
});

test('what is work to answer is made once for all who ask within a moment, and anew after it', async () => {
  let made = 0;
  const server = await serve({ metrics: { contentType: 'text/plain', text: async () => `up ${++made}` } });
  const bodies = await Promise.all(Array.from({ length: 10 }, async () => (await ask(server, '/metrics')).body));
  assert.deepEqual([...new Set(bodies)], ['up 1']);
  await sleep(400);
  assert.equal((await ask(server, '/metrics')).body, 'up 2');
});

test('a fault is not remembered', async () => {
  let calls = 0;
  const text = async () => {
    if (++calls === 1) throw new Error('once');
    return 'up 1';
  };
  const server = await serve({ metrics: { contentType: 'text/plain', text } });
  assert.deepEqual([(await ask(server, '/metrics')).status, (await ask(server, '/metrics')).status], [500, 200]);
});

test('a foreign host name is refused, so that a foreign web page cannot read the answer', async () => {
  const server = await serve({ hosts: ['metrics.istio-system.svc'] });
  const ours = ['127.0.0.1:9464', '127.0.0.1', '[::1]:9464', '[fd00::1]', 'localhost', 'LOCALHOST:1', 'localhost.'];
  for (const host of [...ours, 'metrics.istio-system.svc:9464', 'Metrics.istio-system.svc.']) {
    assert.equal((await ask(server, '/pods', { host })).status, 200, host);
  }
  const others = ['evil.example', 'evil.example:9464', 'localhost.evil.example', '127.0.0.1.evil.example', '[evil]'];
  for (const host of [...others, 'istio-system.svc', ':9464', 'a b', '127.1', '2130706433']) {
    for (const path of ['/pods', '/metrics', '/livez', '/nowhere']) {
      const { status, body } = await ask(server, path, { host });
      assert.equal(status, 421, `${host} ${path}`);
      assert.ok(!body.includes('web'));
    }
  }
  assert.match(await (await raw(server, 'GET /livez HTTP/1.0\r\n\r\n')).ended, /200 OK/, 'HTTP/1.0 has no name');
});

test('a head of more than 8 KiB is refused', async () => {
  const { ended } = await raw(
    await serve(),
    `GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: ${'a'.repeat(9000)}\r\n\r\n`,
  );
  assert.match(await ended, /^HTTP\/1.1 431 /);
});
