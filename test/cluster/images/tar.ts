/**
 * Tar archives (POSIX ustar) that are the same byte for byte whenever the content is: no times, no owners, in the
 * order given.
 */
import { posix } from 'node:path';

export type Entry = { path: string; mode?: number } & ({ content: Buffer } | { link: string } | { folder: true });

const BLOCK = 512;

/** The archive, in pieces to be written one after the other. */
export function tar(entries: Entry[]): Buffer[] {
  return [...entries.flatMap(pieces), Buffer.alloc(2 * BLOCK)];
}

/** Puts every folder on the way to an entry before it; sorted, so that the order does not matter. */
export function withFolders(entries: Entry[]): Entry[] {
  const paths = new Map(entries.map((entry) => [entry.path, entry]));
  for (const { path } of entries) {
    for (let folder = posix.dirname(path); folder !== '.'; folder = posix.dirname(folder)) {
      if (!paths.has(folder)) paths.set(folder, { path: folder, folder: true });
    }
  }
  return [...paths.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
}

function pieces(entry: Entry): Buffer[] {
  if ('folder' in entry) return [header(`${entry.path}/`, entry.mode ?? 0o755, 0, '5')];
  if ('link' in entry) return [header(entry.path, 0o777, 0, '2', entry.link)];
  const { content } = entry;
  const padding = Buffer.alloc((BLOCK - (content.length % BLOCK)) % BLOCK);
  return [header(entry.path, entry.mode ?? 0o644, content.length, '0'), content, padding];
}

function header(path: string, mode: number, size: number, type: '0' | '2' | '5', link = ''): Buffer {
  const block = Buffer.alloc(BLOCK);
  const number = (value: number, at: number, digits: number) =>
    block.write(value.toString(8).padStart(digits, '0'), at);
  const [prefix, name] = split(path);
  if (Buffer.byteLength(link) > 100) throw new Error(`tar: the link ${link} is too long`);
  block.write(name, 0);
  number(mode, 100, 7);
  number(0, 108, 7); // uid
  number(0, 116, 7); // gid
  number(size, 124, 11);
  number(0, 136, 11); // mtime
  block.fill(' ', 148, 156); // the checksum counts as spaces
  block.write(type, 156);
  block.write(link, 157);
  block.write('ustar\x0000', 257);
  block.write(prefix, 345);
  number(
    block.reduce((sum, byte) => sum + byte, 0),
    148,
    6,
  );
  block.writeUInt8(0, 154);
  return block;
}

/** A name longer than 100 bytes is cut at a slash: at most 155 bytes go before it. */
function split(path: string): [prefix: string, name: string] {
  if (Buffer.byteLength(path) <= 100) return ['', path];
  const at = path.indexOf('/', path.length - 101);
  if (at < 0 || at > 155) throw new Error(`tar: the path ${path} is too long`);
  return [path.slice(0, at), path.slice(at + 1)];
}
