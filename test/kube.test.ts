/** Requests to the API server that the informer's tests do not make. */
import { equal, rejects } from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { KubeConfig } from '@kubernetes/client-node';
import { ApiError, Kube } from '../lib/sources/kube.ts';
import { suite } from './suite.ts';

const test = suite('kube');

test('what is under way when it is closed rejects, and is not sent again', async () => {
  const seen: string[] = [];
  const server = createServer((request, response) => {
    seen.push(request.method ?? '');
    if (request.method === 'GET') response.end('{}');
    else server.emit('patch');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  try {
    const config = new KubeConfig();
    const { port } = server.address() as AddressInfo;
    config.loadFromClusterAndUser(
      { name: 'c', server: `http://127.0.0.1:${port}`, skipTLSVerify: true },
      { name: 'u' },
    );
    const kube = new Kube(() => config);
    // The connection is kept, and used again.
    await kube.get('/version');
    const heard = once(server, 'patch');
    const patch = kube.patch('/api/v1/namespaces/a/pods/b/status', 'strategic', {});
    await heard;
    kube.close();
    await rejects(patch, { code: 'ECONNRESET' });
    equal(seen.join(), 'GET,PATCH');
  } finally {
    server.closeAllConnections();
    server.close();
  }
});

test('a Retry-After of days is a minute', () => {
  const from = (retryAfter: string) => ApiError.from(undefined, { status: 429, message: '', retryAfter }).retryAfterMs;
  equal(from('3'), 3000);
  equal(from('99999999'), 60_000);
});
