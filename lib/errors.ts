/**
 * The catalogue of error codes: what each code means, what to do about it, and whether a retry can help. Messages, the
 * retry rule, the reasons of Events, the failure metric and the table in docs/operate.md come from here.
 */
import { constants } from 'node:os';

/**
 * Whether another attempt can succeed although the pod has not changed. `soon` and `slowly`: yes; LONGEST_PAUSE_MS has
 * the pauses. `costly`: yes, but each attempt occupies a thread for seconds, so the first pause is long and nothing
 * shortens it. `no`: the pod is marked as failed, and the next attempt waits for a change of the pod.
 */
type Retry = 'soon' | 'slowly' | 'costly' | 'no';

/** The longest pause between two attempts, in milliseconds. The pauses grow up to it. */
export const LONGEST_PAUSE_MS = { soon: 30_000, slowly: 300_000, costly: 600_000 } satisfies Record<
  Exclude<Retry, 'no'>,
  number
>;

export interface Meaning {
  /** PATH, PID, ADDRESS and PART are replaced by the subject of the error, and DETAIL by the details of this error. */
  means: string;
  remedy: string;
  retry: Retry;
  /** Why a retry can help, or why it cannot. */
  why: string;
  /** The reason of the Event. Absent: InstallFailed. */
  event?: 'BudgetExceeded' | 'ConfigInvalid' | 'MarkFailed' | 'RollbackFailed';
}

