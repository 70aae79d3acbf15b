/**
 * A stand-in for kube-apiserver in a process of its own: lists and watches of one node's pods, patches of their status,
 * over HTTPS. Its parent decides what happens to pods. It records when it reported a pod, and when it received the
 * patch.
 */
import { readFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { encode, envelope, enveloped, eventFrame, field, PROTOBUF } from '../../test/support/protobuf.ts';
import { NAMESPACE, NODE, podEncoder, podWriter, REFUSED, type StoredPod } from './pods.ts';

/** `annotations` are those of a new pod, beside the template's. */
export type Change = [
  what: 'create' | 'run' | 'terminate' | 'delete',
  name: string,
  annotations?: Record<string, string>,
];

/** A pod, and the milliseconds since 1970 at which it was created. */
export type Created = [name: string, at: number];

export interface Report {
  /** Milliseconds from writing the ADDED event to having read the patch. */
  latencies: number[];
  /** Patches of a pod after its first. */
  further: number;
  requests: number;
  /** Patches of pods' status, and Events. */
  patches: number;
  events: number;
  /** Bytes of events that the controller's own patches caused, for one watcher. */
  echoed: number;
  /** Bytes of all events, for one watcher. */
  told: number;
  /** Lives that ended before their patch. */
  unmarked: number;
}

export type Question = { changes: Change[] } | { report: true } | { marked: number } | { created: true };
export type Answer = { port: number } | { report: Report } | { marked: number; at: number } | { created: Created[] };

const [, , certificate = '', key = ''] = process.argv;
const write = podWriter();

/** Of collections and of their events. */
interface Form {
  type: string;
  watchType: string;
  event(type: string, pod: StoredPod): Buffer;
  pods(metadata: object, pods: StoredPod[]): Buffer;
  namespaces(metadata: object, items: object[]): Buffer;
  /** PartialObjectMetadata. */
  metadata(pod: StoredPod): Buffer;
}

const JSON_FORM: Form = {
  type: 'application/json',
  watchType: 'application/json',
  event: (type, pod) => Buffer.from(`{"type":"${type}","object":${write(pod)}}\n`),
  pods: (metadata, pods) => Buffer.from(`{"metadata":${JSON.stringify(metadata)},"items":[${pods.map(write).join()}]}`),
  namespaces: (metadata, items) => Buffer.from(JSON.stringify({ metadata, items })),
  metadata: (pod) => {
    const { metadata } = JSON.parse(write(pod)) as { metadata: unknown };
    return Buffer.from(JSON.stringify({ kind: 'PartialObjectMetadata', metadata }));
  },
};

const encoder = podEncoder();
const PROTOBUF_FORM: Form = {
  type: PROTOBUF,
  watchType: `${PROTOBUF};stream=watch`,
  event: (type, pod) => eventFrame(type, ...enveloped('Pod', encoder.pod(pod))),
  pods: (metadata, pods) => {
    const items = pods.flatMap((pod) => field(2, encoder.pod(pod)));
    return Buffer.concat(enveloped('PodList', [encode('PodList', { metadata }), ...items]));
  },
  namespaces: (metadata, items) => envelope('NamespaceList', { metadata, items }),
  metadata: (pod) => Buffer.concat(enveloped('PartialObjectMetadata', field(1, encoder.metadata(pod)))),
};

function formOf({ headers }: IncomingMessage): Form {
  return headers.accept?.startsWith(PROTOBUF) ? PROTOBUF_FORM : JSON_FORM;
}

const pods = new Map<string, StoredPod>();
const toldAt = new Map<string, number>();
const watches = new Map<ServerResponse, Form>();
/** Since it was asked for. */
let created: Created[] = [];
const marked = new Set<string>();
let awaited = Number.POSITIVE_INFINITY;
let version = 1;
let report = emptyReport();

function emptyReport(): Report {
  return { latencies: [], further: 0, requests: 0, patches: 0, events: 0, echoed: 0, told: 0, unmarked: 0 };
}

/** Nobody watches that one's node. */
put({ ...blank('probe'), node: 'elsewhere' });

function blank(name: string, annotations: Record<string, string> = {}): StoredPod {
  const uid = `5f0c7a52-9f0e-4c4e-8a5b-${String(++version).padStart(12, '0')}`;
  return {
    name,
    uid,
    version,
    node: NODE,
    phase: 'Pending',
    terminating: false,
    annotations: { ...annotations },
    conditions: [],
  };
}

function put(pod: StoredPod): void {
  pods.set(pod.name, pod);
}

/** Returns the bytes that a watcher gets. */
function tell(type: string, pod: StoredPod): number {
  if (pod.node !== NODE) return 0;
  let bytes = 0;
  for (const [watch, form] of watches) {
    const event = form.event(type, pod);
    bytes = event.length;
    if (type === 'ADDED') toldAt.set(pod.name, performance.now());
    watch.write(event);
  }
  report.told += bytes;
  return bytes;
}

function change([what, name, annotations]: Change): void {
  if (what === 'create') {
    put(blank(name, annotations));
    created.push([name, performance.timeOrigin + performance.now()]);
    const pod = pods.get(name);
    if (pod) tell('ADDED', pod);
    return;
  }
  const pod = pods.get(name);
  if (pod === undefined) return;
  pod.version = ++version;
  if (what === 'run') pod.phase = 'Running';
  if (what === 'terminate') pod.terminating = true;
  if (what === 'delete') {
    pods.delete(name);
    if (!marked.delete(name)) report.unmarked++;
    toldAt.delete(name);
  }
  tell(what === 'delete' ? 'DELETED' : 'MODIFIED', pod);
}

interface Patch {
  metadata: { uid: string; annotations: Record<string, string | null> };
  status: { conditions: { type: string; $patch?: string }[] };
}

async function answerPatch(request: IncomingMessage, response: ServerResponse, name: string): Promise<void> {
  const { metadata, status } = JSON.parse(await text(request)) as Patch;
  const pod = pods.get(name);
  if (pod === undefined) return answer(response, 404, '{"kind":"Status","code":404,"reason":"NotFound"}');
  if (metadata.uid !== pod.uid && name !== 'probe')
    return answer(response, 422, '{"kind":"Status","code":422,"message":"metadata.uid: Invalid value"}');
  if (name.startsWith(REFUSED))
    return answer(response, 500, '{"kind":"Status","code":500,"reason":"InternalError","message":"refused"}');
  const told = toldAt.get(name);
  if (told !== undefined) {
    if (marked.has(name)) report.further++;
    else report.latencies.push(performance.now() - told);
    marked.add(name);
  }
  for (const [key, value] of Object.entries(metadata.annotations)) {
    if (value === null) delete pod.annotations[key];
    else pod.annotations[key] = value;
  }
  for (const condition of status.conditions) {
    pod.conditions = pod.conditions.filter(({ type }) => type !== condition.type);
    if (condition.$patch === undefined) pod.conditions.push(condition as unknown as Record<string, unknown>);
  }
  pod.version = ++version;
  const bytes = tell('MODIFIED', pod);
  if (name !== 'probe') {
    report.patches++;
    report.echoed += bytes;
  }
  // As the API server does where that is asked for.
  const form = formOf(request);
  answer(response, 200, form.metadata(pod), form.type);
  if (marked.size >= awaited) {
    awaited = Number.POSITIVE_INFINITY;
    say({ marked: marked.size, at: performance.timeOrigin + performance.now() });
  }
}

function answer(response: ServerResponse, code: number, body: string | Buffer, type = JSON_FORM.type): void {
  response.writeHead(code, { 'Content-Type': type });
  response.end(body);
}

function answerWatch(response: ServerResponse, form: Form, ofPods: boolean): void {
  response.writeHead(200, { 'Content-Type': form.watchType });
  response.flushHeaders();
  if (!ofPods) return;
  watches.set(response, form);
  response.on('close', () => watches.delete(response));
}

function listOf(form: Form, ofPods: boolean, query: URLSearchParams): Buffer {
  const resourceVersion = String(version);
  if (!ofPods) {
    const items = [{ metadata: { name: NAMESPACE, uid: 'n', resourceVersion: '1' } }];
    return form.namespaces({ resourceVersion }, items);
  }
  const own = [...pods.values()].filter(({ node }) => node === NODE);
  const from = Number(query.get('continue') ?? 0);
  const to = from + Number(query.get('limit') ?? own.length);
  const page = own.slice(from, to);
  for (const { name } of page) toldAt.set(name, performance.now());
  // Nothing changes between a list and its watch here, so no history is kept.
  return form.pods({ resourceVersion, ...(to < own.length && { continue: String(to) }) }, page);
}

function answerGet(request: IncomingMessage, response: ServerResponse, pathname: string, query: URLSearchParams): void {
  const form = formOf(request);
  const ofPods = pathname === '/api/v1/pods';
  if (query.has('watch')) answerWatch(response, form, ofPods);
  else answer(response, 200, listOf(form, ofPods, query), form.type);
}

const server = createServer({ cert: readFileSync(certificate), key: readFileSync(key) }, (request, response) => {
  report.requests++;
  const { pathname, searchParams } = new URL(request.url ?? '/', 'https://stand-in');
  if (request.method === 'GET') answerGet(request, response, pathname, searchParams);
  else if (request.method === 'PATCH') void answerPatch(request, response, pathname.split('/')[6] ?? '');
  else {
    request.resume();
    if (pathname.endsWith('/events')) report.events++;
    answer(response, 201, '{}');
  }
});
server.keepAliveTimeout = 90_000;
server.listen(0, '127.0.0.1', () => say({ port: (server.address() as AddressInfo).port }));

function say(answer: Answer): void {
  process.send?.(answer);
}

process.on('message', (question: Question) => {
  if ('changes' in question) question.changes.forEach(change);
  else if ('marked' in question) awaited = question.marked;
  else if ('created' in question) {
    say({ created });
    created = [];
  } else {
    say({ report });
    report = emptyReport();
  }
});
process.on('disconnect', () => process.exit());
