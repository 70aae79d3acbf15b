/**
 * Recognises the containers of a pod by the names and arguments that Istio, the original controller and we give them.
 */
import type { Container, Pod } from './pod.ts';

export const PROXY = 'istio-proxy';

export const GATE = 'pod-network-gate';
export const OWN_INIT = 'istio-init';
const VALIDATION = 'istio-validation';
/** Separates the gate's own arguments from the program that it becomes. */
export const END_OF_GATE = '--';

/** A list of arguments that can be read more than once. In a container from the API it may have any length. */
export type Words = Iterable<string>;

/** The fields by which a container is recognised. */
interface Named {
  name?: string;
  command?: Words;
  args?: Words;
}

/** The proxy, whether a native sidecar or an ordinary container. */
export function proxyOf(pod: Pod): Container | undefined {
  return [...(pod.spec?.initContainers ?? []), ...(pod.spec?.containers ?? [])].find(({ name }) => name === PROXY);
}

/**
 * Whether a container is a gate, which waits for the rules instead of writing them. It is recognised by its name or by
 * its program. The original controller's gate is named istio-init and has the argument `init` (its applier/templates).
 */
export function isGate(container: Named): boolean {
  if (container.name === GATE || isOriginalGate(container)) return true;
  for (const word of ownWords(container)) if (word === GATE || word.endsWith(`/${GATE}`)) return true;
  return false;
}

/**
 * Whether the container is the original controller's gate, which in the original's image waits only for the annotation.
 */
function isOriginalGate(container: Named): boolean {
  if (container.name !== OWN_INIT) return false;
  let at = 0;
  for (const word of ownWords(container)) {
    if (at === 2) return false;
    if (word === 'init') return true;
    at++;
  }
  return false;
}

/** Whether the pod has an init container that may wait for the mark. */
export function waitsForMark(pod: Pod): boolean {
  return pod.spec?.initContainers?.some(isOriginalGate) === true;
}

/** Whether the pod has its own init container that writes the rules. */
export function hasOwnInit(pod: Pod): boolean {
  return pod.spec?.initContainers?.some((container) => container.name === OWN_INIT && !isGate(container)) === true;
}

/** Whether Istio injected the pod for its CNI, which writes the rules that this container waits for. */
export function isValidation({ name }: Named): boolean {
  return name === VALIDATION;
}

/** What `initBeforeGate` reads of an init container. */
interface InitContainer extends Named {
  restartPolicy?: unknown;
}

/**
 * The init container after which capture begins: the last one before the gate. Undefined if capture begins at once, which
 * is so without a gate, if the gate is the first one, or if a container before it goes on running beside the application:
 * the proxy, which can serve the init containers, or another native sidecar, which must be captured from its start.
 */
export function initBeforeGate(initContainers: Iterable<InitContainer>): string | undefined {
  let last: string | undefined;
  for (const container of initContainers) {
    if (isGate(container) || isValidation(container)) return last;
    if (container.restartPolicy === 'Always') return undefined;
    last = container.name;
  }
  return undefined;
}

/** Whether a container of this name may wait for the rules. */
export function mayWait(name: string): boolean {
  return name === GATE || name === PROXY || name === OWN_INIT || name === VALIDATION;
}

/** Whether the arguments or the environment of the container may have redirect settings. */
export function isInit(container: Named): boolean {
  return container.name === OWN_INIT || container.name === VALIDATION || isGate(container);
}

/**
 * The arguments after `istio-iptables`, at any place in command or args; undefined without that word. The arguments
 * before it are for the program of the container, such as our gate. The program that the gate becomes comes after `--`.
 */
export function redirectWords(container: Container): string[] | undefined {
  const words = [...ownWords(container)];
  const program = words.findIndex((word) => /(^|\/)istio-iptables$/.test(word));
  return program < 0 ? undefined : words.slice(program + 1);
}

/** The words of a gate before `istio-iptables`: its own flags, and the cluster's defaults when the pod was injected. */
export function gateWords(container: Container): string[] {
  const words = [...ownWords(container)];
  const program = words.findIndex((word) => /(^|\/)istio-iptables$/.test(word));
  return program < 0 || !isGate(container) ? [] : words.slice(0, program);
}

/** TYPE in `pilot-agent proxy TYPE`, such as sidecar or router; undefined without it. */
export function proxyType(proxy: Container): string | undefined {
  const words = [...programWords(proxy)];
  const at = words.indexOf('proxy');
  return at < 0 ? undefined : words[at + 1];
}

/** The arguments in command and args, without `--` and the program after it. */
function* ownWords(container: Named): Generator<string, void> {
  for (const word of wordsOf(container)) {
    if (word === END_OF_GATE) return;
    yield word;
  }
}

/** The program after `--` and its arguments; without a gate, all of command and args. */
export function* programWords(container: Named): Generator<string, void> {
  let begun = !isGated(container);
  for (const word of wordsOf(container)) {
    if (begun) yield word;
    else begun = word === END_OF_GATE;
  }
}

function isGated(container: Named): boolean {
  for (const word of wordsOf(container)) if (word === END_OF_GATE) return true;
  return false;
}

function* wordsOf({ command = [], args = [] }: Named): Generator<string, void> {
  yield* command;
  yield* args;
}
