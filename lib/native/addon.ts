/**
 * The native addon, typed. It runs on threads of its own, never on libuv's; a job's promise settles when the job's
 * thread is back in its own netns. No file descriptor crosses this boundary.
 */
import { isDeepStrictEqual } from 'node:util';
import bindings from 'bindings';
import { explain, Failure } from '../errors.ts';
import { ROOT } from '../root.ts';
import type { ActualTable, Drift } from '../ruleset/actual.ts';
import type { Backend, Form } from '../ruleset/form.ts';
import { tableLines } from '../ruleset/iptables.ts';
import { type Family, LIST_CHAIN, OUR_CHAINS, RULE_COMMENT, type Ruleset, type TableName } from '../ruleset/model.ts';
import { nftChainName } from '../ruleset/nftables/lower.ts';
import { type ActualNftTableWire, fromWire, type NftRulesetWire, toWire, WIDTHS } from '../ruleset/nftables/wire.ts';

/** The identity of a netns until the next boot. */
export interface Netns {
  path: string;
  dev: number;
  /** The kernel reuses inode numbers at once, so this alone does not identify a netns. */
  ino: number;
  /** SO_NETNS_COOKIE: unique until the next boot. */
  cookie: bigint;
}

export interface Identity extends Netns {
  /** Global unicast addresses on interfaces other than lo, as inet_ntop(3) writes them; none before it is connected. */
  addresses: string[];
  /** Whether the kernel's IPv6 is there and not disabled on lo in this netns. */
  ipv6: boolean;
  loUp: boolean;
  /** Whether another user namespace than this process's owns the netns, as for a pod with `hostUsers: false`. */
  foreignUserns: boolean;
  /** The backends of our installed rules. Empty if the caller said that the netns is fresh. */
  installedBackends: Backend[];
  /**
   * Whether rules of Istio's are in the tables of iptables-nft: `ip nat`, `ip6 nat` and the like. An install removes
   * them.
   */
  iptablesNft: boolean;
}

/** Microseconds. `queue` is the wait for a thread; `total` is the thread's own time, without `queue`. */
export interface Timings {
  queue: number;
  enter: number;
  v4: number;
  v6: number;
  /** Both families at once. */
  nftables: number;
  routes: number;
  verify: number;
  /** The time to wake the pod's gate, if the caller asked for it. */
  release: number;
  total: number;
}

export interface TableResult {
  /** `inet` is nftables', and both. */
  family: Family | 'inet';
  table: TableName;
  /**
   * replayed: nothing of anybody's was there, the compiled bytes went in with one system call; merged: the table was
   * read and written back, and others' rules were kept; replaced: a table of ours by another, in one transaction; unchanged: our rules stood there
   * already; cleaned: rules of ours that no longer belong were removed.
   */
  how: 'replayed' | 'merged' | 'replaced' | 'unchanged' | 'cleaned';
}

export interface ApplyResult {
  /** False if everything was already installed. */
  changed: boolean;
  tables: TableResult[];
  /** What was added or removed, as arguments of `ip`: `-4 rule add fwmark 0x539 lookup 133`. */
  routes: string[];
  /** Why the rules may capture nothing although they are all installed, a sentence each. */
  doubts: string[];
  /** Whether Istio's rules were removed from the tables of iptables-nft. */
  tookOver: boolean;
  timings: Timings;
}

export interface VerifyResult extends Drift {
  /** Rules, routes and addresses are all installed as compiled, and nothing of ours is in the other form. */
  ok: boolean;
  /**
   * Rules of other programs that can let traffic bypass ours: `IPv4 nat: -A OUTPUT -j ACCEPT`, or
   * `table ip x, rule in chain y: notrack`. At most 16 of a chain or of nf_tables. docs/security.md says what is
   * compared.
   */
  ahead: string[];
  /** As of `apply`. */
  doubts: string[];
  timings: Timings;
}

/** A ruleset as kernel-ready bytes. Safe to use for any number of netns at once. */
export interface Compiled {
  /** What was compiled. */
  form: Form;
  /**
   * Installs all rules or none. If the rollback itself fails, the error is ERR_ROLLBACK, whatever made the job fail.
   * Our rules of the other backend are removed once the new ones are installed. `target` must be an answer of
   * `identify`; another netns at that path is ESTALE.
   *
   * `fresh`: the caller knows that no program has installed rules yet, as in a new sandbox. The addon then does not
   * search other tables for our leftovers, and does not read the chain policies of empty tables. If it finds a table
   * with rules after all, it does both.
   *
   * `first`: legacy rules of ours that are installed behind others' rules are moved in front of them.
   *
   * `wakeGate`: wakes the gate that waits in the netns, once all rules are installed and read back. It is not an error
   * if no gate waits.
   */
  apply(target: Netns, options?: { fresh?: boolean; wakeGate?: boolean; first?: boolean }): Promise<ApplyResult>;
  verify(target: Netns): Promise<VerifyResult>;
}

