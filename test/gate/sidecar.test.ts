/** The gate in the proxy's container: it becomes the proxy when the rules are active, and its hook waits for the proxy. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { copyFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { GateHome } from '../support/gate.ts';
import { Farm, INSTALL_NEEDS, TOOLBOX } from '../support/netns.ts';

let farm: Farm;
let home: GateHome;

const become = suite('gate that becomes the proxy');
become.needs(...INSTALL_NEEDS, 'gate', 'setpriv', 'toolbox');
become.before(() => {
  farm = new Farm('sidecar');
  home = new GateHome();
});
become.after(async () => {
  home?.[Symbol.dispose]();
  await farm?.[Symbol.asyncDispose]();
});

const REDIRECT = ['istio-iptables', '-p', '15001', '-z', '15006', '-u', '1337', '-m', 'REDIRECT', '-b', '*'];

async function apply(netns: string): Promise<void> {
  const { code, stderr } = await ipnc(['apply', '--netns', netns]);
  assert.equal(code, 0, stderr);
}

become('with the rules it becomes the program, with its arguments, environment and pid', async () => {
  const netns = await farm.add();
  await apply(netns);
  const script =
    'echo "$$ $0 $1 $NAME"; grep -E "Sig(Blk|Ign)" /proc/self/status; readlink /proc/$$/fd/[3-9] | grep -cE "socket|anon_inode|/etc" || true';
  const words = [...REDIRECT, '--', '/bin/sh', '-c', script, 'proxy', 'sidecar'];
  const outputs: string[] = [];
  // On a busy machine the answer to the first probe may come too late. Then the second or third try is in time.
  for (let tries = 3; tries > 0; tries--) {
    const gate = home.start(netns, words, { environment: { NAME: 'value' } });
    const { pid } = gate;
    const { code, stdout, stderr } = await gate.ended;
    assert.equal(code, 0, stdout + stderr);
    // No signal is blocked or ignored, and none of the gate's sockets and watches is left.
    assert.ok(
      stdout.endsWith(`${pid} proxy sidecar value\nSigBlk:\t${'0'.repeat(16)}\nSigIgn:\t${'0'.repeat(16)}\n0\n`),
      stdout,
    );
    outputs.push(stdout);
  }
  const first = /^open after .*; the rules were already active \(1 probe\)\n/;
  assert.ok(
    outputs.some((output) => first.test(output)),
    outputs.join('\n'),
  );
});

for (const [what, words] of [
  ['without the rules it ends after 20 ms', []],
  ['it does not wait longer for a --probe-timeout that was meant for istio-init', ['--probe-timeout', '5s']],
] as const) {
  become(`${what}, and the program is never run`, async () => {
    const netns = await farm.add();
    const { code, stdout, line } = await home.start(netns, [...REDIRECT, ...words, '--', '/bin/echo', 'BYPASS']).ended;
    assert.equal(code, 126);
    assert.match(line, /^not redirected within 20\.0 ms: /);
    assert.doesNotMatch(stdout, /BYPASS/);
  });
}

become('rules that come within the time let it through', async () => {
  const netns = await farm.add();
  const words = ['--timeout', '20s', ...REDIRECT, '--', '/bin/echo', 'the proxy runs'];
  const gate = await home.start(netns, words).waiting();
  await apply(netns);
  const { code, line } = await gate.ended;
  assert.deepEqual({ code, line }, { code: 0, line: 'the proxy runs' });
});

for (const first of [true, false]) {
  become(
    `stopped by SIGSTOP, ${first ? 'as the first process of a PID namespace, ' : ''}it goes on by itself, and ends`,
    async () => {
      const netns = await farm.add();
      const words = ['--timeout', '1s', ...REDIRECT, '--', '/bin/echo', 'BYPASS'];
      const gate = await home.start(netns, words, { first }).waiting();
      for (let time = 0; time < 10; time++) {
        process.kill(gate.pid, 'SIGSTOP');
        await sleep(50);
      }
      const began = performance.now();
      const { code, stdout } = await gate.ended;
      assert.equal(code, 126);
      assert.doesNotMatch(stdout, /BYPASS/);
      assert.ok(performance.now() - began < 5000);
    },
  );
}

become('the program gets none of the signals that keep the gate running', async () => {
  const netns = await farm.add();
  await apply(netns);
  const words = [...REDIRECT, '--', '/bin/sh', '-c', 'cat /proc/self/timers; grep SigCgt /proc/$$/status; sleep 0.1'];
  const { code, stdout } = await home.start(netns, words).ended;
  assert.equal(code, 0, stdout);
  assert.doesNotMatch(stdout, /signal: 18/);
  const caught = BigInt(`0x${/SigCgt:\s*([0-9a-f]+)/.exec(stdout)?.[1]}`);
  assert.equal(caught & (1n << 17n), 0n, 'SIGCONT is caught');
});

become('the capture port is free for the proxy when it starts', async () => {
  const netns = await farm.add();
  await apply(netns);
  // A copy, for the reason that the gate is one.
  const toolbox = home.file('toolbox');
  copyFileSync(TOOLBOX, toolbox);
  const proxy = home.start(netns, [...REDIRECT, '--', toolbox, 'serve', '--tcp', '15006']);
  while (proxy.shut && !proxy.said.includes('"listening"')) await sleep(5);
  proxy.kill('SIGTERM');
  const { stdout, line } = await proxy.ended;
  assert.match(stdout, /"listening"/, line);
});

for (const [what, words, says] of [
  ['no program', [...REDIRECT, '--'], /^argument: "--": the last argument; expected a program after it$/],
  [
    'a relative path',
    [...REDIRECT, '--', 'pilot-agent'],
    /^argument: "pilot-agent": not an absolute path; expected the path of a program$/,
  ],
] as const) {
  become(`${what} after "--" is refused`, async () => {
    const { code, line } = await home.start(await farm.add(), words).ended;
    assert.equal(code, 2);
    assert.match(line, says);
  });
}

become('a program that cannot be run is named', async () => {
  const { code, line } = await home.start(await farm.add(), ['-m', 'NONE', '--', '/no/such/program']).ended;
  assert.equal(code, 1);
  assert.match(line, /^"\/no\/such\/program" cannot be run \(ENOENT\); expected a program of this container's image/);
});

const ready = suite('gate that waits for the proxy');
ready.needs('gate', 'setpriv', 'netns');
ready.before(() => {
  home = new GateHome();
});
ready.after(() => home?.[Symbol.dispose]());

/** Answers each connection with the next of `answers`; the last one stays. */
async function server(
  host: string,
  answers: (string | undefined)[],
): Promise<{ port: number; seen: string[]; server: Server }> {
  const seen: string[] = [];
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.on('data', (request) => {
      seen.push(String(request));
      const answer = answers[Math.min(seen.length, answers.length) - 1];
      if (answer === undefined) socket.destroy();
      else socket.end(answer);
    });
  }).listen({ port: 0, host });
  await once(server, 'listening');
  return { port: (server.address() as { port: number }).port, seen, server };
}

