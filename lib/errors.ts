/** What the addon's errors mean to whoever typed the command, and what to do about each. */
/** What every rejected promise of the addon carries. */
export interface NativeError extends Error {
  /** An errno name (`ESTALE`), or `ERR_HOST_NETNS`, `ERR_NOT_NETNS`, `ERR_QUEUE_FULL`, `ERR_ROLLBACK`, `ERR_VERIFY`. */
  code: string;
  /** Negative errno, as Node has it; absent for the ERR_ codes. */
  errno?: number;
  syscall?: string;
  path?: string;
  /** `IPv4 nat`, `inet istio-proxy-nat`, where a table was at hand. */
  table?: string;
  /**
   * Of ERR_ROLLBACK alone: what the failed job left in the netns and why, in words. `cause` is then the error that the
   * job failed with.
   */
  rollback?: string;
  cause?: NativeError;
}

/** A command that failed. It left nothing half done, unless `code` is ERR_ROLLBACK. */
export class Failure extends Error {
  override readonly name = 'Failure';
  /** An errno name or an ERR_ code, as the addon has it. */
  readonly code: string;
  readonly remedy: string | undefined;

  constructor(code: string, message: string, remedy?: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.remedy = remedy;
  }
}

/** By code; `path` is the netns. docs/operate.md has each. */
export const MEANINGS: Record<string, { means: (path: string, error: NativeError) => string; remedy?: string }> = {
  ERR_HOST_NETNS: {
    means: (path) => `${path} is the network namespace of this very process (the host's)`,
    remedy: 'name a pod: rules for a sidecar in the host namespace would cut the node off',
  },
  ERR_NOT_NETNS: {
    means: (path) => `${path} is not a network namespace`,
    remedy: 'a file of /run/netns, or /proc/PID/ns/net, would be right',
  },
  ERR_QUEUE_FULL: {
    means: () => 'too many installs are waiting already',
    remedy: 'try again when some are done',
  },
  ERR_ROLLBACK: {
    means: (path, { rollback, cause }) =>
      `the job failed in ${path} and could not undo all of its changes. Left there: ${rollback}. Failure: ${cause?.message}`,
    remedy:
      'once the cause is removed, "ipnc apply" completes the rules and "ipnc clean" removes them; or recreate the pod',
  },
  ERR_VERIFY: {
    means: (path) => `what the kernel holds in ${path} is not what was written; everything was rolled back`,
    remedy: 'another program may be changing the same tables; try again, and see "ipnc doctor"',
  },
  ENOENT: {
    means: (path) => `${path} does not exist`,
    remedy: '"ip netns list" and "lsns -t net" show the network namespaces there are',
  },
  ESTALE: {
    means: (path) => `${path} is no longer the network namespace it was; nothing was touched`,
    remedy: 'the pod was replaced meanwhile; try again',
  },
  EPERM: {
    means: (path) => `not permitted in ${path}`,
    remedy: 'CAP_SYS_ADMIN and CAP_NET_ADMIN are needed, in the user namespace that owns the netns; see "ipnc doctor"',
  },
  EACCES: {
    means: (path) => `no access to ${path}`,
    remedy: "run as root; for another user's process CAP_SYS_PTRACE is needed as well",
  },
  EAGAIN: {
    means: (path) => `another process kept changing the tables of ${path}; nothing of ours is left half done`,
    remedy: 'try again; a CNI plugin may still be at work there',
  },
  ENOPROTOOPT: {
    means: () => 'this kernel has no legacy iptables',
    remedy: 'load ip_tables, ip6_tables and their nat tables (modprobe iptable_nat ip6table_nat); see "ipnc doctor"',
  },
  EPROTONOSUPPORT: {
    means: () => 'this kernel has no nf_tables',
    remedy: 'load it (modprobe nf_tables); see "ipnc doctor"',
  },
  ENOMEM: {
    means: () => 'the kernel has no memory for the tables; nothing is left half done',
    remedy: 'a memory limit of this cgroup may be in the way',
  },
};

const LACKING = {
  means: () => 'this kernel lacks something that the nftables form of these rules needs',
  remedy:
    '"ipnc doctor" names it; it may be a module to be loaded (modprobe nft_redir nft_tproxy nft_ct nft_chain_nat)',
};

/** Of the codes that nf_tables answers with another meaning. */
const NF_TABLES: typeof MEANINGS = {
  ENOENT: LACKING,
  EOPNOTSUPP: LACKING,
  EAGAIN: {
    means: (path) => `another process kept changing the nftables rules of ${path}; nothing of ours is left half done`,
    remedy: 'try again; a CNI plugin may still be at work there',
  },
};

/** The kernel's answer to a legacy table that holds others' rules too. */
const IPTC_COMMIT: typeof MEANINGS = {
  EINVAL: {
    means: (path) => `the kernel refuses a legacy table of ${path}, as it would be written back`,
    remedy: 'where another user namespace owns it, owner rules made in there can only be removed from in there',
  },
};

const SPECIAL: Record<string, typeof MEANINGS> = { nf_tables: NF_TABLES, iptc_commit: IPTC_COMMIT };

/** Turns what the addon rejected with into a Failure; anything else is passed on as it is. */
export function explain(error: unknown, path: string): unknown {
  if (!isNative(error)) return error;
  // What the nftables form needs and the kernel lacks is an ENOENT too, and no missing file.
  const meaning = SPECIAL[error.syscall ?? '']?.[error.code] ?? MEANINGS[error.code];
  const detail = [error.syscall, error.table].filter((part) => part !== undefined).join(', ');
  const message = meaning === undefined ? error.message : meaning.means(path, error);
  const named = detail === '' ? error.code : `${error.code}: ${detail}`;
  return new Failure(error.code, `${message} (${named})`, meaning?.remedy, error);
}

function isNative(error: unknown): error is NativeError {
  return error instanceof Error && 'code' in error && typeof error.code === 'string';
}
