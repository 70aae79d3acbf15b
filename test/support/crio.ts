/**
 * A stand-in for CRI-O 1.36.3 that answers as the real one was recorded to do (test/fixtures/crio-answers.json: ids and
 * names replaced), on real netns. Its calls of NRI plugins follow CRI-O's source (server/nri-api.go), because they were not
 * recorded. Unlike the real one it can be slow, stopped and restarted on demand. It has no containers, and a sandbox's
 * process is one of this test.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import {
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  status,
} from '@grpc/grpc-js';
import { codecOf, compileSchema } from '../../lib/protobuf.ts';
import { method } from '../../lib/runtime/method.ts';
import { Farm, inside } from './netns.ts';
import { NriRuntime, type Pod } from './nri-runtime.ts';
import { run } from './process.ts';
import { scratchFolder } from './scratch.ts';

/** https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto */
const METADATA = { name: [1, 'string'], uid: [2, 'string'], namespace: [3, 'string'], attempt: [4, 'uint32'] } as const;
const SANDBOX = {
  id: [1, 'string'],
  metadata: [2, 'Metadata'],
  state: [3, 'State'],
  createdAt: [4, 'int64'],
} as const;
const SCHEMA = compileSchema({
  Empty: {},
  Version: {
    version: [1, 'string'],
    runtimeName: [2, 'string'],
    runtimeVersion: [3, 'string'],
    runtimeApiVersion: [4, 'string'],
  },
  Metadata: METADATA,
  State: ['SANDBOX_READY', 'SANDBOX_NOTREADY'],
  ListRequest: { filter: [1, 'Filter'] },
  Filter: { id: [1, 'string'], state: [2, 'StateValue'], labelSelector: [3, 'string', 'map'] },
  StateValue: { state: [1, 'State'] },
  List: { items: [1, 'Item', 'repeated'] },
  Item: { ...SANDBOX, labels: [5, 'string', 'map'], annotations: [6, 'string', 'map'], runtimeHandler: [7, 'string'] },
  StatusRequest: { podSandboxId: [1, 'string'], verbose: [2, 'bool'] },
  StatusResponse: { status: [1, 'Status'], info: [2, 'string', 'map'], timestamp: [4, 'int64'] },
  Status: {
    ...SANDBOX,
    network: [5, 'Network'],
    linux: [6, 'LinuxStatus'],
    labels: [7, 'string', 'map'],
    annotations: [8, 'string', 'map'],
    runtimeHandler: [9, 'string'],
  },
  Network: { ip: [1, 'string'], additionalIps: [2, 'PodIP', 'repeated'] },
  PodIP: { ip: [1, 'string'] },
  LinuxStatus: { namespaces: [1, 'Namespace'] },
  Namespace: { options: [2, 'Options'] },
  Options: { network: [1, 'Mode'], pid: [2, 'Mode'], ipc: [3, 'Mode'], usernsOptions: [5, 'UsernsOptions'] },
  Mode: ['POD', 'CONTAINER', 'NODE', 'TARGET'],
  UsernsOptions: { mode: [1, 'Mode'] },
  Event: {
    containerId: [1, 'string'],
    containerEventType: [2, 'EventType'],
    createdAt: [3, 'int64'],
    podSandboxStatus: [4, 'Status'],
  },
  EventType: [
    'CONTAINER_CREATED_EVENT',
    'CONTAINER_STARTED_EVENT',
    'CONTAINER_STOPPED_EVENT',
    'CONTAINER_DELETED_EVENT',
  ],
  RunRequest: { config: [1, 'Config'] },
  Config: {
    metadata: [1, 'Metadata'],
    labels: [6, 'string', 'map'],
    annotations: [7, 'string', 'map'],
    linux: [8, 'Linux'],
  },
  Linux: { securityContext: [2, 'SecurityContext'] },
  SecurityContext: { namespaceOptions: [1, 'Options'] },
  Id: { podSandboxId: [1, 'string'] },
});

/** A message as it is read and written here. */
type Message = Record<string, unknown>;