/** In the order of the table in docs/operate.md. A code that is not an errno name begins with ERR_. */
export const CATALOGUE = {
  ERR_CONFIG: {
    means: 'a setting is invalid, or contradicts another setting',
    remedy: 'correct the setting; the message names it, its value and what is expected',
    retry: 'no',
    why: 'the same setting fails in the same way',
    event: 'ConfigInvalid',
  },
  ERR_USAGE: {
    means: 'the command line is invalid',
    remedy: 'see "ipnc help" and "ipnc help VERB"',
    retry: 'no',
    why: 'the same command line fails in the same way',
  },
  ERR_USERNS: {
    means:
      'PATH belongs to another user namespace, and the kernel refuses legacy owner rules that are written from outside of it',
    remedy: 'use the backend "nftables", or "auto", which then chooses nftables',
    retry: 'no',
    why: 'a network namespace keeps its user namespace',
  },
  ERR_HOST_NETNS: {
    means: 'PATH is the network namespace of the host',
    remedy:
      'name the network namespace of a pod; in the namespace of the host these rules would cut the host off. If the controller reports this error, report it as a bug',
    retry: 'no',
    why: 'the same path leads to the host again; a new sandbox starts another attempt',
  },
  ERR_INVALID_RULE: {
    means: 'the addon cannot write a rule of this ruleset: DETAIL',
    remedy: 'report this bug; nothing was changed',
    retry: 'no',
    why: 'the same rule is refused again',
  },
  ERR_INVALID_ARG: {
    means: 'the addon was called with an argument that it does not accept: DETAIL',
    remedy: 'report this bug; nothing was changed',
    retry: 'no',
    why: 'the same argument is refused again',
  },
  ERR_NOT_BUILT: {
    means: 'PART is not built, has another version, or cannot be loaded',
    remedy: 'run ./setup in the project folder; it names what is missing',
    retry: 'no',
    why: 'a new build is used only after a restart',
  },
  ERR_ROLLBACK: {
    means: 'the job in PATH failed and could not undo all of its changes: DETAIL',
    remedy:
      'remove the cause. The next attempt or "ipnc apply" then completes the rules; "ipnc clean" removes them. Alternatively recreate the pod',
    retry: 'soon',
    why: 'the next attempt replaces the rules that are left',
    event: 'RollbackFailed',
  },
  ERR_BUDGET: {
    means: 'the tables of PATH are too large, or change too fast, for the limits of one job: DETAIL',
    remedy:
      'if the job waited for a CPU most of the time, give the controller a larger CPU request (`resources`). Otherwise find the process with NET_ADMIN in the pod that fills the tables, or keeps changing them. Other pods are not delayed',
    retry: 'costly',
    why: 'the process may end, and the controller is not notified of it',
    event: 'BudgetExceeded',
  },
  ERR_TABLE_LAYOUT: {
    means: 'a legacy table of PATH has a layout that iptables never writes: DETAIL',
    remedy:
      'find the process with NET_ADMIN in the pod that wrote the table; iptables does not write such tables. Other pods are not delayed',
    retry: 'costly',
    why: 'the table may be replaced, and the controller is not notified of it',
    event: 'BudgetExceeded',
  },
  ERR_VERIFY: {
    means: 'the rules read back from PATH differ from those that were written',
    remedy: 'find the program that changes the same tables; see "ipnc doctor"',
    retry: 'soon',
    why: 'the other program may finish',
  },
  ERR_NOT_NETNS: {
    means: 'PATH is not a network namespace',
    remedy:
      'name a file in /run/netns, or /proc/PID/ns/net. In a container, mount /run/netns with mountPropagation: HostToContainer',
    retry: 'soon',
    why: 'the runtime mounts the namespace a moment after it creates the file',
  },
  ERR_QUEUE_FULL: {
    means: 'too many installs are waiting already',
    remedy: 'lower config.concurrency',
    retry: 'soon',
    why: 'installs end within milliseconds',
  },
  ERR_UNSUPPORTED: {
    means: 'this kernel lacks something that the nftables variant of the rules needs: DETAIL',
    remedy: 'load the module that "ipnc doctor" names (modprobe -a nft_redir nft_tproxy nft_ct nft_chain_nat)',
    retry: 'soon',
    why: 'a module can be loaded at any time',
  },
  ERR_LEGACY_REFUSED: {
    means: 'the kernel refuses to write back a legacy table of PATH, because of the rules of other programs in it',
    remedy:
      'remove the rules of other programs that the kernel refuses. Owner rules from another user namespace can be removed only in that namespace',
    retry: 'soon',
    why: 'the rules of other programs can be removed at any time',
  },
  ENOENT: {
    means: 'PATH does not exist',
    remedy: 'list the network namespaces with "ip netns list" or "lsns -t net"',
    retry: 'soon',
    why: 'the runtime may be replacing the sandbox, and the controller locates it again',
  },
  ESTALE: {
    means: 'PATH now refers to another network namespace than before',
    remedy: 'try again; the controller does so by itself',
    retry: 'soon',
    why: 'the runtime has replaced the sandbox, and the controller locates it again',
  },
  EAGAIN: {
    means: 'another process kept changing the rules of PATH',
    remedy: 'find that process; some CNI plugins call iptables in this way',
    retry: 'soon',
    why: 'the other process may finish',
  },
  EPERM: {
    means: 'the kernel does not permit the operation in PATH',
    remedy:
      'grant CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW in the user namespace that owns the network namespace; see "ipnc doctor"',
    retry: 'soon',
    why: 'a security profile can be corrected at any time',
  },
  EACCES: {
    means: 'access to PATH is denied',
    remedy:
      'run as root, and with CAP_SYS_PTRACE for the process of another user; check the SELinux type and the seccomp profile; see "ipnc doctor"',
    retry: 'soon',
    why: 'a security profile can be corrected at any time',
  },
  EAFNOSUPPORT: {
    means: 'IPv6 is disabled in PATH, or on lo there',
    remedy:
      'enable IPv6 there (sysctl net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.lo.disable_ipv6=0), or set the families to 4 or auto',
    retry: 'soon',
    why: 'IPv6 can be enabled at any time',
  },
  ENOPROTOOPT: {
    means: 'this kernel has no legacy iptables',
    remedy: 'run "modprobe -a iptable_nat ip6table_nat", or use the backend "auto"; see "ipnc doctor"',
    retry: 'soon',
    why: 'a module can be loaded at any time',
  },
  EPROTONOSUPPORT: {
    means: 'this kernel has no nf_tables',
    remedy: 'run "modprobe nf_tables"; see "ipnc doctor"',
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
    remedy: 'report this bug, with the whole message',
    retry: 'soon',
    why: 'the rules of the network namespace may change',
  },
  EOVERFLOW: {
    means: 'a legacy table of PATH has entries that an empty table does not have',
    remedy: 'find the program that changes the same tables',
    retry: 'soon',
    why: 'the other program may finish',
  },
  ENOBUFS: {
    means: 'the kernel had no buffer for its answer in PATH',
    remedy: 'free memory on the node',
    retry: 'soon',
    why: 'memory may become free',
  },
  ENODATA: {
    means: 'the kernel did not answer a request in PATH',
    remedy: 'report it, with the version of the kernel',
    retry: 'soon',
    why: 'the cause is unknown, so it may go away',
  },
  ERR_RBAC: {
    means: 'the API server forbids a request of this controller: DETAIL',
    remedy: "apply the chart's ClusterRole, and look for admission policies that deny the request",
    retry: 'slowly',
    why: 'a role can be corrected at any time, and the controller is not notified of it',
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
    remedy: 'do nothing; the controller tries again',
    retry: 'soon',
    why: 'the next attempt starts from the new state',
    event: 'MarkFailed',
  },
  ERR_API_BUSY: {
    means: 'the API server has too many requests: DETAIL',
    remedy: 'check the API Priority and Fairness of the API server',
    retry: 'soon',
    why: 'the answer of the API server says when to try again',
    event: 'MarkFailed',
  },
  ERR_API_REFUSED: {
    means: 'the API server refuses a request of this controller: DETAIL',
    remedy:
      'look for admission webhooks that change or deny the status of pods; if there are none, report this as a bug',
    retry: 'slowly',
    why: 'a webhook can be corrected at any time, and the controller is not notified of it',
    event: 'MarkFailed',
  },
  ERR_FENCED: {
    means: 'the fence, a policy in the API server, refuses a write of this controller: DETAIL',
    remedy:
      'read in the message what the fence refuses. Reduce the annotations or conditions of the pod if there are too many; otherwise report this as a bug',
    retry: 'no',
    why: 'the same request is refused again until the pod changes',
    event: 'MarkFailed',
  },
  ERR_API_TOO_LARGE: {
    means: 'the pod is too large for the API server to store a mark in it: DETAIL',
    remedy: 'make the pod smaller; etcd stores at most 1.5 MiB for an object',
    retry: 'no',
    why: 'the pod stays too large until it changes',
    event: 'MarkFailed',
  },
  ERR_API_FAILED: {
    means: 'the API server failed: DETAIL',
    remedy: 'read the log of the API server, and the logs of its webhooks',
    retry: 'soon',
    why: 'it may recover at any time',
    event: 'MarkFailed',
  },
  ERR_API_UNREACHABLE: {
    means: 'the API server cannot be reached: DETAIL',
    remedy: 'check the API server, and the network between it and the node, such as network policies',
    retry: 'soon',
    why: 'it may recover at any time',
    event: 'MarkFailed',
  },
  ERR_API_TIMEOUT: {
    means: 'the API server did not answer in time: DETAIL',
    remedy: 'check the API server, and the network between it and the node, such as network policies',
    retry: 'soon',
    why: 'it may recover at any time',
    event: 'MarkFailed',
  },
  ERR_RUNTIME: {
    means: 'the container runtime did not answer as expected: DETAIL',
    remedy: 'check the runtime and its socket (chart values containerRuntime and criSocket); see "ipnc doctor"',
    retry: 'soon',
    why: 'the runtime may be restarting',
  },
  ERR_NODE: {
    means: 'this node cannot run the controller: DETAIL',
    remedy: 'see "ipnc doctor"',
    retry: 'no',
    why: 'the controller checks the node only at its start',
  },
  ERR_LISTEN: {
    means: 'the controller cannot listen on ADDRESS: DETAIL',
    remedy:
      'choose a free port from 1024 up, and an address of this machine or no address; "ss -ltnp" shows which processes listen',
    retry: 'no',
    why: 'the controller opens its ports only at its start',
  },
  ERR_NO_PROCESS: {
    means: 'there is no process PID',
    remedy: 'list the processes with "ps -e"; the pod may have ended',
    retry: 'no',
    why: 'only the flag "--pid" leads to this error, and the command tries once',
  },
  ERR_INSPECT: {
    means: 'the running controller cannot be inspected: DETAIL',
    remedy:
      'run the command as root in the container of the controller, and only one at a time; the log of the controller says more',
    retry: 'no',
    why: 'only "ipnc inspect" leads to this error, and it tries once',
  },
  ERR_UNSHARE: {
    means: 'this user cannot create network namespaces',
    remedy: 'run the command as root',
    retry: 'no',
    why: 'only "ipnc demo" leads to this error, and it tries once',
  },
  ERR_CLUSTER: {
    means: 'the demo cannot run in a cluster: DETAIL',
    remedy: 'run "npm run demo -- --cluster" as root in the project folder',
    retry: 'no',
    why: 'only "ipnc demo" leads to this error, and it tries once',
  },
  ERR_DEMO: {
    means: 'a step of the demo had an unexpected result: DETAIL',
    remedy: 'run "ipnc doctor", which shows what this kernel supports',
    retry: 'no',
    why: 'only "ipnc demo" leads to this error, and it tries once',
  },
  ERR_UNKNOWN: {
    means: 'an unexpected error: DETAIL',
    remedy: 'report it, with the whole message',
    retry: 'soon',
    why: 'the cause is unknown, so it may go away',
  },
} as const satisfies Record<string, Meaning>;

