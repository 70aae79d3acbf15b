/** Which container of a pod is what, by the names and words that Istio, the original controller and we give them. */
import type { Container, Pod } from './pod.ts';

export const PROXY = 'istio-proxy';

const GATE = 'pod-network-gate';
const OWN_INIT = 'istio-init';
const VALIDATION = 'istio-validation';

/** The proxy, whether a native sidecar or an ordinary container. */
export function proxyOf(pod: Pod): Container | undefined {
  return [...(pod.spec?.initContainers ?? []), ...(pod.spec?.containers ?? [])].find(({ name }) => name === PROXY);
}

/**
 * Whether a container waits for us instead of doing it by itself: by its name, by its program, or as the original
 * controller's template has it, whose gate is named istio-init and is told `init` (its applier/templates).
 */
export function isGate(container: Container): boolean {
  const [words] = partsOf(container);
  return (
    container.name === GATE ||
    words.some((word) => word === GATE || word.endsWith(`/${GATE}`)) ||
    (container.name === OWN_INIT && words.slice(0, 2).includes('init'))
  );
}

/** Whether the pod writes its rules by itself. */
export function hasOwnInit(pod: Pod): boolean {
  return pod.spec?.initContainers?.some((container) => container.name === OWN_INIT && !isGate(container)) === true;
}

/** Whether its arguments or environment may say what is to be redirected. */
export function isInit(container: Container): boolean {
  return container.name === OWN_INIT || container.name === VALIDATION || isGate(container);
}

/**
 * The words after `istio-iptables`, wherever in command or args that word is; undefined without it. The words before it
 * are for the program that is run, such as our gate. After `--` comes the program that the gate becomes.
 */
export function redirectWords(container: Container): string[] | undefined {
  const [words] = partsOf(container);
  const program = words.findIndex((word) => /(^|\/)istio-iptables$/.test(word));
  return program < 0 ? undefined : words.slice(program + 1);
}

/** What `pilot-agent proxy TYPE` is told to be: sidecar, router and the like; undefined where nothing is said. */
export function proxyType(proxy: Container): string | undefined {
  const [before, after] = partsOf(proxy);
  const words = after ?? before;
  const at = words.indexOf('proxy');
  return at < 0 ? undefined : words[at + 1];
}

/** The words of command and args: those before `--` where the gate is in front of another program, and those after it. */
function partsOf({ command = [], args = [] }: Container): [words: string[], program?: string[]] {
  const words = [...command, ...args];
  const end = words.indexOf('--');
  return end < 0 ? [words] : [words.slice(0, end), words.slice(end + 1)];
}