const SERVICE = '/runtime.v1.RuntimeService';
const codec = <M = Message>(name: string) => codecOf<M>(SCHEMA, name);
const METHODS = {
  version: method(`${SERVICE}/Version`, codec('Empty'), codec('Version')),
  listPodSandbox: method(`${SERVICE}/ListPodSandbox`, codec<ListRequest>('ListRequest'), codec('List')),
  podSandboxStatus: method(
    `${SERVICE}/PodSandboxStatus`,
    codec<StatusRequest>('StatusRequest'),
    codec('StatusResponse'),
  ),
  getContainerEvents: method(`${SERVICE}/GetContainerEvents`, codec('Empty'), codec('Event'), 'stream'),
  runPodSandbox: method(`${SERVICE}/RunPodSandbox`, codec<{ config: Config }>('RunRequest'), codec<Id>('Id')),
  stopPodSandbox: method(`${SERVICE}/StopPodSandbox`, codec<Id>('Id'), codec('Empty')),
  removePodSandbox: method(`${SERVICE}/RemovePodSandbox`, codec<Id>('Id'), codec('Empty')),
};

interface Id {
  podSandboxId: string;
}
interface StatusRequest extends Id {
  verbose: boolean;
}
interface ListRequest {
  filter: { id: string; state: { state: State } | null; labelSelector: Record<string, string> } | null;
}
type State = 'SANDBOX_READY' | 'SANDBOX_NOTREADY';
type Mode = 'POD' | 'CONTAINER' | 'NODE';
interface Config {
  metadata: { name: string; uid: string; namespace: string; attempt: number };
  labels: Record<string, string>;
  annotations: Record<string, string>;
  linux: {
    securityContext: { namespaceOptions: { network: Mode; usernsOptions: { mode: Mode } | null } | null } | null;
  } | null;
}

/** What the real one answered. */
const RECORDED = JSON.parse(readFileSync(new URL('../fixtures/crio-answers.json', import.meta.url), 'utf8')) as Record<
  string,
  { status: Message; info: { 'info (a JSON string)': Info } }
> & {
  'userns namespaces': Info['runtimeSpec']['linux']['namespaces'];
  'userns mappings': unknown[][];
  version: Message;
};

interface Info {
  image?: string;
  pid?: number;
  runtimeSpec: {
    annotations: Record<string, string>;
    linux: { namespaces: { type: string; path?: string }[]; uidMappings?: unknown; gidMappings?: unknown };
  };
}

export interface CrioOptions {
  /** `drop_infra_ctr`, on by default. Without an infra container a sandbox has no process. */
  dropInfra?: boolean;
  /** `enable_pod_events`, off by default. */
  podEvents?: boolean;
}

interface Sandbox {
  id: string;
  config: Config;
  network: 'own' | 'host' | 'userns';
  /** Of its files in /run/netns and the like. */
  uuid: string;
  createdAt: bigint;
  ips: [string, string] | [];
  state: State;
}

/** How long the stream takes to end where the events are off. */
const OFF_AFTER_MS = 10;

const FOLDER = scratchFolder('crio');

export class StandInCrio implements AsyncDisposable {
  /** The node's files, as for --host-root. */
  readonly hostRoot = mkdtempSync(join(FOLDER, 'node-'));
  readonly socket = join(this.hostRoot, 'run/crio.sock');
  readonly options: Required<CrioOptions>;
  /** How long the CNI plugins take. */
  cniMs = 0;
  /** A file of the netns that pods on the node's network share. */
  readonly nodeNetns: string;
  /** Calls the plugins of NRI. */
  readonly nri: NriRuntime;
  readonly #farm: Farm;
  readonly #sandboxes = new Map<string, Sandbox>();
  /** Files that are mounted over something by others than the farm. */
  readonly #mounts = new Set<string>();
  /** How often the events were subscribed to. */
  subscriptions = 0;
  #subscribers = new Set<ServerWritableStream<Message, Message>>();
  #events: Promise<void> = Promise.resolve();
  #server = new Server();
  #made = 0;

