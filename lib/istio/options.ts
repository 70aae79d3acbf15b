/**
 * The table of redirect options. Flags (ours and those of an injected init container), environment variables,
 * annotations, defaults, help and docs/cli.md are all made from it.
 *
 * Flags, short flags, environment variables and most defaults are those of istio-iptables
 * (istio/tools/istio-iptables/pkg/constants/constants.go, cmd/root.go). The defaults of inbound ports, inbound
 * exclusions and outbound ranges are those that Istio's injector passes (manifests/charts, injection template), because
 * with its own defaults istio-iptables captures nothing.
 */

import { addresses, cidrs, loopbackCidr } from '../options/addresses.ts';
import { groups, ownerGroups } from '../options/groups.ts';
import { withoutPrefix } from '../options/nearest.ts';
import type { RedirectOption } from '../options/option.ts';
import {
  boolean,
  choice,
  families,
  ids,
  interfaces,
  mark,
  port,
  ports,
  routeTable,
  some,
  wildcardOr,
} from '../options/values.ts';
import { DOMAIN, isOwn, NETNS, RULES, STATUS } from './names.ts';

/** The most uids or gids of a proxy. A proxy usually has one, and each one leads to rules in every table. */
const MAX_OWNERS = 16;

const PORTS = 'Proxy:';
const INBOUND = 'Inbound traffic:';
const OUTBOUND = 'Outbound traffic:';
const DNS = 'DNS:';
const KERNEL = 'Families and kernel:';

const option = <T>(given: RedirectOption<T>): RedirectOption<T> => given;
/** The prefix of Istio's annotations about captured traffic. */
const TRAFFIC = 'traffic.sidecar.istio.io/';
const traffic = (name: string): string => `${TRAFFIC}${name}`;