/** What the kernel and this process support. */
export interface Probe {
  /** Legacy tables, each tried for real in a scratch netns; an errno name where it failed. */
  legacy: { 4: Record<TableName, true | string>; 6: Record<TableName, true | string> };
  /** nf_tables answered a netlink request in a scratch netns; an errno name where it did not. */
  nftables: true | string;
  /** setns and unshare(CLONE_NEWNET) work. */
  netns: true | string;
  /** Matches and targets a rule of ours needs and this kernel lacks, `xt_owner rev 1 (IPv4)`. */
  missingExtensions: string[];
  /** The same of nf_tables, each tried in a scratch netns: `tproxy`. Empty where nf_tables does not answer. */
  missingExpressions: string[];
}

/** The state of the addon's threads. */
export interface Health {
  /** The number of threads. */
  threads: number;
  /** The number of threads with a job. */
  busy: number;
  /** The number of threads whose job takes longer than `boundMs`, because the kernel blocks it. Each is replaced. */
  stuck: number;
  /** Threads that could not return to the process's own netns, and ended; each was replaced. */
  lost: number;
  /** Jobs that wait for a thread. */
  queued: number;
  /** The time of the longest running job so far. */
  longestMs: number;
  boundMs: number;
  /** How many stuck threads can be replaced. */
  spare: number;
}

/**
 * What `apply` and `clean` answer, as it crosses: route changes; times, in the order of PHASES; bits of DOUBTS; then family (0 is inet),
 * table (index in TABLES) and how (index in HOW) of each table. Arrays are made in a fraction of the time that the objects
 * take, and these are made for every install.
 */
type ApplyTuple = [routes: string[], times: number[], doubts: number, ...codes: number[]];

/** What `verify` answers, as it crosses; its times are those of an ApplyTuple. */
type VerifyWire = Pick<VerifyResult, 'legacy' | 'iptablesNft' | 'routes'> & {
  nftables: ActualNftTableWire[];
  legacyAhead: ActualTable[];
  nftablesAhead: string[];
  doubts: number;
  timings: number[];
};

/** The addon as it is (native/addon.cc). */
interface Addon {
  layout: unknown;
  health(): Health;
  probe(): Promise<Probe>;
  identify(path: string, fresh: boolean): Promise<Identity>;
  compile(ruleset: Ruleset | NftRulesetWire, backend: Backend): Promise<AddonCompiled>;
  clean(path: string, dev: number, ino: number, cookie: bigint): Promise<ApplyTuple>;
}

interface AddonCompiled {
  apply(
    path: string,
    dev: number,
    ino: number,
    cookie: bigint,
    fresh: boolean,
    wakeGate: boolean,
    first: boolean,
  ): Promise<ApplyTuple>;
  verify(path: string, dev: number, ino: number, cookie: bigint): Promise<VerifyWire>;
}

/** Every promise rejects with Failure; what the addon threw is its cause. */
interface Native {
  /** Cheap, and answers at once. */
  health(): Health;
  probe(): Promise<Probe>;
  /**
   * `path` is a file of nsfs: /run/netns/x, /proc/1234/ns/net. Enters it to read its cookie and addresses. `fresh`: as
   * for `apply`; the search for installed rules is skipped, which saves a third of the time.
   */
  identify(path: string, options?: { fresh?: boolean }): Promise<Identity>;
  /** Builds the tables in a scratch netns and reads them back, so that rules which this kernel refuses fail here. */
  compile(form: Form): Promise<Compiled>;
  /** Removes the tables, chains, rules, routes and addresses that are ours, whatever configuration they came from. */
  clean(target: Netns): Promise<ApplyResult>;
}

let loaded: Native | undefined;

/** Loads the addon at the first call, so that `plan` and `--help` work without it. */
export function native(): Native {
  loaded ??= wrap(load());
  return loaded;
}

function load(): Addon {
  let addon: Addon;
  try {
    addon = bindings({
      bindings: 'ipnc',
      module_root: ROOT,
      try: [['module_root', 'build', process.env.IPNC_BUILD ?? 'Release', 'bindings']],
    }) as Addon;
  } catch (cause) {
    throw new Failure('ERR_NOT_BUILT', { subject: 'the native addon', cause });
  }
  requireLayout(addon.layout);
  return addon;
}

/** Throws Failure `ERR_NOT_BUILT` unless `layout`, as the addon says it, is what this side was written for. */
export function requireLayout(layout: unknown): void {
  const said = layout as Partial<Record<string, unknown>> | undefined;
  const other = Object.entries(LAYOUT).filter(([name, value]) => !isDeepStrictEqual(said?.[name], value));
  if (other.length === 0) return;
  const names = other.map(([name]) => name).join(', ');
  const message = `the native addon was built from other sources than these: it differs in ${names}`;
  throw new Failure('ERR_NOT_BUILT', { message });
}

