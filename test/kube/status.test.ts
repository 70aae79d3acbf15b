/** The requests for marks and Events. cluster/status.test.ts tests how the API server answers them. */
import assert from 'node:assert/strict';
import { ConfigError, Failure } from '../../lib/errors.ts';
import { NETNS, RULES, STATUS } from '../../lib/istio/names.ts';
import { ApiError } from '../../lib/kube/client.ts';
import { EventRecorder } from '../../lib/kube/events.ts';
import { failed, type Mark, type MarkedPod, PodStatusWriter, READY } from '../../lib/kube/status.ts';
import { suite } from '../suite.ts';

interface Patch {
  metadata: { uid: string; annotations: Record<string, string | null> };
  status: { conditions: [Record<string, string>] };
}

/** Stands in for the API: notes what it is asked, and answers with `error` if there is one. */
class FakeRequests {
  readonly asked: { path: string; content: unknown }[] = [];
  error: unknown;

  /** The version that the next patch makes. */
  version = 0;

  async patch(path: string, _type: 'strategic', content: unknown) {
    await this.post(path, content);
    return { kind: 'PartialObjectMetadata', metadata: { resourceVersion: String(this.version) } };
  }

  async post(path: string, content: unknown) {
    this.asked.push({ path, content: JSON.parse(JSON.stringify(content)) });
    if (this.error !== undefined) throw this.error;
  }

  get last() {
    return this.asked.at(-1)?.content as Patch;
  }
}

const NOW = '2026-01-02T03:04:05.000Z';
const POD: MarkedPod = { uid: 'u-1', namespace: 'default', name: 'web' };
const DONE: Mark = { status: 'initialized', netns: 'boot:7', rules: 'abc' };
const MARKED: MarkedPod = {
  ...POD,
  annotations: { [STATUS]: 'initialized', [NETNS]: 'boot:7', [RULES]: 'abc', other: 'kept' },
  conditions: [
    { type: 'Ready', status: 'False' },
    { type: READY, status: 'True', reason: 'Initialized', message: 'traffic is redirected' },
  ],
};

function setUp(error?: unknown) {
  const requests = new FakeRequests();
  requests.error = error;
  return { requests, marker: new PodStatusWriter(requests, () => new Date(NOW)) };
}

const answer = (status: number, message = '', retryAfterMs?: number) => new ApiError(status, '', message, retryAfterMs);

const marking = suite('status');

marking('one patch of the status, for this uid only', async () => {
  const { requests, marker } = setUp();
  assert.equal(await marker.mark(POD, DONE), 'patched');
  assert.deepEqual(requests.asked, [
    {
      path: '/api/v1/namespaces/default/pods/web/status',
      content: {
        metadata: { uid: 'u-1', annotations: { [STATUS]: 'initialized', [NETNS]: 'boot:7', [RULES]: 'abc' } },
        status: {
          conditions: [
            {
              type: READY,
              status: 'True',
              reason: 'Initialized',
              message: 'traffic is redirected',
              lastTransitionTime: NOW,
            },
          ],
        },
      },
    },
  ]);
});

marking('nothing is asked where the mark is right', async () => {
  const { requests, marker } = setUp();
  assert.equal(await marker.mark(MARKED, DONE), 'unchanged');
  assert.deepEqual(requests.asked, []);
});

marking('each part of the mark counts', async () => {
  for (const wrong of [
    { annotations: { ...MARKED.annotations, [STATUS]: 'failed: x' } },
    { annotations: { ...MARKED.annotations, [NETNS]: 'boot:6' } },
    { annotations: { ...MARKED.annotations, [RULES]: 'abd' } },
    { conditions: [] },
    { conditions: [{ type: READY, status: 'False', reason: 'Initialized', message: 'traffic is redirected' }] },
    { conditions: [{ type: READY, status: 'True', reason: 'X', message: 'traffic is redirected' }] },
    { conditions: [{ type: READY, status: 'True', reason: 'Initialized', message: 'x' }] },
  ]) {
    const { marker } = setUp();
    assert.equal(await marker.mark({ ...MARKED, ...wrong }, DONE), 'patched', JSON.stringify(wrong));
  }
});

marking('the time of transition stays while the status does', async () => {
  const { requests, marker } = setUp();
  requests.version = 10;
  const seen = { ...MARKED, resourceVersion: '9' };
  await marker.mark({ ...seen, annotations: {} }, DONE);
  assert.equal(requests.last.status.conditions[0].lastTransitionTime, undefined);
  await marker.mark(seen, { status: 'failed', reason: 'InstallFailed', message: 'one' });
  assert.equal(requests.last.status.conditions[0].lastTransitionTime, NOW);
  await marker.mark(seen, { status: 'failed', reason: 'InstallFailed', message: 'two' });
  assert.equal(requests.last.status.conditions[0].lastTransitionTime, undefined);
});

