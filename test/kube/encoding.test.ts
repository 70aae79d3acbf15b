/** Reading of protobuf, cut in any way and damaged in any way; what real bytes mean is in test/cluster/encoding.test.ts. */
import assert from 'node:assert/strict';
import { ApiError } from '../../lib/kube/client.ts';
import { encodingOf, type WatchEvent } from '../../lib/kube/encoding.ts';
import { MAGIC } from '../../lib/kube/messages.ts';
import { toPodRecord } from '../../lib/kube/pods.ts';
import { suite } from '../suite.ts';
import { fixture, fixtures } from '../support/pods.ts';
import { delimited, encode, envelope, eventFrame, field, framed, PROTOBUF, plain } from '../support/protobuf.ts';

const { object, watch } = encodingOf(PROTOBUF);

interface PodMessage {
  metadata: { name: string; annotations: Record<string, string> };
  spec: {
    hostNetwork?: boolean;
    securityContext: { runAsUser?: unknown; runAsGroup?: unknown };
    containers: { args: string[]; env: { name: string; value?: string; valueFrom?: object }[] }[];
  };
  status: unknown;
}

function podMessage(pod: object): PodMessage {
  return plain('Pod', object(envelope('Pod', pod))) as unknown as PodMessage;
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
      hostNetwork: false,
      securityContext: { runAsUser: 0 },
      containers: [{ args: ['', 'a'], env: [{ name: 'A', valueFrom: {} }] }, {}],
    },
  });
  assert.deepEqual(metadata.annotations, { empty: '' });
  assert.deepEqual([spec.hostNetwork, podMessage({ spec: {} }).spec.hostNetwork], [false, undefined]);
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

