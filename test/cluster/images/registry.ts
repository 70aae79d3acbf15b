/**
 * A registry from which a node pulls images over plain HTTP: the part of the OCI distribution API that a pull needs
 * (https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pull).
 */
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { ControlPlane } from '../control-plane.ts';
import type { ClusterNode } from '../node.ts';
import { type Blob, type Image, MANIFEST, pack } from './archive.ts';

/** A name of the registry's images, which no name server has to know. */
const HOST = 'registry.test';

export interface Pushed {
  /** What to write as an image's name in a pod. */
  reference: string;
  /** Bytes of its layers as a node fetches them. */
  compressed: number;
  /** Whether a node has asked for each of its layers since. */
  fetched(): boolean;
}

export class Registry implements AsyncDisposable {
  readonly #server: Server;
  /** By path. */
  readonly #content = new Map<string, { type: string; blob: Blob }>();
  readonly #asked = new Set<string>();
  /** How many it has answered. */
  requests = 0;

  private constructor() {
    this.#server = createServer(({ method, url = '' }, response) => {
      this.requests++;
      // containerd appends the name under which it knows the registry.
      const [path = ''] = url.split('?');
      const found = this.#content.get(path);
      if (path === '/v2/') response.end();
      else if (found === undefined) response.writeHead(404).end();
      else {
        const { digest, size, pieces } = found.blob;
        response.writeHead(200, {
          'content-type': found.type,
          'content-length': size,
          'docker-content-digest': digest,
        });
        if (method !== 'HEAD') this.#asked.add(digest);
        response.end(method === 'HEAD' ? undefined : Buffer.concat(pieces));
      }
    });
  }

  /** On the address of this process in the cluster's network; this node knows it. */
  static async start({ network }: ControlPlane, node: ClusterNode): Promise<Registry> {
    const registry = new Registry();
    registry.#server.listen(0, network.here.v4);
    await once(registry.#server, 'listening');
    const { address, port } = registry.#server.address() as AddressInfo;
    mkdirSync(join(node.registries, HOST), { recursive: true });
    writeFileSync(join(node.registries, HOST, 'hosts.toml'), `server = "http://${address}:${port}"\n`);
    return registry;
  }

  /** `name` with a tag. */
  push(name: string, image: Image): Pushed {
    const { manifest, config, layers } = pack(image, true);
    const [repository, tag] = name.split(':');
    const serve = (kind: string, reference: string | undefined, blob: Blob, type: string) =>
      this.#content.set(`/v2/${repository}/${kind}/${reference}`, { type, blob });
    for (const reference of [tag, manifest.digest]) serve('manifests', reference, manifest, MANIFEST);
    for (const { digest } of layers) this.#asked.delete(digest);
    for (const blob of [config, ...layers]) serve('blobs', blob.digest, blob, 'application/octet-stream');
    return {
      reference: `${HOST}/${name}`,
      compressed: layers.reduce((sum, { size }) => sum + size, 0),
      fetched: () => layers.every(({ digest }) => this.#asked.has(digest)),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, 'close');
  }
}
