/** The parsers in TypeScript of bytes that a pod's creator, the runtime or the API server can influence. */
import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import { ConfigError } from '../../lib/errors.ts';
import { decide } from '../../lib/istio/enrolment.ts';
import { INITIALIZE } from '../../lib/istio/names.ts';
import { optionList } from '../../lib/istio/options.ts';
import { plan } from '../../lib/istio/plan.ts';
import { mustBeWhole } from '../../lib/istio/pod.ts';
import { podRedirect } from '../../lib/istio/redirect.ts';
import { encodingOf, JSON_TYPE, type StreamReader, type WatchEvent } from '../../lib/kube/encoding.ts';
import { toNamespaceRecord, toPodRecord } from '../../lib/kube/pods.ts';
import { containerIdOf, isOfPod } from '../../lib/netns/proc.ts';
import { type Backend, formOf } from '../../lib/ruleset/form.ts';
import { parseBundle } from '../../lib/runtime/containerd/bundle.ts';
import { subscribe } from '../../lib/runtime/containerd/events.ts';
import { getContainerEvents, listPodSandbox, podSandboxStatus, version } from '../../lib/runtime/cri/messages.ts';
import { sandboxOf } from '../../lib/runtime/cri/sandbox.ts';
import * as nri from '../../lib/runtime/nri/messages.ts';
import { Mux } from '../../lib/runtime/nri/mux.ts';
import { TtrpcClient, ttrpcServer } from '../../lib/runtime/nri/ttrpc.ts';
import { frame } from '../support/nri-runtime.ts';
import { fixture, fixtures } from '../support/pods.ts';
import { encode, envelope, enveloped, eventFrame, field, PROTOBUF } from '../support/protobuf.ts';

export interface Target {
  /** Valid inputs, or nearly. */
  samples: readonly Buffer[];
  /** Pieces of which inputs are made. */
  words: readonly (string | Uint8Array)[];
  /** Throws, or rejects, if the parser did what it must not do. */
  read(input: Buffer): void | Promise<void>;
}

interface Coded {
  encode(message: unknown): Buffer;
  decode(bytes: Buffer): unknown;
}

const UID = '0d8ee1a3-4f6b-4c5e-9d2a-6b1f0a7c88b1';
const ID = 'a'.repeat(64);
const NETNS = '/var/run/netns/cni-1';
const SPEC = {
  annotations: { 'io.kubernetes.cri.container-type': 'sandbox', 'io.kubernetes.cri.sandbox-uid': UID },
  linux: { namespaces: [{ type: 'pid' }, { type: 'network', path: NETNS }] },
};

/** What `read` returns; undefined if it threw such an error. Any other error is thrown on. */
function attempt<T>(read: () => T, ...errors: (new (...given: never[]) => Error)[]): { value: T } | undefined {
  try {
    return { value: read() };
  } catch (error) {
    if (errors.some((known) => error instanceof known)) return undefined;
    throw error;
  }
}

/** The first byte says which. */
function choose<T>(from: readonly T[], input: Buffer): { chosen: T; rest: Buffer } {
  return { chosen: from[(input[0] ?? 0) % from.length] as T, rest: input.subarray(1) };
}

/** Which one, before its input. */
const numbered = (at: number, bytes: Uint8Array) => Buffer.concat([Buffer.from([at]), bytes]);