const wait = (port: number, ...words: string[]) =>
  home.start('/proc/self/ns/net', ['--await-ready', String(port), ...words]).ended;

for (const host of ['127.0.0.1', '::1']) {
  ready(`asks ${host} until the answer is 200`, async () => {
    const none = 'HTTP/1.1 503 Service Unavailable\r\n\r\n';
    const {
      port,
      seen,
      server: proxy,
    } = await server(host, [none, undefined, 'garbage\r\n', none, 'HTTP/1.1 200 OK\r\n\r\n']);
    const { code, line } = await wait(port);
    proxy.close();
    assert.equal(code, 0, line);
    assert.match(line, /^the proxy is ready after /);
    assert.equal(seen.length, 5);
    assert.match(seen[0] ?? '', /^GET \/healthz\/ready HTTP\/1\.1\r\nHost: localhost\r\n/);
  });
}

ready('a proxy that starts later is found', async () => {
  const { port, server: first } = await server('127.0.0.1', ['']);
  first.close();
  const ended = wait(port);
  await sleep(300);
  const later = createServer((socket) => socket.on('error', () => {}).end('HTTP/1.0 200 OK\r\n\r\n')).listen({
    port,
    host: '127.0.0.1',
  });
  const { code, line } = await ended;
  later.close();
  assert.equal(code, 0, line);
});

ready('a proxy that is never ready is reported with its last answer', async () => {
  const { port, server: proxy } = await server('127.0.0.1', ['HTTP/1.1 503 Service Unavailable\r\n\r\n']);
  const { code, line } = await wait(port, '--timeout', '200ms');
  proxy.close();
  assert.equal(code, 126);
  assert.equal(
    line,
    `the proxy was not ready within 200.0 ms: http://localhost:${port}/healthz/ready answered 503; ` +
      "the log of the proxy's container says what it waits for",
  );
});

ready('an answer that never comes costs a second, not for ever', async () => {
  const silent = createServer(() => {}).listen({ port: 0, host: '127.0.0.1' });
  await once(silent, 'listening');
  const { port } = silent.address() as { port: number };
  const { code, line } = await wait(port, '--timeout', '200ms');
  silent.close();
  assert.equal(code, 126, line);
  assert.match(line, /did not answer/);
});
