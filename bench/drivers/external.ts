/** Somebody's own program, named on the command line: `--driver istio-iptables=/usr/bin/istio-iptables -z 15006`. */
import type { Ruleset } from '../../lib/ruleset/model.ts';
import type { Driver } from './driver.ts';
import type { Floors } from './floors.ts';
import { processes } from './processes.ts';
import { type Forms, holds, holdsIptablesNft } from './rules.ts';

export interface External {
  name: string;
  /** Program and arguments. Where one is or holds `{netns}`, it gets the path; else it is started inside. */
  command: string[];
}

const PLACE = '{netns}';

/** Tries it, to learn which backend it writes through; rejects where it installs other rules than the others do. */
export async function external(
  floors: Floors,
  { name, command }: External,
  { forms, ruleset, freshNetns }: { forms: Forms; ruleset: Ruleset; freshNetns: () => Promise<string> },
): Promise<Driver> {
  const outside = command.some((word) => word.includes(PLACE));
  const words = (path: string) =>
    outside ? ['run', ...command.map((word) => word.replaceAll(PLACE, path))] : ['inside', path, ...command];
  const checks: Record<string, Pick<Driver, 'backend' | 'stands'>> = {
    legacy: { backend: 'iptables-legacy', stands: (path) => holds(forms.legacy, path) },
    ...Object.fromEntries(
      (['nftables', 'counted', 'asIstio'] as const).map((form) => [
        form,
        { backend: 'nftables', stands: (path: string) => holds(forms[form], path) },
      ]),
    ),
    iptablesNft: { backend: 'nftables', stands: async (path) => holdsIptablesNft(ruleset, path) },
  };
  const path = await freshNetns();
  await floors.do(...words(path));
  for (const check of Object.values(checks)) {
    if (!(await check.stands(path))) continue;
    return processes(floors, { name, title: `${name} (given)`, words, ...check });
  }
  throw new Error(
    `--driver ${name}: "${command.join(' ')}" installs other rules than the rest: Istio's defaults are expected, in both ` +
      'families, as `ipnc plan` prints them',
  );
}