const METADATA = { name: 'web', uid: UID, namespace: 'shop', attempt: 1 };
const STATUS = {
  id: ID,
  metadata: METADATA,
  state: 'SANDBOX_READY',
  createdAt: '1795255484392013510',
  network: { ip: '10.244.1.2', additionalIps: [{ ip: 'fd00::2' }] },
  linux: { namespaces: { options: { network: 'NODE' } } },
};
const NRI_POD = {
  id: ID,
  name: 'web',
  uid: UID,
  namespace: 'shop',
  linux: { namespaces: [{ type: 'network', path: NETNS }] },
  ips: ['10.244.1.2'],
};
const MESSAGES = [
  [version, { runtimeName: 'containerd', runtimeVersion: 'v2.1.9' }],
  [listPodSandbox, { items: [STATUS, STATUS] }],
  [podSandboxStatus, { status: STATUS, info: { info: JSON.stringify({ pid: 7, runtimeSpec: SPEC }) } }],
  [getContainerEvents, { containerId: ID, containerEventType: 'CONTAINER_STARTED_EVENT', podSandboxStatus: STATUS }],
  [subscribe, { event: { value: Buffer.from('x') } }],
  [nri.request, { service: 's', method: 'RunPodSandbox', payload: Buffer.from('x') }],
  [nri.response, { status: { code: 2, message: 'no' }, payload: Buffer.from('x') }],
  [nri.configureRequest, { requestTimeout: '2000' }],
  [nri.synchronizeRequest, { pods: [NRI_POD, NRI_POD], more: true }],
  [nri.stateChangeEvent, { event: 1, pod: NRI_POD }],
  [nri.runPodSandboxRequest, { pod: NRI_POD }],
] as const;
const CODECS = MESSAGES.map(
  ([of]) =>
    ('decode' in of ? of : { encode: of.responseSerialize, decode: of.responseDeserialize }) as unknown as Coded,
);

/** Messages of the runtime: what was decoded is the same after it was encoded and decoded again. */
const messages: Target = {
  samples: MESSAGES.map(([, message], at) => numbered(at, CODECS[at]?.encode(message) ?? Buffer.alloc(0))),
  words: [
    ...[ID, UID, NETNS, 'network', '{"pid":', 'null', '[', '{"linux":{"namespaces":'],
    ...[Buffer.from([0xff, 0xff, 0xff, 0xff, 0x0f]), Buffer.alloc(50, 0x0b), Buffer.from([0x0a, 0x00])],
  ],
  read(input) {
    const { chosen, rest } = choose(CODECS, input);
    const decoded = attempt(() => chosen.decode(rest), Error);
    if (decoded === undefined) return;
    const message = decoded.value;
    assert.deepEqual(chosen.decode(chosen.encode(message)), message);
    if (chosen !== CODECS[2]) return;
    const sandbox = sandboxOf(message as Parameters<typeof sandboxOf>[0]);
    assert.ok(typeof (sandbox?.netnsPath ?? '') === 'string' && typeof (sandbox?.pid ?? 0) === 'number');
  },
};

const REQUEST = nri.request.encode({ service: 's', method: 'Take', payload: Buffer.from('argument') });
const RESPONSE = nri.response.encode({ payload: Buffer.from('result') });

/** What both ends of NRI make of bytes, and how the connection ended. */
async function received(pieces: readonly Buffer[]): Promise<string[]> {
  const events: string[] = [];
  let open = true;
  const socket = Object.assign(new EventEmitter(), {
    writableLength: 0,
    write: () => true,
    destroy: ({ message }: Error) => {
      open = false;
      events.push(message);
    },
  });
  const mux = new Mux(socket as unknown as Socket);
  const take = (payload: Uint8Array) => {
    events.push(`call ${Buffer.from(payload).toString('hex')}`);
    return Buffer.alloc(0);
  };
  const serve = ttrpcServer(
    mux.open(1, (data) => serve(data)),
    new Map([['Take', take]]),
  );
  const client = new TtrpcClient(
    's',
    mux.open(2, (data) => client.receive(data)),
  );
  const asked = client.call('Ask', Buffer.alloc(0)).then(
    (result) => events.push(`answer ${Buffer.from(result).toString('hex')}`),
    ({ message }: Error) => events.push(message),
  );
  for (const piece of pieces) if (open) socket.emit('data', piece);
  // An answer comes a few steps later; most inputs have none.
  await Promise.race([asked, new Promise((resolve) => setImmediate(resolve))]);
  return events.sort();
}