objects('how a gate ended, as from JSON', () => {
  const terminated = { exitCode: 126, message: 'not redirected', finishedAt: { seconds: 1_786_439_642 } };
  const ended = (at: unknown) => [
    { name: 'istio-proxy', restartCount: 2, lastState: { terminated: { ...terminated, finishedAt: at } } },
  ];
  const metadata = { name: 'n', uid: 'u' };
  const read = (initContainerStatuses: object[]) => ({ metadata, status: { initContainerStatuses } });
  const bytes = object(envelope('Pod', read(ended(terminated.finishedAt))));
  const json = toPodRecord(read(ended(new Date(1_786_439_642_000).toISOString())));
  assert.deepEqual(toPodRecord(bytes).status, json.status);
  assert.equal(json.status.gateEnd?.restarts, 2);
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

objects('times have the same form as in JSON', () => {
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
  const readAll = (bytes: Buffer) => plain('Pod', object(bytes));
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
  const one = watch();
  const found = chunks.flatMap((chunk) => [...one.push(chunk)]);
  one.end();
  return found.map(({ object }) => {
    const { metadata, spec, status } = plain('Pod', object) as unknown as PodMessage;
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
  const one = watch();
  const bufferOf = ({ object }: WatchEvent) => (object as { reader: { buf: Buffer } }).reader.buf.buffer;
  // Of no pool, where a copy might lie as well.
  const own = Buffer.from(new Uint8Array(stream));
  assert.equal([...one.push(own)].filter((event) => bufferOf(event) === own.buffer).length, pods.length);
  const later = [...one.push(own.subarray(0, 4)), ...one.push(own.subarray(4))];
  assert.equal(
    later[0] && bufferOf(later[0]),
    own.buffer,
    'also where the length came before it, as the API server writes it',
  );
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

const lists = suite('lists');

const ITEMS = ['a', 'b', 'c'].map((name) => ({
  metadata: { name, uid: name, annotations: { brackets: '}]{[\\"ä€' } },
}));
const META = { resourceVersion: '7', continue: 'more' };
/** What the API server writes at the end of what is around each object: an encoding and a type that are empty. */
const TAIL = Buffer.from([0x1a, 0, 0x22, 0]);
const BODIES: [form: string, type: string, body: Buffer][] = [
  ['protobuf', PROTOBUF, Buffer.concat([envelope('PodList', { metadata: META, items: ITEMS }), TAIL])],
  ['JSON', 'application/json', Buffer.from(JSON.stringify({ kind: 'PodList', metadata: META, items: ITEMS }))],
  [
    'JSON with spaces, its items first',
    'application/json',
    Buffer.from(JSON.stringify({ a: { items: [1] }, b: 'items', items: ITEMS, c: [[]], metadata: META }, null, 2)),
  ],
];

function readList(type: string, ...chunks: Buffer[]) {
  const one = encodingOf(type).list();
  const names = chunks.flatMap((chunk) => Array.from(one.push(chunk), (item) => toPodRecord(item).metadata.name));
  const { resourceVersion, continue: next } = one.end();
  return { names, resourceVersion, next };
}

for (const [form, type, body] of BODIES) {
  const expected = { names: ['a', 'b', 'c'], resourceVersion: '7', next: 'more' };

  lists(`${form}: read in one piece, in pieces of any length, and at any cut`, () => {
    assert.deepEqual(readList(type, body), expected);
    for (const length of [1, 2, 3, 7, 100]) {
      const chunks = Array.from({ length: Math.ceil(body.length / length) }, (_, at) =>
        body.subarray(at * length, (at + 1) * length),
      );
      assert.deepEqual(readList(type, ...chunks), expected, `by ${length}`);
    }
    for (let at = 0; at <= body.length; at++)
      assert.deepEqual(readList(type, body.subarray(0, at), body.subarray(at)), expected, `cut at ${at}`);
  });

  lists(`${form}: an end in the middle throws, and not SyntaxError`, () => {
    const ends = form === 'protobuf' ? [body.length - 4, body.length - 2] : [];
    for (let end = 0; end < body.length; end++) {
      if (ends.includes(end)) assert.deepEqual(readList(type, body.subarray(0, end)), expected);
      else
        assert.throws(() => readList(type, body.subarray(0, end)), {
          name: 'Error',
          message: /in the middle of a list/,
        });
    }
  });

  lists(`${form}: an item is given as soon as it came, and what came before it is not held`, () => {
    const one = encodingOf(type).list();
    let given = 0;
    for (let at = 0; at < body.length && given === 0; at++) {
      for (const item of one.push(body.subarray(at, at + 1))) {
        assert.equal(toPodRecord(item).metadata.name, 'a');
        assert.ok(body.subarray(0, at + 1).includes('brackets'));
        assert.ok(at < body.length / 2);
        given++;
      }
    }
    assert.equal(given, 1);
  });
}

lists('without an item', () => {
  const none = { names: [], resourceVersion: '7', next: undefined };
  const metadata = { resourceVersion: '7' };
  assert.deepEqual(readList(PROTOBUF, envelope('PodList', { metadata })), none);
  for (const items of [[], null, undefined])
    assert.deepEqual(readList('application/json', Buffer.from(JSON.stringify({ metadata, items }))), none);
  const nothing = { names: [], resourceVersion: undefined, next: undefined };
  for (const json of ['null', '{}', '{"metadata":null}'])
    assert.deepEqual(readList('application/json', Buffer.from(json)), nothing, json);
});

lists('invalid bytes throw SyntaxError', () => {
  const item = delimited(2, encode('Pod', {}));
  for (const nonsense of [
    envelope('Pod', {}),
    envelopeOf('NodeList', item),
    Buffer.from('{"kind":"PodList"}'),
    Buffer.concat([MAGIC, Buffer.from([0x08, 0x01])]),
    Buffer.concat([MAGIC, Buffer.from([0x0a, 0xff, 0xff, 0xff, 0x7f])]),
    envelopeOf('PodList', Buffer.from([0x12, 0xff, 0xff, 0xff, 0x7f])),
    envelopeOf('PodList', Buffer.from([0x12, 0x05, 0x00])),
    envelopeOf('PodList', Buffer.from([0x08, 0x05])),
    envelopeOf('PodList', Buffer.alloc(8, 0xff)),
  ])
    assert.throws(() => readList(PROTOBUF, nonsense), SyntaxError, nonsense.toString('hex'));
  for (const nonsense of ['<html>', '[', '{"items":[1]}', '{"items":["a"]}', '{"items":[{]}', '{"metadata":}'])
    assert.throws(() => readList('application/json', Buffer.from(nonsense)), Error, nonsense);
});

lists('an item of more than 16 MB is refused, in either form, and no more of it is held', () => {
  const chunk = Buffer.alloc(1 << 20, 'x');
  const feed = (type: string, begin: Buffer) => {
    const one = encodingOf(type).list();
    assert.deepEqual([...one.push(begin)], []);
    for (let megabytes = 1; megabytes <= 17; megabytes++) assert.deepEqual([...one.push(chunk)], []);
  };
  assert.throws(() => feed('application/json', Buffer.from('{"items":[{"a":"')), /an item of a list of more than/);
  assert.throws(() => feed('application/json', Buffer.from('{"a":"')), /a list without its items of more than/);
  const long = Buffer.concat([MAGIC, ...field(1, [encode('TypeMeta', { kind: 'PodList' })])]);
  const head = Buffer.from([0x12, 0x80, 0x80, 0x80, 0x7f, 0x12, 0x81, 0x80, 0x80, 0x08]);
  assert.throws(() => feed(PROTOBUF, Buffer.concat([long, head])), /an item of a list of 16777217 bytes/);
});

lists('a line of a watch of more than 16 MB is refused', () => {
  const one = encodingOf('application/json').watch();
  const chunk = Buffer.alloc(1 << 20, 'x');
  assert.throws(() => {
    for (let megabytes = 1; megabytes <= 17; megabytes++) assert.deepEqual([...one.push(chunk)], []);
  }, SyntaxError);
});
