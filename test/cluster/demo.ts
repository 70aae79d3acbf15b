/** `ipnc demo --cluster`: on a real node a pod without any privilege joins the mesh. */

import { columns, type Io, paint } from '../../lib/cli/output.ts';
import { heading, mark } from '../../lib/demo/demo.ts';
import { Failure } from '../../lib/errors.ts';
import type { Backend } from '../../lib/ruleset/form.ts';
import { ControllerProcess, type LogLine } from './controller-process.ts';
import { isInitialized, Mesh, meshPod, NAMESPACE, plainPod } from './mesh-pod.ts';
import { clusterLack } from './programs.ts';

const POD = 'web';

/** Throws Failure where no cluster can be had, or where anything went another way than it should. */
export async function clusterDemo(io: Io, wanted: 'auto' | Backend): Promise<void> {
  const lack = clusterLack();
  if (lack !== undefined) throw new Failure('ERR_CLUSTER', { detail: lack });
  heading(io, 'A cluster in namespaces of its own');
  const progress = (part: string, ms: number) =>
    io.out(paint(io, 'dim', `  ${(ms / 1000).toFixed(1).padStart(4)} s  ${part}\n`));
  const mesh = await Mesh.start(['toolbox'], { progress });
  try {
    await show(io, mesh, wanted);
  } finally {
    await mesh.stop();
  }
}

async function show(io: Io, mesh: Mesh, wanted: 'auto' | Backend): Promise<void> {
  const { node } = mesh;
  await using controller = await ControllerProcess.start(node, mesh.kubeconfig, '--backend', wanted);
  // However this ends, the controller is not left alone.
  process.once('exit', () => void controller.stop('SIGKILL'));
  const peer = await mesh.run(plainPod('peer'));

  heading(io, `kubectl create pod ${POD}: no capability, not root, in a namespace that enforces "restricted"`);
  const created = Date.now();
  const pod = await mesh.runInitialized(meshPod(POD));
  printTimeline(io, created, controller.lines);

  heading(io, 'What stands in its network namespace now');
  const [first = '', second = ''] = (await mesh.rules(pod)).split(/(?<=^COMMIT\n)(?=\*nat)/m);
  for (const rule of rulesOf(first)) io.out(`  ${paint(io, 'cyan', rule.trim())}\n`);
  if (second !== '') io.out(paint(io, 'dim', `  and ${rulesOf(second).length} rules for IPv6\n`));

  heading(io, 'What the pod says of it');
  const marks = await mesh.marks(pod);
  const [event = 'no Event'] = await mesh.told(pod, /Initialized/);
  io.out(
    columns([
      ['', mark(io, isInitialized(marks)), 'status', marks.status ?? ''],
      ['', mark(io, marks.netns !== undefined), 'netns', marks.netns ?? ''],
      ['', mark(io, marks.rules !== undefined), 'rules', marks.rules ?? ''],
      ['', mark(io, isInitialized(marks)), 'condition', marks.condition ?? ''],
      ['', mark(io, event.startsWith('Normal')), 'Event', event],
    ]),
  );

  heading(io, 'Connections of the apps: the sidecar gets them, and knows where they were going');
  const calls = await mesh.calls(pod, peer, true);
  const rows = calls.map(({ from, address, answer, expected }) => {
    const [by = '', port = '', original = ''] = answer.split(' ');
    const said = port === '' ? answer : `${by} on ${port}, sent to ${original}`;
    return ['', mark(io, answer === expected), from === POD ? 'outbound' : 'inbound', from, '->', address, said];
  });
  const untouched = !/ISTIO_|istio-proxy-/.test(await mesh.rules(peer));
  rows.push(['', mark(io, untouched), 'not enrolled', 'peer', '', '', untouched ? 'no rule of ours' : 'has rules']);
  io.out(columns(rows));

  const wrong = calls.filter(({ answer, expected }) => answer !== expected).length;
  if (wrong > 0 || !untouched) {
    const what = wrong > 0 ? `${wrong} of ${calls.length} connections went another way than they should` : undefined;
    throw new Failure('ERR_DEMO', { detail: what ?? 'a pod that is not enrolled was touched' });
  }
  io.out(`\n${paint(io, 'green', `All ${calls.length} connections had the expected result.`)}\n`);
}

/** As iptables-save or nft prints them. */
function rulesOf(text: string): string[] {
  return text.split('\n').filter((line) => /^(-A|\t\t(?!type))/.test(line));
}

/** From the controller's own log, in milliseconds after `created`. */
function printTimeline(io: Io, created: number, lines: readonly LogLine[]): void {
  const told = (msg: string) => lines.find((line) => line.pod === `${NAMESPACE}/${POD}` && line.msg === msg);
  const row = (at: number, what: string, says: string) => ['', `${at.toFixed(0)} ms`, what, says];
  const after = ({ time }: LogLine) => Date.parse(time) - created;
  const [waiting, sandbox, done] = [told('waiting'), told('the runtime reported a sandbox'), told('initialized')];
  const rows = [row(0, 'created', `${NAMESPACE}/${POD}, as Istio's injector makes it for CNI mode`)];
  if (waiting) rows.push(row(after(waiting), 'decided', 'it is enrolled; no sandbox yet'));
  if (sandbox) {
    const where = sandbox.netns === undefined ? '' : `, netns ${sandbox.netns}`;
    rows.push(row(after(sandbox), 'sandbox', `told by ${sandbox.source}${where}`));
  }
  if (done) {
    const us = ({ us = {} }: LogLine, stage: string) => us[stage] ?? 0;
    const stages = ['plan', 'locate', 'install', 'verify'].map((stage) => `${stage} ${us(done, stage).toFixed(0)} us`);
    const marking = us(done, 'mark') / 1000;
    rows.push(row(after(done) - marking, 'rules', `by ${done.backend}, read back: ${stages.join(', ')}`));
    rows.push(row(after(done), 'mark', `patch of pods/status: ${marking.toFixed(1)} ms`));
  }
  rows.push(row(Date.now() - created, 'ready', 'all of its containers run'));
  io.out(columns(rows, [1]));
}
