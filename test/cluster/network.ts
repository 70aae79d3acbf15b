/**
 * The links between this process's netns and the sandboxes of one cluster:
 *
 *     here (.254) --veth-- bridge "nodes" (.1) in the control plane's netns --veth-- a node's eth0 (.11, .12, ...)
 *
 * all in one /24 and one /64, both taken from ranges that nobody routes. Nothing leads from there to any other place.
 * The control plane's netns routes between the nodes' pods; from here pods are not reachable, their addresses being
 * the same in every cluster.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { output, type Sandbox } from './sandbox/sandbox.ts';

/** Both families' addresses of one thing, or both families' ranges. */
export interface Dual {
  v4: string;
  v6: string;
}

export interface ClusterNetwork {
  /** Of the control plane, for nodes and for this process. */
  address: Dual;
  /** Of this process, for the same. */
  here: Dual;
  /** Links a node's sandbox to the control plane. */
  attach(node: Sandbox, index: number): Promise<NodeNetwork>;
}

export interface NodeNetwork {
  address: Dual;
  /** The ranges of its pods. */
  pods: Dual;
}

/** As in most clusters, and the same in every one of ours. */
export const SERVICES: Dual = { v4: '10.96.0.0/16', v6: 'fd00:10:96::/112' };
export const PODS: Dual = { v4: '10.244.0.0/16', v6: 'fd00:10:244::/56' };
/** Of the service `kubernetes`, which is the API: the first of the range. */
export const KUBERNETES_ADDRESS: Dual = { v4: '10.96.0.1', v6: 'fd00:10:96::1' };
/** Where pods look for a DNS server: nobody answers there unless a test makes a service of this address. */
export const DNS_ADDRESS = '10.96.0.10';

const BRIDGE = 'nodes';
const MAX_CLUSTERS = 256;
const MAX_NODES = 200;

export async function createNetwork(controlPlane: Sandbox): Promise<ClusterNetwork> {
  const index = await claimLink(controlPlane);
  // 198.18.0.0/15 is set aside for benchmarks (RFC 2544).
  const at = (host: number): Dual => ({
    v4: `198.18.${index}.${host}`,
    v6: `fd69:706e:63:${index.toString(16)}::${host}`,
  });
  await ip(
    ['nsenter', '--target', `${controlPlane.pid}`, '--net', '--'],
    [
      `link add ${BRIDGE} type bridge`,
      `link set outside master ${BRIDGE} up`,
      ...addresses(at(1), BRIDGE),
      `link set ${BRIDGE} up`,
    ],
  );
  await ip([], [...addresses(at(254), linkName(index)), `link set ${linkName(index)} up`]);
  await forward(controlPlane);
  return {
    address: at(1),
    here: at(254),
    async attach(node, nodeIndex) {
      if (nodeIndex > MAX_NODES) throw new Error(`more than ${MAX_NODES} nodes in one cluster`);
      const address = at(10 + nodeIndex);
      const pods = { v4: `10.244.${nodeIndex}.0/24`, v6: `fd00:10:244:${nodeIndex.toString(16)}::/64` };
      await ip(
        ['nsenter', '--target', `${controlPlane.pid}`, '--net', '--'],
        [
          `link add node${nodeIndex} type veth peer name eth0 netns ${node.pid}`,
          `link set node${nodeIndex} master ${BRIDGE} up`,
        ],
      );
      await ip(
        ['nsenter', '--target', `${node.pid}`, '--net', '--'],
        [
          ...addresses(address, 'eth0'),
          'link set eth0 up',
          `route add default via ${at(1).v4}`,
          `route add default via ${at(1).v6}`,
        ],
      );
      await ip(
        ['nsenter', '--target', `${controlPlane.pid}`, '--net', '--'],
        [`route add ${pods.v4} via ${address.v4}`, `route add ${pods.v6} via ${address.v6}`],
      );
      await forward(node);
      return { address, pods };
    },
  };
}

const linkName = (index: number) => `ipnc-${index}`;

/** A link's name is a lock: the first that is free belongs to this cluster. The keeper deletes the link. */
async function claimLink(sandbox: Sandbox): Promise<number> {
  for (let index = 0; index < MAX_CLUSTERS; index++) {
    try {
      await ip([], [`link add ${linkName(index)} type veth peer name outside netns ${sandbox.pid}`]);
    } catch (error) {
      if (String(error).includes('File exists')) continue;
      throw error;
    }
    writeFileSync(join(sandbox.folder, 'link'), linkName(index));
    return index;
  }
  throw new Error(`${MAX_CLUSTERS} clusters run here already`);
}

/** nodad: usable at once. */
function addresses({ v4, v6 }: Dual, link: string): string[] {
  return [`address add ${v4}/24 dev ${link}`, `address add ${v6}/64 dev ${link} nodad`];
}

async function ip(prefix: string[], commands: string[]): Promise<void> {
  await output([...prefix, 'ip', '-batch', '-'], { input: `${commands.join('\n')}\n` });
}

async function forward(sandbox: Sandbox): Promise<void> {
  await sandbox.exec([
    'sh',
    '-c',
    'for f in ipv4/ip_forward ipv6/conf/all/forwarding; do echo 1 >/proc/sys/net/$f; done',
  ]);
}