function* cut(bytes: Buffer, lengths: Buffer): Generator<Buffer, void> {
  let step = 0;
  for (let at = 0; at < bytes.length; ) {
    const length = 1 + ((lengths[step++ % lengths.length] ?? 0) % 61);
    yield bytes.subarray(at, at + length);
    at += length;
  }
}

/** The transport of NRI: the same, however the bytes arrive. */
const transport: Target = {
  samples: [
    frame(1, 1, 1, REQUEST),
    frame(2, 1, 2, RESPONSE),
    Buffer.concat([
      frame(1, 1, 1, REQUEST),
      frame(3, 1, 1, REQUEST),
      frame(1, 3, 1, REQUEST),
      frame(2, 1, 2, RESPONSE),
    ]),
  ],
  words: [REQUEST, RESPONSE, frame(1, 5, 1, REQUEST).subarray(0, 18), Buffer.from([0, 0, 0, 1]), Buffer.alloc(8)],
  async read(input) {
    assert.deepEqual(await received([...cut(input, input)]), await received([input]));
  },
};

const PODS = fixtures.map((name) => fixture(name) as object);
const LIST = { metadata: { resourceVersion: '7', continue: 'x' }, items: PODS.slice(0, 2) };
const API = [
  encodingOf(PROTOBUF).object,
  encodingOf(JSON_TYPE).object,
  encodingOf(PROTOBUF).list,
  encodingOf(JSON_TYPE).list,
  encodingOf(PROTOBUF).watch,
  encodingOf(JSON_TYPE).watch,
] as const;

/** What is kept of an object, or why it is refused. */
function kept(object: unknown): string {
  const records = [toPodRecord, toNamespaceRecord].map((trim) => attempt(() => trim(object), TypeError, SyntaxError));
  return JSON.stringify(records);
}

function streamed(reader: StreamReader<unknown, unknown>, pieces: Iterable<Buffer>): string[] {
  const found: string[] = [];
  try {
    for (const piece of pieces) {
      for (const each of reader.push(piece)) {
        const { type, object = each } = each as Partial<WatchEvent>;
        found.push(`${typeof type} ${kept(object)}`);
      }
    }
    found.push(JSON.stringify(reader.end()) ?? 'end');
  } catch (error) {
    const { name, message } = error as Error;
    if (!(error instanceof SyntaxError) && !message.startsWith('the answer ended in the middle')) throw error;
    found.push(name);
  }
  return found;
}

/** Answers of the API server: the same, however the bytes arrive. */
const api: Target = {
  samples: [
    ...PODS.flatMap((pod) => [numbered(0, envelope('Pod', pod)), numbered(1, Buffer.from(JSON.stringify(pod)))]),
    numbered(2, Buffer.concat(enveloped('PodList', [encode('PodList', LIST)]))),
    numbered(3, Buffer.from(JSON.stringify(LIST))),
    numbered(4, Buffer.concat(PODS.slice(0, 2).map((pod) => eventFrame('ADDED', envelope('Pod', pod))))),
    numbered(
      5,
      Buffer.from(
        PODS.slice(0, 2)
          .map((object) => `${JSON.stringify({ type: 'ADDED', object })}\n`)
          .join(''),
      ),
    ),
  ],
  words: [
    ...[
      '"items":[',
      '{"',
      '"}',
      ']',
      '\\',
      '\n',
      'k8s\0',
      '"metadata":',
      '"__proto__":',
      'null',
      '{"name":"x","uid":"y"}',
    ],
    ...field(1, [Buffer.from('x')]),
    ...[Buffer.alloc(50, 0x0b), Buffer.from([0xff, 0xff, 0xff, 0xff, 0x0f])],
  ],
  read(input) {
    const { chosen, rest } = choose(API, input);
    if (chosen.length === 1) {
      const object = attempt(() => (chosen as (body: Buffer) => unknown)(rest), SyntaxError);
      if (object !== undefined) kept(object.value);
      return;
    }
    const reader = chosen as () => StreamReader<unknown, unknown>;
    assert.deepEqual(streamed(reader(), cut(rest, rest)), streamed(reader(), [rest]));
  },
};

