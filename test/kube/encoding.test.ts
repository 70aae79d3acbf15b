/** Reading of protobuf, cut in any way and damaged in any way; what real bytes mean is in test/cluster/encoding.test.ts. */
import assert from 'node:assert/strict';
import { ApiError } from '../../lib/kube/client.ts';
import { encodingOf } from '../../lib/kube/encoding.ts';
import { MAGIC } from '../../lib/kube/messages.ts';
import { toPodRecord } from '../../lib/kube/pods.ts';
import { suite } from '../suite.ts';
import { fixture, fixtures } from '../support/pods.ts';
import { delimited, encode, envelope, eventFrame, framed, PROTOBUF } from '../support/protobuf.ts';

const { object, event, splitter } = encodingOf(PROTOBUF);

interface PodMessage {
  metadata: { name: string; annotations: Record<string, string> };
  spec: {
    hostUsers?: boolean;
    securityContext: { runAsUser?: unknown; runAsGroup?: unknown };
    containers: { args: string[]; env: { name: string; value?: string; valueFrom?: object }[] }[];
  };
  status: unknown;
}

function podMessage(pod: object): PodMessage {
  return object(envelope('Pod', pod)) as PodMessage;
}

const objects = suite('objects in protobuf');

for (const name of fixtures) {
  objects(`${name}: as from JSON`, () => {
    const pod = fixture(name) as object;
    assert.deepEqual(toPodRecord(object(envelope('Pod', pod))), toPodRecord(pod));
  });
}

objects('what is absent is undefined, and what is empty is there', () => {
  const empty = podMessage({});
  assert.deepEqual([empty.metadata, empty.spec, empty.status], [undefined, undefined, undefined]);
  const { metadata, spec, status } = podMessage({
    metadata: { annotations: { empty: '' } },
    spec: {
      hostUsers: false,
      securityContext: { runAsUser: 0 },
      containers: [{ args: ['', 'a'], env: [{ name: 'A', valueFrom: {} }] }, {}],
    },
  });
  assert.deepEqual(metadata.annotations, { empty: '' });
  assert.deepEqual([spec.hostUsers, podMessage({ spec: {} }).spec.hostUsers], [false, undefined]);
  assert.deepEqual([Number(spec.securityContext.runAsUser), spec.securityContext.runAsGroup], [0, undefined]);
  const [full, bare] = spec.containers;
  assert.deepEqual([full?.args, bare?.args, bare?.env], [['', 'a'], [], []]);
  const [variable] = full?.env ?? [];
  assert.deepEqual([variable?.name, variable?.value, typeof variable?.valueFrom], ['A', undefined, 'object']);
  assert.equal(status, undefined);
});

objects('a spec that was read before is kept, and not read again', () => {
  const given = fixture('native-cni') as { metadata: object; spec: object; status: object };
  const held = toPodRecord(given);
  const metadata = encode('ObjectMeta', { ...given.metadata, resourceVersion: '1000' });
  const cut = Buffer.from([0x0a, 0xff]);
  const status = encode('PodStatus', given.status);
  const bytes = Buffer.concat([delimited(1, metadata), delimited(2, cut), delimited(3, status)]);
  assert.throws(() => toPodRecord(object(envelope('Pod', bytes))), SyntaxError);
  const later = toPodRecord(object(envelope('Pod', bytes)), held);
  assert.equal(later.spec, held.spec);
  assert.equal(later.metadata.resourceVersion, '1000');
  assert.deepEqual(later.status, held.status);
});

objects('names that every object has are keys like others', () => {
  const names = ['constructor', 'toString', 'hasOwnProperty'];
  const annotations = Object.fromEntries(names.map((name) => [name, 'x']));
  const read = podMessage({ metadata: { name: 'n', uid: 'u', annotations } });
  assert.deepEqual(Object.keys(read.metadata.annotations), names);
  assert.deepEqual(toPodRecord(read).metadata.annotations, {});
});

