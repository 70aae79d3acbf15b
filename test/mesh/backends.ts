/** The rules of a pod of the mesh, as the usual tools show and remove them. */
import type { V1Pod } from '@kubernetes/client-node';
import type { Backend } from '../../lib/ruleset/form.ts';
import type { Mesh } from './mesh.ts';

/** For each backend, commands that remove its rules inside the pod, and a pattern that its rules match in a list. */
export const BACKENDS = {
  nftables: { remove: ['nft flush ruleset'], rule: /^\s.* redirect to :15001$/m },
  'iptables-legacy': {
    remove: ['iptables-legacy -t nat -F', 'ip6tables-legacy -t nat -F'],
    rule: /^-A .* -j REDIRECT --to-ports 15001$/m,
  },
} satisfies Partial<Record<Backend, { remove: string[]; rule: RegExp }>>;

/** The backends that have rules in the pod. */
export async function backendsOf({ cluster }: Mesh, pod: V1Pod): Promise<string[]> {
  const rules = await cluster.rules(await cluster.now(pod));
  return Object.entries(BACKENDS).flatMap(([backend, { rule }]) => (rule.test(rules) ? [backend] : []));
}
