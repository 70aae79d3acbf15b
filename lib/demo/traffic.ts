/** The connections of the demo, and which server must answer each before and after the install. */
import type { Family } from '../ruleset/model.ts';
import { APP_PORTS, OUTSIDE, OUTSIDE_PORTS, POD, type Role, SIDECAR_PORTS, type Stage } from './stage.ts';
import type { Destination, Reply } from './toolbox.ts';

interface Answer {
  by: Role;
  port: number;
}

interface Attempt {
  /** In a few words. */
  what: string;
  from: Role;
  to: Destination;
  before: Answer;
  after: Answer;
}

export interface Observation extends Attempt {
  reply: Reply;
  asExpected: boolean;
}

function attempts(families: readonly Family[]): Attempt[] {
  return families.flatMap((family) => {
    const outside = (port: number, protocol: 'tcp' | 'udp' = 'tcp') => ({ protocol, address: OUTSIDE[family], port });
    const pod = (port: number) => ({ protocol: 'tcp' as const, address: POD[family], port });
    const { web, database, dns } = OUTSIDE_PORTS;
    const untouched = (what: string, from: Role, to: Destination, by: Role): Attempt => {
      return { what, from, to, before: { by, port: to.port }, after: { by, port: to.port } };
    };
    const captured = (what: string, from: Role, to: Destination, by: Role, port: number): Attempt => {
      return { what, from, to, before: { by, port: to.port }, after: { by: 'sidecar', port } };
    };
    return [
      captured('outbound', 'app', outside(web), 'client', SIDECAR_PORTS.outbound),
      captured('inbound', 'client', pod(APP_PORTS.web), 'app', SIDECAR_PORTS.inbound),
      captured('DNS', 'app', outside(dns, 'udp'), 'client', SIDECAR_PORTS.dns),
      untouched("the sidecar's own", 'sidecar', outside(web), 'client'),
      untouched('excluded port', 'app', outside(database), 'client'),
      untouched('health port', 'client', pod(APP_PORTS.health), 'app'),
    ];
  });
}

export async function observe(stage: Stage, families: readonly Family[], when: 'before' | 'after') {
  const seen: Observation[] = [];
  for (const attempt of attempts(families).filter(({ from }) => from !== 'app' || stage.hasUids)) {
    const reply = await stage.dial(attempt.from, attempt.to);
    seen.push({ ...attempt, reply, asExpected: matches(attempt, attempt[when], reply) });
  }
  return seen;
}

/** A captured TCP connection must also know where it was going; a datagram cannot. */
function matches({ to }: Attempt, answer: Answer, reply: Reply): boolean {
  if (!reply.ok || reply.by !== answer.by || reply.port !== answer.port) return false;
  return to.protocol === 'udp' || reply.original === destinationText(to);
}

export function destinationText({ address, port }: Destination): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}
