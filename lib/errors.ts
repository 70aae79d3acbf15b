/**
 * Every error code: what it means, what to do about it, and whether a retry can help. Messages, the retry rule, the
 * reasons of Events, the failure metric and the table in docs/operate.md come from here.
 */
import { constants } from 'node:os';

/**
 * Whether another attempt can succeed although the pod has not changed. `soon` and `slowly`: yes, see LONGEST_PAUSE_MS;
 * `costly`: yes, but each attempt costs seconds of a thread, so the first pause is long and nothing shortens it;
 * `no`: the pod is marked as failed, and the next attempt waits for a change of the pod.
 */
type Retry = 'soon' | 'slowly' | 'costly' | 'no';

/** The pauses between attempts grow to this, milliseconds. */
export const LONGEST_PAUSE_MS = { soon: 30_000, slowly: 300_000, costly: 600_000 } satisfies Record<
  Exclude<Retry, 'no'>,
  number
>;

export interface Meaning {
  /** PATH, PID, ADDRESS and PART take the subject of an error, DETAIL takes what is known of this one error. */
  means: string;
  remedy: string;
  retry: Retry;
  /** Why a retry can help, or why it cannot. */
  why: string;
  /** The reason of the Event; InstallFailed if absent. */
  event?: 'BudgetExceeded' | 'ConfigInvalid' | 'MarkFailed' | 'RollbackFailed';
}

