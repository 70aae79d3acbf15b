/**
 * What this project writes as JSON. `npm run docs` makes docs/schemas/ of it, and the tests' own helpers check with it whatever
 * they read: command-line.ts the documents of `--output json`, controller-process.ts the log and `/pods`.
 *
 * Objects are strict, so that a field without a schema fails a test. The published schemas allow further fields, because later
 * versions may add some. `satisfies` makes the compiler find a field that a type has and its schema has not.
 */
import { z } from 'zod';
import { jsonSchema as benchResults } from '../../bench/schema.ts';
import type { RedirectSpec } from '../../lib/istio/redirect.ts';
import type { ApplyResult, Netns, TableResult, Timings, VerifyResult } from '../../lib/native/addon.ts';
import type { Bundle } from '../../lib/observe/bundle.ts';
import type { Check } from '../../lib/observe/doctor.ts';
import type { Stage } from '../../lib/observe/metrics.ts';
import type { PodView } from '../../lib/observe/page.ts';
import type { DiffSection } from '../../lib/ruleset/diff.ts';
import type { AddressMatch, Chain, Cidr, PortRange, Routes, Rule, Ruleset, Table } from '../../lib/ruleset/model.ts';
import {
  type Condition,
  FIELDS,
  type Hook,
  type Interval,
  type NftChain,
  type NftRule,
  type NftRuleset,
  type NftTable,
} from '../../lib/ruleset/nftables/model.ts';

type Shape<T> = Record<keyof T, z.ZodType>;

const text = z.string();
const texts = z.array(text);
const number = z.number();
const flag = z.boolean();
const port = number.int().min(0).max(65_535);
const microseconds = number.min(0).describe('microseconds');
const backend = z.enum(['iptables-legacy', 'nftables']);
const family = z.union([z.literal(4), z.literal(6)]);
const anyFamily = z.union([family, z.literal('inet')]).describe('"inet": a table of nftables, for both families');
const tableName = z.enum(['raw', 'mangle', 'nat']);
const namespaceId = text.regex(/^[0-9a-f-]{36}:\d+$/).describe('boot id and cookie of the network namespace');
const time = z.iso.datetime();

const netns = z.strictObject({
  path: text,
  dev: number,
  ino: number,
  cookie: text.regex(/^\d+$/).describe('64 bits, so it is a decimal string'),
} satisfies Shape<Netns>);

const timings = z
  .strictObject({
    queue: microseconds,
    enter: microseconds,
    v4: microseconds,
    v6: microseconds,
    nftables: microseconds,
    routes: microseconds,
    verify: microseconds,
    release: microseconds,
    total: microseconds,
  } satisfies Shape<Timings>)
  .describe('queue is the wait for a thread; total is without queue');

const tableResult = z.strictObject({
  family: anyFamily,
  table: tableName,
  how: z.enum(['replayed', 'merged', 'replaced', 'unchanged', 'cleaned']),
} satisfies Shape<TableResult>);

const doubts = texts.describe('why the rules may capture nothing although they are all installed');

const changes = {
  changed: flag,
  tables: z.array(tableResult),
  routes: texts.describe('what was added or removed, as arguments of ip'),
  doubts,
  tookOver: flag.describe("whether Istio's rules were removed from the tables of iptables-nft"),
  timings,
} satisfies Shape<ApplyResult>;

const chosen = { families: z.array(family), backend, reason: text };

const apply = z.strictObject({ command: z.literal('apply'), netns, ...chosen, ...changes });
const clean = z.strictObject({ command: z.literal('clean'), netns, ...changes });

const section = z.strictObject({
  nft: z.literal(true).optional().describe('the table is one of iptables-nft'),
  family: anyFamily.optional(),
  table: tableName.optional(),
  lines: texts.describe('" " is as it should be, "-" is missing, "+" is surplus'),
} satisfies Shape<DiffSection>);

const verified = {
  ok: flag,
  ahead: texts.describe('rules of others that let traffic pass by'),
  doubts,
  routes: z.strictObject({ missing: texts, surplus: texts }),
  timings,
} satisfies Shape<Omit<VerifyResult, 'legacy' | 'nftables' | 'iptablesNft'>>;
const verify = z.strictObject({
  command: z.literal('verify'),
  netns,
  ...chosen,
  ...verified,
  drift: z.array(section),
});

const cidr = z
  .strictObject({ family, address: text, prefix: number.int().min(0).max(128) } satisfies Shape<Cidr>)
  .meta({ id: 'cidr' });
const range = z.strictObject({ first: port, last: port } satisfies Shape<PortRange>);
const ranges = z.array(range).meta({ id: 'ranges' });
const all = z.literal('*');
const mark = number.int();

