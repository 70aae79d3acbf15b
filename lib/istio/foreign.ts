/**
 * Flags of istio-iptables (istio/tools/istio-iptables/pkg/cmd/root.go) that this program does not have. In the
 * arguments of an injected init container they are ignored, because they say how istio-iptables works, not which rules
 * it installs. On this program's command line they are refused, and the message names what to use instead.
 */
export interface ForeignFlag {
  flag: string;
  short?: string;
  /** Whether a value follows. */
  value: boolean;
  instead: string;
}

export const foreignFlags: readonly ForeignFlag[] = [
  {
    flag: 'dry-run',
    short: 'n',
    value: false,
    instead: 'the verb "plan", which prints the rules and changes nothing',
  },
  { flag: 'cleanup-only', value: false, instead: 'the verb "clean"' },
  { flag: 'reconcile', value: false, instead: '"apply" without this flag; it always replaces its rules that differ' },
  { flag: 'force-apply', value: false, instead: '"apply" without this flag; it changes only what differs' },
  { flag: 'run-validation', value: false, instead: 'the verb "verify", which compares rule by rule' },
  { flag: 'skip-rule-apply', value: false, instead: 'the verb "plan" or "verify", which change nothing' },
  {
    flag: 'iptables-probe-port',
    value: true,
    instead: 'the verb "verify", which reads the rules from the kernel and needs no port',
  },
  { flag: 'probe-timeout', value: true, instead: 'the verb "verify", which does not wait' },
  { flag: 'native-nftables', value: false, instead: '--backend' },
  { flag: 'force-iptables-binary', value: true, instead: '--backend; this program never runs an iptables program' },
  { flag: 'network-namespace', value: true, instead: '--netns' },
  { flag: 'cni-mode', value: false, instead: 'the command without this flag; it always enters the netns from outside' },
  {
    flag: 'host-nsenter-exec',
    value: false,
    instead: 'the command without this flag; it runs no program in the netns',
  },
  { flag: 'iptables-trace-logging', value: false, instead: '--output json' },
  { flag: 'restore-format', short: 'f', value: false, instead: '"plan --format iptables"' },
  { flag: 'log_output_level', value: true, instead: '--output json, which shows everything' },
  { flag: 'log_as_json', value: false, instead: '--output json' },
  { flag: 'vklog', value: true, instead: '--output json, which shows everything' },
];

/** The beginning of all logging flags of Istio (istio.io/istio/pkg/log). */
export const LOG_FLAG = /^log_/;
