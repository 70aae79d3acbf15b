/**
 * What others may have put into a pod's tables before we come: a portmap's DNAT, changed policies, chains of users,
 * matches that this project does not know, counters. As iptables-restore takes it.
 */
import { inside, restore, restoreNft } from './netns.ts';

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

/** What others may have in nf_tables: at our hooks and priorities, under names like ours, in forms unknown to us. */
const NFT_RULES = `
table inet istio-proxy-natx {
  comment "theirs"
  set blocked { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.0.2.1 }; }
  set named { type inet_service; flags timeout; timeout 1d; }
  map ports { type inet_service : ipv4_addr; elements = { 80 : 10.0.0.1, 443 : 10.0.0.2 }; }
  map verdicts { type ipv4_addr : verdict; elements = { 10.0.0.9 : drop, 10.0.0.8 : jump fourth }; }
  counter hits { packets 5 bytes 300 }
  quota much { over 5 mbytes }
  limit some { rate 7/minute }
  chain first {
    type nat hook prerouting priority dstnat; policy accept;
    meta nfproto ipv4 tcp dport { 80, 443 } counter packets 3 bytes 180 dnat ip to tcp dport map @ports
  }
  chain second {
    type nat hook output priority -100; policy accept;
    ip daddr @blocked counter name "hits" return
  }
  chain third {
    type filter hook prerouting priority mangle; policy drop;
    ip saddr vmap @verdicts
    jump fourth
  }
  chain fourth {
    limit rate 5/second counter packets 1 bytes 60 accept comment "x y"
  }
  chain fifth {
    type route hook output priority mangle; policy accept;
    meta mark & 0x8000 == 0x8000 counter packets 2 bytes 120 meta mark set 0x539
  }
  chain sixth {
    type filter hook output priority raw; policy accept;
    udp dport 53 counter packets 8 bytes 480 ct zone set 2
  }
}
table ip istio-proxy-nat {
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    tcp dport 15006 counter packets 7 bytes 420 return
  }
  chain istio-output {
    tcp dport 1-65535 counter packets 6 bytes 360 redirect to :15001
  }
}
table ip6 istio-proxy-mangle {
  chain output {
    type route hook output priority mangle; policy accept;
    counter packets 4 bytes 240
  }
}
table arp istio-proxy-raw {
  chain in {
    type filter hook input priority 0; policy accept;
    arp operation request counter packets 9 bytes 252
  }
}
table netdev istio-proxy-nat {
  chain in {
    type filter hook ingress device "lo" priority 0; policy accept;
  }
}
table inet asleep {
  flags dormant
  chain output {
    type nat hook output priority -100; policy accept;
    meta l4proto tcp counter packets 9 bytes 540 redirect to :9
  }
}
table inet istio-proxy {
}
`;

/** What others have in the tables of iptables-nft: `ip nat`, `ip6 nat` and so on. */
const IPTABLES_NFT = `*nat
:ISTIO_THEIRS - [0:0]
:THEIRS - [0:0]
[3:180] -A PREROUTING -p tcp --dport 4789 -j THEIRS
[5:300] -A THEIRS -p tcp -m statistic --mode random --probability 0.5 -j REDIRECT --to-ports 9
[1:60] -A OUTPUT -m owner --uid-owner 5 -j ISTIO_THEIRS
[2:120] -A ISTIO_THEIRS -p tcp -m comment --comment istio-pod-network-controller -j RETURN
COMMIT
*mangle
[2:120] -A PREROUTING -j MARK --set-mark 7
COMMIT
`;

export const FOREIGN_NFT_NEEDS = ['nft', 'iptables-nft-restore', 'ip6tables-nft-restore'];

export async function installForeignNft(path: string): Promise<void> {
  await restoreNft(path, NFT_RULES);
  for (const program of ['iptables-nft-restore', 'ip6tables-nft-restore']) {
    await inside(path, [program, '-c', '--noflush'], IPTABLES_NFT);
  }
}