function wrap(addon: Addon): Native {
  return {
    health: () => addon.health(),
    probe: () => explained(SCRATCH, () => addon.probe()),
    identify: (path, { fresh = false } = {}) => explained(path, () => addon.identify(path, fresh)),
    clean: async ({ path, dev, ino, cookie }) =>
      applyResult(await explained(path, () => addon.clean(path, dev, ino, cookie), UNDONE)),
    compile: async (form) => {
      const { backend, ruleset } = form;
      const wire = backend === 'nftables' ? toWire(ruleset) : ruleset;
      const compiled = await explained(SCRATCH, () => addon.compile(wire, backend));
      return {
        form,
        apply: async ({ path, dev, ino, cookie }, { fresh = false, wakeGate = false, first = false } = {}) => {
          const job = () => compiled.apply(path, dev, ino, cookie, fresh, wakeGate, first);
          return applyResult(await explained(path, job, UNDONE));
        },
        verify: async ({ path, dev, ino, cookie }) => {
          const answer = await explained(path, () => compiled.verify(path, dev, ino, cookie));
          const { legacy, iptablesNft, routes, legacyAhead, nftablesAhead } = answer;
          const nftables = answer.nftables.map(fromWire);
          const timings = timingsOf(answer.timings);
          const tables = [legacy, iptablesNft, nftables];
          const drift = [...tables, routes.missing, routes.surplus].some(({ length }) => length > 0);
          const ahead = [...legacyAhead.flatMap(tableLines), ...nftablesAhead];
          const doubts = doubtsOf(answer.doubts);
          return { ok: !drift, ahead, doubts, legacy, iptablesNft, nftables, routes, timings };
        },
      };
    },
  };
}

/** Where `probe` and `compile` work, as messages name it. */
const SCRATCH = 'a scratch network namespace';
/** What a message says about the changes of a failed job whose rollback succeeded. */
const UNDONE = 'all changes were undone';

/** The addon refuses invalid arguments with an exception, before it returns a promise. */
async function explained<T>(path: string, job: () => Promise<T>, undone?: string): Promise<T> {
  try {
    return await job();
  } catch (error) {
    throw explain(error, path, undone);
  }
}

/** In the order in which they cross, and are shown. */
export const PHASES = ['queue', 'enter', 'v4', 'v6', 'nftables', 'routes', 'verify', 'release', 'total'] as const;
const TABLES: readonly TableName[] = ['raw', 'mangle', 'nat'];
const HOW = ['replayed', 'merged', 'replaced', 'unchanged', 'cleaned'] as const;
/** From the lowest bit on (native/install.h: kDoubtNames). */
const DOUBTS = ['sourceMark', 'virtualMachine', 'tookOver'] as const;

/** What both sides have to agree on, in the order in which it crosses (native/to_js.cc). */
export const LAYOUT = {
  tables: TABLES,
  how: HOW,
  phases: PHASES,
  doubts: DOUBTS,
  widths: WIDTHS,
  chains: OUR_CHAINS,
  listChain: LIST_CHAIN,
  comment: RULE_COMMENT,
  nftChains: [...OUR_CHAINS.map(nftChainName), 'prerouting', 'output'],
};

function timingsOf(times: number[]): Timings {
  const timings = {} as Timings;
  for (const [at, phase] of PHASES.entries()) timings[phase] = times[at] ?? 0;
  return timings;
}

const DOUBT_TEXTS: Partial<Record<(typeof DOUBTS)[number], string>> = {
  sourceMark:
    'net.ipv4.conf.*.src_valid_mark is 1 in the pod, so the kernel drops IPv4 packets that TPROXY has marked; set it to 0, or use REDIRECT',
  virtualMachine:
    'the pod is a virtual machine (its network namespace has tap0_kata), whose traffic never meets these rules; run the pod with another runtime class, or keep it out of the mesh',
};

function isSet(bits: number, name: (typeof DOUBTS)[number]): boolean {
  return (bits & (1 << DOUBTS.indexOf(name))) !== 0;
}

function doubtsOf(bits: number): string[] {
  return DOUBTS.filter((name) => isSet(bits, name)).flatMap((name) => DOUBT_TEXTS[name] ?? []);
}

function applyResult([routes, times, doubts, ...codes]: ApplyTuple): ApplyResult {
  const tables: TableResult[] = [];
  for (let i = 0; i < codes.length; i += 3) {
    const family = codes[i] === 0 ? 'inet' : codes[i] === 4 ? 4 : 6;
    const [table, how] = [TABLES[codes[i + 1] ?? -1], HOW[codes[i + 2] ?? -1]];
    if (table === undefined || how === undefined) throw new Failure('ERR_NOT_BUILT', { subject: 'the native addon' });
    tables.push({ family, table, how });
  }
  const changed = routes.length > 0 || tables.some(({ how }) => how !== 'unchanged');
  const tookOver = isSet(doubts, 'tookOver');
  return { changed, tables, routes, doubts: doubtsOf(doubts), tookOver, timings: timingsOf(times) };
}