const NAMES = optionList.flatMap(([, { annotations = [] }]) => annotations);
const BACKENDS: readonly Backend[] = ['iptables-legacy', 'nftables'];

/** Lines whose first character says which annotation, and the rest its value. */
function annotated(input: Buffer): Record<string, string> {
  return Object.fromEntries(
    input
      .toString()
      .split('\n')
      .map((line) => [NAMES[(line.codePointAt(0) ?? 0) % NAMES.length] ?? '', line.slice(1)]),
  );
}

const POLICY = { enroll: 'both', excludeNamespaces: [], self: {} } as const;
const DEFAULTS = { redirect: {}, defaultInboundPorts: 'declared' } as const;

/** Options in a pod's annotations: refused with an error that names the setting, or they become rules. */
const options: Target = {
  samples: [
    '80,443',
    '8000-8100',
    '*',
    '10.0.0.0/8,fd00::/8',
    'eth0,eth1',
    'TPROXY',
    'true',
    '1337',
    '127.0.0.0/8',
    '4,6',
  ]
    .map((value) => NAMES.map((_, at) => `${String.fromCodePoint(at + 97)}${value}`).join('\n'))
    .flatMap((text) => [Buffer.from(text), ...text.split('\n').map((line) => Buffer.from(line))]),
  words: [
    ...[
      ',',
      '-',
      '/',
      '*',
      '0',
      '65535',
      '65536',
      '0x',
      '::',
      '::ffff:',
      '127.0.0.1/32',
      '10.0.0.0/8',
      'fd00::/8',
      '%lo',
    ],
    ...['REDIRECT', 'NONE', 'false', 'lo', ' ', '\t', '\n', '\0', 'e', '+', 'é', '4294967295', '1-65535'],
  ],
  read(input) {
    const given = { ...annotated(input), [INITIALIZE]: 'true' };
    const metadata = { name: 'web', namespace: 'shop', uid: UID, annotations: given };
    const spec = { containers: [{ name: 'istio-proxy', ports: [{ containerPort: 80 }] }] };
    const pod = toPodRecord({ metadata, spec, status: { phase: 'Pending' } });
    assert.equal(
      decide(pod, { metadata: { name: 'shop', resourceVersion: '1', annotations: {} } }, POLICY).enroll,
      true,
    );
    attempt(() => {
      mustBeWhole(pod);
      const { spec } = podRedirect(pod, DEFAULTS);
      const ruleset = plan(spec, [4, 6]);
      for (const backend of BACKENDS) formOf(ruleset, backend, { counters: false });
    }, ConfigError);
  },
};

const CGROUP = `12:pids:/\n0::/kubepods.slice/kubepods-pod${UID.replaceAll('-', '_')}.slice/crio-${ID}.scope\n`;

/** Files of the runtime and of /proc. */
const files: Target = {
  samples: [numbered(0, Buffer.from(JSON.stringify(SPEC))), numbered(1, Buffer.from(CGROUP))],
  words: [
    '{',
    '}',
    '[',
    ']',
    'null',
    '"linux":',
    '"namespaces":',
    '"type":"network"',
    '"path":7',
    '/',
    '-',
    ID,
    `pod${UID}`,
  ],
  read(input) {
    const { chosen, rest } = choose(['bundle', 'cgroup'], input);
    const text = rest.toString();
    if (chosen === 'cgroup') {
      assert.equal(containerIdOf(text)?.length ?? 64, 64);
      if (isOfPod(text, UID)) assert.match(text, /pod/);
      return;
    }
    attempt(() => {
      const { sandbox, hostNetwork, netnsPath = '/', uid, namespace, name } = parseBundle(text);
      assert.ok(typeof sandbox === 'boolean' && typeof hostNetwork === 'boolean' && netnsPath !== '');
      for (const each of [netnsPath, uid, namespace, name]) assert.equal(typeof each, 'string');
    }, SyntaxError);
  },
};

export const TARGETS: Readonly<Record<string, Target>> = { messages, transport, api, options, files };
