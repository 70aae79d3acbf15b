/**
 * The native addon, typed. It runs on threads of its own, never on libuv's; a job's promise settles when the job's
 * thread is back in its own netns. No file descriptor crosses this boundary.
 */
import { fileURLToPath } from 'node:url';
import bindings from 'bindings';
import type { Family, Match, Rule, Ruleset, TableName } from './ruleset/model.ts';

/** A backend that can write rules. */
export type Backend = 'iptables-legacy';

/** A netns, named for this boot. */
export interface Netns {
  path: string;
  dev: number;
  /** Reused by the kernel at once: never an identity by itself. */
  ino: number;
  /** SO_NETNS_COOKIE: unique until the next boot. */
  cookie: bigint;
}

export interface Identity extends Netns {
  /** Families with a global unicast address on an interface other than lo; empty in a netns not yet connected. */
  families: Family[];
  /** Whether the kernel's IPv6 is there and not disabled on lo in this netns. */
  ipv6: boolean;
  loUp: boolean;
}

/** Microseconds. `queue` is the wait for a thread; `total` is the thread's own time, without `queue`. */
export interface Timings {
  queue: number;
  enter: number;
  v4: number;
  v6: number;
  routes: number;
  verify: number;
  total: number;
}

export interface TableResult {
  family: Family;
  table: TableName;
  /**
   * replayed: the table was pristine, the compiled bytes went in with one setsockopt; merged: through libiptc, others'
   * rules kept; unchanged: our rules stood there already; cleaned: rules of ours that no longer belong were removed.
   */
  how: 'replayed' | 'merged' | 'unchanged' | 'cleaned';
}

export interface ApplyResult {
  backend: Backend;
  /** False when all of it stood there already. */
  changed: boolean;
  tables: TableResult[];
  /** What was added or removed, as arguments of `ip`: `-4 rule add fwmark 0x539 lookup 133`. */
  routes: string[];
  timings: Timings;
}

/** A match this version does not know, as the kernel holds it. */
export interface OpaqueMatch {
  kind: 'opaque';
  name: string;
  revision: number;
  /** Hex. */
  data: string;
}

export interface OpaqueTarget {
  kind: 'opaque';
  name: string;
  revision: number;
  data: string;
}

/** A rule as read from the kernel. */
export interface ActualRule extends Omit<Rule, 'matches' | 'target'> {
  matches: (Match | OpaqueMatch)[];
  target: Rule['target'] | OpaqueTarget;
}

export interface ActualChain {
  name: string;
  builtin: boolean;
  /** In a builtin chain only the rules that are ours. */
  rules: ActualRule[];
}

export interface ActualTable {
  family: Family;
  table: TableName;
  chains: ActualChain[];
}

export interface VerifyResult {
  backend: Backend;
  /** Rules, routes and addresses all stand as compiled. */
  ok: boolean;
  /** Tables that differ, as they are now. */
  tables: ActualTable[];
  /** Missing and surplus routes, rules and addresses, as the arguments of `ip` that make them. */
  routes: { missing: string[]; surplus: string[] };
  timings: Timings;
}

/** A ruleset as kernel-ready bytes. Safe to use for any number of netns at once. */
export interface Compiled {
  readonly backend: Backend;
  /**
   * All or nothing. `target` must be what `identify` said; another netns at that path is ESTALE.
   *
   * `fresh`: the caller knows that nobody has installed anything there yet, as in a sandbox that was made just now.
   * Saves the search for leftovers of ours in tables that this ruleset does not use, and a look at the chain policies of
   * tables without rules; if a table turns out to have rules after all, both are made up for.
   */
  apply(target: Netns, options?: { fresh?: boolean }): Promise<ApplyResult>;
  verify(target: Netns): Promise<VerifyResult>;
}

/** What the kernel and this process allow. */
export interface Probe {
  /** Legacy tables, each tried for real in a scratch netns; an errno name where it failed. */
  legacy: { 4: Record<TableName, true | string>; 6: Record<TableName, true | string> };
  /** nf_tables answered a netlink request in a scratch netns. */
  nftables: true | string;
  /** setns and unshare(CLONE_NEWNET) work. */
  netns: true | string;
  /** Matches and targets a rule of ours needs and this kernel lacks, `xt_owner rev 1 (IPv4)`. */
  missingExtensions: string[];
}

