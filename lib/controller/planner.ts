/** From a pod to the compiled rules of its network namespace. The pods of a node share a handful of configurations. */
import { createHash } from 'node:crypto';
import { keepNewest } from '../bounded.ts';
import type { RunConfig } from '../config/read.ts';
import { plan } from '../istio/plan.ts';
import type { PodRecord } from '../istio/pod.ts';
import { podRedirect, type Redirect } from '../istio/redirect.ts';
import { mustBeWhole } from '../kube/pods.ts';
import { partMarks } from '../kube/status.ts';
import { type Compiled, type Identity, native, type Probe } from '../native/addon.ts';
import { chooseBackend } from '../native/backend.ts';
import { familiesOf } from '../netns/families.ts';
import { type Backend, type Form, formOf } from '../ruleset/form.ts';
import type { Ruleset } from '../ruleset/model.ts';

/** Configurations kept planned, and compiled. */
const KEPT = 64;

/** A pod's configuration, and its rulesets so far, by families and backend. */
export interface Planned {
  redirect: Redirect;
  rulesets: Map<string, Ruleset>;
  forms: Map<string, { form: Form; rules: string }>;
}

export interface CompiledRules {
  compiled: Compiled;
  backend: Backend;
  /** Hash of the configuration, 16 hexadecimal digits. */
  rules: string;
}

export class Planner {
  readonly #config: RunConfig;
  readonly #probe: Probe;
  readonly #planned = new Map<string, Planned>();
  readonly #compiled = new Map<string, Promise<Compiled>>();

  constructor(config: RunConfig, probe: Probe) {
    this.#config = config;
    this.#probe = probe;
  }

  /** Throws ConfigError. */
  plan(pod: PodRecord): Planned {
    mustBeWhole(pod);
    // The key has all that podRedirect() reads of a pod.
    const key = JSON.stringify([partMarks(pod.metadata.annotations).others, pod.spec]);
    return keep(this.#planned, key, () => {
      return { redirect: podRedirect(pod, this.#config), rulesets: new Map(), forms: new Map() };
    });
  }

  /** Rejects with Failure where this network namespace cannot have these rules. */
  async compile(pod: PodRecord, planned: Planned, netns: Identity): Promise<CompiledRules> {
    const { spec, families: named } = planned.redirect;
    const families = familiesOf(netns, named, pod.status.podIPs);
    const ruleset = keep(planned.rulesets, families.join(), () => plan(spec, families));
    const { backend } = await chooseBackend(this.#config.backend, netns, ruleset, () => this.#probe);
    const { form, rules } = keep(planned.forms, `${backend} ${families.join()}`, () => {
      const form = formOf(ruleset, backend, { counters: this.#config.counters });
      return { form, rules: hashOf(form) };
    });
    const compiled = keep(this.#compiled, rules, () => native().compile(form));
    try {
      return { compiled: await compiled, backend, rules };
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

function hashOf({ backend, ruleset }: Form): string {
  const text = JSON.stringify([backend, ruleset], (_, value: unknown) =>
    typeof value === 'bigint' ? value.toString(16) : value,
  );
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}