  private constructor(farm: Farm, nodeNetns: string, { dropInfra = true, podEvents = false }: CrioOptions) {
    this.#farm = farm;
    this.nodeNetns = nodeNetns;
    this.options = { dropInfra, podEvents };
    for (const folder of ['netns', 'userns', 'nri']) mkdirSync(join(this.hostRoot, 'run', folder), { recursive: true });
    this.nri = new NriRuntime(join(this.hostRoot, 'run/nri/nri.sock'));
    // Those that were stopped, too, until they are removed.
    this.nri.lists = () => [[...this.#sandboxes.values()].map((sandbox) => this.#nriPod(sandbox))];
  }

  /** `nodeNetns`: that of the node; a new one, which no process is in, if absent. */
  static async start(options: CrioOptions = {}, nodeNetns?: string): Promise<StandInCrio> {
    const farm = new Farm('crio');
    const crio = new StandInCrio(farm, nodeNetns ?? (await farm.add()), options);
    await crio.listen();
    return crio;
  }

  netns(uuid: string): string {
    return join(this.hostRoot, 'run/netns', uuid);
  }

  /** The file in /run/netns of a sandbox. */
  netnsOf(id: string): string {
    return this.netns(this.#sandboxes.get(id)?.uuid ?? '');
  }

  /** Ends all connections, as a kill does. Sandboxes stay. */
  async kill(): Promise<void> {
    this.#server.forceShutdown();
    this.#subscribers.clear();
    rmSync(this.socket, { force: true });
    await this.nri.kill();
  }

  async listen(): Promise<void> {
    await this.nri.listen();
    this.#server = new Server();
    this.#server.addService(METHODS, {
      version: this.#unary(async () => camel(RECORDED.version)),
      listPodSandbox: this.#unary(async (request: ListRequest) => this.#list(request)),
      podSandboxStatus: this.#unary(async ({ podSandboxId, verbose }: StatusRequest) => {
        const sandbox = this.#find(podSandboxId);
        const timestamp = `${BigInt(Date.now()) * 1_000_000n}`;
        return { status: this.#statusOf(sandbox), info: verbose ? this.#infoOf(sandbox) : {}, timestamp };
      }),
      getContainerEvents: (call: ServerWritableStream<Message, Message>) => this.#subscribe(call),
      runPodSandbox: this.#unary(async ({ config }: { config: Config }) => ({ podSandboxId: await this.#run(config) })),
      stopPodSandbox: this.#unary(async ({ podSandboxId }: Id) => this.#stop(podSandboxId)),
      removePodSandbox: this.#unary(async ({ podSandboxId }: Id) => {
        await this.#stop(podSandboxId);
        this.#sandboxes.delete(podSandboxId);
        return {};
      }),
    });
    await promisify(this.#server.bindAsync.bind(this.#server))(
      `unix:${this.socket}`,
      ServerCredentials.createInsecure(),
    );
  }

  /** Sends the event of a sandbox's start, and makes no sandbox. */
  announce({ uid, namespace, name }: { uid: string; namespace: string; name: string }): void {
    const config: Config = { metadata: { uid, namespace, name, attempt: 0 }, labels: {}, annotations: {}, linux: null };
    const id = randomBytes(32).toString('hex');
    const sandbox = {
      id,
      config,
      network: 'own',
      uuid: randomUUID(),
      createdAt: now(),
      ips: [],
      state: 'SANDBOX_READY',
    };
    this.#tell(sandbox as Sandbox, 'CONTAINER_STARTED_EVENT');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    for (const id of this.#sandboxes.keys()) await this.#stop(id);
    await this.#farm[Symbol.asyncDispose]();
  }

  #unary<Request, Answer>(handle: (request: Request) => Promise<Answer>) {
    return ({ request }: ServerUnaryCall<Request, Answer>, answer: sendUnaryData<Answer>) => {
      handle(request).then(
        (message) => answer(null, message),
        (error: Error & { code?: number }) => answer({ code: error.code ?? status.UNKNOWN, details: error.message }),
      );
    };
  }

  async #run(config: Config): Promise<string> {
    const options = config.linux?.securityContext?.namespaceOptions;
    const network = options?.network === 'NODE' ? 'host' : options?.usernsOptions?.mode === 'POD' ? 'userns' : 'own';
    const uuid = randomUUID();
    const path = this.netns(uuid);
    // The file is there before the CNI plugins run, and the sandbox is not yet listed.
    if (network === 'host') {
      writeFileSync(path, '');
      await run('mount', ['--bind', this.nodeNetns, path]);
      this.#mounts.add(path);
    } else if (network === 'userns') {
      await this.#farm.addOwned(path, join(this.hostRoot, 'run/userns', uuid));
    } else await this.#farm.add(path);
    const ips: Sandbox['ips'] = network === 'host' ? [] : addressesOf(++this.#made);
    if (network !== 'host') {
      await sleep(this.cniMs);
      await connect(path, ips);
    }
    const id = randomBytes(32).toString('hex');
    const sandbox: Sandbox = { id, config, network, uuid, createdAt: now(), ips, state: 'SANDBOX_READY' };
    try {
      await this.nri.run(this.#nriPod(sandbox));
    } catch (error) {
      await this.#removeNetns(sandbox);
      throw error;
    }
    this.#sandboxes.set(id, sandbox);
    this.#tell(sandbox, 'CONTAINER_STARTED_EVENT');
    return id;
  }

  async #stop(id: string): Promise<Message> {
    const sandbox = this.#find(id);
    if (sandbox.state === 'SANDBOX_NOTREADY') return {};
    sandbox.state = 'SANDBOX_NOTREADY';
    await this.#removeNetns(sandbox);
    this.#tell(sandbox, 'CONTAINER_STOPPED_EVENT');
    return {};
  }

  async #removeNetns({ uuid, network }: Sandbox): Promise<void> {
    const path = this.netns(uuid);
    if (this.#mounts.delete(path)) {
      await run('umount', [path]);
      rmSync(path);
    } else await this.#farm.del(path);
    if (network === 'userns') await this.#farm.del(join(this.hostRoot, 'run/userns', uuid));
  }

  /** One that is being made is not there yet. */
  #find(id: string): Sandbox {
    const sandbox = this.#sandboxes.get(id);
    if (sandbox !== undefined) return sandbox;
    throw Object.assign(new Error(`could not find pod "${id}": PodSandbox with ID starting with ${id} not found`), {
      code: status.NOT_FOUND,
    });
  }

  #list({ filter }: ListRequest): Message {
    const items = [...this.#sandboxes.values()].filter(({ state, config }) => {
      const labels = Object.entries(filter?.labelSelector ?? {});
      return (
        (!filter?.state || filter.state.state === state) &&
        labels.every(([name, value]) => config.labels[name] === value)
      );
    });
    return { items: items.map((sandbox) => pick(this.#statusOf(sandbox), 'Item')) };
  }

  #subscribe(call: ServerWritableStream<Message, Message>): void {
    this.subscriptions++;
    if (!this.options.podEvents) {
      setTimeout(() => call.end(), OFF_AFTER_MS);
      return;
    }
    this.#subscribers.add(call);
    call.on('cancelled', () => this.#subscribers.delete(call));
  }

  /** One loop serves all subscribers: it waits for one that does not read. */
  #tell(sandbox: Sandbox, containerEventType: string): void {
    const event = {
      containerId: sandbox.id,
      containerEventType,
      createdAt: `${now()}`,
      podSandboxStatus: this.#statusOf(sandbox),
    };
    this.#events = this.#events.then(async () => {
      for (const call of this.#subscribers) {
        if (!call.write(event)) await drained(call);
      }
    });
  }

  #statusOf(sandbox: Sandbox): Message {
    return { ...camel(this.#recorded(sandbox).status), createdAt: `${sandbox.createdAt}` };
  }

  #infoOf(sandbox: Sandbox): Message {
    return { info: JSON.stringify(this.#specOf(sandbox)) };
  }

  /** The node's network has a path here too, and no address. */
  #nriPod(sandbox: Sandbox): Pod {
    const { id, config, ips } = sandbox;
    const { name, uid, namespace } = config.metadata;
    const { namespaces } = this.#specOf(sandbox).runtimeSpec.linux;
    return { id, name, uid, namespace, labels: config.labels, linux: { namespaces }, ips: [...ips] };
  }

  #specOf(sandbox: Sandbox): Info {
    const info = this.#recorded(sandbox).info['info (a JSON string)'];
    const { linux } = info.runtimeSpec;
    if (sandbox.network === 'userns') {
      linux.namespaces = replaced(RECORDED['userns namespaces'], [
        ['00000000-0000-4000-8000-000000000007', sandbox.uuid],
      ]);
      [linux.uidMappings, linux.gidMappings] = RECORDED['userns mappings'];
    }
    if (!this.options.dropInfra) {
      const ready = sandbox.state === 'SANDBOX_READY';
      Object.assign(info, { image: 'localhost/pause:test', pid: ready ? process.pid : 0 });
    }
    return info;
  }

  /** The recorded answer for a sandbox like this one, with the ids, names and addresses of this one. */
  #recorded({ id, config: { metadata }, network, uuid, ips, state }: Sandbox) {
    const like =
      network === 'host' ? 'hostNetwork, dropped' : state === 'SANDBOX_READY' ? 'dropped infra' : 'stopped, dropped';
    const answer = RECORDED[like];
    if (answer === undefined) throw new Error(`no recorded answer: ${like}`);
    const was = answer.status as { id: string; metadata: { name: string; uid: string; namespace: string } };
    const { annotations, linux } = answer.info['info (a JSON string)'].runtimeSpec;
    const netns =
      linux.namespaces
        .find(({ type }) => type === 'network')
        ?.path?.split('/')
        .at(-1) ?? '';
    const changed = replaced(answer, [
      [was.id, id],
      [was.metadata.uid, metadata.uid],
      [was.metadata.name, metadata.name],
      [was.metadata.namespace, metadata.namespace],
      [netns, uuid],
      [annotations['io.kubernetes.cri-o.IP.0'] ?? '', ips[0] ?? ''],
      [annotations['io.kubernetes.cri-o.IP.1'] ?? '', ips[1] ?? ''],
    ]);
    Object.assign(changed.status, { state, metadata });
    return changed;
  }
}

