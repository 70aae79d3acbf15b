/** Tests of the real API server itself: admission, RBAC and tokens. */
import assert from 'node:assert/strict';
import {
  type ApiException,
  AuthenticationV1Api,
  CoreV1Api,
  type KubeConfig,
  RbacAuthorizationV1Api,
  type V1Container,
} from '@kubernetes/client-node';
import { suite } from '../suite.ts';
import { configOf } from '../support/kubeconfig.ts';
import { type ControlPlane, startControlPlane } from './control-plane.ts';
import { pod, toolbox } from './pods.ts';

const test = suite('cluster, control plane');
test.needs('cluster');

let controlPlane: ControlPlane;
let admin: KubeConfig;
let core: CoreV1Api;
const account = { namespace: 'strict', name: 'agent' };
const NODE = 'node-of-a-token';

test.before(async () => {
  controlPlane = await startControlPlane();
  admin = configOf(controlPlane.kubeconfig);
  core = admin.makeApiClient(CoreV1Api);
  await core.createNamespace({
    body: { metadata: { name: 'strict', labels: { 'pod-security.kubernetes.io/enforce': 'restricted' } } },
  });
  await core.createNamespacedServiceAccount({ namespace: 'strict', body: { metadata: { name: account.name } } });
  await core.createNode({ body: { metadata: { name: NODE } } });
});
test.after(() => controlPlane?.stop());

const refused = (reason: RegExp) => (error: ApiException<string>) => {
  assert.equal(error.code, 403);
  assert.match(error.body, reason);
  return true;
};

test('a restricted namespace refuses a pod with NET_ADMIN, and admits a pod without capabilities', async () => {
  const create = (name: string, add?: string[]) => {
    const container: V1Container = {
      ...toolbox('toolbox', 'help'),
      securityContext: {
        allowPrivilegeEscalation: false,
        capabilities: { drop: ['ALL'], ...(add && { add }) },
        runAsNonRoot: true,
        runAsUser: 1337,
        seccompProfile: { type: 'RuntimeDefault' },
      },
    };
    const body = pod(name, { serviceAccountName: account.name, containers: [container] });
    return core.createNamespacedPod({ namespace: 'strict', body });
  };
  await assert.rejects(create('privileged', ['NET_ADMIN']), refused(/violates PodSecurity .*NET_ADMIN/));
  assert.equal((await create('modest')).metadata?.name, 'modest');
});

test('a service account may do what a role says, and nothing else', async () => {
  const agent = configOf(await controlPlane.kubeconfigFor(account)).makeApiClient(CoreV1Api);
  const { namespace } = account;
  await assert.rejects(agent.listNamespacedSecret({ namespace }), refused(/cannot list resource .*secrets/));
  await assert.rejects(agent.listNamespacedPod({ namespace }), refused(/cannot list resource .*pods/));
  const rbac = admin.makeApiClient(RbacAuthorizationV1Api);
  const rules = [{ apiGroups: [''], resources: ['pods'], verbs: ['list'] }];
  await rbac.createNamespacedRole({ namespace, body: { metadata: { name: 'reader' }, rules } });
  await rbac.createNamespacedRoleBinding({
    namespace,
    body: {
      metadata: { name: 'reader' },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name: 'reader' },
      subjects: [{ kind: 'ServiceAccount', ...account }],
    },
  });
  assert.equal((await agent.listNamespacedPod({ namespace })).kind, 'PodList');
  await assert.rejects(agent.listNamespacedSecret({ namespace }), refused(/cannot list resource .*secrets/));
});

test('a token bound to a node says so, to its reader and to the API server', async () => {
  const config = configOf(await controlPlane.kubeconfigFor(account, { node: NODE }));
  const uid = (await core.readNode({ name: NODE })).metadata?.uid;
  const claims = JSON.parse(Buffer.from(config.users[0]?.token?.split('.')[1] ?? '', 'base64url').toString());
  assert.deepEqual(claims['kubernetes.io'].node, { name: NODE, uid });
  const who = await config.makeApiClient(AuthenticationV1Api).createSelfSubjectReview({ body: {} });
  assert.equal(who.status?.userInfo?.username, 'system:serviceaccount:strict:agent');
  assert.deepEqual(who.status?.userInfo?.extra?.['authentication.kubernetes.io/node-name'], [NODE]);
});

test('a token without a node says nothing of one', async () => {
  const config = configOf(await controlPlane.kubeconfigFor(account));
  const who = await config.makeApiClient(AuthenticationV1Api).createSelfSubjectReview({ body: {} });
  assert.equal(who.status?.userInfo?.extra?.['authentication.kubernetes.io/node-name'], undefined);
});