/** What every rejected promise of the addon carries. */
export interface NativeError extends Error {
  /** An errno name (`ESTALE`), or `ERR_HOST_NETNS`, `ERR_NOT_NETNS`, `ERR_QUEUE_FULL`, `ERR_VERIFY`. */
  code: string;
  /** Negative errno, as Node has it; absent for the ERR_ codes. */
  errno?: number;
  syscall?: string;
  path?: string;
  /** `IPv4 nat`, where a table was at hand. */
  table?: string;
}

/**
 * What `apply` and `clean` answer, as it crosses: route changes; queue, enter, v4, v6, routes, verify, total; then
 * family, table (index in TABLES) and how (index in HOW) of each table. An array is made in a fraction of the time that
 * the objects take, and one is made for every install.
 */
type ApplyTuple = [routes: string[], ...numbers: number[]];

/** The addon as it is (native/addon.cc). */
interface Addon {
  probe(): Promise<Probe>;
  identify(path: string): Promise<Identity>;
  compile(ruleset: Ruleset, backend: Backend): Promise<AddonCompiled>;
  clean(path: string, dev: number, ino: number, cookie: bigint): Promise<ApplyTuple>;
}

interface AddonCompiled {
  apply(path: string, dev: number, ino: number, cookie: bigint, fresh: boolean): Promise<ApplyTuple>;
  verify(path: string, dev: number, ino: number, cookie: bigint): Promise<VerifyResult>;
}

interface Native {
  probe(): Promise<Probe>;
  /** `path` is a file of nsfs: /run/netns/x, /proc/1234/ns/net. Enters it to read its cookie and addresses. */
  identify(path: string): Promise<Identity>;
  /** Builds the tables in a scratch netns and reads them back: what this kernel refuses is refused here. */
  compile(ruleset: Ruleset, backend: Backend): Promise<Compiled>;
  /** Removes the chains, rules, routes and addresses that are ours, whatever configuration they came from. */
  clean(target: Netns): Promise<ApplyResult>;
}

let loaded: Native | undefined;

/** Loads the addon at the first call, so that what needs no kernel (`plan`, `--help`) works without it. */
export function native(): Native {
  loaded ??= wrap(load());
  return loaded;
}

function load(): Addon {
  try {
    return bindings({
      bindings: 'ipnc',
      module_root: fileURLToPath(new URL('..', import.meta.url)),
      try: [['module_root', 'build', process.env.IPNC_BUILD ?? 'Release', 'bindings']],
    }) as Addon;
  } catch (cause) {
    throw new Error(
      'the native addon is not built or cannot be loaded; run ./setup in the project folder, which says what is missing',
      { cause },
    );
  }
}

function wrap(addon: Addon): Native {
  return {
    probe: () => addon.probe(),
    identify: (path) => addon.identify(path),
    clean: async ({ path, dev, ino, cookie }) =>
      applyResult('iptables-legacy', await addon.clean(path, dev, ino, cookie)),
    compile: async (ruleset, backend) => {
      const compiled = await addon.compile(ruleset, backend);
      return {
        backend,
        apply: async ({ path, dev, ino, cookie }, { fresh = false } = {}) =>
          applyResult(backend, await compiled.apply(path, dev, ino, cookie, fresh)),
        verify: ({ path, dev, ino, cookie }) => compiled.verify(path, dev, ino, cookie),
      };
    },
  };
}

const TABLES: readonly TableName[] = ['raw', 'mangle', 'nat'];
const HOW = ['replayed', 'merged', 'unchanged', 'cleaned'] as const;

function applyResult(backend: Backend, [routes, ...numbers]: ApplyTuple): ApplyResult {
  const [queue = 0, enter = 0, v4 = 0, v6 = 0, routing = 0, verify = 0, total = 0, ...codes] = numbers;
  const tables: TableResult[] = [];
  for (let i = 0; i < codes.length; i += 3) {
    const family = codes[i] === 4 ? 4 : 6;
    const [table, how] = [TABLES[codes[i + 1] ?? -1], HOW[codes[i + 2] ?? -1]];
    if (table === undefined || how === undefined)
      throw new Error('the native addon is of another version; run ./setup');
    tables.push({ family, table, how });
  }
  const changed = routes.length > 0 || tables.some(({ how }) => how !== 'unchanged');
  return { backend, changed, tables, routes, timings: { queue, enter, v4, v6, routes: routing, verify, total } };
}