const spec = z.strictObject({
  mode: z.enum(['REDIRECT', 'TPROXY', 'NONE']),
  proxyPort: port,
  inboundPort: port,
  tunnelPort: port,
  proxyUids: z.array(number),
  proxyGids: z.array(number),
  inbound: z.strictObject({ include: z.union([all, ranges]), exclude: ranges }),
  outbound: z.strictObject({
    cidrs: z.union([all, z.array(cidr)]),
    excludeCidrs: z.array(cidr),
    ports: ranges,
    excludePorts: ranges,
  }),
  ownerGroups: z.strictObject({ include: z.union([all, z.array(number)]), exclude: z.array(number) }),
  excludeInterfaces: texts,
  rerouteInterfaces: texts,
  dns: z.union([z.enum(['off', 'all']), z.strictObject({ servers: z.array(cidr) })]),
  dropInvalid: flag,
  loopback: cidr,
  tproxy: z.strictObject({ mark, table: number }),
} satisfies Shape<RedirectSpec>);

const negated = { not: flag };
const match = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('port'), side: z.enum(['source', 'destination']), range, ...negated }),
  z.strictObject({ kind: z.literal('multiport'), ports: ranges, ...negated }),
  z.strictObject({ kind: z.literal('owner'), uid: number.optional(), gid: number.optional(), ...negated }),
  z.strictObject({
    kind: z.literal('conntrack'),
    states: z.array(z.enum(['INVALID', 'RELATED', 'ESTABLISHED', 'NEW'])),
  }),
  z.strictObject({ kind: z.literal('mark'), value: mark, ...negated }),
  z.strictObject({ kind: z.literal('connmark'), value: mark, ...negated }),
  z.strictObject({ kind: z.literal('comment'), text }),
]);
const target = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.enum(['accept', 'drop', 'return', 'save-mark', 'restore-mark']) }),
  z.strictObject({ kind: z.literal('jump'), chain: text }),
  z.strictObject({ kind: z.literal('redirect'), port }),
  z.strictObject({ kind: z.literal('tproxy'), port, mark }),
  z.strictObject({ kind: z.literal('set-mark'), value: mark }),
  z.strictObject({ kind: z.literal('ct-zone'), zone: number }),
]);
const address = z.strictObject({ cidr, ...negated } satisfies Shape<AddressMatch>);
const rule = z
  .strictObject({
    family: family.optional(),
    source: address.optional(),
    destination: address.optional(),
    inInterface: text.optional(),
    outInterface: text.optional(),
    protocol: z.enum(['tcp', 'udp']).optional(),
    matches: z.array(match),
    target,
  } satisfies Shape<Rule>)
  .meta({ id: 'rule' });
const chain = z.strictObject({
  name: text,
  builtin: flag,
  inserts: z.array(rule),
  rules: z.array(rule),
} satisfies Shape<Chain>);
const families = z.array(family);
const routes = z.strictObject({
  loopback6: flag,
  tproxy: z.strictObject({ mark, table: number }).optional(),
} satisfies Shape<Routes>);
const ruleset = z.strictObject({
  families,
  tables: z.array(z.strictObject({ name: tableName, chains: z.array(chain) } satisfies Shape<Table>)),
  routes,
} satisfies Shape<Ruleset>);

const decimal = text.regex(/^\d+$/).describe('up to 128 bits, so it is a decimal string');
const interval = z.strictObject({ first: decimal, last: decimal } satisfies Shape<Interval>);
const condition = z.strictObject({
  field: z.enum(FIELDS),
  not: flag,
  values: z.array(interval),
} satisfies Shape<Condition>);
const nftRule = z.strictObject({
  conditions: z.array(condition),
  counter: flag,
  target,
} satisfies Shape<NftRule>);
const hook = z.strictObject({
  type: z.enum(['filter', 'nat', 'route']),
  hook: z.enum(['prerouting', 'output']),
  priority: number.int(),
} satisfies Shape<Hook>);
const nftChain = z.strictObject({
  name: text,
  hook: hook.optional(),
  rules: z.array(nftRule),
} satisfies Shape<NftChain>);
const nftRuleset = z.strictObject({
  families,
  tables: z.array(z.strictObject({ name: tableName, chains: z.array(nftChain) } satisfies Shape<NftTable>)),
  routes,
} satisfies Shape<NftRuleset>);

const planned = { command: z.literal('plan'), spec };
const plan = z
  .discriminatedUnion('backend', [
    z.strictObject({ ...planned, backend: z.literal('iptables-legacy'), ruleset }),
    z.strictObject({ ...planned, backend: z.literal('nftables'), ruleset: nftRuleset }),
  ])
  .describe('the rules that are installed with this backend');

