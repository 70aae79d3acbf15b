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
import type { Failure } from '../../lib/errors.ts';
import { type HttpOptions, type HttpServer, startHttp } from '../../lib/observe/http.ts';
import type { PodView } from '../../lib/observe/page.ts';
import { suite } from '../suite.ts';
import { launch } from '../support/process.ts';

const PODS: PodView[] = [
  { namespace: 'default', name: 'web', uid: 'u-1', state: 'initialized', backend: 'nftables', stages: { total: 1234 } },
  { namespace: 'default', name: 'bad', uid: 'u-2', state: 'failed', reason: '<script>alert("&\'")</script>' },
];

const servers: HttpServer[] = [];
const errors: unknown[] = [];

function serve(options: Partial<HttpOptions> = {}): Promise<HttpServer> {
  errors.length = 0;
  return startHttp({
    listen: { host: '127.0.0.1', port: 0 },
    livez: () => [],
    readyz: () => [],
    metrics: { contentType: 'text/plain; version=0.0.4', text: async () => 'up 1\n' },
    pods: () => PODS,
    onError: (error) => errors.push(error),
    ...options,
  }).then((server) => {
    servers.push(server);
    return server;
  });
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

/** A connection that says what it is told to, and when it was ended by the other side. */
async function raw({ address }: HttpServer, words: string): Promise<{ socket: Socket; ended: Promise<string> }> {
  const [host, port] = address.split(':');
  const socket = connect({ host: host ?? '', port: Number(port) });
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

test('pods: a page for browsers that runs nothing, fetches nothing and holds what it was given as text', async () => {
  const accept = 'text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8';
  const { headers, body } = await ask(await serve(), '/pods', { accept });
  assert.equal(headers['content-type'], 'text/html; charset=utf-8');
  assert.equal(headers.vary, 'Accept');
  assert.match(body, /&lt;script&gt;alert\(&quot;&amp;&#39;&quot;\)&lt;\/script&gt;/);
  assert.ok(!/<script|<link|<img|src=|url\(|https?:/.test(body));
  assert.match(body, /1 initialized, 1 failed/);
  assert.match(body, /1\.23 ms/);
  const policy = `${headers['content-security-policy']}`;
  assert.match(policy, /^default-src 'none'; style-src 'sha256-/);
  const style = /<style>([\s\S]*)<\/style>/.exec(body)?.[1] ?? '';
  assert.ok(
    policy.includes(`'sha256-${createHash('sha256').update(style).digest('base64')}'`),
    'the style would be refused',
  );
  assert.match(body, /<meta name="viewport"/);
});

test('a path that is not there, and a method that is not answered', async () => {
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

test('a handler that throws is a 500 that tells nothing, and an error that is heard', async () => {
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

test('a port that is taken, and an address that is not ours, are said so', async () => {
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
    const flags = ['--node-name', 'x', '--kubeconfig', kubeconfig, '--metrics-address', first.address];
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

test('stopping ends at once what is idle, half asked and half answered', async () => {
  const asked = Promise.withResolvers<void>();
  const never = new Promise<string>(() => {});
  const text = () => {
    asked.resolve();
    return never;
  };
  const limits = { requestMs: 60_000, idleMs: 60_000 };
  const server = await serve({ limits, metrics: { contentType: 'text/plain', text } });
  const idle = await raw(server, '');
  const half = await raw(server, 'GET /livez HTTP/1.1\r\nHost: x\r\n');
  const waiting = await raw(server, 'GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n');
  await asked.promise;
  await server.close();
  assert.deepEqual(await Promise.all([idle.ended, half.ended, waiting.ended]), ['', '', '']);
});

test('who is slow to ask is shown the door', async () => {
  const server = await serve({ limits: { requestMs: 50, idleMs: 60_000 } });
  const silent = await raw(server, '');
  const half = await raw(server, 'GET /livez HTTP/1.1\r\nHost: x\r\n');
  const trickling = await raw(server, 'GET /livez HTTP/1.1\r\n');
  const trickle = setInterval(() => trickling.socket.write('X-A: b\r\n'), 10);
  for (const { ended } of [silent, half, trickling]) assert.match(await ended, /^HTTP\/1.1 408 /);
  clearInterval(trickle);
});

test('who says nothing is too, and who announces more than it sends is not waited for', async () => {
  const server = await serve({ limits: { requestMs: 60_000, idleMs: 50 } });
  const silent = await raw(server, '');
  assert.equal(await silent.ended, '');
  const head = 'POST /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\n';
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
  reader.write('GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n');
  await asked.promise;
  assert.match(await whenLetIn(server), /200 OK/);
  reader.destroy();
});

test('no more connections than allowed; the next one is let in when one is gone', async () => {
  const server = await serve({ limits: { connections: 2 } });
  const [one] = [await raw(server, ''), await raw(server, '')];
  assert.equal(await (await raw(server, 'GET /livez HTTP/1.0\r\n\r\n')).ended, '');
  one.socket.destroy();
  assert.match(await whenLetIn(server), /200 OK/);
});

test('a head of more than 8 KiB is refused', async () => {
  const { ended } = await raw(await serve(), `GET /livez HTTP/1.1\r\nHost: x\r\nX-A: ${'a'.repeat(9000)}\r\n\r\n`);
  assert.match(await ended, /^HTTP\/1.1 431 /);
});
