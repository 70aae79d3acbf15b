/**
 * Shows the whole path on this machine: a pod, its traffic, an install with the code of `apply`, and its traffic again.
 */

import { phases } from '../cli/apply.ts';
import { columns, type Io, paint } from '../cli/output.ts';
import { tableName } from '../cli/shared.ts';
import { Failure } from '../errors.ts';
import { plan } from '../istio/plan.ts';
import { redirect } from '../istio/redirect.ts';
import { flagSource } from '../istio/sources.ts';
import { type ApplyResult, type Compiled, type Identity, native } from '../native/addon.ts';
import { chooseBackend } from '../native/backend.ts';
import { familiesOf } from '../netns/families.ts';
import { identifyTarget } from '../netns/target.ts';
import { type Backend, type Form, formOf } from '../ruleset/form.ts';
import { iptablesText, routeLines } from '../ruleset/iptables.ts';
import type { Family, Ruleset } from '../ruleset/model.ts';
import { nftablesText } from '../ruleset/nftables/text.ts';
import { APP_PORTS, OUTSIDE, OUTSIDE_PORTS, POD, SIDECAR_PORTS, Stage } from './stage.ts';
import { destinationText, type Observation, observe } from './traffic.ts';
import { UID_MAP_REMEDY } from './userns.ts';

type Flags = Map<string, string | true>;

export async function demo(io: Io, wanted: 'auto' | Backend): Promise<void> {
  await using stage = await Stage.build();
  printActors(io, stage);
  if (!stage.hasUids) {
    const left =
      'SKIPPED: connections of the app. Only one uid is available here, and the rules recognise the sidecar by its uid.';
    io.err(`\n${paint(io, 'yellow', left)}\nTo see all connections, ${UID_MAP_REMEDY}.\n`);
  }

  const identity = await identifyTarget(stage.podPath);
  const { captured: families } = familiesOf(identity, redirect({}));
  heading(io, 'Before the install: each connection reaches its destination');
  const before = await observe(stage, families, 'before');
  printTraffic(io, before);

  const flags = flagsFor(stage);
  const words = [...flags].map(([flag, value]) => (value === true ? `--${flag}` : `--${flag} ${value}`));
  if (wanted !== 'auto') words.push(`--backend ${wanted}`);
  heading(io, `Installing: ipnc apply --netns ${stage.podPath} ${words.join(' ')}`);
  const { form, compiled } = await install(io, stage.podPath, flags, wanted);

  heading(io, 'The installed rules');
  printRules(io, form);

  heading(io, 'After the install: the sidecar gets the captured connections, and knows their original destinations');
  const after = await observe(stage, families, 'after');
  printTraffic(io, after);

  heading(io, 'And again');
  const kept = await repeat(io, compiled, identity);
  const failed = [...before, ...after].filter(({ asExpected }) => !asExpected).length;
  if (failed > 0 || !kept) {
    const total = before.length + after.length;
    const detail =
      failed > 0
        ? `${failed} of ${total} connections had an unexpected result`
        : 'the second install changed something';
    throw new Failure('ERR_DEMO', { detail });
  }
  io.out(`\n${paint(io, 'green', `All ${after.length} connections had the expected result.`)}\n`);
}

/** As on the command line. */
function flagsFor({ hasUids, sidecarUid }: Stage): Flags {
  const flags: Flags = new Map<string, string | true>([
    ['redirect-dns', true],
    ['capture-all-dns', true],
    ['istio-local-outbound-ports-exclude', String(OUTSIDE_PORTS.database)],
  ]);
  if (!hasUids) flags.set('proxy-uid', String(sidecarUid)).set('proxy-gid', String(sidecarUid));
  return flags;
}

/** The stages of the real path, one after the other, with the time each took. */
async function install(io: Io, path: string, flags: Flags, wanted: 'auto' | Backend) {
  const rows: string[][] = [];
  const timed = async <T>(name: string, says: (result: T) => string, stage: () => T | Promise<T>): Promise<T> => {
    const began = performance.now();
    const result = await stage();
    rows.push(['', name, `${((performance.now() - began) * 1000).toFixed(0)} us`, says(result)]);
    return result;
  };
  const asked = await timed(
    'configure',
    () => 'reads and checks flags and annotations',
    () => redirect({ flags: flagSource(flags) }),
  );
  const identity = await timed(
    'locate',
    ({ ino, cookie }: Identity) => `inode ${ino}, cookie ${cookie}`,
    () => identifyTarget(path),
  );
  const ruleset = await timed('plan', countText, () => plan(asked.spec, familiesOf(identity, asked)));
  const { backend, reason } = await chooseBackend(wanted, identity, ruleset, () => native().probe());
  const form = formOf(ruleset, backend, { counters: true });
  const compiled = await timed(
    'compile',
    () => `${backend} (${reason}); done once for each configuration, for all pods with it`,
    () => native().compile(form),
  );
  const result = await timed('install', howText, () => compiled.apply(identity));
  io.out(`${columns(rows, [2])}\n${paint(io, 'dim', '  the phases of the install, measured by its thread:')}\n`);
  io.out(phases(io, result.timings));
  return { form, compiled };
}