const checks = z.array(
  z.strictObject({
    name: text,
    status: z
      .enum(['ok', 'warn', 'missing'])
      .describe('warn: only some pods need it; missing: nothing works without it'),
    detail: text,
    remedy: text.optional(),
  } satisfies Shape<Check>),
);
const doctor = z.strictObject({ command: z.literal('doctor'), ok: flag, checks });

const error = z.strictObject({
  error: z.strictObject({
    code: text,
    message: text,
    remedy: text.optional(),
    field: text.optional(),
    value: text.optional(),
    wrong: text.optional(),
    expected: text.optional(),
  }),
});

const podView = z.strictObject({
  namespace: text,
  name: text,
  uid: text,
  state: z.enum(['pending', 'initialized', 'failed', 'skipped']),
  reason: text.optional().describe('why it waits, failed, was skipped, or is not marked'),
  backend: backend.optional(),
  netns: namespaceId.optional(),
  rules: text.optional().describe('hash of the configuration'),
  stages: stages().optional(),
  since: time.optional().describe('of the last change'),
} satisfies Shape<PodView>);
const pods = z.strictObject({ pods: z.array(podView) });

const bundle = z.strictObject({
  command: z.literal('bundle'),
  ok: flag,
  versions: z.strictObject({ ipnc: text, node: text, kernel: text, arch: text }),
  checks,
  controller: z
    .union([
      z.strictObject({ pods: z.array(podView).describe('names of pods and namespaces are numbers'), metrics: texts }),
      z.strictObject({ error: text.describe('why the controller did not answer') }),
    ])
    .describe('of this node'),
} satisfies Shape<Bundle & { command: string; ok: boolean }>);

function stages() {
  const shape = {
    decide: microseconds,
    plan: microseconds,
    locate: microseconds,
    install: microseconds,
    verify: microseconds,
    mark: microseconds,
    release: microseconds,
    total: microseconds,
  } satisfies Record<Stage, z.ZodType>;
  return z.strictObject(shape).partial().describe('a stage that was not reached is absent');
}

const OUTCOMES = ['initialized', 'repaired', 'unchanged', 'skipped', 'failed'] as const;

const head = { level: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal']), time, msg: text };

const logged = z.looseObject({
  message: text,
  type: text.optional(),
  code: z.union([text, number]).optional(),
  remedy: text.optional(),
});

/** The line of what was done for a pod. */
const podLine = z.strictObject({
  ...head,
  msg: z.enum(OUTCOMES),
  pod: text.regex(/^[^/]+\/[^/]+$/).describe('namespace/name'),
  uid: text,
  reason: text.optional().describe('why it was skipped'),
  backend: backend.optional(),
  netns: namespaceId.optional(),
  us: stages().optional(),
  err: logged.optional(),
});
/** Any other line; its further fields depend on the message. */
const otherLine = z.looseObject({ ...head, err: logged.optional() });
const logLine = z.union([podLine, otherLine]).describe('a line about a pod, or any other line of the log');

/** By the name of the file in docs/schemas/. */
const SCHEMAS = { 'log-line': logLine, pods, plan, apply, verify, clean, doctor, bundle, error } as const;

/** The files of docs/schemas/, by name. */
export function schemaFiles(): Map<string, string> {
  const open = ({ jsonSchema }: { jsonSchema: { additionalProperties?: unknown } }) => {
    if (jsonSchema.additionalProperties === false) delete jsonSchema.additionalProperties;
  };
  const files = Object.entries(SCHEMAS).map(([name, schema]) => [name, z.toJSONSchema(schema, { override: open })]);
  return new Map(
    [...files, ['bench-results', benchResults()]].map(([name, schema]) => [
      `${String(name)}.json`,
      `${JSON.stringify(schema, null, 2)}\n`,
    ]),
  );
}

/** Throws with field and value where the line is not what docs/schemas/log-line.json says. */
export function checkLogLine(line: unknown): void {
  const { msg, uid } = line as { msg?: unknown; uid?: unknown };
  const isOfPod = uid !== undefined && OUTCOMES.some((outcome) => outcome === msg);
  check(isOfPod ? podLine : otherLine, line, 'log line');
}

export function checkPods(answer: unknown): void {
  check(pods, answer, '/pods');
}

/** What a verb printed on standard output with `--output json`, or on standard error. */
export function checkDocument(document: unknown): void {
  const { command } = document as { command?: keyof typeof SCHEMAS };
  check(command === undefined ? error : SCHEMAS[command], document, `--output json of ${command ?? 'a failure'}`);
}

function check(schema: z.ZodType, value: unknown, what: string): void {
  const { success, error: found } = schema.safeParse(value);
  if (!success) throw new Error(`${what}: ${z.prettifyError(found)}\n${JSON.stringify(value).slice(0, 2000)}`);
}
