/** Apps of the mesh: Istio's echo server, which answers with all that it knows of a request, and its client. */
import type { V1Pod, V1PodSpec } from '@kubernetes/client-node';
import { runPod, until } from '../cluster/pods.ts';
import { ECHO } from './images.ts';
import { type Mesh, RESTRICTED } from './mesh.ts';

/** What an echo app answers on; its Service has the same ports. */
export const HTTP = 8080;
export const TCP = 9090;
/** Plain HTTP too; no Service knows of them. */
export const EXTRA = [8081, 8082];

export interface EchoOptions {
  namespace?: string;
  annotations?: Record<string, string>;
  labels?: Record<string, string>;
  change?(spec: V1PodSpec): void;
}

/** `restricted` admits it. Its identity in the mesh is the service account of its name. */
export function echoPod(name: string, { annotations = {}, labels = {}, change, namespace }: EchoOptions = {}): V1Pod {
  const ports = ['--port', [HTTP, ...EXTRA].join(','), '--tcp', `${TCP}`];
  const spec: V1PodSpec = {
    serviceAccountName: name,
    terminationGracePeriodSeconds: 1,
    securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
    containers: [
      {
        name: 'app',
        image: ECHO,
        imagePullPolicy: 'Never',
        args: [...ports, '--version', name],
        ports: [{ containerPort: HTTP }, { containerPort: TCP }],
        securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] }, runAsUser: 1000 },
      },
    ],
  };
  change?.(spec);
  return {
    metadata: { name, namespace: namespace ?? RESTRICTED, labels: { app: name, ...labels }, annotations },
    spec,
  };
}

/** Its service account, and its Service of both families. */
export function echoObjects(name: string, namespace = RESTRICTED): object[] {
  return [
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name, namespace } },
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name, namespace },
      spec: {
        selector: { app: name },
        ipFamilyPolicy: 'RequireDualStack',
        ports: [
          { name: 'http', port: HTTP },
          { name: 'tcp', port: TCP },
        ],
      },
    },
  ];
}

/** Creates all of it and waits until the pod is ready, and its server answers. */
export async function runEcho(mesh: Mesh, name: string, options: EchoOptions = {}): Promise<V1Pod> {
  const namespace = options.namespace ?? RESTRICTED;
  await mesh.apply(echoObjects(name, namespace));
  const pod = await runPod(mesh.cluster.core, echoPod(name, options), namespace);
  // A pod without probes is ready before its server listens. No rule captures what an app sends to 127.0.0.1.
  const answer = () => request(mesh, pod, `http://127.0.0.1:${HTTP}/`);
  await until(`answered: a request of ${name} to itself`, answer, ({ status }) => status === '200');
  return pod;
}

/** What the server says of one request. */
export interface Answer {
  /** HTTP status, '200' for TCP; or the error. */
  status: string;
  /** Name of the app that answered. */
  by: string;
  /** From where the server was reached. */
  from: string;
  /** Of the request, as the server got it. */
  header(name: string): string | undefined;
  text: string;
}

/** One request out of the app's container: `http://b.shop:8080/`, `tcp://10.0.0.1:9090`. */
export async function request(mesh: Mesh, from: V1Pod, url: string, ...flags: string[]): Promise<Answer> {
  const command = ['/client', '--timeout', '3s', ...flags, url];
  const { stdout, stderr } = await mesh.exec(from, 'app', command);
  const text = stdout + stderr;
  const field = (name: string) => new RegExp(`^\\[0(?: body)?\\] ${name}=(.*)$`, 'm').exec(text)?.[1];
  return {
    status: field('StatusCode') ?? reason(text),
    by: field('ServiceVersion') ?? '',
    from: field('IP') ?? '',
    header: (name) => new RegExp(`^\\[0 body\\] RequestHeader=${name}:(.*)$`, 'mi').exec(text)?.[1],
    text,
  };
}

/** In one word where the reason is a usual one. */
function reason(text: string): string {
  const usual = ['connection refused', 'connection reset', 'i/o timeout', 'deadline exceeded', 'EOF', 'no such host'];
  return usual.find((each) => text.includes(each)) ?? text.trim();
}

/** PeerAuthentication STRICT for a namespace; returns once `outsider`, who is not of the mesh, is refused at `url`. */
export async function requireMutualTls(mesh: Mesh, namespace: string, outsider: V1Pod, url: string): Promise<void> {
  const metadata = { name: 'default', namespace };
  await mesh.apply([
    { apiVersion: 'security.istio.io/v1', kind: 'PeerAuthentication', metadata, spec: { mtls: { mode: 'STRICT' } } },
  ]);
  await until(
    'in force: STRICT',
    () => request(mesh, outsider, url),
    ({ status }) => status !== '200',
  );
}
