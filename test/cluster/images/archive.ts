/** OCI image archives, as `ctr images import` takes them. Equal inputs make equal archives, and equal digests. */
import { createHash } from 'node:crypto';
import { closeSync, openSync, writevSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { type Entry, tar, withFolders } from './tar.ts';

export interface Image {
  /** `localhost/name:tag` */
  name: string;
  /** From the bottom up. */
  layers: Entry[][];
  entrypoint: string[];
  env?: string[];
  /** Of what runs in it unless told otherwise; root if absent. */
  user?: string;
}

export interface Blob {
  digest: string;
  size: number;
  pieces: Buffer[];
}

export interface PackedImage {
  manifest: Blob;
  config: Blob;
  layers: Blob[];
}

const MEDIA = 'application/vnd.oci.image';
export const MANIFEST = `${MEDIA}.manifest.v1+json`;
const ARCHITECTURE = { x64: 'amd64', arm64: 'arm64' }[process.arch as string];

/** `compressed`: as in a registry. */
export function pack(image: Image, compressed: boolean): PackedImage {
  const plain = image.layers.map((layer) => blob(tar(withFolders(layer))));
  const layers = compressed ? plain.map(({ pieces }) => blob([gzipSync(Buffer.concat(pieces))])) : plain;
  const config = json({
    architecture: ARCHITECTURE,
    os: 'linux',
    config: { Entrypoint: image.entrypoint, Env: image.env ?? [], WorkingDir: '/', User: image.user ?? '' },
    rootfs: { type: 'layers', diff_ids: plain.map(({ digest }) => digest) },
  });
  const manifest = json({
    schemaVersion: 2,
    mediaType: MANIFEST,
    config: describe(config, 'config.v1+json'),
    layers: layers.map((layer) => describe(layer, compressed ? 'layer.v1.tar+gzip' : 'layer.v1.tar')),
  });
  return { manifest, config, layers };
}

/** Writes the archive and returns the digest of its manifest. */
export function writeArchive(path: string, image: Image): string {
  const { manifest, config, layers } = pack(image, false);
  const index = json({
    schemaVersion: 2,
    mediaType: `${MEDIA}.index.v1+json`,
    manifests: [{ ...describe(manifest, 'manifest.v1+json'), annotations: { 'io.containerd.image.name': image.name } }],
  });
  const files: [path: string, pieces: Buffer[]][] = [
    ['oci-layout', [Buffer.from('{"imageLayoutVersion":"1.0.0"}')]],
    ['index.json', index.pieces],
    ...[...new Map([config, manifest, ...layers].map((blob) => [blob.digest, blob])).values()].map(
      ({ digest, pieces }): [string, Buffer[]] => [`blobs/${digest.replace(':', '/')}`, pieces],
    ),
  ];
  const out = openSync(path, 'w');
  try {
    for (const piece of tar(files.map(([path, pieces]) => ({ path, content: Buffer.concat(pieces) })))) {
      writeAll(out, piece);
    }
  } finally {
    closeSync(out);
  }
  return manifest.digest;
}

function describe({ digest, size }: Blob, type: string) {
  return { mediaType: `${MEDIA}.${type}`, digest, size };
}

function json(value: unknown): Blob {
  return blob([Buffer.from(JSON.stringify(value))]);
}

function blob(pieces: Buffer[]): Blob {
  const hash = createHash('sha256');
  for (const piece of pieces) hash.update(piece);
  return {
    digest: `sha256:${hash.digest('hex')}`,
    size: pieces.reduce((sum, piece) => sum + piece.length, 0),
    pieces,
  };
}

function writeAll(out: number, piece: Buffer): void {
  for (let at = 0; at < piece.length; ) at += writevSync(out, [piece.subarray(at)]);
}