objects('no key of a map reaches the prototype of all objects', () => {
  const entry = Buffer.concat([delimited(1, Buffer.from('__proto__')), delimited(2, Buffer.from('x'))]);
  const named = encode('ObjectMeta', { name: 'n', uid: 'u' });
  const pod = delimited(1, Buffer.concat([named, delimited(12, entry)]));
  assert.deepEqual(toPodRecord(object(envelope('Pod', pod))).metadata.annotations, {});
  assert.equal(({} as { x?: unknown }).x, undefined);
});

objects('fields that are not known are skipped, of each wire type', () => {
  const unknown = [
    Buffer.from([0xa0, 0x06, 0x80, 0x01]), // field 100, a number
    Buffer.from([0xa1, 0x06, 1, 2, 3, 4, 5, 6, 7, 8]), // 100, 64 bits
    Buffer.from([0xa5, 0x06, 1, 2, 3, 4]), // 100, 32 bits
    delimited(100, Buffer.alloc(300)),
    delimited(2 ** 29 - 1, Buffer.alloc(1)), // the highest there is
  ];
  const name = encode('ObjectMeta', { name: 'ä€😀' });
  const { metadata, spec, status } = podMessage(Buffer.concat([...unknown, delimited(1, name), ...unknown]));
  assert.deepEqual([metadata.name, spec, status], ['ä€😀', undefined, undefined]);
});

objects('numbers of 64 bits', () => {
  for (const runAsUser of [0, 127, 128, 2 ** 31, 2 ** 53 - 1, -1]) {
    const pod = { metadata: { name: 'n', uid: 'u' }, spec: { securityContext: { runAsUser } } };
    assert.equal(toPodRecord(podMessage(pod)).spec.securityContext?.runAsUser, runAsUser);
  }
});

objects('times are told as JSON has them', () => {
  const metadata = { name: 'n', uid: 'u', deletionTimestamp: { seconds: Date.parse('2026-11-21T17:00:07Z') / 1000 } };
  assert.equal(toPodRecord(object(envelope('Pod', { metadata }))).metadata.deletionTimestamp, '2026-11-21T17:00:07Z');
});

objects('an error says what JSON would', () => {
  const given = { code: 429, reason: 'TooManyRequests', message: 'slow down', details: { retryAfterSeconds: 2 } };
  const { status, reason, answer, retryAfterMs } = ApiError.from(object(envelope('Status', given)), {
    status: 500,
    message: '',
  });
  assert.deepEqual([status, reason, answer, retryAfterMs], [429, 'TooManyRequests', 'slow down', 2000]);
  const empty = ApiError.from(object(envelope('Status', { code: 0, message: '' })), { status: 503, message: 'busy' });
  assert.deepEqual([empty.status, empty.answer], [503, 'busy'], "what Go's JSON leaves out is empty in protobuf");
});

