/** Parsers of the controller's own options, in addition to those of `options/values.ts`. */
import { isIP } from 'node:net';
import { ConfigError } from '../errors.ts';
import { list, type Parser } from '../options/values.ts';

const UNITS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** A DNS-1123 subdomain: the name of a node or a pod (k8s.io/apimachinery/pkg/util/validation). */
const SUBDOMAIN = /^(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;
/** A DNS-1123 label: the name of a namespace. */
const LABEL = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;

/** Parses a duration of one number and one unit, between `low` and `high`, to milliseconds. */
export function duration(low: string, high: string): Parser<number> {
  const [least = 0, most = 0] = [low, high].map(milliseconds);
  return (text, { field }) => {
    const value = milliseconds(text);
    if (value === undefined) {
      throw new ConfigError(field, text, 'not a duration', 'a duration such as 500ms, 30s, 5m or 1h');
    }
    if (value < least || value > most) throw new ConfigError(field, text, 'out of range', `${low} to ${high}`);
    return value;
  };
}

function milliseconds(text: string): number | undefined {
  const [, number, unit] = /^(0|[1-9]\d{0,8})(ms|s|m|h)$/.exec(text) ?? [];
  return unit === undefined ? undefined : Number(number) * UNITS[unit as keyof typeof UNITS];
}

export function count(low: number, high: number): Parser<number> {
  return (text, { field }) => {
    const value = /^(0|[1-9]\d{0,8})$/.test(text) ? Number(text) : Number.NaN;
    if (value >= low && value <= high) return value;
    throw new ConfigError(field, text, 'not a number in range', `a number from ${low} to ${high}`);
  };
}

export const objectName: Parser<string> = (text, { field }) => {
  if (SUBDOMAIN.test(text)) return text;
  throw new ConfigError(field, text, 'not the name of a node or pod', 'lower-case letters, digits, "-" and "."');
};

const hostName: Parser<string> = (text, { field }) => {
  if (SUBDOMAIN.test(text)) return text;
  throw new ConfigError(field, text, 'not a host name', 'lower-case letters, digits, "-" and ".", without a port');
};

export const hostNames = list(hostName);

export const namespace: Parser<string> = (text, { field }) => {
  if (LABEL.test(text)) return text;
  throw new ConfigError(field, text, 'not the name of a namespace', 'at most 63 lower-case letters, digits and "-"');
};

export const namespaces = list(namespace);

export const file: Parser<string> = (text, { field }) => {
  if (/^\P{Cc}+$/u.test(text)) return text;
  throw new ConfigError(field, text, 'not the path of a file', 'a path without control characters');
};

export const path: Parser<string> = (text, { field }) => {
  if (/^\/\P{Cc}*$/u.test(text)) return text;
  throw new ConfigError(field, text, 'not an absolute path', 'a path such as /run/containerd/containerd.sock');
};

/** A path, or a URL like the value of the kubelet's --container-runtime-endpoint. */
export const socket: Parser<string> = (text, origin) => path(text.replace(/^unix:\/\/(?=\/)/, ''), origin);

export interface Address {
  /** Undefined means all addresses of the pod. */
  host: string | undefined;
  port: number;
}

/** `:9464`, `10.0.0.1:9464`, `[::1]:9464`, or `off`. */
export const listen: Parser<'off' | Address> = (text, { field }) => {
  if (text === 'off') return 'off';
  const [, bracketed, plain = '', digits] = /^(?:\[([^\]]+)\]|([^:[\]]*)):([1-9]\d{0,4})$/.exec(text) ?? [];
  const port = Number(digits);
  const known = bracketed === undefined ? plain === '' || isIP(plain) === 4 : isIP(bracketed) === 6;
  if (!known || !(port <= 65535)) {
    throw new ConfigError(
      field,
      text,
      'not an address to listen on',
      'an address such as :9464, 10.0.0.1:9464 or [::1]:9464, or off',
    );
  }
  return { host: bracketed ?? (plain === '' ? undefined : plain), port };
};
