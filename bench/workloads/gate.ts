/**
 * Compares the gate with other ways to wait. It measures the time from the install to the end of the wait, for the
 * gate, for a check each millisecond, and for a check each 10 s like the original's init container. It also measures
 * the time from the start of the process to its first check, for the gate and for Node.js, and the memory.
 */
import { chmodSync, copyFileSync, existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { native } from '../../lib/native/addon.ts';
import { Coprocess } from '../coprocess.ts';
import { compileForms, rulesetOf } from '../drivers/rules.ts';
import { interleaved, type Subject, seriesOf } from '../method.ts';
import type { Bench, Measured, Workload } from './workload.ts';

const BUILD = fileURLToPath(new URL('../../build/Release/', import.meta.url));
const ROUNDS = { quick: 8, full: 30 };
const BURST = 10;
/** When in the period of a poll each 10 s the rules come: spread evenly. */
const DELAYS_US = { quick: [9_000_000], full: [2_500_000, 5_000_000, 7_500_000] };
const NODE_WAITER =
  "require('node:net').connect({host:'127.0.0.6',port:15002,localAddress:'127.0.0.1'}).on('error',()=>{});setTimeout(()=>{},9999)";

export const gate: Workload = {
  name: 'gate',
  title: 'The gate: from rules active to the waiter gone, and from its start to its first probe',
  budget: { quick: 12, full: 50 },
  lack: () => (existsSync(join(BUILD, 'gate')) ? undefined : 'the gate is not built; run ./setup'),
  async run(bench) {
    // Where the proxy's uid can run what is in it.
    const folder = mkdtempSync(join(tmpdir(), 'ipnc-bench-gate-'));
    try {
      chmodSync(folder, 0o755);
      const [program = '', waiters = ''] = ['gate', 'waiters'].map((name) => {
        const copy = join(folder, name);
        copyFileSync(join(BUILD, name), copy);
        return copy;
      });
      await using driver = new Coprocess(waiters);
      return await measure(bench, { program, waiters, driver });
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};

interface Programs {
  program: string;
  waiters: string;
  driver: Coprocess;
}

async function measure(bench: Bench, { program, waiters, driver }: Programs): Promise<Measured> {
  const mode = bench.quick ? 'quick' : 'full';
  const { legacy } = await compileForms(rulesetOf());
  const inFresh = async <T>(job: (netns: string) => Promise<T>): Promise<T> => {
    const netns = await bench.farm.one();
    try {
      return await job(netns);
    } finally {
      await bench.farm.remove([netns]);
    }
  };
  await inFresh(async (netns) => {
    await legacy.apply(await native().identify(netns));
    await driver.ask(`template ${netns}`);
  });
  let peak = 0;
  const sending: number[][] = [];
  const open = async (word: 'word' | 'mute', delayUs: number, command: string) => {
    const answer = await inFresh((netns) => driver.ask(`open ${netns} ${word} ${delayUs} ${command}`));
    const [took = 0, sent = 0, memory = 0] = answer.split(' ').map(Number);
    return { took: took / 1000, sent: sent / 1000, memory };
  };
  const first = (command: string) =>
    inFresh(async (netns) => Number(await driver.ask(`first ${netns} ${command}`)) / 1000);
  const burst = async <T>(count: number, each: () => Promise<T>): Promise<T[]> => {
    const all: T[] = [];
    while (all.length < count) all.push(await each());
    return all;
  };
  // Where in a period of the millisecond's poll the rules come.
  const delay = () => 3000 + Math.round(1000 * bench.random.next());
  const group = 'rules active to waiter gone';
  const started = 'start to first probe';
  const subjects: Subject[] = [
    {
      ...{ id: 'wake', name: 'the gate, woken', group, ours: true, baseline: 'poll' },
      round: async () => {
        const all = await burst(BURST, () => open('word', delay(), program));
        peak = Math.max(peak, ...all.map(({ memory }) => memory));
        sending.push(all.map(({ sent }) => sent));
        return all.map(({ took }) => took);
      },
    },
    {
      ...{ id: 'poll', name: 'a probe each 1 ms', group, ours: false, baseline: 'poll' },
      round: async () =>
        (await burst(BURST, () => open('mute', delay(), `${waiters} poll 1000`))).map(({ took }) => took),
    },
    {
      ...{ id: 'start', name: 'the gate', group: started, ours: true, baseline: 'node' },
      round: () => burst(BURST, () => first(program)),
    },
    {
      ...{ id: 'node', name: 'a waiter in Node', group: started, ours: false, baseline: 'node' },
      round: () => burst(1, () => first(`${process.execPath} -e ${NODE_WAITER}`)),
    },
  ];
  const series = await interleaved(bench, subjects, { rounds: ROUNDS[mode], seconds: bench.seconds / 2 });
  const slow: number[] = [];
  for (const delayUs of DELAYS_US[mode]) slow.push((await open('mute', delayUs, `${waiters} poll 10000000`)).took);
  const named = { id: 'poll-10s', name: 'a probe each 10 s', group, ours: false };
  const release = { id: 'release', name: 'the datagram', group: 'cost of waking it to who installs', ours: true };
  const baseline = { id: 'poll', rounds: series.find(({ id }) => id === 'poll')?.rounds ?? [] };
  series.splice(2, 0, seriesOf(bench.random, named, [slow], { baseline }));
  // The first round warmed up.
  series.push(seriesOf(bench.random, release, sending.slice(1), { baseline }));
  const mib = { unit: 'MiB', tolerance: 0.1 };
  return {
    series,
    figures: [
      { id: 'rss', label: 'RSS of the gate, most', value: peak / 1024, ...mib },
      { id: 'size', label: 'size of the gate', value: statSync(program).size / 2 ** 20, ...mib },
    ],
    charts: [{ kind: 'distribution', title: 'From rules active to waiter gone', series: ['wake', 'poll', 'poll-10s'] }],
  };
}
