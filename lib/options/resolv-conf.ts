import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';

/**
 * The name servers of resolv.conf(5), in order, as its own reader takes them: a line it cannot use is no server, and
 * neither is an address with a zone, which no rule can match. Empty if the file cannot be read.
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