/** The meaning of an errno name that is not in the catalogue. */
export const ERRNO: Meaning = {
  means: 'a system call failed: DETAIL',
  remedy: 'look the name up in errno(3); report the error if that does not explain it',
  retry: 'soon',
  why: 'the cause is unknown, so it may go away',
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
  /** Replaces PATH, PID, ADDRESS or PART. */
  subject?: string;
  /** Replaces DETAIL. */
  detail?: string;
  /** The end of the message. */
  end?: string;
  /** The whole message, if it says more than the meaning does. */
  message?: string;
  /** A remedy that fits better than the catalogue's. */
  remedy?: string | undefined;
  cause?: unknown;
}

/** An error with a code. All intended errors are Failures, and asFailure() turns any other value into one. */
export class Failure extends Error {
  override readonly name: string = 'Failure';
  readonly code: Code;
  readonly remedy: string;

  constructor(code: Code, { subject = 'it', detail = '', end = '', message, remedy, cause }: About = {}) {
    const meaning = meaningOf(code);
    // One pass, because an inserted text may itself contain the name of a placeholder.
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

  /** The reason of the Event or of the condition; see EVENTS in kube/events.ts. */
  get event(): NonNullable<Meaning['event']> | 'InstallFailed' {
    return meaningOf(this.code).event ?? 'InstallFailed';
  }
}

export function asFailure(error: unknown): Failure {
  if (error instanceof Failure) return error;
  return new Failure('ERR_UNKNOWN', { detail: error instanceof Error ? error.message : String(error), cause: error });
}

/** How many characters of a value a message shows. For a longer value the message adds its length. */
const SHOWN = 48;

/**
 * An invalid setting. When it is thrown, nothing has been changed yet.
 *
 * `message` is one line, `<field>: <value>: <what is wrong>; expected <what>`. The value is quoted, escaped and cut short.
 */
export class ConfigError extends Failure {
  override readonly name = 'ConfigError';
  /** The flag, environment variable, annotation or file that the value came from, as its author would write it. */
  readonly field: string;
  /** The value as it was given, however long. Absent if the fault is that the value is missing. */
  readonly value: string | undefined;
  readonly wrong: string;
  /** A noun phrase, such as `a number from 1 to 65535`. */
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

/** All invalid settings of a configuration. `message` has one line for each. */
export class ConfigErrors extends Failure {
  override readonly name = 'ConfigErrors';
  readonly errors: readonly ConfigError[];