async function repeat(io: Io, compiled: Compiled, identity: Identity): Promise<boolean> {
  const { changed, timings } = await compiled.apply(identity);
  const { ok } = await compiled.verify(identity);
  const applied = changed ? 'unexpectedly changed something' : 'changes nothing';
  const verified = ok ? 'finds the planned rules' : 'unexpectedly found drift';
  const rows = [
    ['', mark(io, !changed), 'apply', applied, `${timings.total.toFixed(0)} us`],
    ['', mark(io, ok), 'verify', verified, ''],
  ];
  io.out(columns(rows, [4]));
  return ok && !changed;
}

export function heading(io: Io, text: string): void {
  io.out(`\n${paint(io, 'bold', text)}\n\n`);
}

function printActors(io: Io, { podPath, hasUids, sidecarUid }: Stage): void {
  const { web, database, dns } = OUTSIDE_PORTS;
  heading(io, `A pod in ${podPath}, and a client outside of it`);
  io.out(
    columns([
      [
        '',
        'app',
        `in the pod, uid ${hasUids ? 1000 : 0}`,
        `${POD[4]}  ${POD[6]}`,
        `serves ${Object.values(APP_PORTS).join(', ')}`,
      ],
      ['', 'sidecar', `in the pod, uid ${sidecarUid}`, '', `serves ${Object.values(SIDECAR_PORTS).join(', ')}`],
      ['', 'client', 'outside', `${OUTSIDE[4]}  ${OUTSIDE[6]}`, `serves ${web}, ${database}, ${dns}/udp`],
    ]),
  );
}

function printTraffic(io: Io, observations: Observation[]): void {
  const rows = observations.map(({ what, from, to, reply, asExpected }) => {
    const target = `${destinationText(to)}${to.protocol === 'udp' ? '/udp' : ''}`;
    const captured = reply.ok && reply.port !== to.port;
    const meant = captured && to.protocol === 'tcp' && reply.ok ? `, sent to ${reply.original}` : '';
    const answer = reply.ok ? `${reply.by} on ${reply.port}${meant}` : reply.error;
    return ['', mark(io, asExpected), what, from, '->', target, answer];
  });
  io.out(columns(rows));
}

function printRules(io: Io, form: Form): void {
  const { families } = form.ruleset;
  const first = families[0];
  if (first === undefined) return;
  const text = form.backend === 'nftables' ? nftablesText(form.ruleset) : iptablesText(form.ruleset, first);
  for (const line of text.trimEnd().split('\n')) {
    io.out(`  ${paint(io, /^(-A| {4}(?!type))/.test(line) ? 'cyan' : 'dim', line)}\n`);
  }
  for (const line of routeLines(form.ruleset)) io.out(`  ${paint(io, 'dim', `ip ${line}`)}\n`);
  if (form.backend === 'nftables') return;
  const others = families.slice(1).map((family) => `${ruleCount(form.ruleset, family)} rules for IPv${family}`);
  if (others.length > 0) io.out(paint(io, 'dim', `  and ${others.join(', ')}; "ipnc plan" prints them all\n`));
}

export function mark(io: Io, good: boolean): string {
  return paint(io, good ? 'green' : 'red', good ? 'ok' : 'WRONG');
}

function ruleCount(ruleset: Ruleset, family: Family): number {
  return iptablesText(ruleset, family).match(/^-[AI] /gm)?.length ?? 0;
}

function countText(ruleset: Ruleset): string {
  return ruleset.families.map((family) => `${ruleCount(ruleset, family)} rules for IPv${family}`).join(', ');
}

function howText({ tables, routes }: ApplyResult): string {
  const written = tables.map((table) => `${tableName(table)} ${table.how}`);
  return [...written, ...routes.map((line) => `ip ${line}`)].join(', ');
}
