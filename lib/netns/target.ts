/** From what a user typed to an identified netns. */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { ConfigError, Failure } from '../errors.ts';
import type { Identity } from '../native/addon.ts';
import { identifyPodNetns } from './identify.ts';

export interface TargetOptions {
  netns?: string;
  pid?: string;
}

/** The largest pid there can be (linux/threads.h, PID_MAX_LIMIT). */
const MAX_PID = 4_194_304;

const ONE_TARGET = 'exactly one of --netns PATH and --pid N';

/**
 * The file of the netns: `--netns PATH`, `--netns NAME` for /run/netns/NAME as `ip netns` has it, or `--pid N` for
 * /proc/N/ns/net. Exactly one of them, or it is a ConfigError.
 */
export function targetPath({ netns, pid }: TargetOptions): string {
  if (netns !== undefined && pid !== undefined) {
    throw new ConfigError('--pid', pid, 'given together with --netns', ONE_TARGET);
  }
  if (pid !== undefined) {
    if (!/^[1-9]\d{0,6}$/.test(pid) || Number(pid) > MAX_PID) {
      throw new ConfigError('--pid', pid, 'not the id of a process', `a number from 1 to ${MAX_PID}`);
    }
    if (!existsSync(`/proc/${pid}`)) {
      throw new Failure('ERR_NO_PROCESS', { subject: pid });
    }
    return `/proc/${pid}/ns/net`;
  }
  if (netns === undefined) {
    throw new ConfigError('--netns or --pid', undefined, 'missing', ONE_TARGET);
  }
  if (/^\.{0,2}$|\p{Cc}/u.test(netns)) {
    throw new ConfigError('--netns', netns, 'not a path', 'a path such as /run/netns/pod, or a name in /run/netns');
  }
  return netns.includes('/') ? resolve(netns) : `/run/netns/${netns}`;
}

/** Rejects with Failure if the path is not the netns of a pod. */
export function identifyTarget(path: string): Promise<Identity> {
  return identifyPodNetns(path, { proc: '/proc' });
}