marking('a pod seen before our own last patch is not taken for what it is now', async () => {
  const { requests, marker } = setUp();
  requests.version = 10;
  const old = { ...MARKED, resourceVersion: '9' };
  assert.equal(await marker.mark(old, { status: 'failed', reason: 'InstallFailed', message: 'one' }), 'patched');
  assert.equal(requests.last.status.conditions[0].lastTransitionTime, NOW);
  assert.equal(await marker.mark(old, DONE), 'patched');
  assert.equal(requests.last.status.conditions[0].lastTransitionTime, NOW);
  assert.equal(await marker.mark(old, DONE), 'unchanged');
  await marker.mark(old, { status: 'failed', reason: 'InstallFailed', message: 'two' });
  marker.forget('u-1');
  assert.equal(await marker.mark(old, DONE), 'unchanged');
});

marking("a kubelet's change that our patch came after is no reason for another", async () => {
  const { requests, marker } = setUp();
  requests.version = 10;
  assert.equal(await marker.mark({ ...POD, resourceVersion: '8' }, DONE), 'patched');
  assert.equal(await marker.mark({ ...POD, resourceVersion: '9' }, DONE), 'unchanged');
  assert.equal(requests.asked.length, 1);
});

marking('a version after our patch counts, because someone may have removed the mark', async () => {
  for (const resourceVersion of ['10', '11', undefined, 'opaque']) {
    const { requests, marker } = setUp();
    requests.version = 10;
    await marker.mark({ ...POD, resourceVersion: '9' }, DONE);
    assert.equal(
      await marker.mark({ ...POD, ...(resourceVersion && { resourceVersion }) }, DONE),
      'patched',
      resourceVersion,
    );
  }
});

marking('after a patch of which no answer came, what was seen counts again', async () => {
  const { requests, marker } = setUp();
  requests.version = 10;
  await marker.mark({ ...POD, resourceVersion: '9' }, DONE);
  requests.error = answer(500);
  await assert.rejects(
    marker.mark({ ...POD, resourceVersion: '9' }, { status: 'failed', reason: 'X', message: 'one' }),
    { code: 'ERR_API_FAILED', status: 500 },
  );
  requests.error = undefined;
  assert.equal(await marker.mark({ ...POD, resourceVersion: '9' }, DONE), 'patched');
});

marking('a failure names field and value, takes back the stamps, and fits', async () => {
  const { requests, marker } = setUp();
  const annotation = 'traffic.sidecar.istio.io/includeInboundPorts';
  await marker.mark(MARKED, failed(new ConfigError(annotation, '80x', 'not a port', 'a number from 1 to 65535')));
  assert.deepEqual(requests.last.metadata.annotations, {
    [STATUS]: `failed: ${annotation}: "80x": not a port; expected a number from 1 to 65535`,
    [NETNS]: null,
    [RULES]: null,
  });
  const [condition] = requests.last.status.conditions;
  assert.deepEqual([condition.status, condition.reason], ['False', 'ConfigInvalid']);
  assert.match(condition.message ?? '', /"80x"/);
  await marker.mark(MARKED, failed(new Error('ü'.repeat(5000))));
  const text = requests.last.metadata.annotations[STATUS] ?? '';
  assert.ok(Buffer.byteLength(text) <= 1024 && text.endsWith('ü...'), text);
  assert.equal(requests.last.status.conditions[0].reason, 'InstallFailed');
});

marking('unmark takes back what is there, and asks for nothing where nothing is', async () => {
  const { requests, marker } = setUp();
  assert.equal(await marker.unmark(POD), 'unchanged');
  assert.equal(await marker.unmark(MARKED), 'patched');
  assert.deepEqual(requests.last, {
    metadata: { uid: 'u-1', annotations: { [STATUS]: null, [NETNS]: null, [RULES]: null } },
    status: { conditions: [{ type: READY, $patch: 'delete' }] },
  });
});

marking('a pod that is not enrolled and waits for our condition gets it', async () => {
  const { requests, marker } = setUp();
  const waiting = { ...POD, readinessGates: [READY] };
  assert.equal(await marker.unmark(waiting), 'patched');
  const [condition] = requests.last.status.conditions;
  assert.deepEqual([condition.status, condition.reason, condition.lastTransitionTime], ['True', 'NotEnrolled', NOW]);
});

marking('a deleted pod is not an error, nor is a new pod of the same name', async () => {
  const immutable = 'Pod "web" is invalid: metadata.uid: Invalid value: "u-1": field is immutable';
  for (const error of [answer(404, 'pods "web" not found'), answer(422, immutable)]) {
    assert.equal(await setUp(error).marker.mark(POD, DONE), 'gone');
  }
});

