/** Requests to the API server that the informer's tests do not make. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { KubeConfig } from '@kubernetes/client-node';
import { ApiClient, ApiError } from '../../lib/kube/client.ts';
import { suite } from '../suite.ts';

const test = suite('kube');

/** A server, a ApiClient whose server's URL ends with `path`, and what was asked for. */
async function between(answer: RequestListener, path = '') {
  const seen: string[] = [];
  const server = createServer((request, response) => {
    seen.push(`${request.method} ${request.url}`);
    answer(request, response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const config = new KubeConfig();
  const { port } = server.address() as AddressInfo;
  config.loadFromClusterAndUser(
    { name: 'c', server: `http://127.0.0.1:${port}${path}`, skipTLSVerify: true },
    { name: 'u' },
  );
  const kube = new ApiClient(() => config);
  const end = () => {
    kube.close();
    server.closeAllConnections();
    server.close();
  };
  return { server, kube, seen, [Symbol.dispose]: end };
}

test('what is under way when it is closed rejects, and is not sent again', async () => {
  using pair = await between((request, response) => {
    if (request.method === 'GET') response.end('{}');
    else pair.server.emit('patch');
  });
  const { server, kube, seen } = pair;
  // The connection is kept, and used again.
  await kube.list('/version', {}, {});
  const heard = once(server, 'patch');
  const patch = kube.patch('/status', 'strategic', {});
  await heard;
  kube.close();
  await assert.rejects(patch, { code: 'ERR_API_UNREACHABLE' });
  assert.deepEqual(seen, ['GET /version', 'PATCH /status']);
});

test('a server behind a path, with or without a slash at its end; what a query has to have escaped', async () => {
  for (const [path, expected] of [
    ['', ''],
    ['/', ''],
    ['/k8s/clusters/c-1', '/k8s/clusters/c-1'],
    ['/k8s/clusters/c-1/', '/k8s/clusters/c-1'],
  ]) {
    using pair = await between((_, response) => response.end('{}'), path);
    await pair.kube.list('/api/v1/pods', { fieldSelector: 'spec.nodeName=a&b', limit: 5, continue: undefined }, {});
    await pair.kube.list('/version', {}, {});
    const query = 'fieldSelector=spec.nodeName%3Da%26b&limit=5';
    assert.deepEqual(pair.seen, [`GET ${expected}/api/v1/pods?${query}`, `GET ${expected}/version`]);
  }
});

test('a Retry-After of days is a minute', () => {
  const from = (retryAfter: string) => ApiError.from(undefined, { status: 429, message: '', retryAfter }).retryAfterMs;
  assert.equal(from('3'), 3000);
  assert.equal(from('99999999'), 60_000);
});

test('an answer whose head comes after the limit is a timeout, and Node has nothing to warn of', async () => {
  let requests = 0;
  // New credentials make a second request, whose head has the whole limit again.
  using pair = await between(async (_, response) => {
    await sleep(1200);
    response.writeHead(requests++ === 0 ? 401 : 200);
    if (requests === 1) response.end('{}');
    else response.write('{');
  });
  const warnings: string[] = [];
  const warned = ({ name, message }: Error) => warnings.push(`${name}: ${message}`);
  process.on('warning', warned);
  try {
    await assert.rejects(pair.kube.list('/api/v1/pods', {}, { timeoutMs: 2000 }), { code: 'ERR_API_TIMEOUT' });
    await sleep(10);
  } finally {
    process.off('warning', warned);
  }
  assert.equal(requests, 2);
  assert.deepEqual(warnings, []);
});
