/** The rules that all drivers install, in each form that one of them takes. */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { plan } from '../../lib/istio/plan.ts';
import { redirect } from '../../lib/istio/redirect.ts';
import { flagSource } from '../../lib/istio/sources.ts';
import { type Compiled, native } from '../../lib/native/addon.ts';
import { type Backend, type Form, formOf } from '../../lib/ruleset/form.ts';
import { iptablesText } from '../../lib/ruleset/iptables.ts';
import type { Family, Ruleset } from '../../lib/ruleset/model.ts';
import { lower } from '../../lib/ruleset/nftables/lower.ts';
import { nftablesText } from '../../lib/ruleset/nftables/text.ts';

const families: Family[] = [4, 6];

/** Istio's defaults, but for these flags, by their long names; IPv4 and IPv6. */
export function rulesetOf(flags: Record<string, string> = {}): Ruleset {
  return plan(redirect({ flags: flagSource(new Map(Object.entries(flags))) }).spec, families);
}

/** What the kernel gets: ours as the controller installs it, the same with counters, and Istio's own nftables form. */
export interface Forms {
  legacy: Compiled;
  nftables: Compiled;
  counted: Compiled;
  asIstio: Compiled;
}

export async function compileForms(ruleset: Ruleset): Promise<Forms> {
  const compile = (form: Form) => native().compile(form);
  const of = (backend: Backend, counters: boolean) => compile(formOf(ruleset, backend, { counters }));
  return {
    legacy: await of('iptables-legacy', true),
    nftables: await of('nftables', false),
    counted: await of('nftables', true),
    asIstio: await compile({ backend: 'nftables', ruleset: lower(ruleset, { counters: true }) }),
  };
}

/** Files in `folder`, as the programs of others read them. */
export function writeRules(folder: string, ruleset: Ruleset) {
  const file = (name: string, text: string) => {
    const path = join(folder, name);
    writeFileSync(path, text);
    return path;
  };
  return {
    restore: families.map((family) => file(`rules.v${family}`, iptablesText(ruleset, family))),
    nft: file('plain.nft', nftablesText(lower(ruleset, { counters: true }))),
    script: file('commands.sh', script(ruleset)),
  };
}

/** The plan's text as one iptables command a rule: the original controller's way. */
function script(ruleset: Ruleset): string {
  return families
    .flatMap((family) => {
      const program = family === 4 ? 'iptables-legacy' : 'ip6tables-legacy';
      return iptablesText(ruleset, family)
        .split('\n')
        .flatMap((line) => {
          if (line.startsWith('-')) return `${program} -t nat ${line}`;
          const chain = /^:(ISTIO_\S+)/.exec(line)?.[1];
          return chain === undefined ? [] : `${program} -t nat -N ${chain}`;
        });
    })
    .join('\n');
}

/** Whether the netns at `path` holds exactly what was compiled; routes aside, which not every way adds. */
export async function holds(compiled: Compiled, path: string): Promise<boolean> {
  const { legacy, nftables } = await compiled.verify(await native().identify(path));
  return legacy.length + nftables.length === 0;
}

/** The same for iptables-nft, whose tables only its own tools read: as many rules in each family. */
export function holdsIptablesNft(ruleset: Ruleset, path: string): boolean {
  const count = (text: string) => text.match(/^-A /gm)?.length;
  return families.every((family) => {
    const program = family === 4 ? 'iptables-nft-save' : 'ip6tables-nft-save';
    const saved = execFileSync('nsenter', [`--net=${path}`, program], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    return count(saved) === count(iptablesText(ruleset, family));
  });
}
