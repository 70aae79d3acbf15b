/** Parses addresses and CIDRs strictly: net.isIP decides what an address is, ipaddr.js does the arithmetic. */
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';
import { ConfigError } from '../errors.ts';
import type { Cidr } from '../ruleset/model.ts';
import { list, type Parser } from './values.ts';

type Refusal = readonly [wrong: string, expected: string];

const CIDR: Refusal = ['not a CIDR', 'a CIDR such as 10.0.0.0/8 or fd00::/8'];
const ADDRESS: Refusal = ['not an IP address', 'an address such as 10.96.0.10 or fd00::a'];

const cidr: Parser<Cidr> = (text, { field }) => {
  const [address = '', length, ...more] = text.split('/');
  if (more.length > 0) throw new ConfigError(field, text, ...CIDR);
  const family = familyOf(address, text, field, CIDR);
  const width = family === 4 ? 32 : 128;
  if (length === undefined) throw new ConfigError(field, text, CIDR[0], `${address}/${width} for this one address`);
  const prefix = /^(0|[1-9]\d{0,2})$/.test(length) ? Number(length) : Number.NaN;
  if (!(prefix <= width)) {
    throw new ConfigError(field, text, `not a prefix of an IPv${family} CIDR`, `a number from 0 to ${width}`);
  }
  const network = networkOf(address, prefix);
  if (canonical(address) !== network) {
    throw new ConfigError(field, text, 'has host bits set', `the network ${network}/${prefix}`);
  }
  return { family, address: network, prefix };
};

/** A single address, as a CIDR of full length. */
const address: Parser<Cidr> = (text, { field }) => {
  const family = familyOf(text, text, field, ADDRESS);
  return { family, address: canonical(text), prefix: family === 4 ? 32 : 128 };
};

/** A CIDR inside 127/8, with a prefix of 8 to 32 (istio/tools/istio-iptables/pkg/config: ValidateIPv4LoopbackCidr). */
export const loopbackCidr: Parser<Cidr> = (text, origin) => {
  const value = cidr(text, origin);
  if (value.family !== 4 || value.prefix < 8 || !value.address.startsWith('127.')) {
    throw new ConfigError(
      origin.field,
      text,
      'not an IPv4 loopback CIDR',
      'a CIDR inside 127.0.0.0/8, such as 127.0.0.1/32',
    );
  }
  return value;
};

export const cidrText = ({ address, prefix }: Cidr): string => `${address}/${prefix}`;
export const cidrs = list(cidr, cidrText);
export const addresses = list(address, cidrText);

/** Whether the CIDR's address is loopback, by the same rule as Go's netip.Addr.IsLoopback, which Istio uses. */
export function isLoopback({ family, address }: Cidr): boolean {
  return family === 4 ? address.startsWith('127.') : address === '::1';
}

function familyOf(address: string, text: string, field: string, refusal: Refusal): 4 | 6 {
  const family = isIP(address);
  if (family !== 4 && family !== 6) throw new ConfigError(field, text, ...refusal);
  if (address.includes('%')) {
    throw new ConfigError(field, text, 'a rule cannot have a zone (%)', 'the address without the zone');
  }
  if (family === 6) {
    const parsed = ipaddr.IPv6.parse(inHexadecimal(address));
    if (parsed.isIPv4MappedAddress()) {
      const plain = parsed.toIPv4Address().toString();
      throw new ConfigError(field, text, 'an IPv4-mapped address never occurs in packets', `${plain}`);
    }
  }
  return family;
}

/** Without dotted decimals at the end of an IPv6 address: ipaddr.js takes ::10.0.0.1 for ::ffff:10.0.0.1. */
function inHexadecimal(address: string): string {
  if (isIP(address) !== 6) return address;
  return address.replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, (_, ...bytes: string[]) => {
    const [a = 0, b = 0, c = 0, d = 0] = bytes.slice(0, 4).map(Number);
    return `${(a * 256 + b).toString(16)}:${(c * 256 + d).toString(16)}`;
  });
}

function canonical(address: string): string {
  const parsed = ipaddr.parse(inHexadecimal(address));
  return parsed.kind() === 'ipv6' ? (parsed as ipaddr.IPv6).toRFC5952String() : parsed.toString();
}

function networkOf(address: string, prefix: number): string {
  const text = `${inHexadecimal(address)}/${prefix}`;
  return isIP(address) === 4
    ? ipaddr.IPv4.networkAddressFromCIDR(text).toString()
    : ipaddr.IPv6.networkAddressFromCIDR(text).toRFC5952String();
}
