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

/** A netns nobody has touched, in this process's own user namespace. */
export const ORDINARY = { path: '', foreignUserns: false, installedBackends: [] } satisfies Place;

type Place = Pick<Identity, 'path' | 'foreignUserns' | 'installedBackends'>;

/**
 * `auto`: nftables where another user namespace owns the netns, since the kernel lets nobody outside write xt owner
 * rules there, and where the kernel lacks a legacy table that `ruleset` needs; else the form in which our rules stand
 * already; else iptables-legacy, whose install takes three fifths of the time (docs/decisions.md).
 *
 * Rejects with Failure where the netns cannot have what was asked for. `probe` is asked only where it decides.
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
