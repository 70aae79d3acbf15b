import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';

/**
 * The name servers of resolv.conf(5), in order. Like the resolver, it ignores invalid lines. It also ignores addresses
 * with a zone, because no rule can match them. The result is empty if the file cannot be read.
 */
export function nameServers(path = '/etc/resolv.conf'): string[] {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    return [];
  }
  return text
    .split('\n')
    .map((line) => /^nameserver[ \t]+(\S+)/.exec(line)?.[1] ?? '')
    .filter((address) => isIP(address) !== 0 && !/%|^::ffff:/i.test(address));
}