  constructor(errors: readonly ConfigError[]) {
    super('ERR_CONFIG', { message: errors.map(({ message }) => message).join('\n') });
    this.errors = errors;
  }
}

/** Makes a line from an untrusted source safe to print on a terminal: escapes control and format characters. */
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

/** An error of the addon, as native/to_js.cc and native/from_js.cc create it. */
interface NativeError extends Error {
  /** An errno name (`ESTALE`), or a code of native/error.h. Absent if the addon refused an argument. */
  code?: string;
  syscall?: string;
  /** `IPv4 nat` or `inet istio-proxy-nat`, if the error concerns a table. */
  table?: string;
  /** A text with what the other fields do not say. */
  detail?: string;
  /**
   * Only for ERR_ROLLBACK: a text that says what the failed job left in the netns, and why. `cause` is then the error
   * that made the job fail.
   */
  rollback?: string;
}

/** Errno names that have another meaning for a certain system call. */
const BY_SYSCALL: Partial<Record<string, Partial<Record<string, Code>>>> = {
  nf_tables: { ENOENT: 'ERR_UNSUPPORTED', EOPNOTSUPP: 'ERR_UNSUPPORTED' },
  'setsockopt(SO_SET_REPLACE, merge)': { EINVAL: 'ERR_LEGACY_REFUSED' },
};

/**
 * Turns an error of the addon into a Failure. Its message ends with codes and places: `(EAGAIN: setsockopt(SO_SET_REPLACE), IPv4 nat)`.
 * `path` is the netns; `undone` says what happened to the changes of the failed job.
 */
export function explain(thrown: unknown, path: string, undone?: string): Failure {
  if (!(thrown instanceof Error)) return asFailure(thrown);
  const error: NativeError = thrown;
  const given = error.code ?? (error instanceof TypeError ? 'ERR_INVALID_ARG' : 'ERR_UNKNOWN');
  const code = BY_SYSCALL[error.syscall ?? '']?.[given] ?? given;
  if (!isCode(code) || code === 'ERR_UNKNOWN') return asFailure(error);
  const end = undone === undefined || error.rollback !== undefined ? '' : `; ${undone}`;
  // The addon's own message already names code and place.
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