objects('what is cut throws SyntaxError, and so does what is damaged, if it throws', () => {
  const pod = envelope('Pod', fixture('native-cni') as object);
  const readAll = (bytes: Buffer) => {
    const { spec, status } = object(bytes) as PodMessage;
    return [spec, status];
  };
  for (let end = 0; end < pod.length; end++)
    assert.throws(() => readAll(pod.subarray(0, end)), SyntaxError, `cut at ${end}`);
  let refused = 0;
  for (let at = 0; at < pod.length; at++) {
    for (const damage of [0x00, 0x07, 0x80, 0xff]) {
      const damaged = Buffer.from(pod);
      damaged[at] = damage;
      try {
        readAll(damaged);
      } catch (error) {
        assert.ok(error instanceof SyntaxError, `byte ${at}: ${error}`);
        refused++;
      }
    }
  }
  assert.ok(refused > 100, `${refused}`);
  assert.throws(() => object(Buffer.from('{"kind":"Pod"}')), /not an object of Kubernetes in protobuf/);
  const otherMagic = Buffer.concat([Buffer.from('k8s\x01'), pod.subarray(4)]);
  assert.throws(() => object(otherMagic), /not an object of Kubernetes in protobuf/);
  for (const kind of ['Node', '__proto__', 'constructor', 'WatchEvent'])
    assert.throws(() => object(envelopeOf(kind, Buffer.alloc(0))), new RegExp(`unknown kind: "${kind}"`));
  const tooLong = [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
  for (const bytes of [[0x0f], [0x08], [0x0a, 0x80], tooLong])
    assert.throws(() => object(envelopeOf('Pod', Buffer.from(bytes))), SyntaxError, `${bytes}`);
});

/** Also of kinds that there are not. */
function envelopeOf(kind: string, raw: Buffer): Buffer {
  return Buffer.concat([MAGIC, encode('Unknown', { typeMeta: { kind }, raw })]);
}

const frames = suite('frames of a watch');

const pods = ['a', 'b', 'c'].map((name) => ({ metadata: { name, annotations: { long: name.repeat(300) } } }));
const stream = Buffer.concat(pods.map((pod) => eventFrame('ADDED', envelope('Pod', pod))));

function read(...chunks: Buffer[]): unknown[] {
  const one = splitter();
  const found = chunks.flatMap((chunk) => [...one.push(chunk)].map(event));
  one.end();
  return found.map(({ object }) => {
    const { metadata, spec, status } = object as PodMessage;
    assert.deepEqual([spec, status], [undefined, undefined]);
    return { metadata: { name: metadata.name, annotations: metadata.annotations } };
  });
}

frames('are read in one piece, in pieces of any length, and at any cut', () => {
  assert.deepEqual(read(stream), pods);
  for (const length of [1, 2, 3, 5, 7, 100, 1000]) {
    const chunks = Array.from({ length: Math.ceil(stream.length / length) }, (_, at) =>
      stream.subarray(at * length, (at + 1) * length),
    );
    assert.deepEqual(read(...chunks), pods, `by ${length}`);
  }
  for (let at = 0; at <= stream.length; at++) assert.deepEqual(read(stream.subarray(0, at), stream.subarray(at)), pods);
});

frames('come as they are where they are whole: nothing is copied', () => {
  const one = splitter();
  // Of no pool, where a copy might lie as well.
  const own = Buffer.from(new Uint8Array(stream));
  assert.equal([...one.push(own)].filter(({ buffer }) => buffer === own.buffer).length, pods.length);
  const later = [...one.push(own.subarray(0, 4)), ...one.push(own.subarray(4))];
  assert.equal(later[0]?.buffer, own.buffer, 'also where the length came before it, as the API server writes it');
});

frames('an end within one, or within its length, throws, and not SyntaxError', () => {
  const ends = pods.map((_, at) => (stream.length / pods.length) * (at + 1));
  for (let end = 1; end < stream.length; end++) {
    if (ends.includes(end)) assert.deepEqual(read(stream.subarray(0, end)).length, ends.indexOf(end) + 1);
    else assert.throws(() => read(stream.subarray(0, end)), { name: 'Error', message: /in the middle of a frame/ });
  }
});

frames('of more than 16 MB are refused at their length, without room being made for them', () => {
  const before = process.memoryUsage().arrayBuffers;
  for (const length of [0x01000001, 0xffffffff]) {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(length);
    assert.throws(() => read(bytes), { name: 'SyntaxError', message: `a frame of a watch of ${length} bytes` });
  }
  assert.ok(process.memoryUsage().arrayBuffers - before < 1 << 20);
});

frames('that hold no event throw SyntaxError', () => {
  const pod = envelope('Pod', pods[0] ?? {});
  for (const nonsense of [
    framed(Buffer.alloc(0)),
    framed(Buffer.from('nonsense')),
    framed(pod),
    eventFrame('ADDED', Buffer.alloc(0)),
    eventFrame('ADDED', pod.subarray(4)),
    eventFrame('ADDED', encode('Pod', pods[0] ?? {})),
  ])
    assert.throws(() => read(nonsense), SyntaxError);
});
