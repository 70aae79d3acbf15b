/** Resolves group names, only for the command line: /etc/group of this machine does not apply to a pod. */
import { readFileSync } from 'node:fs';
import { ConfigError } from '../errors.ts';
import { id, list, type Parser } from './values.ts';

/**
 * Istio's limit (istio/tools/istio-iptables/pkg/config, ValidateOwnerGroups): all groups become matches of one rule.
 */
const MAX_OWNER_GROUPS = 64;

const NAME = /^[a-zA-Z_][a-zA-Z0-9_.-]*\$?$/;

const group: Parser<number> = (text, origin) => {
  if (!NAME.test(text)) return id(text, origin);
  if (origin.source === 'pod') {
    throw new ConfigError(
      origin.field,
      text,
      'a group name, but /etc/group of this machine does not apply to the pod',
      'a numeric id',
    );
  }
  const found = lookUp(text);
  if (found === undefined) {
    throw new ConfigError(origin.field, text, 'no such group in /etc/group', 'a numeric id');
  }
  return found;
};

/** Numeric ids, or names resolved from /etc/group. */
export const groups = list(group);

/** As `groups`, at most 64. */
export const ownerGroups: Parser<number[]> = (text, origin) => {
  const found = groups(text, origin);
  if (found.length > MAX_OWNER_GROUPS) {
    throw new ConfigError(origin.field, text, `has ${found.length} groups`, `at most ${MAX_OWNER_GROUPS}`);
  }
  return found;
};

/** `name:password:gid:members`, see group(5). */
function lookUp(name: string): number | undefined {
  let text: string;
  try {
    text = readFileSync('/etc/group', 'utf8');
  } catch {
    return undefined;
  }
  for (const line of text.split('\n')) {
    const [entry, , gid = ''] = line.split(':');
    if (entry === name && /^\d+$/.test(gid)) return Number(gid);
  }
  return undefined;
}
