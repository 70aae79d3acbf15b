/**
 * What others may have put into a pod's tables before we come: a portmap's DNAT, changed policies, chains of users,
 * matches that this project does not know, counters. As iptables-restore takes it.
 */
import { restore } from './netns.ts';

const ADDRESS = {
  4: { host: '10.1.2.3', network: '10.96.0.0/12', dnat: '10.244.0.7:80' },
  6: { host: 'fd00::3', network: 'fd96::/108', dnat: '[fd24::7]:80' },
} as const;

function rules(family: 4 | 6): string {
  const { host, network, dnat } = ADDRESS[family];
  return `*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:THEIRS - [0:0]
[3:180] -A PREROUTING -p udp --dport 4789 -j THEIRS
[0:0] -A THEIRS -j CT --notrack
[1:60] -A OUTPUT -d ${host} -j THEIRS
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:FORWARD DROP [7:420]
:OUTPUT ACCEPT [0:0]
:KUBE-MARK-DROP - [0:0]
[0:0] -A PREROUTING -s ${host} -j MARK --set-xmark 0x4000/0x4000
[9:540] -A FORWARD -m limit --limit 5/min -j ACCEPT
[0:0] -A KUBE-MARK-DROP -j MARK --or-mark 0x8000
[2:120] -A OUTPUT -m mark --mark 0x8000/0x8000 -j KUBE-MARK-DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-DN-0123456789abcdef01234 - [0:0]
:EMPTY - [0:0]
[5:300] -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
[0:0] -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
[4:240] -A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \\"cbr0\\" id: \\"x\\"" -m multiport --dports 8080,9000:9100 -j CNI-DN-0123456789abcdef01234
[1:60] -A CNI-DN-0123456789abcdef01234 -p tcp -m statistic --mode random --probability 0.5 -j DNAT --to-destination ${dnat}
[6:360] -A CNI-DN-0123456789abcdef01234 -m statistic --mode nth --every 2 --packet 0 -p tcp -j DNAT --to-destination ${dnat}
[0:0] -A POSTROUTING ! -d ${network} -o eth+ -m comment --comment istio-pod-network-controller-of-somebody-else -j MASQUERADE
COMMIT
`;
}

export async function installForeign(path: string): Promise<void> {
  for (const family of [4, 6] as const) await restore(path, family, rules(family));
}
