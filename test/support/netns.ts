/** Network namespaces by the hundred, what stands in them as the operators' own tools see it, and the addon's view. */

import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Coprocess } from '../../bench/coprocess.ts';
import { Failure } from '../../lib/errors.ts';
import { type Compiled, type Netns, native } from '../../lib/native/addon.ts';
import { type Backend, type Form, formOf } from '../../lib/ruleset/form.ts';
import { rulesetOf } from './command-line.ts';
import { run } from './process.ts';

export const TOOLBOX = fileURLToPath(new URL('../../build/Release/toolbox', import.meta.url));

/** The first half of the name that a mark has for a netns. */
export const BOOT_ID = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();

/** What a test that installs for real and looks at it with the usual tools cannot do without. */
export const INSTALL_NEEDS = [
  'netns',
  'uid-map',
  'ipv6',
  'addon',
  'toolbox',
  'ip',
  'nsenter',
  'iptables-legacy-restore',
  'ip6tables-legacy-restore',
];

/** Makes netns, each a file in a folder of its own, and removes what is left of them in the end. */
export class Farm implements AsyncDisposable {
  readonly folder: string;
  readonly #coprocess = new Coprocess(TOOLBOX, 'netns');
  #made = 0;

  constructor(name: string) {
    this.folder = mkdtempSync(join(tmpdir(), `ipnc-${name}-${process.pid}-`));
  }

  /** A path in the folder at which nothing is. */
  file(name = `pod${this.#made++}`): string {
    return join(this.folder, name);
  }

  /** A new netns, lo up unless told otherwise. */
  async add(path = this.file(), lo: 'up' | 'down' = 'up'): Promise<string> {
    await this.#coprocess.ask(`add ${path}${lo === 'up' ? '' : ' down'}`);
    return path;
  }

  /** A new netns that a new user namespace owns, which gets the file `userns`. */
  async addOwned(path: string, userns: string): Promise<void> {
    await this.#coprocess.ask(`add-user ${path} ${userns}`);
  }

  addAll(count: number): Promise<string[]> {
    return Promise.all(Array.from({ length: count }, () => this.add()));
  }