marking('403 says which right is missing', async () => {
  const { marker } = setUp(answer(403, 'User "x" cannot patch resource "pods/status"'));
  await assert.rejects(marker.mark(POD, DONE), (error: Failure) => {
    assert.ok(error instanceof Failure);
    assert.equal(error.code, 'ERR_RBAC');
    assert.match(error.message, /User "x" cannot patch/);
    assert.match(error.remedy ?? '', /allow "patch" on "pods\/status"/);
    return true;
  });
});

marking('what no retry can help says so: a refusal of the fence, and a pod too large to store', async () => {
  const fence = "ValidatingAdmissionPolicy 'istio-pod-network-controller-fence' with binding";
  const cases = [
    ['ERR_FENCED', answer(422, `pods "web" is forbidden: ${fence} 'x' denied request: more than 1000 annotations`)],
    ['ERR_FENCED', answer(403, `pods "web" is forbidden: ${fence} 'x' denied request: more than 1000 annotations`)],
    ['ERR_API_TOO_LARGE', answer(413, 'Request entity too large: limit is 3145728')],
    ['ERR_API_TOO_LARGE', answer(500, 'etcdserver: request is too large')],
  ] as const;
  for (const [code, error] of cases) {
    await assert.rejects(setUp(error).marker.mark(POD, DONE), (thrown: Failure) => {
      assert.equal(thrown.code, code);
      assert.equal(thrown.retry, 'no');
      assert.ok(thrown.message.endsWith(error.answer));
      return true;
    });
  }
});

marking('any other answer is passed on as it is, and the next attempt asks again', async () => {
  for (const error of [answer(409), answer(422, 'Pod "metadata.uid" is invalid'), answer(429, '', 3000), answer(500)]) {
    const { requests, marker } = setUp(error);
    await assert.rejects(marker.mark(POD, DONE), (thrown) => thrown === error);
    requests.error = undefined;
    assert.equal(await marker.mark(POD, DONE), 'patched');
  }
});

const events = suite('events');

function recording(error?: unknown) {
  const requests = new FakeRequests();
  requests.error = error;
  const clock = { now: Date.parse(NOW) };
  const errors: unknown[] = [];
  const recorder = new EventRecorder({
    requests,
    node: 'node-1',
    onError: (told) => errors.push(told),
    now: () => clock.now,
  });
  const counts = () => requests.asked.map(({ content }) => (content as { series?: { count: number } }).series?.count);
  return { requests, clock, errors, recorder, counts };
}

const WARNING = { reason: 'ConfigInvalid', note: 'field: "value": wrong' } as const;

events('a repeated Event is counted, and sent again after growing intervals', async () => {
  const { clock, recorder, counts } = recording();
  for (let second = 0; second < 600; second += 10) {
    recorder.record(POD, WARNING);
    clock.now += 10_000;
  }
  await recorder.settled();
  // After 0, 60, 180 and 420 seconds.
  assert.deepEqual(counts(), [undefined, 7, 19, 43]);
  assert.deepEqual(recorder.stats, { sent: 4, repeated: 56, dropped: 0, failed: 0 });
});

events('a pod whose Events differ each time does not flood either', async () => {
  const { clock, recorder } = recording();
  for (let i = 0; i < 100; i++) recorder.record(POD, { ...WARNING, note: `${i}` });
  await recorder.settled();
  assert.deepEqual(recorder.stats, { sent: 5, repeated: 0, dropped: 95, failed: 0 });
  clock.now += 60_000;
  for (let i = 0; i < 100; i++) recorder.record(POD, { ...WARNING, note: `again ${i}` });
  await recorder.settled();
  assert.equal(recorder.stats.sent, 6);
});

events('over all pods the rate is bounded, and successes leave room for warnings', async () => {
  const { recorder } = recording();
  for (let i = 0; i < 100; i++) {
    recorder.record({ ...POD, uid: `u-${i}` }, { reason: 'Initialized', note: 'done' });
  }
  await recorder.settled();
  assert.deepEqual(recorder.stats, { sent: 30, repeated: 0, dropped: 70, failed: 0 });
  recorder.record({ ...POD, uid: 'bad' }, WARNING);
  await recorder.settled();
  assert.equal(recorder.stats.sent, 31);
});

events('a pod that is forgotten starts anew', async () => {
  const { recorder, counts } = recording();
  recorder.record(POD, WARNING);
  recorder.forget(POD.uid);
  recorder.record(POD, WARNING);
  await recorder.settled();
  assert.deepEqual(counts(), [undefined, undefined]);
});

events('only onError gets an Event that cannot be sent', async () => {
  const { recorder, errors } = recording(answer(403, 'it is being terminated'));
  recorder.record(POD, WARNING);
  await recorder.settled();
  assert.equal(recorder.stats.failed, 1);
  assert.match((errors[0] as Failure).message, /being terminated/);
  assert.match((errors[0] as Failure).remedy ?? '', /"create" on "events"/);
});
