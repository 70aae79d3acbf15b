/**
 * The gate against other ways to wait, in one run, each way in turn in each round:
 *
 * - from the moment the rules stand to the waiter's end: the gate, woken by the datagram; the same look each
 *   millisecond; and each 10 s, as the original controller's init container does it, of which three waits are made,
 *   spread evenly over its period;
 * - from the start of the process to the first look: the gate, and the same dial by Node;
 * - peak memory, and the size of the executable.
 *
 *   npm run bench:gate [-- ROUNDS]
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { formOf } from '../lib/backend.ts';
import { native } from '../lib/native.ts';
import { Coprocess } from './coprocess.ts';
import { figure, percentile, ratio, table } from './report.ts';
import { ruleset } from './ways.ts';

const BUILD = fileURLToPath(new URL('../build/Release/', import.meta.url));

const NODE_WAITER =
  "require('node:net').connect({host:'127.0.0.6',port:15002,localAddress:'127.0.0.1'}).on('error',()=>{});setTimeout(()=>{},9999)";

/** Microseconds unless said otherwise. */
export interface GateFigures {
  openedAfter: { gate: number[]; millisecond: number[]; tenSeconds: number[] };
  /** What the sender of the datagram pays. */
  sending: number[];
  firstProbe: { gate: number[]; node: number[] };
  /** KiB, the most of any round. */
  peakMemory: { gate: number; node: number };
  /** Bytes. */
  executable: number;
}

export async function measureGate(rounds: number): Promise<GateFigures> {
  const folder = mkdtempSync(join(tmpdir(), 'ipnc-bench-gate-'));
  try {
    // Where the proxy's uid can run them.
    chmodSync(folder, 0o755);
    const [gate, drivers] = ['gate', 'drivers'].map((name) => {
      const copy = join(folder, name);
      copyFileSync(join(BUILD, name), copy);
      return copy;
    }) as [string, string];
    await using farm = new Coprocess(join(BUILD, 'toolbox'), 'netns');
    await using driver = new Coprocess(drivers);
    return await measure(rounds, { folder, gate, drivers, farm, driver });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

interface Place {
  folder: string;
  gate: string;
  drivers: string;
  farm: Coprocess;
  driver: Coprocess;
}

async function measure(rounds: number, { folder, gate, drivers, farm, driver }: Place): Promise<GateFigures> {
  let made = 0;
  const inFresh = async <T>(job: (netns: string) => Promise<T>): Promise<T> => {
    const netns = join(folder, `pod${made++}`);
    await farm.ask(`add ${netns}`);
    try {
      return await job(netns);
    } finally {
      await farm.ask(`del ${netns}`);
    }
  };
  await inFresh(async (netns) => {
    const compiled = await native().compile(formOf(ruleset, 'iptables-legacy', { counters: true }));
    await compiled.apply(await native().identify(netns));
    await driver.ask(`template ${netns}`);
  });
  const opened = async (word: 'word' | 'mute', delayUs: number, program: string) => {
    const answer = await inFresh((netns) => driver.ask(`open ${netns} ${word} ${delayUs} ${program}`));
    const [took = 0, sending = 0, memory = 0] = answer.split(' ').map(Number);
    return { took: took / 1000, sending: sending / 1000, memory };
  };
  const first = (program: string) =>
    inFresh(async (netns) => Number(await driver.ask(`first ${netns} ${program}`)) / 1000);

  const figures: GateFigures = {
    openedAfter: { gate: [], millisecond: [], tenSeconds: [] },
    sending: [],
    firstProbe: { gate: [], node: [] },
    peakMemory: { gate: 0, node: nodeMemory() },
    executable: statSync(gate).size,
  };
  const { openedAfter, sending, firstProbe, peakMemory } = figures;
  // The first warms up.
  for (let round = -1; round < rounds; round++) {
    const delay = 3_000 + Math.round(Math.random() * 1_000);
    const woken = await opened('word', delay, gate);
    const polling = await opened('mute', delay, `${drivers} poll 1000`);
    const started = await first(gate);
    const nodeStarted = round % 10 === 0 ? await first(`${process.execPath} -e ${NODE_WAITER}`) : undefined;
    if (round < 0) continue;
    openedAfter.gate.push(woken.took);
    openedAfter.millisecond.push(polling.took);
    sending.push(woken.sending);
    firstProbe.gate.push(started);
    if (nodeStarted !== undefined) firstProbe.node.push(nodeStarted);
    peakMemory.gate = Math.max(peakMemory.gate, woken.memory);
  }
  for (const delay of [2_500_000, 5_000_000, 7_500_000]) {
    openedAfter.tenSeconds.push((await opened('mute', delay, `${drivers} poll 10000000`)).took);
  }
  return figures;
}

/** Of a Node that has done no more than load what dials. */
function nodeMemory(): number {
  const script = "require('node:net');console.log(process.resourceUsage().maxRSS)";
  return Number(execFileSync(process.execPath, ['-e', script], { encoding: 'utf8' }));
}

export function printGate({ openedAfter, sending, firstProbe, peakMemory, executable }: GateFigures): void {
  const rows = (samples: Record<string, number[]>) => {
    const [[, base = []] = []] = Object.entries(samples);
    return Object.entries(samples).map(([name, values]) => [
      name,
      String(values.length),
      figure(percentile(values, 0.5)),
      figure(percentile(values, 0.99)),
      ratio(percentile(values, 0.5) / percentile(base, 0.5)),
    ]);
  };
  const head = (title: string) => [title, 'runs', 'p50', 'p99', '/ the gate'];
  console.log(
    table(
      head('rules active -> waiter ended, us'),
      rows({
        'the gate, woken by the datagram': openedAfter.gate,
        'a look each 1 ms': openedAfter.millisecond,
        'a look each 10 s': openedAfter.tenSeconds,
      }),
    ),
  );
  console.log(
    table(
      head('process start -> first look, us'),
      rows({ 'the gate': firstProbe.gate, 'a waiter in Node': firstProbe.node }),
    ),
  );
  console.log(
    table(
      ['cost', 'p50', 'p99'],
      [['sending the datagram, us', figure(percentile(sending, 0.5)), figure(percentile(sending, 0.99))]],
    ),
  );
  console.log(
    table(
      ['size, KiB', 'the gate', 'Node'],
      [
        ['peak memory (RSS)', figure(peakMemory.gate), figure(peakMemory.node)],
        ['executable', figure(executable / 1024), figure(statSync(process.execPath).size / 1024)],
      ],
    ),
  );
}

if (import.meta.main) printGate(await measureGate(Number(process.argv[2] ?? 300)));