  async del(path: string): Promise<void> {
    await this.#coprocess.ask(`del ${path}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#coprocess[Symbol.asyncDispose]();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** What `command` prints when run in the netns. */
export async function inside(path: string, command: string[], input = ''): Promise<string> {
  const running = run('nsenter', [`--net=${path}`, ...command]);
  // Who does not read it is no failure.
  running.child.stdin?.on('error', () => {}).end(input);
  return (await running).stdout;
}

export async function restore(path: string, family: 4 | 6, text: string): Promise<void> {
  await inside(path, [family === 4 ? 'iptables-legacy-restore' : 'ip6tables-legacy-restore', '-c', '--noflush'], text);
}

/**
 * All that an install can touch, with counters: both families' tables, rules, routes, addresses and links. The kernel
 * keeps a table that was once asked for, so one in which nothing was ever written does not count.
 */
export async function state(path: string): Promise<string> {
  const families = [`iptables-legacy-save -c; echo '# IPv6'; ip6tables-legacy-save -c`];
  for (const family of [4, 6]) families.push(`ip -${family} rule show; ip -${family} route show table all`);
  let text: string;
  for (let attempt = 0; ; attempt++) {
    text = await inside(path, ['sh', '-ec', `${families.join('; ')}; ip address show`]);
    // The kernel adds the local route of an IPv6 address a moment after the address (net/ipv6/addrconf.c, dad_work).
    const late = /<LOOPBACK,UP/.test(text) && text.includes('inet6 ::6/128') && !text.includes('\nlocal ::6 dev lo');
    if (!late || attempt === 50) break;
    await setTimeout(10);
  }
  return (
    text
      .replace(/^# (Generated|Completed).*\n/gm, '')
      // A policy's counters start anew whenever libiptc writes the table, whoever uses it.
      .replace(/^(:\w+ (?:ACCEPT|DROP)) \[\d+:\d+\]/gm, '$1 [0:0]')
      .replace(/^\*\w+\n(:\w+ ACCEPT \[0:0\]\n)+COMMIT\n/gm, '')
  );
}

/**
 * All of nf_tables, with counters, and with the handles of what is not ours: our tables get new ones, and the last
 * place in the list, when they are made again.
 */
export async function nftState(path: string): Promise<string> {
  const tables = nftTables(await inside(path, ['nft', '-a', 'list', 'ruleset']));
  return tables
    .map((table) => (OUR_NFT_TABLE.test(table) ? table.replace(/ # handle \d+$/gm, '') : table))
    .sort()
    .join('');
}

/** The tables of what `nft list ruleset` printed. */
const nftTables = (listed: string) => listed.split(/(?=^table )/m);

const OUR_NFT_TABLE = /^table inet istio-proxy-(raw|mangle|nat) /;

/** Of both backends. */
export async function wholeState(path: string): Promise<string> {
  return `${await state(path)}# nftables\n${await nftState(path)}`;
}

/** By backend: what its tests need besides `INSTALL_NEEDS`, and what shows all that it can touch. */
export const BACKENDS = {
  'iptables-legacy': { needs: [], look: state },
  nftables: { needs: ['nft'], look: wholeState },
} satisfies Record<Backend, { needs: string[]; look: (path: string) => Promise<string> }>;

/** What others have in nf_tables, of what `nftState` or `wholeState` says. */
export function foreignNft(state: string): string {
  const nft = state.slice(state.indexOf('# nftables\n') + 1);
  return nftTables(nft)
    .filter((table) => table.startsWith('table ') && !OUR_NFT_TABLE.test(table))
    .join('');
}

/** All of nf_tables in the order of its making, without handles and counts. */
export async function nftRules(path: string): Promise<string> {
  return (await inside(path, ['nft', 'list', 'ruleset'])).replace(/packets \d+ bytes \d+/g, 'packets N bytes N');
}

/** Tables that were made again come last in `nftRules`; here they do not. */
export function byName(tables: string): string {
  return nftTables(tables).sort().join('');
}

export async function restoreNft(path: string, text: string): Promise<void> {
  await inside(path, ['nft', '-f', '-'], text);
}

/** Gives the rules of our nftables tables counters of their own, as if packets had come. */
export async function count(path: string): Promise<void> {
  const ours = nftTables(await inside(path, ['nft', 'list', 'ruleset'])).filter((table) => OUR_NFT_TABLE.test(table));
  let packets = 0;
  const counted = ours.map((table) => {
    const name = /^table (\S+ \S+)/.exec(table)?.[1];
    return `delete table ${name}\n${table.replace(/packets 0 bytes 0/g, () => `packets ${++packets} bytes ${60 * packets}`)}`;
  });
  await inside(path, ['nft', '-f', '-'], counted.join(''));
}

/** JSON with bigints, which nftables' form and netns have. */
export function toJson(value: unknown): string {
  return JSON.stringify(value, (_, each: unknown) => (typeof each === 'bigint' ? `${each}n` : each));
}

export function fromJson(text: string): unknown {
  return JSON.parse(text, (_, each: unknown) =>
    typeof each === 'string' && /^\d+n$/.test(each) ? BigInt(each.slice(0, -1)) : each,
  );
}

/** The tables of `state`, without what is ours and without what depends on the order in which tables came to be. */
export function foreign(state: string): string {
  const [v4 = '', v6 = ''] = state.split('# IPv6\n');
  const tables = (text: string) =>
    text
      .replace(/^(:|(\[\d+:\d+\] )?-A )ISTIO_.*\n/gm, '')
      .replace(/^(\[\d+:\d+\] )?-A (PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING) .*-j ISTIO_.*\n/gm, '')
      .replace(/^.*--comment istio-pod-network-controller .*\n/gm, '')
      .replace(/^\*\w+\n(:\w+ ACCEPT \[0:0\]\n)+COMMIT\n/gm, '')
      .split(/(?<=^COMMIT\n)/m)
      .sort()
      .join('');
  return `${tables(v4)}# IPv6\n${tables(/^(.*COMMIT\n)?/s.exec(v6)?.[0] ?? '')}`;
}

/** Of iptables-legacy, unless `--backend` is among the flags. */
export function formFor(flags: readonly string[]): Form {
  const backend = flags.includes('--backend') ? flags[flags.indexOf('--backend') + 1] : 'iptables-legacy';
  return formOf(rulesetOf(flags), backend as Backend, { counters: !flags.includes('--counters=false') });
}

export async function compile(...flags: string[]): Promise<Compiled> {
  return native().compile(formFor(flags));
}

export async function identify(path: string): Promise<Netns> {
  const { dev, ino, cookie } = await native().identify(path);
  return { path, dev, ino, cookie };
}

/** The code with which `job` rejects, or `undefined` if it does not. */
export async function codeOf(job: Promise<unknown>): Promise<string | undefined> {
  try {
    await job;
    return undefined;
  } catch (error) {
    assert.ok(error instanceof Failure, String(error));
    return error.code;
  }
}

/**
 * Each of this process's threads is in this process's netns, and none holds another one open; an idle thread closes
 * what it has left a moment after it said that it was done.
 */
export async function assertAllAtHome(): Promise<void> {
  const home = statSync('/proc/self/ns/net');
  const abroad = (folder: string, rest: string) =>
    readdirSync(folder)
      .map((name) => `${folder}/${name}${rest}`)
      .filter((file) => {
        try {
          const { dev, ino } = statSync(file);
          return dev === home.dev && ino !== home.ino;
        } catch {
          return false; // it has ended
        }
      });
  for (let attempt = 0; ; attempt++) {
    const left = [...abroad('/proc/self/task', '/ns/net'), ...abroad('/proc/self/fd', '')];
    if (left.length === 0) return;
    assert.ok(attempt < 50, `in or at another netns: ${left.join(', ')}`);
    await setTimeout(10);
  }
}
