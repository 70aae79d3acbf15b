import { randomUUID } from 'node:crypto';
import { createServer, connect } from 'node:net';
import { networkInterfaces } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

// Addresses of documentation (RFC 5737, RFC 3849), in each family that the pod has an address of.
const NOBODY = { IPv4: '192.0.2.1', IPv6: '2001:db8::1' };
const token = randomUUID();
const server = createServer((socket) => socket.on('error', () => {}).end(token)).listen(15001);

const answer = (host) =>
  new Promise((resolve) => {
    let text = '';
    const socket = connect({ host, port: 80, timeout: 2000 });
    socket.on('data', (data) => (text += data));
    socket.on('timeout', () => socket.destroy());
    socket.on('error', () => {});
    socket.on('close', () => resolve(text));
  });

const addresses = Object.values(networkInterfaces()).flat().filter(({ internal, address }) => !internal && !address.startsWith('fe80:'));
const { IP_FAMILIES = 'auto' } = process.env;
const families = addresses.map(({ family }) => family).filter((family) => /auto/.test(IP_FAMILIES) || IP_FAMILIES.includes(family.at(-1)));
const wanted = new Set(families);
for (const end = Date.now() + 60_000; wanted.size > 0 && Date.now() < end; await sleep(200)) {
  for (const family of wanted) if ((await answer(NOBODY[family])) === token) wanted.delete(family);
}
server.close();
if (wanted.size > 0) {
  console.error(`not captured within a minute: ${[...wanted].join(', ')}; this pod's Events and the controller's log say why`);
  process.exitCode = 1;
} else console.log(`captured: ${[...new Set(families)].join(', ')}`);
