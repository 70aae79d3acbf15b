/**
 * Writes log lines: JSON in a container, readable text on a terminal. It uses no worker thread, which costs 10 MB and
 * can lose the last lines.
 */
import { styleText } from 'node:util';
import { destination, type Level, type Logger, pino, stdTimeFunctions } from 'pino';
import { printable } from '../errors.ts';
import type { Backend } from '../ruleset/form.ts';
import type { Stages } from './metrics.ts';

export type { Logger } from 'pino';

export interface LogOptions {
  level: Level | 'silent';
  /** Whether lines are for people. The default is true if standard output is a terminal. */
  pretty?: boolean;
  colour?: boolean;
  /** Receives whole lines. The default is a synchronous write to standard output. */
  write?: (line: string) => void;
}

/** The properties of an error that are logged. Its other properties may hold headers, bodies or certificates. */
const ERROR_FIELDS = ['code', 'errno', 'syscall', 'path', 'table', 'address', 'status', 'reason', 'field', 'remedy'];
const CAUSES = 3;

export function createLogger(options: LogOptions): Logger {
  const {
    level,
    pretty = process.stdout.isTTY === true,
    colour = pretty && (process.env.NO_COLOR ?? '') === '',
  } = options;
  const write = options.write ?? ((line: string) => void process.stdout.write(line));
  return pino(
    {
      level,
      base: null,
      timestamp: stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { err: (error: unknown) => serialized(error, CAUSES) },
      hooks: { streamWrite: redacted },
    },
    pretty
      ? { write: (line: string) => write(forPeople(line, colour)) }
      : options.write
        ? { write: options.write }
        : destination({ fd: 1, sync: true }),
  );
}

/**
 * The value of a member whose name says that it is secret, even in JSON within a string. It may match more than the
 * secret.
 */
const SECRET_MEMBER =
  /((?:token|password|passwd|secret|authorization|key-data|keydata)\\*"\s*:\s*\\*")(?:[^"\\]|\\.)*/gi;
/** Values that look like secrets, at any place. */
const SECRET_VALUE = /\bBearer\s+[\w.~+/=-]+|\beyJ[\w-]+\.eyJ[\w-]+\.[\w-]*|-----BEGIN [A-Z ]*PRIVATE KEY-----[^"]*/g;

/** Replaces secrets in a text by `[redacted]`. */
export function redacted(line: string): string {
  return line.replace(SECRET_MEMBER, '$1[redacted]').replace(SECRET_VALUE, '[redacted]');
}

function serialized(thrown: unknown, depth: number): unknown {
  if (!(thrown instanceof Error)) return { message: String(thrown) };
  const known: Record<string, unknown> = { type: thrown.name, message: thrown.message };
  for (const name of ERROR_FIELDS) {
    const value: unknown = (thrown as unknown as Record<string, unknown>)[name];
    if (typeof value === 'string' || typeof value === 'number') known[name] = value;
  }
  // For an error with a code, the place in our source adds nothing.
  if (known.code === undefined && known.status === undefined) known.stack = thrown.stack;
  if (thrown.cause !== undefined && depth > 0) known.cause = serialized(thrown.cause, depth - 1);
  return known;
}

export interface PodLine {
  pod: { namespace: string; name: string; uid: string };
  /** `unchanged`: the rules were already installed. */
  outcome: 'initialized' | 'repaired' | 'unchanged' | 'skipped' | 'failed';
  backend?: Backend;
  /** `<boot id>:<cookie>`. */
  netns?: string;
  stages?: Stages;
  /** Why the pod was skipped. */
  reason?: string;
  error?: unknown;
}

const LEVELS = {
  initialized: 'info',
  repaired: 'warn',
  unchanged: 'debug',
  skipped: 'debug',
  failed: 'error',
} satisfies Record<PodLine['outcome'], Level>;

/**
 * Writes the line about one attempt for a pod. `us` has the durations in microseconds, with three significant digits.
 */
export function podLine(log: Logger, line: PodLine): void {
  const { pod, outcome, stages, error, ...rest } = line;
  const fields = { pod: `${pod.namespace}/${pod.name}`, uid: pod.uid, ...rest };
  log[LEVELS[outcome]](
    { ...fields, ...(error !== undefined && { err: error }), ...(stages && { us: rounded(stages) }) },
    outcome,
  );
}

/** The same durations with three significant digits, which is what people and programs get. */
export function rounded(stages: Stages): Stages {
  return Object.fromEntries(Object.entries(stages).map(([stage, us]) => [stage, Number(us.toPrecision(3))]));
}

const STYLES: Partial<Record<string, Parameters<typeof styleText>[0]>> = {
  fatal: 'red',
  error: 'red',
  warn: 'yellow',
  info: 'green',
};

/** `10:02:03.123 info  initialized pod=default/web us.total=412` */
function forPeople(line: string, colour: boolean): string {
  const { level, time, msg, ...fields } = JSON.parse(line) as { level: string; time: string; msg?: string };
  const paint = (style: Parameters<typeof styleText>[0] | undefined, text: string) =>
    colour && style ? styleText(style, text, { validateStream: false }) : text;
  const rest = flat('', fields).map(([name, value]) => `${paint('dim', `${name}=`)}${value}`);
  const head = [paint('dim', time.slice(11, 23)), paint(STYLES[level], level.padEnd(5))];
  return `${[...head, ...(msg === undefined ? [] : [printable(msg)]), ...rest].join(' ')}\n`;
}

function flat(prefix: string, value: unknown): [name: string, value: string][] {
  if (typeof value === 'object' && value !== null) {
    return Object.entries(value).flatMap(([key, inner]) => flat(prefix === '' ? key : `${prefix}.${key}`, inner));
  }
  const text = String(value);
  return [[printable(prefix), /^[\w./:@+-]+$/.test(text) ? text : printable(JSON.stringify(value) ?? text)]];
}
