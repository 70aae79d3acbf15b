/** Reads the redirect settings of a Pod, as sources of the option table. */
import { argumentsSource, defaultsSource } from './arguments.ts';
import { gateWords, isGate, isInit, isValidation, PROXY, proxyOf, redirectWords } from './containers.ts';
import { isOwn } from './names.ts';
import { optionList } from './options.ts';
import type { Container, Pod } from './pod.ts';
import { environmentSource, type Source } from './sources.ts';

/** The mode that Istio's injector chose. It is always set, and only it shows that the default of a mesh is NONE. */
const MODE_VARIABLE = 'ISTIO_META_INTERCEPTION_MODE';

/** istio-proxy's environment variables that Istio's CNI reads (istio/cni/pkg/plugin/sidecar_redirect.go). */
const CNI_VARIABLES = ['ISTIO_META_DNS_CAPTURE', 'ISTIO_DUAL_STACK', 'INVALID_DROP'];

/** All variables of istio-proxy that the controller reads. */
export const PROXY_VARIABLES: readonly string[] = [...CNI_VARIABLES, MODE_VARIABLE];

/** How many sources at the end of the list decide about unserved families. A pod can only make that choice stricter. */
const DEFAULTS = 3;

/** The uid and gid of Istio's proxy if the pod names none or root (istio/cni/pkg/plugin/kubernetes.go). */
const DEFAULT_ID = '1337';

/** istio/cni/pkg/plugin/sidecar_redirect.go, defaultRedirectExcludePort. */
const CNI_EXCLUDES = { text: '15020', field: "default of Istio's CNI", source: 'pod' } as const;

/**
 * The sources of a pod's configuration, the strongest first:
 *
 * 1. annotations of this project, because only this controller reads them;
 * 2. arguments, then environment, of the gate, or else of the injected istio-init or istio-validation container: they
 * have    the result of the mesh's defaults and the pod's annotations at the time of the injection;
 * 3. Istio's annotations;
 * 4. the istio-proxy container's environment, and what it runs as (its securityContext, then the pod's);
 * 5. the cluster's defaults when the pod was injected, which its gate has: gate and rules agree after they have changed;
 * 6. `defaults`, which are the cluster's now;
 * 7. 1337 as the group of a proxy that runs as a user of its own, in a group that nothing names; and the outbound port
 *    15020, which Istio's CNI excludes by default and `istio-init` does not, for a pod that is injected for that.
 */
export function podSources(pod: Pod, defaults: Source): Source[] {
  const sources = allSources(pod, defaults);
  const unserved = strictest(sources.slice(-DEFAULTS));
  // The administrator's choice: whoever creates a pod can make it stricter, by a gate of his own, and not weaker.
  return sources.map(({ unservedFamilies: _, ...source }) => ({
    ...source,
    ...(unserved && { unservedFamilies: unserved }),
  }));
}

function allSources(pod: Pod, defaults: Source): Source[] {
  const inits = (pod.spec?.initContainers ?? []).filter((container) => isInit(container) && redirectWords(container));
  const init = inits.find(isGate) ?? inits[0];
  const annotations = pod.metadata?.annotations ?? {};
  const sources = [
    annotationSource(annotations, isOwn),
    init === undefined ? {} : argumentsSource(redirectWords(init) ?? [], init.name ?? ''),
    init === undefined ? {} : containerEnvironment(init),
    annotationSource(annotations, (key) => !isOwn(key)),
  ];
  const proxy = proxyOf(pod);
  const injected = init === undefined ? {} : defaultsSource(gateWords(init), init.name ?? '');
  if (proxy === undefined) return [...sources, injected, defaults, {}];
  const hasUser = sources.some(({ proxyUids }) => proxyUids !== undefined);
  const ids = proxyIds(proxy, pod);
  const implied: Source = {
    ...(!hasUser && ids.proxyUids !== undefined && { proxyGids: proxyId('runAsGroup', DEFAULT_ID) }),
    ...(inits.some((each) => isValidation(each) && !isGate(each)) && { outboundExcludePorts: CNI_EXCLUDES }),
  };
  return [...sources, containerEnvironment(proxy, CNI_VARIABLES), proxyMode(proxy), ids, injected, defaults, implied];
}

const BY_STRICTNESS = ['leave', 'capture', 'block'];

/** The strictest choice for unserved families; one that is invalid is left for the parser to refuse. */
function strictest(sources: readonly Source[]): Source['unservedFamilies'] {
  return sources
    .flatMap(({ unservedFamilies }) => unservedFamilies ?? [])
    .toSorted((a, b) => BY_STRICTNESS.indexOf(b.text) - BY_STRICTNESS.indexOf(a.text))[0];
}

/**
 * The TCP ports that the containers declare. The original controller captured them if a pod named no inbound ports.
 * Ports of the proxy, and of init containers that end before the application starts, do not count.
 */
export function declaredPorts(pod: Pod): Source {
  const sidecars = (pod.spec?.initContainers ?? []).filter(({ restartPolicy }) => restartPolicy === 'Always');
  const ports = [...sidecars, ...(pod.spec?.containers ?? [])]
    .filter(({ name }) => name !== PROXY)
    .flatMap(({ ports = [] }) => ports)
    .filter(({ protocol = 'TCP' }) => protocol === 'TCP')
    .map(({ containerPort }) => containerPort);
  const text = [...new Set(ports)].join(',');
  return { inboundPorts: { text, field: 'declared ports of the containers', source: 'pod' } };
}

function annotationSource(annotations: Record<string, string>, mine: (key: string) => boolean): Source {
  const source: Source = {};
  for (const [key, { annotations: names = [] }] of optionList) {
    const name = names.find((name) => mine(name) && annotations[name] !== undefined);
    const text = name === undefined ? undefined : annotations[name];
    if (text !== undefined) source[key] = { text, field: `annotation ${name}`, source: 'pod' };
  }
  return source;
}

function containerEnvironment({ name: place = '', env = [] }: Container, only?: readonly string[]): Source {
  const values: Record<string, string | undefined> = {};
  for (const { name, value, valueFrom } of env) {
    if (name === undefined || (only !== undefined && !only.includes(name))) continue;
    values[name] = valueFrom === undefined ? (value ?? '') : '(from a reference)';
  }
  const source = environmentSource(values, `env of ${place}`, 'pod');
  // Like Istio's CNI, this variable sets both options, because the pod's name servers are unknown outside of the pod.
  if (source.redirectDns?.field.startsWith('ISTIO_META_DNS_CAPTURE') === true) {
    source.captureAllDns ??= source.redirectDns;
  }
  return source;
}

function proxyMode({ name = '', env = [] }: Container): Source {
  const text = env.findLast((variable) => variable.name === MODE_VARIABLE)?.value;
  return text === undefined ? {} : { mode: { text, field: `${MODE_VARIABLE} (env of ${name})`, source: 'pod' } };
}

/** Like Istio, this ignores 0: with TPROXY the container may run as root, but Envoy in it does not. */
function proxyIds(proxy: Container, pod: Pod): Source {
  const id = (name: 'runAsUser' | 'runAsGroup') =>
    proxy.securityContext?.[name] ?? pod.spec?.securityContext?.[name] ?? 0;
  const [user, group] = [id('runAsUser'), id('runAsGroup')];
  return {
    ...(user !== 0 && { proxyUids: proxyId('runAsUser', String(user)) }),
    ...(group !== 0 && { proxyGids: proxyId('runAsGroup', String(group)) }),
  };
}

function proxyId(name: string, text: string) {
  return { text, field: `${PROXY} securityContext.${name}`, source: 'pod' } as const;
}
