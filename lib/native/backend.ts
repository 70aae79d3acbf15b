/** Which backend a netns gets, and why. */

import { Failure } from '../errors.ts';
import type { Backend } from '../ruleset/form.ts';
import type { Ruleset } from '../ruleset/model.ts';
import type { Identity, Probe } from './addon.ts';

export interface BackendChoice {
  backend: Backend;
  /** A short phrase for the user. */
  reason: string;
}

/** A new netns in this process's own user namespace. */
export const ORDINARY = { path: '', foreignUserns: false, installedBackends: [] } satisfies Place;

type Place = Pick<Identity, 'path' | 'foreignUserns' | 'installedBackends'>;

/**
 * `auto` chooses nftables if another user namespace owns the netns, because the kernel then refuses xt owner rules from
 * outside, and if the kernel lacks a legacy table that `ruleset` needs. Otherwise it keeps the backend of the installed
 * rules. Without any it chooses iptables-legacy, whose install takes three fifths of the time (docs/decisions.md).
 *
 * Rejects with Failure if the netns cannot have the wanted backend. `probe` is called only if its answer matters.
 */
export async function chooseBackend(
  wanted: 'auto' | Backend,
  place: Place,
  ruleset: Ruleset,
  probe: () => Probe | Promise<Probe>,
): Promise<BackendChoice> {
  if (wanted === 'iptables-legacy' && place.foreignUserns) {
    throw new Failure('ERR_USERNS', { subject: place.path });
  }
  if (wanted !== 'auto') return { backend: wanted, reason: 'chosen by name' };
  if (place.foreignUserns) return { backend: 'nftables', reason: 'another user namespace owns the netns' };
  const kernel = await probe();
  const lack = legacyLack(ruleset, kernel);
  if (lack !== undefined && kernel.nftables === true) return { backend: 'nftables', reason: lack };
  const [standing, other] = place.installedBackends;
  if (standing !== undefined && other === undefined) return { backend: standing, reason: 'the installed rules use it' };
  return { backend: 'iptables-legacy', reason: lack ?? 'the faster backend' };
}

/** The first table of the ruleset that legacy iptables lacks here, in words. */
function legacyLack({ families, tables }: Ruleset, { legacy }: Probe): string | undefined {
  for (const family of families) {
    for (const { name } of tables) {
      const answer = legacy[family][name];
      if (answer !== true) return `this kernel has no legacy IPv${family} ${name} table (${answer})`;
    }
  }
  return undefined;
}
