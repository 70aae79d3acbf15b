/** The catalogue of error codes: it has every code of the source, no other, and each error gets what it says there. */
import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { asFailure, CATALOGUE, type Code, ConfigError, explain, Failure, type Meaning } from '../lib/errors.ts';
import { ApiError } from '../lib/kube/client.ts';
import { RuntimeError } from '../lib/runtime/channel.ts';
import { suite } from './suite.ts';

const test = suite('errors');
const ROOT = fileURLToPath(new URL('..', import.meta.url));
const MEANINGS: Record<string, Meaning> = CATALOGUE;

/** By file. Of errors.ts only what comes after the catalogue: there its codes are used. */
const SOURCES = new Map(
  globSync(['lib/**/*.ts', 'native/*.{h,cc}', 'native/{nftables,xtables}/*.{h,cc}'], { cwd: ROOT }).map((file) => {
    const text = readFileSync(join(ROOT, file), 'utf8');
    return [file, file === 'lib/errors.ts' ? text.slice(text.indexOf('export const ERRNO')) : text] as const;
  }),
);
const inSources = (pattern: RegExp) =>
  [...SOURCES].flatMap(([file, text]) => [...text.matchAll(pattern)].map((found) => ({ file, found })));

test('every code of the source is in the catalogue', () => {
  const named = inSources(/\bERR_[A-Z][A-Z_]*\b/g).map(({ file, found: [code] }) => ({ file, code }));
  const thrown = inSources(/(?:ThrowErrno\(|\.number = )(E[A-Z0-9]+)\b/g).map(({ file, found: [, code = ''] }) => ({
    file,
    code,
  }));
  assert.ok(named.length > 50 && thrown.length > 5, `${named.length} ${thrown.length}`);
  assert.deepEqual(
    [...named, ...thrown].filter(({ code }) => !Object.hasOwn(CATALOGUE, code)),
    [],
  );
});

test('every code of the catalogue is in the source, or is an errno name', () => {
  const used = new Set(inSources(/\bERR_[A-Z][A-Z_]*\b/g).map(({ found: [code] }) => code));
  // The addon's own constants are used, or the compiler would complain: see -Wunused in binding.gyp.
  const isErrno = (code: string) => Object.hasOwn(constants.errno, code);
  assert.deepEqual(
    Object.keys(CATALOGUE).filter((code) => !used.has(code) && !isErrno(code)),
    [],
  );
});

test('an error replaces each placeholder of its meaning', () => {
  const made = inSources(/new Failure\(\s*'(\w+)'(.*?)\);/gs);
  assert.ok(made.length > 10, `${made.length}`);
  for (const {
    file,
    found: [, code = '', about = ''],
  } of made) {
    const { means = '' } = MEANINGS[code] ?? {};
    if (/\b(PATH|PID|ADDRESS|PART)\b/.test(means)) assert.match(about, /subject|message/, `${file}: ${code}`);
    if (/\bDETAIL\b/.test(means)) assert.match(about, /detail|message/, `${file}: ${code}`);
  }
});

/** As native/to_js.cc makes them. */
const native = (message: string, fields: object) => Object.assign(new Error(message), fields);

const explained: Record<string, [thrown: unknown, code: Code, message: string]> = {
  'of the catalogue': [
    native("ENOENT: No such file or directory, open '/x'", { code: 'ENOENT', errno: -2, syscall: 'open', path: '/x' }),
    'ENOENT',
    '/x does not exist; undone (ENOENT: open)',
  ],
  'with a table': [
    native('', {
      code: 'EAGAIN',
      syscall: 'setsockopt(SO_SET_REPLACE, merge)',
      table: 'IPv4 nat',
      detail: 'another process',
    }),
    'EAGAIN',
    'another process kept changing the rules of /x; undone (EAGAIN: setsockopt(SO_SET_REPLACE, merge), IPv4 nat)',
  ],
  'with details': [
    native('ERR_INVALID_RULE: port 0', { code: 'ERR_INVALID_RULE', detail: 'port 0' }),
    'ERR_INVALID_RULE',
    'the addon cannot write a rule of this ruleset: port 0; undone (ERR_INVALID_RULE)',
  ],
  'that means something else for this system call': [
    native('EOPNOTSUPP: x', { code: 'EOPNOTSUPP', syscall: 'nf_tables', table: 'inet t', detail: 'rule in chain c' }),
    'ERR_UNSUPPORTED',
    'this kernel lacks something that the nftables variant of the rules needs: rule in chain c; undone (ERR_UNSUPPORTED: EOPNOTSUPP, nf_tables, inet t)',
  ],
  'of another errno': [
    native("ELOOP: Too many levels of symbolic links, open '/x'", { code: 'ELOOP', syscall: 'open', path: '/x' }),
    'ELOOP',
    "a system call failed: ELOOP: Too many levels of symbolic links, open '/x'; undone",
  ],
  'of an argument': [
    new TypeError('hook must be prerouting or output'),
    'ERR_INVALID_ARG',
    'the addon was called with an argument that it does not accept: hook must be prerouting or output; undone (ERR_INVALID_ARG)',
  ],
  'of an unknown code': [
    native('E524: x', { code: 'E524', syscall: 'bpf' }),
    'ERR_UNKNOWN',
    'an unexpected error: E524: x',
  ],
  'without a code': [new Error('x'), 'ERR_UNKNOWN', 'an unexpected error: x'],
  'that is no error': ['x', 'ERR_UNKNOWN', 'an unexpected error: x'],
};
for (const [what, [thrown, code, message]] of Object.entries(explained)) {
  test(`an error of the addon ${what}`, () => {
    const failure = explain(thrown, '/x', 'undone');
    assert.deepEqual([failure.code, failure.message, failure.cause], [code, message, thrown]);
  });
}

test('a failed rollback says what is left and why the job failed, and has its own code', () => {
  for (const code of ['ERR_INVALID_RULE', 'ERR_HOST_NETNS', 'EPERM']) {
    const cause = native('', { code, syscall: 'setns', detail: 'port 0' });
    const rollback = 'table IPv4 nat could not be restored (EPERM, setsockopt(SO_SET_REPLACE))';
    const failure = explain(native('x', { code: 'ERR_ROLLBACK', rollback, cause }), '/x', 'all changes were undone');
    assert.deepEqual([failure.code, failure.retry, failure.event], ['ERR_ROLLBACK', 'soon', 'RollbackFailed']);
    for (const part of ['/x', `left there: ${rollback}; `, explain(cause, '/x').message]) {
      assert.ok(failure.message.includes(part), failure.message);
    }
    assert.ok(!failure.message.includes('undone'), failure.message);
    assert.match(failure.remedy, /ipnc clean/);
  }
});

test('what is put into a message stays as it is', () => {
  const { message } = new Failure('ERR_LISTEN', { subject: 'DETAIL $& PATH', detail: 'ADDRESS' });
  assert.equal(message, 'the controller cannot listen on DETAIL $& PATH: ADDRESS');
});

test('whatever is thrown has a code', () => {
  const config = new ConfigError('--x', '1', 'not a y', 'a y');
  const codes = [config, new RuntimeError('UNAVAILABLE', 'x'), new TypeError('x'), undefined].map(
    (thrown) => asFailure(thrown).code,
  );
  assert.deepEqual(codes, ['ERR_CONFIG', 'ERR_RUNTIME', 'ERR_UNKNOWN', 'ERR_UNKNOWN']);
  const statuses = [400, 401, 403, 404, 409, 422, 429, 500, 503];
  assert.deepEqual(
    statuses.map((status) => new ApiError(status, '', '').code.replace('ERR_', '')),
    [
      'API_REFUSED',
      'API_CREDENTIALS',
      'RBAC',
      'API_REFUSED',
      'API_CONFLICT',
      'API_REFUSED',
      'API_BUSY',
      'API_FAILED',
      'API_FAILED',
    ],
  );
});

test('a reason of an Event: of a configuration, a rollback, the API server, or an install', () => {
  const events = (['ERR_CONFIG', 'ERR_ROLLBACK', 'ERR_RBAC', 'ERR_VERIFY', 'ELOOP'] as const).map(
    (code) => new Failure(code).event,
  );
  assert.deepEqual(events, ['ConfigInvalid', 'RollbackFailed', 'MarkFailed', 'InstallFailed', 'InstallFailed']);
});