/** In the order of the table in docs/operate.md. A code that is no errno begins with ERR_. */
export const CATALOGUE = {
  ERR_CONFIG: {
    means: 'a setting is invalid, or contradicts another one',
    remedy: 'correct the setting: the message names it, its value and what is expected',
    retry: 'no',
    why: 'the same setting fails in the same way',
    event: 'ConfigInvalid',
  },
  ERR_USAGE: {
    means: 'the command line is invalid',
    remedy: 'see "ipnc help" and "ipnc help VERB"',
    retry: 'no',
    why: 'the same words fail in the same way',
  },
  ERR_USERNS: {
    means: 'PATH belongs to another user namespace, where the kernel refuses legacy owner rules from outside',
    remedy: 'use the backend "auto", which chooses nftables there, or "nftables"',
    retry: 'no',
    why: 'a network namespace keeps its user namespace',
  },
  ERR_HOST_NETNS: {
    means: 'PATH is the network namespace of the host',
    remedy: 'name the namespace of a pod: these rules would cut the host off. If the controller did it, report it',
    retry: 'no',
    why: 'the same path leads to the host again; a new sandbox starts another attempt',
  },
  ERR_INVALID_RULE: {
    means: 'the addon cannot write a rule of this ruleset: DETAIL',
    remedy: 'report it: this is a bug. Nothing was changed',
    retry: 'no',
    why: 'the same rule is refused again',
  },
  ERR_INVALID_ARG: {
    means: 'the addon was called with an argument that it does not accept: DETAIL',
    remedy: 'report it: this is a bug. Nothing was changed',
    retry: 'no',
    why: 'the same argument is refused again',
  },
  ERR_NOT_BUILT: {
    means: 'PART is not built, or is of another version, or cannot be loaded',
    remedy: 'run ./setup in the project folder; it says what is missing',
    retry: 'no',
    why: 'a new build is used only after a restart',
  },
  ERR_ROLLBACK: {
    means: 'the job in PATH failed and could not undo all of its changes: DETAIL',
    remedy:
      'remove the cause; then the next attempt, or "ipnc apply", completes the rules, and "ipnc clean" removes them. Or recreate the pod',
    retry: 'soon',
    why: 'the next attempt replaces what is left',
    event: 'RollbackFailed',
  },
  ERR_BUDGET: {
    means: 'PATH is too large, or changes too fast, for what one job may cost: DETAIL',
    remedy:
      'find the process with NET_ADMIN in the pod that fills its tables, or keeps changing them. Other pods are not held up',
    retry: 'costly',
    why: 'the process may end, and nothing announces it',
    event: 'BudgetExceeded',
  },
  ERR_TABLE_LAYOUT: {
    means: 'a legacy table of PATH has a layout that libiptc cannot read safely: DETAIL',
    remedy:
      'find the process with NET_ADMIN in the pod that wrote the table; iptables does not write such tables. Other pods are not held up',
    retry: 'costly',
    why: 'the table may be replaced, and nothing announces it',
    event: 'BudgetExceeded',
  },
  ERR_VERIFY: {
    means: 'the rules read back from PATH differ from those that were written',
    remedy: 'find the program that changes the same tables; see "ipnc doctor"',
    retry: 'soon',
    why: 'the other program may be done',
  },
  ERR_NOT_NETNS: {
    means: 'PATH is not a network namespace',
    remedy:
      'name a file of /run/netns or /proc/PID/ns/net. In a container, mount /run/netns with mountPropagation: HostToContainer',
    retry: 'soon',
    why: 'the runtime mounts the namespace a moment after it makes the file',
  },
  ERR_QUEUE_FULL: {
    means: 'too many installs are waiting already',
    remedy: 'lower config.concurrency',
    retry: 'soon',
    why: 'installs end within milliseconds',
  },
  ERR_UNSUPPORTED: {
    means: 'this kernel lacks something that the nftables variant of the rules needs: DETAIL',
    remedy: 'load the module that "ipnc doctor" names (modprobe nft_redir nft_tproxy nft_ct nft_chain_nat)',
    retry: 'soon',
    why: 'a module can be loaded at any time',
  },
  ERR_LEGACY_REFUSED: {
    means: 'the kernel refuses to write back a legacy table of PATH with the rules of others in it',
    remedy:
      'find the rules of others that stand in the way. Owner rules that were made in another user namespace can be removed only there',
    retry: 'soon',
    why: 'the rules of others can be removed at any time',
  },
  ENOENT: {
    means: 'PATH does not exist',
    remedy: 'list the network namespaces with "ip netns list" or "lsns -t net"',
    retry: 'soon',
    why: 'the runtime may be replacing the sandbox; it is located again',
  },
  ESTALE: {
    means: 'PATH is no longer the network namespace that it was',
    remedy: 'nothing for a pod of a controller; else try again',
    retry: 'soon',
    why: 'the runtime has replaced the sandbox; it is located again',
  },
  EAGAIN: {
    means: 'another process kept changing the rules of PATH',
    remedy: 'find that process; CNI plugins that call iptables are known for it',
    retry: 'soon',
    why: 'the other process may be done',
  },
  EPERM: {
    means: 'not permitted in PATH',
    remedy:
      'grant CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW in the user namespace that owns the network namespace; see "ipnc doctor"',
    retry: 'soon',
    why: 'a security profile can be corrected at any time',
  },
  EACCES: {
    means: 'no access to PATH',
    remedy:
      'run as root, with CAP_SYS_PTRACE for another user\'s process; check the SELinux type and the seccomp profile; see "ipnc doctor"',
    retry: 'soon',
    why: 'a security profile can be corrected at any time',
  },
  EAFNOSUPPORT: {
    means: 'IPv6 is off in PATH',
    remedy: 'set the families to 4 or auto, or enable IPv6 there (sysctl net.ipv6.conf.all.disable_ipv6=0)',
    retry: 'soon',
    why: 'IPv6 can be enabled at any time',
  },
  ENOPROTOOPT: {
    means: 'this kernel has no legacy iptables',
    remedy: 'modprobe iptable_nat ip6table_nat, or use the backend "auto"; see "ipnc doctor"',
    retry: 'soon',
    why: 'a module can be loaded at any time',
  },
  EPROTONOSUPPORT: {
    means: 'this kernel has no nf_tables',
    remedy: 'modprobe nf_tables; see "ipnc doctor"',
    retry: 'soon',
    why: 'a module can be loaded at any time',
  },
  ENOMEM: {
    means: 'the kernel has no memory for the tables',
    remedy: 'raise the memory limit of this container, or free memory on the node',
    retry: 'soon',
    why: 'memory may become free',
  },
  EINVAL: {
    means: 'a request in PATH is invalid: DETAIL',
    remedy: 'report it: this is a bug',
    retry: 'soon',
    why: 'what stands in the network namespace may change',
  },
  EOVERFLOW: {
    means: 'a legacy table of PATH has more entries than an empty one',
    remedy: 'find the program that changes the same tables',
    retry: 'soon',
    why: 'the other program may be done',
  },
  ENOBUFS: {
    means: 'the kernel had no room for its answer in PATH',
    remedy: 'free memory on the node',
    retry: 'soon',
    why: 'memory may become free',
  },
  ENODATA: {
    means: 'the kernel did not answer a request in PATH',
    remedy: 'report it, with the version of the kernel',
    retry: 'soon',
    why: 'the cause is not known, so it may go away',
  },
  ERR_RBAC: {
    means: 'the API server forbids a request of this controller: DETAIL',
    remedy: "apply the chart's ClusterRole; look for admission policies that deny the request",
    retry: 'slowly',
    why: 'a role can be corrected at any time, and nothing announces it',
    event: 'MarkFailed',
  },
  ERR_API_CREDENTIALS: {
    means: 'the credentials for the API server cannot be read, or are not accepted: DETAIL',
    remedy: "check the ServiceAccount's token, or the kubeconfig",
    retry: 'soon',
    why: 'the kubelet renews the token',
    event: 'MarkFailed',
  },
  ERR_API_CONFLICT: {
    means: 'the API server reports a conflicting change: DETAIL',
    remedy: 'nothing',
    retry: 'soon',
    why: 'the next attempt begins with the new state',
    event: 'MarkFailed',
  },
  ERR_API_BUSY: {
    means: 'the API server has too many requests: DETAIL',
    remedy: 'look at its API Priority and Fairness',
    retry: 'soon',
    why: 'the answer says when to try again',
    event: 'MarkFailed',
  },
  ERR_API_REFUSED: {
    means: 'the API server refuses a request of this controller: DETAIL',
    remedy: 'look for admission webhooks that change or deny the status of pods; else report it',
    retry: 'slowly',
    why: 'a webhook can be corrected at any time, and nothing announces it',
    event: 'MarkFailed',
  },
  ERR_FENCED: {
    means: 'the fence, a policy of the API server, refuses what this controller writes: DETAIL',
    remedy:
      'the message says what the fence refuses. Where that is not a pod with too many annotations or conditions, report it',
    retry: 'no',
    why: 'the same request is refused again until the pod changes',
    event: 'MarkFailed',
  },
  ERR_API_TOO_LARGE: {
    means: 'the pod is too large for the API server to store a mark in it: DETAIL',
    remedy: 'make the pod smaller: etcd stores at most 1.5 MiB',
    retry: 'no',
    why: 'the pod stays too large until it changes',
    event: 'MarkFailed',
  },
  ERR_API_FAILED: {
    means: 'the API server failed: DETAIL',
    remedy: 'see its log, and the logs of its webhooks',
    retry: 'soon',
    why: 'it may recover at any time',
    event: 'MarkFailed',
  },
  ERR_API_UNREACHABLE: {
    means: 'no connection to the API server: DETAIL',
    remedy: "check the API server and the node's way to it, such as network policies",
    retry: 'soon',
    why: 'it may recover at any time',
    event: 'MarkFailed',
  },
  ERR_API_TIMEOUT: {
    means: 'the API server did not answer in time: DETAIL',
    remedy: "check the API server and the node's way to it, such as network policies",
    retry: 'soon',
    why: 'it may recover at any time',
    event: 'MarkFailed',
  },
  ERR_RUNTIME: {
    means: 'the container runtime did not answer as expected: DETAIL',
    remedy: 'check the runtime and its socket (containerRuntime, criSocket); see "ipnc doctor"',
    retry: 'soon',
    why: 'a runtime that was restarted answers again',
  },
  ERR_NODE: {
    means: 'this node cannot run the controller: DETAIL',
    remedy: 'see "ipnc doctor"',
    retry: 'no',
    why: 'the controller checks the node only when it starts',
  },
  ERR_LISTEN: {
    means: 'the controller cannot listen on ADDRESS: DETAIL',
    remedy:
      'choose a free port of 1024 or higher and an address of this machine, or none; "ss -ltnp" shows who listens',
    retry: 'no',
    why: 'the controller listens only when it starts',
  },
  ERR_NO_PROCESS: {
    means: 'there is no process PID',
    remedy: 'the pod may have ended; list the processes with "ps -e"',
    retry: 'no',
    why: 'only "ipnc" with "--pid" fails so, and it tries once',
  },
  ERR_UNSHARE: {
    means: 'this user cannot make network namespaces here',
    remedy: 'run it as root',
    retry: 'no',
    why: 'only "ipnc demo" fails so, and it tries once',
  },
  ERR_CLUSTER: {
    means: 'the demo cannot run in a cluster: DETAIL',
    remedy: 'run "npm run demo -- --cluster" as root in the project folder',
    retry: 'no',
    why: 'only "ipnc demo" fails so, and it tries once',
  },
  ERR_DEMO: {
    means: 'the demo did not go as expected: DETAIL',
    remedy: '"ipnc doctor" shows what this kernel can do',
    retry: 'no',
    why: 'only "ipnc demo" fails so, and it tries once',
  },
  ERR_UNKNOWN: {
    means: 'an unexpected error: DETAIL',
    remedy: 'report it, with the whole message',
    retry: 'soon',
    why: 'the cause is not known, so it may go away',
  },
} as const satisfies Record<string, Meaning>;

