/** What a Pod says about its redirect rules. */
import { parseAllDocuments } from 'yaml';
import { argumentsSource } from './arguments.ts';
import { ConfigError } from './config-error.ts';
import { OWN_PREFIX, optionList } from './options.ts';
import { environmentSource, type Source } from './sources.ts';

/** The part of a Pod that is looked at (k8s.io/api/core/v1). */
export interface Pod {
  metadata?: { annotations?: Record<string, string> };
  spec?: {
    securityContext?: Ids;
    initContainers?: Container[];
    containers?: Container[];
  };
}

interface Ids {
  runAsUser?: number;
  runAsGroup?: number;
}

interface Container {
  name?: string;
  command?: string[];
  args?: string[];
  env?: { name?: string; value?: string; valueFrom?: unknown }[];
  securityContext?: Ids;
}

/** etcd, and so the API server, holds no object above 1.5 MiB (etcd: --max-request-bytes). */
const MAX_POD_BYTES = 1_572_864;

/** istio-proxy's environment variables that Istio's CNI reads (istio/cni/pkg/plugin/sidecar_redirect.go). */
const PROXY_ENVIRONMENT = ['ISTIO_META_DNS_CAPTURE', 'ISTIO_DUAL_STACK', 'INVALID_DROP'];

/** What Istio's proxy runs as where nothing is said, or root is (istio/cni/pkg/plugin/kubernetes.go). */
const DEFAULT_ID = '1337';

/** Reads one Pod from YAML or JSON. `field` names the file in messages. */
export function readPod(text: string, field: string): Pod {
  if (Buffer.byteLength(text) > MAX_POD_BYTES) {
    throw new ConfigError(field, undefined, `larger than any Pod can be (${MAX_POD_BYTES} bytes)`);
  }
  let documents: unknown[];
  try {
    documents = parseAllDocuments(text, { logLevel: 'silent' }).map((document) => {
      const [error] = document.errors;
      if (error !== undefined) throw error;
      return document.toJS() as unknown;
    });
  } catch (error) {
    const [first = ''] = (error instanceof Error ? error.message : String(error)).split('\n');
    throw new ConfigError(field, undefined, `neither YAML nor JSON: ${printable(first).slice(0, 120)}`);
  }
  const [pod, ...more] = documents;
  if (documents.length === 0 || pod === null) throw new ConfigError(field, undefined, 'empty; one Pod would be right');
  if (more.length > 0) {
    throw new ConfigError(field, undefined, `${documents.length} documents; one Pod would be right`);
  }
  if (!isObject(pod)) throw new ConfigError(field, undefined, 'not a Pod, but a bare value');
  if (pod.kind !== 'Pod') {
    throw new ConfigError(`${field} kind`, pod.kind === undefined ? undefined : String(pod.kind), 'Pod would be right');
  }
  check(pod, field);
  return pod as Pod;
}

/**
 * The sources of a pod's configuration, the strongest first:
 *
 * 1. annotations of this project, since they are meant for us;
 * 2. arguments, then environment, of the injected istio-init or istio-validation container: they hold what the mesh's
 *    defaults and the pod's annotations came to when the pod was injected;
 * 3. Istio's annotations;
 * 4. the istio-proxy container's environment, and what it runs as (its securityContext, then the pod's; unset or 0
 *    means 1337).
 */