export const options = {
  mode: option({
    flag: 'istio-inbound-interception-mode',
    short: 'm',
    env: ['ISTIO_INBOUND_INTERCEPTION_MODE'],
    annotations: ['sidecar.istio.io/interceptionMode'],
    placeholder: 'mode',
    initial: 'REDIRECT',
    group: INBOUND,
    help: 'REDIRECT, TPROXY (keeps the source address), or NONE to install nothing',
    parse: choice('REDIRECT', 'TPROXY', 'NONE'),
  }),
  inboundPorts: option({
    flag: 'istio-inbound-ports',
    short: 'b',
    env: ['ISTIO_INBOUND_PORTS'],
    annotations: [traffic('includeInboundPorts')],
    placeholder: 'ports',
    initial: '*',
    group: INBOUND,
    help: 'ports and ranges to capture, "*" for all, "" for none',
    parse: wildcardOr(ports),
  }),
  inboundExclude: option({
    flag: 'istio-local-exclude-ports',
    short: 'd',
    env: ['ISTIO_LOCAL_EXCLUDE_PORTS'],
    annotations: [traffic('excludeInboundPorts')],
    placeholder: 'ports',
    initial: '15090,15021,15020',
    group: INBOUND,
    help: 'ports and ranges not to capture if --istio-inbound-ports is "*"; 15020, 15021 and 15090 are always added',
    parse: ports,
  }),
  tproxyMark: option({
    flag: 'istio-inbound-tproxy-mark',
    short: 't',
    env: ['ISTIO_INBOUND_TPROXY_MARK'],
    placeholder: 'mark',
    initial: '1337',
    group: INBOUND,
    help: 'mark of captured packets (TPROXY)',
    parse: mark,
  }),
  tproxyTable: option({
    flag: 'istio-inbound-tproxy-route-table',
    short: 'r',
    env: ['ISTIO_INBOUND_TPROXY_ROUTE_TABLE'],
    placeholder: 'table',
    initial: '133',
    group: INBOUND,
    help: 'route table of captured packets (TPROXY)',
    parse: routeTable,
  }),
  outboundCidrs: option({
    flag: 'istio-service-cidr',
    short: 'i',
    env: ['ISTIO_SERVICE_CIDR'],
    annotations: [traffic('includeOutboundIPRanges')],
    placeholder: 'cidrs',
    initial: '*',
    group: OUTBOUND,
    help: 'destinations to capture, IPv4 and IPv6 mixed, "*" for all, "" for none',
    parse: wildcardOr(cidrs),
  }),
  outboundExcludeCidrs: option({
    flag: 'istio-service-exclude-cidr',
    short: 'x',
    env: ['ISTIO_SERVICE_EXCLUDE_CIDR'],
    annotations: [traffic('excludeOutboundIPRanges')],
    placeholder: 'cidrs',
    initial: '',
    group: OUTBOUND,
    help: 'destinations not to capture',
    parse: cidrs,
  }),
  outboundPorts: option({
    flag: 'istio-outbound-ports',
    short: 'q',
    env: ['ISTIO_OUTBOUND_PORTS'],
    annotations: [traffic('includeOutboundPorts')],
    placeholder: 'ports',
    initial: '',
    group: OUTBOUND,
    help: 'ports and ranges to capture, regardless of the destination',
    parse: ports,
  }),
  outboundExcludePorts: option({
    flag: 'istio-local-outbound-ports-exclude',
    short: 'o',
    env: ['ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE'],
    annotations: [traffic('excludeOutboundPorts')],
    placeholder: 'ports',
    initial: '',
    group: OUTBOUND,
    help: 'ports and ranges not to capture',
    parse: ports,
  }),
  ownerGroups: option({
    flag: 'owner-groups',
    env: ['ISTIO_OUTBOUND_OWNER_GROUPS'],
    placeholder: 'groups',
    initial: '*',
    group: OUTBOUND,
    help: 'capture only traffic from processes of these groups (gids, or names in /etc/group; at most 64)',
    parse: wildcardOr(ownerGroups),
  }),
  ownerGroupsExclude: option({
    flag: 'owner-groups-exclude',
    env: ['ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE'],
    placeholder: 'groups',
    initial: '',
    group: OUTBOUND,
    help: 'groups whose traffic is not captured if --owner-groups is "*"',
    parse: groups,
  }),
  excludeInterfaces: option({
    flag: 'istio-exclude-interfaces',
    short: 'c',
    env: ['ISTIO_EXCLUDE_INTERFACES'],
    annotations: [traffic('excludeInterfaces')],
    placeholder: 'names',
    initial: '',
    group: OUTBOUND,
    help: 'interfaces whose traffic is not captured, neither inbound nor outbound',
    parse: interfaces,
  }),
  rerouteInterfaces: option({
    flag: 'kube-virt-interfaces',
    short: 'k',
    env: ['KUBE_VIRT_INTERFACES'],
    annotations: ['istio.io/reroute-virtual-interfaces', traffic('kubevirtInterfaces')],
    placeholder: 'names',
    initial: '',
    group: OUTBOUND,
    help: 'interfaces of virtual machines; traffic that arrives there counts as outbound traffic',
    parse: interfaces,
  }),
  loopback: option({
    flag: 'loopback-cidr',
    env: ['ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR'],
    placeholder: 'cidr',
    initial: '127.0.0.1/32',
    group: OUTBOUND,
    help: 'the range that counts as IPv4 loopback; inside 127.0.0.0/8',
    parse: loopbackCidr,
  }),
  proxyPort: option({
    flag: 'envoy-port',
    short: 'p',
    env: ['ENVOY_PORT'],
    annotations: [`${DOMAIN}/envoy-port`],
    placeholder: 'port',
    initial: '15001',
    group: PORTS,
    help: "the proxy's port for outbound traffic",
    parse: port,
  }),
  inboundPort: option({
    flag: 'inbound-capture-port',
    short: 'z',
    env: ['INBOUND_CAPTURE_PORT'],
    placeholder: 'port',
    initial: '15006',
    group: PORTS,
    help: "the proxy's port for inbound traffic",
    parse: port,
  }),
  tunnelPort: option({
    flag: 'inbound-tunnel-port',
    short: 'e',
    env: ['INBOUND_TUNNEL_PORT'],
    placeholder: 'port',
    initial: '15008',
    group: PORTS,
    help: "the proxy's port for tunnels (HBONE); never redirected",
    parse: port,
  }),
  proxyUids: option({
    flag: 'proxy-uid',
    short: 'u',
    env: ['PROXY_UID'],
    annotations: [`${DOMAIN}/envoy-userid`],
    placeholder: 'ids',
    initial: '1337',
    group: PORTS,
    help: 'uids of the proxy; their traffic is not captured',
    parse: some(ids, 'a list of uids, such as 1337', MAX_OWNERS),
  }),
  proxyGids: option({
    flag: 'proxy-gid',
    short: 'g',
    env: ['PROXY_GID'],
    annotations: [`${DOMAIN}/envoy-groupid`],
    placeholder: 'groups',
    initialText: 'the value of --proxy-uid',
    group: PORTS,
    help: 'gids of the proxy, or names in /etc/group; their traffic is not captured',
    parse: some(groups, 'a list of gids, such as 1337', MAX_OWNERS),
  }),
  redirectDns: option({
    flag: 'redirect-dns',
    env: ['REDIRECT_DNS', 'ISTIO_META_DNS_CAPTURE'],
    initial: 'false',
    group: DNS,
    help: "capture DNS and hand it to the proxy's agent on port 15053",
    parse: boolean,
  }),
  captureAllDns: option({
    flag: 'capture-all-dns',
    env: ['CAPTURE_ALL_DNS'],
    initial: 'false',
    group: DNS,
    help: 'with --redirect-dns: capture all traffic to port 53, not only traffic to known name servers',
    parse: boolean,
  }),
  dnsServers: option({
    flag: 'dns-servers',
    placeholder: 'addresses',
    initialText: 'the name servers of /etc/resolv.conf',
    group: DNS,
    help: 'with --redirect-dns, without --capture-all-dns: the name servers whose traffic is captured',
    parse: some(addresses, 'at least one address, such as 10.96.0.10'),
  }),
  dropInvalid: option({
    flag: 'drop-invalid',
    env: ['DROP_INVALID', 'INVALID_DROP'],
    initial: 'false',
    group: KERNEL,
    help: 'drop packets that conntrack classifies as invalid; otherwise the kernel answers them with a reset',
    parse: boolean,
  }),
  dualStack: option({
    flag: 'dual-stack',
    env: ['DUAL_STACK', 'ISTIO_DUAL_STACK'],
    initialText: 'true without a Pod, false with one',
    group: KERNEL,
    help: 'whether the proxy serves both families of a pod that has both; if not, it serves IPv4',
    parse: boolean,
  }),
  families: option({
    flag: 'ip-families',
    placeholder: 'families',
    initial: 'auto',
    group: KERNEL,
    help: 'which families get rules: auto (each family that has an address in the network namespace and that the proxy serves), 4, 6 or 4,6',
    parse: families,
  }),
  unservedFamilies: option({
    flag: 'unserved-families',
    env: ['IPNC_UNSERVED_FAMILIES'],
    placeholder: 'what',
    initial: 'leave',
    group: KERNEL,
    help: 'what happens to a family that the proxy does not serve: leave (it bypasses the mesh, as with Istio), capture, or block (its TCP is refused)',
    parse: choice('leave', 'capture', 'block'),
  }),
};

