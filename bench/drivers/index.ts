/** All drivers, next to one another. */
import type { Ruleset } from '../../lib/ruleset/model.ts';
import type { Driver } from './driver.ts';
import { type External, external } from './external.ts';
import { floor } from './floor.ts';
import type { Floors } from './floors.ts';
import { ours } from './ours.ts';
import { processes } from './processes.ts';
import { compileForms, holds, holdsIptablesNft, writeRules } from './rules.ts';

interface Options {
  floors: Floors;
  folder: string;
  ruleset: Ruleset;
  freshNetns: () => Promise<string>;
  externals: readonly External[];
  /** Microseconds by which a driver is made slower, by its name: to see whether `--compare` finds it. */
  plant: ReadonlyMap<string, number>;
}

/** Ready to install. Ids are `backend/name`. */
export async function prepareDrivers(options: Options): Promise<Driver[]> {
  const { floors, ruleset, freshNetns } = options;
  const forms = await compileForms(ruleset);
  const files = writeRules(options.folder, ruleset);
  const legacy = { backend: 'iptables-legacy', compiled: forms.legacy } as const;
  const nftables = { backend: 'nftables', compiled: forms.counted } as const;
  const uncounted = { backend: 'nftables', compiled: forms.nftables } as const;
  const asLegacy = { backend: 'iptables-legacy', stands: (path: string) => holds(forms.legacy, path) } as const;
  const drivers = [
    floor(floors, { ...legacy, name: 'floor', title: 'baseline: setns + setsockopt, C++' }),
    floor(floors, { ...legacy, name: 'floor+address', title: 'baseline and ::6/128 on lo, C++', address: true }),
    ours({ ...legacy, name: 'ours', title: 'ipnc, from JavaScript' }),
    ours({ ...legacy, name: 'ours+identify', title: 'ipnc, identified first', identify: true }),
    processes(floors, {
      ...asLegacy,
      name: 'restore',
      title: 'nsenter + iptables-restore',
      words: (path) => ['restore', path, 'legacy', ...files.restore],
    }),
    processes(floors, {
      ...asLegacy,
      name: 'exec-per-rule',
      title: 'nsenter + one exec a rule',
      words: (path) => ['script', path, files.script],
    }),
    floor(floors, { ...nftables, name: 'floor', title: 'baseline: setns + one batch, C++' }),
    floor(floors, { ...nftables, name: 'floor+address', title: 'baseline and ::6/128 on lo, C++', address: true }),
    ours({ ...nftables, name: 'ours', title: 'ipnc, from JavaScript' }),
    ours({ ...uncounted, name: 'ours-uncounted', title: 'ipnc, without counters' }),
    floor(floors, { ...uncounted, name: 'floor-uncounted', title: 'baseline without counters, C++' }),
    floor(floors, {
      backend: 'nftables',
      compiled: forms.asIstio,
      name: 'floor-istio-form',
      title: "baseline of Istio's variant, C++",
    }),
    processes(floors, {
      backend: 'nftables',
      stands: (path) => holds(forms.asIstio, path),
      name: 'nft',
      title: "nsenter + nft -f, Istio's variant",
      words: (path) => ['nft', path, files.nft],
    }),
    processes(floors, {
      backend: 'nftables',
      stands: async (path) => holdsIptablesNft(ruleset, path),
      name: 'restore',
      title: 'nsenter + iptables-nft-restore',
      words: (path) => ['restore', path, 'nft', ...files.restore],
    }),
  ];
  for (const driver of drivers) await driver.prepare(freshNetns);
  for (const each of options.externals) drivers.push(await external(floors, each, { forms, ruleset, freshNetns }));
  return drivers.map((driver) => slowedDown(driver, options.plant.get(driver.name)));
}

/** Waits busily, as what is slow of itself does. */
function slowedDown(driver: Driver, microseconds: number | undefined): Driver {
  if (microseconds === undefined) return driver;
  return {
    ...driver,
    install: async (path) => {
      const took = await driver.install(path);
      const start = performance.now();
      while ((performance.now() - start) * 1000 < microseconds);
      return took + (performance.now() - start) * 1000;
    },
  };
}