export function podSources(pod: Pod): Source[] {
  const init = pod.spec?.initContainers?.find(({ name }) => name === 'istio-init' || name === 'istio-validation');
  const words = init === undefined ? undefined : wordsOf(init);
  const fromArguments = init === undefined || words === undefined ? {} : argumentsSource(words, init.name ?? '');
  const annotations = pod.metadata?.annotations ?? {};
  const sources = [
    annotationSource(annotations, (key) => key.startsWith(OWN_PREFIX)),
    fromArguments,
    words === undefined ? {} : containerEnvironment(init),
    annotationSource(annotations, (key) => !key.startsWith(OWN_PREFIX)),
  ];
  const proxy = [...(pod.spec?.initContainers ?? []), ...(pod.spec?.containers ?? [])].find(
    ({ name }) => name === 'istio-proxy',
  );
  if (proxy !== undefined) {
    sources.push(containerEnvironment(proxy, PROXY_ENVIRONMENT));
    sources.push(proxyIds(proxy, pod, sources));
  }
  return sources;
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

/** The words after `istio-iptables`, wherever in command or args it stands; undefined if it does not. */
function wordsOf({ command = [], args = [] }: Container): string[] | undefined {
  const words = [...command, ...args];
  const program = words.findIndex((word) => /(^|\/)istio-iptables$/.test(word));
  return program < 0 ? undefined : words.slice(program + 1);
}

function containerEnvironment(container: Container | undefined, only?: readonly string[]): Source {
  const { name = '', env = [] } = container ?? {};
  const values: Record<string, string | undefined> = {};
  for (const variable of env) {
    if (variable.name === undefined || (only !== undefined && !only.includes(variable.name))) continue;
    values[variable.name] = variable.valueFrom === undefined ? (variable.value ?? '') : '(from a reference)';
  }
  const source = environmentSource(values, `env of ${name}`, 'pod');
  // Istio's CNI takes the one variable for both: the pod's name servers are not known outside of the pod.
  if (source.redirectDns?.field.startsWith('ISTIO_META_DNS_CAPTURE') === true) {
    source.captureAllDns ??= source.redirectDns;
  }
  return source;
}

/**
 * Where the injected arguments name a uid and no gid, istio-iptables takes the one for the other; so an unset group
 * of the container decides nothing then.
 */
function proxyIds(proxy: Container, pod: Pod, stronger: readonly Source[]): Source {
  const user = proxy.securityContext?.runAsUser ?? pod.spec?.securityContext?.runAsUser ?? 0;
  const group = proxy.securityContext?.runAsGroup ?? pod.spec?.securityContext?.runAsGroup ?? 0;
  const field = (name: string) => `istio-proxy securityContext.${name}`;
  const source: Source = {
    proxyUids: { text: user === 0 ? DEFAULT_ID : String(user), field: field('runAsUser'), source: 'pod' },
  };
  if (group !== 0 || !stronger.some(({ proxyUids }) => proxyUids !== undefined)) {
    source.proxyGids = {
      text: group === 0 ? DEFAULT_ID : String(group),
      field: field('runAsGroup'),
      source: 'pod',
    };
  }
  return source;
}

/** The API server has checked a Pod that comes from it; a file may hold anything. */
function check(pod: Record<string, unknown>, field: string): void {
  const metadata = object(pod.metadata, `${field} metadata`);
  const annotations = object(metadata?.annotations, `${field} metadata.annotations`);
  for (const [key, value] of Object.entries(annotations ?? {})) {
    if (typeof value !== 'string') {
      throw new ConfigError(
        `${field} annotation ${printable(key)}`,
        JSON.stringify(value),
        'not a string; put it in quotes',
      );
    }
  }
  const spec = object(pod.spec, `${field} spec`);
  ids(spec?.securityContext, `${field} spec.securityContext`);
  for (const kind of ['initContainers', 'containers']) {
    for (const [at, entry] of list(spec?.[kind], `${field} spec.${kind}`).entries()) {
      const path = `${field} spec.${kind}[${at}]`;
      const container = object(entry, path) ?? {};
      ids(container.securityContext, `${path}.securityContext`);
      for (const words of ['command', 'args']) {
        for (const word of list(container[words], `${path}.${words}`)) {
          if (typeof word !== 'string') {
            throw new ConfigError(`${path}.${words}`, JSON.stringify(word), 'not a string; put it in quotes');
          }
        }
      }
      for (const [index, entry] of list(container.env, `${path}.env`).entries()) {
        const variable = object(entry, `${path}.env[${index}]`);
        if (variable?.value !== undefined && typeof variable.value !== 'string') {
          throw new ConfigError(
            `${path}.env[${index}].value`,
            JSON.stringify(variable.value),
            'not a string; put it in quotes',
          );
        }
      }
    }
  }
}

function ids(value: unknown, path: string): void {
  const context = object(value, path);
  for (const name of ['runAsUser', 'runAsGroup']) {
    const id = context?.[name];
    if (id !== undefined && id !== null && !(Number.isInteger(id) && Number(id) >= 0)) {
      throw new ConfigError(`${path}.${name}`, JSON.stringify(id), 'not a numeric id');
    }
  }
}

function object(value: unknown, path: string): Record<string, unknown> | undefined {
  if (value === undefined || value === null) return undefined;
  if (!isObject(value)) throw new ConfigError(path, JSON.stringify(value), 'not a mapping');
  return value;
}

function list(value: unknown, path: string): unknown[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw new ConfigError(path, JSON.stringify(value), 'not a list');
  return value;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}]/gu, '?');
}
