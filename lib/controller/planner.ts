/**
 * Plans and compiles the rules for a pod's netns. It caches both, because the pods of a node share few configurations.
 */
import { createHash } from 'node:crypto';
import { keepNewest } from '../bounded.ts';
import type { RunConfig } from '../config/read.ts';
import { plan } from '../istio/plan.ts';
import { mustBeWhole, type PodRecord } from '../istio/pod.ts';
import { podRedirect, type Redirect } from '../istio/redirect.ts';
import { type Compiled, type Identity, native, type Probe } from '../native/addon.ts';
import { chooseBackend } from '../native/backend.ts';
import { familiesOf } from '../netns/families.ts';
import { type Backend, type Form, formOf } from '../ruleset/form.ts';
import type { Ruleset } from '../ruleset/model.ts';

/** How many planned, and how many compiled configurations are kept. */
const KEPT = 64;
/**
 * The most rules in all kept plans, and in all kept compiled configurations. A rule takes one to two KiB of memory, and
 * each pod may have its own configuration with thousands of rules.
 */
const MOST_RULES = 32_768;

/** The configuration of a pod, and the rulesets that were made from it so far, by families and backend. */
export interface Planned {
  redirect: Redirect;
  rulesets: Map<string, Ruleset>;
  forms: Map<string, { form: Form; rules: string }>;
  /** The number of rules in both maps. */
  size: number;
}

interface Kept {
  compiled: Promise<Compiled>;
  size: number;
}

export interface CompiledRules {
  compiled: Compiled;
  backend: Backend;
  /** The hash of the configuration: 16 hexadecimal digits. */
  rules: string;
  /** On the family that the proxy does not serve. */
  note?: string;
}

export class Planner {
  readonly #config: RunConfig;
  readonly #probe: Probe;
  readonly #planned = new Map<string, Planned>();
  readonly #compiled = new Map<string, Kept>();

  constructor(config: RunConfig, probe: Probe) {
    this.#config = config;
    this.#probe = probe;
  }

  /** Throws ConfigError. */
  plan(pod: PodRecord): Planned {
    mustBeWhole(pod);
    // The key has all that podRedirect() reads of a pod.
    const key = JSON.stringify([pod.metadata.annotations, pod.spec]);
    return keep(this.#planned, key, () => {
      return { redirect: podRedirect(pod, this.#config), rulesets: new Map(), forms: new Map(), size: 0 };
    });
  }

  /** Rejects with Failure if this network namespace cannot have these rules. */
  async compile(pod: PodRecord, planned: Planned, netns: Identity): Promise<CompiledRules> {
    const { spec } = planned.redirect;
    const families = familiesOf(netns, planned.redirect, pod.status.podIPs);
    const { captured, blocked, loopback6, note } = families;
    const which = `${captured} ${blocked} ${loopback6}`;
    const ruleset = keep(planned.rulesets, which, () => {
      const ruleset = plan(spec, families);
      planned.size += sizeOf(ruleset.tables);
      return ruleset;
    });
    const { backend } = await chooseBackend(this.#config.backend, netns, ruleset, () => this.#probe);
    const { form, rules } = keep(planned.forms, `${backend} ${which}`, () => {
      const form = formOf(ruleset, backend, { counters: this.#config.counters });
      planned.size += sizeOf(form.ruleset.tables);
      return { form, rules: hashOf(form) };
    });
    const { compiled } = keep(this.#compiled, rules, () => {
      return { compiled: native().compile(form), size: sizeOf(form.ruleset.tables) };
    });
    dropOldestRules(this.#planned);
    dropOldestRules(this.#compiled);
    try {
      return { compiled: await compiled, backend, rules, ...(note !== undefined && { note }) };
    } catch (error) {
      this.#compiled.delete(rules);
      throw error;
    }
  }
}

function keep<T>(kept: Map<string, T>, key: string, make: () => T): T {
  const value = kept.get(key) ?? make();
  keepNewest(kept, key, value, KEPT);
  return value;
}

/** Drops the oldest entries until the sum of rules is below the limit. Always keeps the newest entry. */
function dropOldestRules(kept: Map<string, { size: number }>): void {
  let sum = 0;
  for (const { size } of kept.values()) sum += size;
  for (const [key, { size }] of kept) {
    if (sum <= MOST_RULES || kept.size === 1) return;
    kept.delete(key);
    sum -= size;
  }
}

function sizeOf(tables: readonly { chains: readonly { rules: readonly unknown[] }[] }[]): number {
  return tables.flatMap(({ chains }) => chains).reduce((sum, { rules }) => sum + rules.length, 0);
}

function hashOf({ backend, ruleset }: Form): string {
  const text = JSON.stringify([backend, ruleset], (_, value: unknown) =>
    typeof value === 'bigint' ? value.toString(16) : value,
  );
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}
