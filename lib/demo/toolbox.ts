/** The toolbox (native/toolbox), which makes and answers connections as any uid in any netns. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { ROOT } from '../root.ts';

export const TOOLBOX = join(ROOT, 'build/Release/toolbox');

const run = promisify(execFile);

/** Who does something, and where. */
export interface Actor {
  /** Path of the netns; absent: this process's own. */
  netns?: string;
  /** Path of the user namespace whose uid and gid these are; absent: this process's own. */
  userns?: string;
  uid?: number;
  gid?: number;
}

export interface Service {
  /** Comes first in each answer. No spaces. */
  name: string;
  tcp?: number[];
  udp?: number[];
  /** Takes what TPROXY sends. */
  transparent?: boolean;
}

/** What reached a server. */
export interface Arrival {
  event: 'accept' | 'datagram';
  /** The server's. */
  name: string;
  proto: 'tcp' | 'udp';
  port: number;
  /** `10.0.0.1:80`, `[2001:db8::1]:80`. */
  from: string;
  local: string;
  /** TCP only. */
  original?: string;
}

export interface Server {
  arrivals: Arrival[];
  stop(): Promise<void>;
}

export interface Destination {
  /** `stray`: the FIN of a TCP connection that never was. It is answered ECONNRESET, or not at all. */
  protocol: 'tcp' | 'udp' | 'stray';
  address: string;
  port: number;
  /** Source address and port. */
  from?: string;
  fromPort?: number;
}

export type Reply =
  | {
      ok: true;
      /** The server's name, and the port on which it was reached. */
      by: string;
      port: number;
      /** Where it believes the client wanted to go. */
      original: string;
    }
  /** An errno name. */
  | { ok: false; error: string };

/** Resolves when the ports are open. */
export async function serve(actor: Actor, { name, tcp = [], udp = [], transparent = false }: Service): Promise<Server> {
  const flags = [...actorFlags(actor), '--name', name];
  if (tcp.length > 0) flags.push('--tcp', tcp.join(','));
  if (udp.length > 0) flags.push('--udp', udp.join(','));
  if (transparent) flags.push('--transparent');
  const child = spawn(TOOLBOX, ['serve', ...flags], { stdio: ['ignore', 'pipe', 'pipe'] });
  const over = ended(child);
  const arrivals: Arrival[] = [];
  let complaints = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaints += text;
  });
  await new Promise<void>((resolve, reject) => {
    createInterface(child.stdout).on('line', (line) => {
      const event = JSON.parse(line) as Arrival | { event: 'listening' };
      if (event.event === 'listening') resolve();
      else arrivals.push(event);
    });
    child.once('error', reject);
    child.once('close', () => reject(new Error(`${name} could not listen: ${complaints.trim()}`)));
  });
  return {
    arrivals,
    stop: () => {
      child.kill();
      return over;
    },
  };
}

/** Sends a token of its own; an answer that does not bring it back is none. */
export async function dial(actor: Actor, to: Destination, timeoutMs = 3000): Promise<Reply> {
  const token = randomUUID();
  const flags = [...actorFlags(actor), '--timeout', String(timeoutMs)];
  if (to.from !== undefined) flags.push('--bind', to.from);
  if (to.fromPort !== undefined) flags.push('--bind-port', String(to.fromPort));
  const { stdout } = await run(TOOLBOX, ['dial', ...flags, to.protocol, to.address, String(to.port), token]);
  const said = JSON.parse(stdout) as { ok: true; reply: string } | { ok: false; error: string };
  if (!said.ok) return said;
  const [by = '', port = '', original = '', echo = ''] = said.reply.split(' ');
  return echo === token ? { ok: true, by, port: Number(port), original } : { ok: false, error: 'EPROTO' };
}

function actorFlags({ netns, userns, uid, gid }: Actor): string[] {
  const flags = netns === undefined ? [] : ['--netns', netns];
  if (userns !== undefined) flags.push('--userns', userns);
  if (uid !== undefined) flags.push('--uid', String(uid));
  if (gid !== undefined) flags.push('--gid', String(gid));
  return flags;
}

function ended(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => child.once('close', () => resolve()));
}
