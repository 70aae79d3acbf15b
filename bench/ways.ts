/** The ways to install Istio's default rules in a netns, ours and the others, for each backend. */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { formOf } from '../lib/backend.ts';
import { type Compiled, native } from '../lib/native.ts';
import { redirect } from '../lib/redirect.ts';
import { iptablesText } from '../lib/ruleset/iptables.ts';
import type { Family } from '../lib/ruleset/model.ts';
import { lower } from '../lib/ruleset/nftables/lower.ts';
import { nftablesText } from '../lib/ruleset/nftables/text.ts';
import { plan } from '../lib/ruleset/plan.ts';
import type { Coprocess } from './coprocess.ts';

const families: Family[] = [4, 6];
export const ruleset = plan(redirect({ flags: {}, environment: {} }).spec, families);

export interface Way {
  name: string;
  /** Installs in the netns at `path`; microseconds. */
  install(path: string): Promise<number>;
  /** Whether what it installed is what is to be compared. */
  stands(path: string): Promise<boolean>;
  samples: number[];
}

export interface Comparison {
  title: string;
  /** The first is the floor, the second the floor with `::6/128`, the third ours. */
  ways: Way[];
}

/** `netns`: where to read what the floors are to replay; each netns it is asked for is empty. */
export async function comparisons(
  drivers: Coprocess,
  folder: string,
  netns: () => Promise<string>,
): Promise<Comparison[]> {
  const driver = async (line: string) => Number(await drivers.ask(line)) / 1000;
  const legacy = await native().compile(formOf(ruleset, 'iptables-legacy', { counters: true }));
  const nftables = await native().compile(formOf(ruleset, 'nftables', { counters: true }));
  const uncounted = await native().compile(formOf(ruleset, 'nftables', { counters: false }));
  const file = (name: string, text: string) => {
    const path = join(folder, name);
    writeFileSync(path, text);
    return path;
  };
  const rules = families.map((family) => file(`rules.v${family}`, iptablesText(ruleset, family))).join(' ');
  const commands = file('commands.sh', script());
  const istio = lower(ruleset, { counters: true });
  const plain = file('plain.nft', nftablesText(istio));
  const asIstio = await native().compile({ backend: 'nftables', ruleset: istio });

  const template = await netns();
  await legacy.apply(await native().identify(template));
  await drivers.ask(`template ${template}`);
  for (const [name, compiled] of [
    ['ours', nftables],
    ['uncounted', uncounted],
    ['plain', asIstio],
  ] as const) {
    const path = await netns();
    await compiled.apply(await native().identify(path));
    await drivers.ask(`read ${name} ${path}`);
  }

  const standing = (compiled: Compiled) => async (path: string) => {
    const verified = await compiled.verify(await native().identify(path));
    return verified.legacy.length + verified.nftables.length === 0;
  };
  const asMany = async (path: string) => {
    const saved = families.map((family) => {
      const program = family === 4 ? 'iptables-nft-save' : 'ip6tables-nft-save';
      return execFileSync('nsenter', [`--net=${path}`, program], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      });
    });
    const count = (text: string) => text.match(/^-A /gm)?.length;
    return saved.every((text, at) => count(text) === count(iptablesText(ruleset, families[at] ?? 4)));
  };
  const way = (name: string, install: Way['install'], stands: Way['stands']): Way => ({
    name,
    install,
    stands,
    samples: [],
  });
  const ours = (name: string, compiled: Compiled) =>
    way(
      name,
      async (path) => {
        const target = await native().identify(path, { fresh: true });
        return timed(() => compiled.apply(target, { fresh: true }));
      },
      standing(compiled),
    );
  return [
    {
      title: 'iptables-legacy',
      ways: [
        way('floor: setns + setsockopt, C++', (path) => driver(`replay ${path}`), standing(legacy)),
        way('floor and ::6/128 on lo, C++', (path) => driver(`replay+address ${path}`), standing(legacy)),
        ours('ipnc apply, from JavaScript', legacy),
        way(
          'ipnc identify + apply',
          (path) => timed(async () => legacy.apply(await native().identify(path, { fresh: true }), { fresh: true })),
          standing(legacy),
        ),
        way('nsenter + iptables-legacy-restore', (path) => driver(`restore ${path} legacy ${rules}`), standing(legacy)),
        way('nsenter + an iptables exec a rule', (path) => driver(`script ${path} ${commands}`), standing(legacy)),
      ],
    },
    {
      title: 'nftables',
      ways: [
        way('floor: setns + one batch, C++', (path) => driver(`send ours ${path}`), standing(nftables)),
        way('floor and ::6/128 on lo, C++', (path) => driver(`send+address ours ${path}`), standing(nftables)),
        ours('ipnc apply, from JavaScript', nftables),
        ours('the same without counters', uncounted),
        way('floor without counters, C++', (path) => driver(`send uncounted ${path}`), standing(uncounted)),
        way("floor of Istio's form, C++", (path) => driver(`send plain ${path}`), standing(asIstio)),
        way("nsenter + nft -f, Istio's form", (path) => driver(`nft ${path} ${plain}`), standing(asIstio)),
        way('nsenter + iptables-nft-restore', (path) => driver(`restore ${path} nft ${rules}`), asMany),
      ],
    },
  ];
}

async function timed(job: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await job();
  return (performance.now() - start) * 1000;
}

/** The plan's text as one iptables command a rule: the original controller's way. */
function script(): string {
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