/** Waits until the subscriber has read, or left. */
async function drained(call: ServerWritableStream<Message, Message>): Promise<void> {
  const end = new AbortController();
  const { signal } = end;
  await Promise.race(['drain', 'cancelled'].map((name) => once(call, name, { signal }))).finally(() => end.abort());
}

const now = () => BigInt(Date.now()) * 1_000_000n;

function addressesOf(number: number): [string, string] {
  return [`10.244.1.${number + 1}`, `fd00:10:244:1::${(number + 1).toString(16)}`];
}

/** As the CNI plugins do it, but for the other end of the cable. */
async function connect(path: string, ips: readonly string[]): Promise<void> {
  const lines = ['link add eth0 type veth peer name peer0', 'link set eth0 up', 'link set peer0 up'];
  for (const ip of ips) {
    lines.push(`address add ${ip}/${ip.includes(':') ? '64 dev eth0 nodad' : '24 dev eth0'}`);
  }
  await inside(path, ['ip', '-batch', '-'], `${lines.join('\n')}\n`);
}

/** A deep copy in which whole strings, and whole parts of paths, are replaced. */
function replaced<T>(value: T, pairs: readonly (readonly [from: string, to: string])[]): T {
  if (typeof value === 'string') {
    let text: string = value;
    for (const [from, to] of pairs) {
      if (from === '') continue;
      text = text
        .split('/')
        .map((part) => (part === from ? to : part))
        .join('/');
    }
    return text as T;
  }
  if (Array.isArray(value)) return value.map((each: unknown) => replaced(each, pairs)) as T;
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, replaced(each, pairs)])) as T;
}

/** Keys in camel case, as protobufjs has them; those of maps have no underscore. */
function camel(value: unknown): Message {
  const convert = (each: unknown): unknown => {
    if (Array.isArray(each)) return each.map(convert);
    if (typeof each !== 'object' || each === null) return each;
    return Object.fromEntries(
      Object.entries(each).map(([key, inner]) => [
        key.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()),
        convert(inner),
      ]),
    );
  };
  return convert(value) as Message;
}

function pick(message: Message, name: string): Message {
  const { fields } = SCHEMA.lookupType(name);
  return Object.fromEntries(Object.entries(message).filter(([key]) => fields[key] !== undefined));
}
