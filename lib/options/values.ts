/**
 * Parsers of single values. Each takes the text and where it came from, and returns a typed value or throws a
 * ConfigError; none of them repairs or skips anything.
 */

import { ConfigError } from '../errors.ts';
import type { Family, PortRange } from '../ruleset/model.ts';

/** Where a value came from: its name in messages, and the kind of source. */
export interface Origin {
  field: string;
  source: 'flag' | 'environment' | 'pod' | 'default';
}

export type Parser<T> = (text: string, origin: Origin) => T;

/** The value -1 of the Linux kernel, which means "do not change" for chown and setuid, so it is not a valid id. */
const NO_ID = 0xffff_ffff;

/**
 * The most items of one list. The kernel evaluates rules one by one for each new connection and keeps them in memory
 * for each pod, and the annotations of a pod may have 256 KiB (k8s.io/apimachinery, TotalAnnotationSizeLimitB). A
 * thousand is far more than known lists have, and keeps a pod's tables below a megabyte.
 */
export const MAX_LIST = 1000;

function fail(origin: Origin, text: string, wrong: string, expected: string): never {
  throw new ConfigError(origin.field, text, wrong, expected);
}

/** A decimal number without sign, leading zeros or exponent, between `low` and `high`. */
function integer(text: string, low: number, high: number): number | undefined {
  if (!/^(0|[1-9]\d{0,9})$/.test(text)) return undefined;
  const value = Number(text);
  return value >= low && value <= high ? value : undefined;
}

export const port: Parser<number> = (text, origin) =>
  integer(text, 1, 65535) ?? fail(origin, text, 'not a port', 'a number from 1 to 65535');

const portRange: Parser<PortRange> = (text, origin) => {
  const expected = 'numbers from 1 to 65535, such as 8080 or 8000-8100';
  if (text === '*') fail(origin, text, '"*" is not possible in this list', expected);
  const [from = '', to = from, ...more] = text.split('-');
  const first = integer(from, 1, 65535);
  const last = integer(to, 1, 65535);
  if (first === undefined || last === undefined || more.length > 0)
    fail(origin, text, 'not a port or a range of ports', expected);
  if (first > last) fail(origin, text, 'the range ends before it begins', `${last}-${first}`);
  return { first, last };
};

export const id: Parser<number> = (text, origin) =>
  integer(text, 0, NO_ID - 1) ??
  fail(origin, text, 'not a numeric id', `a number from 0 to ${NO_ID - 1}, such as 1337`);

/** Istio's CNI (cni/pkg/plugin) and the kernel (IFNAMSIZ) set these bounds. */
const networkInterface: Parser<string> = (text, origin) => {
  const wrong = 'not the name of an interface';
  if (text.length > 15) fail(origin, text, wrong, 'at most 15 characters');
  if (!/^[a-zA-Z][a-zA-Z0-9_.-]*$/.test(text)) {
    fail(origin, text, wrong, 'a letter, then letters, digits, "_", "." and "-", such as eth0');
  }
  return text;
};

/** Accepts the same texts as Go's strconv.ParseBool, which istio-iptables uses. */
export const boolean: Parser<boolean> = (text, origin) => {
  if (/^(1|t|T|true|TRUE|True)$/.test(text)) return true;
  if (/^(0|f|F|false|FALSE|False)$/.test(text)) return false;
  return fail(origin, text, 'not a boolean', 'true or false');
};

/** Accepts exactly one of `values`. */
export function choice<const T extends string>(...values: T[]): Parser<T> {
  return (text, origin) => {
    const found = values.find((value) => value === text);
    return found ?? fail(origin, text, 'not a known value', `one of ${values.join(', ')}`);
  };
}

/** A mark that the rules themselves use: the proxy's traffic to its own pod has it. The value 0 means "no mark". */
export const OUTBOUND_MARK = 1338;

export const mark: Parser<number> = (text, origin) => {
  const value = /^0[xX][0-9a-fA-F]{1,8}$/.test(text) ? Number(text) : integer(text, 0, 0xffff_ffff);
  if (value === undefined || value === 0) {
    fail(origin, text, 'not a mark', '1 to 4294967295 or 0x1 to 0xffffffff, such as 1337, without a mask');
  }
  if (value === OUTBOUND_MARK) fail(origin, text, "the mark is reserved for the proxy's own traffic", 'another mark');
  return value;
};

/** Refuses the tables 253, 254 and 255: default, main and local (linux/rtnetlink.h). Every pod needs them. */
export const routeTable: Parser<number> = (text, origin) => {
  const value = integer(text, 1, 0xffff_ffff);
  if (value === undefined) {
    fail(origin, text, 'not the number of a route table', 'a number from 1 to 4294967295, such as 133');
  }
  if (value >= 253 && value <= 255)
    fail(origin, text, "one of the kernel's own route tables", 'another table, such as 133');
  return value;
};

/** What becomes of a family that the pod has and the proxy does not serve. */
export type Unserved = 'leave' | 'capture' | 'block';

export const families: Parser<'auto' | Family[]> = (text, origin) => {
  switch (text) {
    case 'auto':
      return 'auto';
    case '4':
      return [4];
    case '6':
      return [6];
    case '4,6':
    case '6,4':
      return [4, 6];
    default:
      return fail(origin, text, 'not a known value', 'one of auto, 4, 6 and 4,6');
  }
};

/**
 * A list separated by commas. White space around an item is ignored, as Istio does it, the first of equal items counts, and an empty text is
 * an empty list. Items with the same `identity` are equal.
 */
export function list<T>(item: Parser<T>, identity: (value: T) => string = String): Parser<T[]> {
  return (text, origin) => {
    if (text.trim() === '') return [];
    const parts = text.split(',', MAX_LIST + 1);
    if (parts.length > MAX_LIST) fail(origin, text, 'too many items in one list', `at most ${MAX_LIST}`);
    const found = new Map<string, T>();
    for (const part of parts) {
      const trimmed = part.trim();
      if (trimmed === '') fail(origin, text, 'has an empty item', 'items separated by single commas');
      const value = item(trimmed, origin);
      const name = identity(value);
      if (!found.has(name)) found.set(name, value);
    }
    return [...found.values()];
  };
}

/** Accepts `*` alone, or what `parser` accepts. */
export function wildcardOr<T>(parser: Parser<T>): Parser<'*' | T> {
  return (text, origin) => {
    if (text.trim() === '*') return '*';
    if (/(^|,)\s*\*\s*(,|$)/.test(text))
      fail(origin, text, '"*" together with other items', '"*" alone, which means everything');
    return parser(text, origin);
  };
}

export const ports = list(portRange, ({ first, last }) => `${first}-${last}`);
export const ids = list(id);
export const interfaces = list(networkInterface);

/** Accepts a list with at least one item, and at most `most`. */
export function some<T>(parser: Parser<T[]>, expected: string, most = MAX_LIST): Parser<T[]> {
  return (text, origin) => {
    const values = parser(text, origin);
    if (values.length > most) fail(origin, text, `has ${values.length} items`, `at most ${most}`);
    return values.length > 0 ? values : fail(origin, text, 'an empty list', expected);
  };
}