/** What an errno name means that is not in the catalogue. */
export const ERRNO: Meaning = {
  means: 'a system call failed: DETAIL',
  remedy: 'look the name up in errno(3); report it if it makes no sense there',
  retry: 'soon',
  why: 'the cause is not known, so it may go away',
};

/** A code of the catalogue, or any other errno name. */
export type Code = keyof typeof CATALOGUE | keyof typeof constants.errno;

function isCode(code: string): code is Code {
  return Object.hasOwn(CATALOGUE, code) || Object.hasOwn(constants.errno, code);
}

function meaningOf(code: Code): Meaning {
  return (CATALOGUE as Partial<Record<Code, Meaning>>)[code] ?? ERRNO;
}

interface About {
  /** For PATH, PID, ADDRESS or PART. */
  subject?: string;
  /** For DETAIL. */
  detail?: string;
  /** How the message ends. */
  end?: string;
  /** The message, where it says more than the meaning does. */
  message?: string;
  /** Where a better one is known than the catalogue's. */
  remedy?: string | undefined;
  cause?: unknown;
}

/** An error with a code. Everything that is thrown on purpose is one, and asFailure() makes one of anything else. */
export class Failure extends Error {
  override readonly name: string = 'Failure';
  readonly code: Code;
  readonly remedy: string;