export type OptionKey = keyof typeof options;

/** The keys and options of the table, in its order. */
export const optionList = Object.entries(options) as [OptionKey, RedirectOption][];

/** All annotations that are read. */
export const annotationNames: readonly string[] = optionList.flatMap(([, { annotations = [] }]) => annotations);

const KNOWN = new Set([...annotationNames, STATUS, NETNS, RULES]);
/** People put an option's name behind another of Istio's prefixes. */
const KNOWN_WITHOUT_PREFIX = new Set(annotationNames.map(withoutPrefix));
const ISTIO_DOMAIN = /^([^/]+\.)?istio\.io\//;

/**
 * At most so many unknown options are reported, and none with a longer name. Kubernetes allows 63 characters after the
 * prefix.
 */
export const UNKNOWN = { most: 4, length: 128 };

/** Whether an annotation looks like an option and is none. Then its name probably has a typing error. */
export function isUnknownOption(name: string): boolean {
  if (name.length > UNKNOWN.length || KNOWN.has(name)) return false;
  return (
    name.startsWith(TRAFFIC) ||
    isOwn(name) ||
    (ISTIO_DOMAIN.test(name) && KNOWN_WITHOUT_PREFIX.has(withoutPrefix(name)))
  );
}

/** The type of each option's value. A value is undefined if the option has no default and was not given. */
export type OptionValues = {
  [K in OptionKey]: (typeof options)[K] extends RedirectOption<infer T> ? T | Undefined<K> : never;
};
type Undefined<K extends OptionKey> = K extends 'proxyGids' | 'dnsServers' | 'dualStack' ? undefined : never;