  constructor(code: Code, { subject = 'it', detail = '', end = '', message, remedy, cause }: About = {}) {
    const meaning = meaningOf(code);
    // In one pass: what is put in may have the name of a placeholder in it.
    const means = meaning.means.replace(/\b(?:PATH|PID|ADDRESS|PART|(DETAIL))\b/g, (_, isDetail) =>
      isDetail === undefined ? subject : detail,
    );
    super(message ?? means + end, cause === undefined ? undefined : { cause });
    this.code = code;
    this.remedy = remedy ?? meaning.remedy;
  }

  get retry(): Retry {
    return meaningOf(this.code).retry;
  }

  /** The reason of an Event or of a condition; see EVENTS in kube/events.ts. */
  get event(): NonNullable<Meaning['event']> | 'InstallFailed' {
    return meaningOf(this.code).event ?? 'InstallFailed';
  }
}

export function asFailure(error: unknown): Failure {
  if (error instanceof Failure) return error;
  return new Failure('ERR_UNKNOWN', { detail: error instanceof Error ? error.message : String(error), cause: error });
}

/** How much of a value is shown in a message; the rest is counted. */
const SHOWN = 48;

/**
 * An invalid setting. Nothing has been touched when it is thrown.
 *
 * `message` is `<field>: <value>: <what is wrong>; expected <what>`, one line, the value quoted, escaped and cut short.
 */
export class ConfigError extends Failure {
  override readonly name = 'ConfigError';
  /** The flag, environment variable, annotation or file the value came from, as its author would write it. */
  readonly field: string;
  /** As it was given, however long. Absent where the fault is a value that is missing. */
  readonly value: string | undefined;
  readonly wrong: string;
  /** Half a sentence: `a number from 1 to 65535`. */
  readonly expected: string;

  constructor(field: string, value: string | undefined, wrong: string, expected: string) {
    const parts = [field, ...(value === undefined ? [] : [shown(value)]), `${wrong}; expected ${expected}`];
    super('ERR_CONFIG', { message: parts.join(': ') });
    this.field = field;
    this.value = value;
    this.wrong = wrong;
    this.expected = expected;
  }
}

/** All the invalid settings of a configuration, one line each in `message`. */
export class ConfigErrors extends Failure {
  override readonly name = 'ConfigErrors';
  readonly errors: readonly ConfigError[];

  constructor(errors: readonly ConfigError[]) {
    super('ERR_CONFIG', { message: errors.map(({ message }) => message).join('\n') });
    this.errors = errors;
  }
}

/** A line that somebody else may have written, safe to print on a terminal: control and format characters are escaped. */
export function printable(line: string): string {
  return line.replace(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cn}]/gu,
    (character) => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`,
  );
}

/** `value` in quotes, safe to print on a terminal, at most 48 characters. */
function shown(value: string): string {
  const characters = Array.from(value.slice(0, 2 * SHOWN));
  const cut = characters.length > SHOWN || value.length > 2 * SHOWN;
  const text = printable(JSON.stringify(characters.slice(0, SHOWN).join('')));
  return cut ? `${text}... (${value.length} characters)` : text;
}

/** What the addon throws, as native/to_js.cc and native/from_js.cc make it. */
interface NativeError extends Error {
  /** An errno name (`ESTALE`), or one of native/error.h. Absent where an argument was refused. */
  code?: string;
  syscall?: string;
  /** `IPv4 nat`, `inet istio-proxy-nat`, where a table was at hand. */
  table?: string;
  /** In words, what the rest does not say. */
  detail?: string;
  /**
   * Of ERR_ROLLBACK alone: what the failed job left in the netns and why, in words. `cause` is then the error that the
   * job failed with.
   */
  rollback?: string;
}

/** By system call: errno names that mean something else there. */
const BY_SYSCALL: Partial<Record<string, Partial<Record<string, Code>>>> = {
  nf_tables: { ENOENT: 'ERR_UNSUPPORTED', EOPNOTSUPP: 'ERR_UNSUPPORTED' },
  iptc_commit: { EINVAL: 'ERR_LEGACY_REFUSED' },
};

/**
 * What the addon threw, as a Failure. Its message ends with codes and places: `(EAGAIN: iptc_commit, IPv4 nat)`. `path`
 * is the netns; `undone` says what became of the changes of a job that failed.
 */
export function explain(thrown: unknown, path: string, undone?: string): Failure {
  if (!(thrown instanceof Error)) return asFailure(thrown);
  const error: NativeError = thrown;
  const given = error.code ?? (error instanceof TypeError ? 'ERR_INVALID_ARG' : 'ERR_UNKNOWN');
  const code = BY_SYSCALL[error.syscall ?? '']?.[given] ?? given;
  if (!isCode(code) || code === 'ERR_UNKNOWN') return asFailure(error);
  const end = undone === undefined || error.rollback !== undefined ? '' : `; ${undone}`;
  // The addon's own message names code and place already.
  if (meaningOf(code) === ERRNO) return new Failure(code, { detail: error.message, end, cause: error });
  const places = [code === given ? undefined : given, error.syscall, error.table].filter(
    (place) => place !== undefined,
  );
  const detail =
    error.rollback === undefined
      ? (error.detail ?? error.message)
      : `left there: ${error.rollback}; the job failed because ${explain(error.cause, path).message}`;
  return new Failure(code, {
    subject: path,
    detail,
    end: `${end} (${[code, places.join(', ')].filter((part) => part !== '').join(': ')})`,
    cause: error,
  });
}
