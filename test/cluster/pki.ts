/** A certificate authority for one cluster, by the openssl command; all keys are EC P-256. */
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { output } from './sandbox/sandbox.ts';

/** Paths of PEM files. */
export interface KeyPair {
  cert: string;
  key: string;
}

interface Identity {
  /** User name for a client, any name for a server. */
  name: string;
  /** Groups of the user. */
  groups?: string[];
  /** Of its files, without extension; its name, if absent. */
  file?: string;
  /** What a server is called: DNS names and IP addresses. */
  hosts?: string[];
}

export interface Authority {
  /** Path of its certificate. */
  cert: string;
  issue(identity: Identity): Promise<KeyPair>;
}

export async function createAuthority(folder: string): Promise<Authority> {
  // Not the machine's own, which would add extensions.
  const config = join(folder, 'openssl.cnf');
  writeFileSync(config, '[req]\ndistinguished_name = name\n[name]\n');
  const create = async (file: string, subject: string, extensions: string[], issuer?: KeyPair) => {
    const pair = { cert: join(folder, `${file}.crt`), key: join(folder, `${file}.key`) };
    await output([
      ...['openssl', 'req', '-x509', '-config', config, '-noenc', '-days', '30', '-subj', subject],
      ...['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-keyout', pair.key, '-out', pair.cert],
      ...(issuer ? ['-CA', issuer.cert, '-CAkey', issuer.key] : []),
      ...extensions.flatMap((extension) => ['-addext', extension]),
    ]);
    return pair;
  };
  const ca = await create('ca', '/CN=ipnc-cluster', ['basicConstraints=critical,CA:TRUE', 'keyUsage=keyCertSign']);
  return {
    cert: ca.cert,
    issue: ({ name, file = name, groups = [], hosts = [] }) => {
      const subject = [...groups.map((group) => `/O=${group}`), `/CN=${name}`].join('');
      const names = hosts.map((host) => (/^[\d.]+$|:/.test(host) ? `IP:${host}` : `DNS:${host}`));
      const usage = 'extendedKeyUsage=clientAuth,serverAuth';
      const san = names.length > 0 ? [`subjectAltName=${names.join(',')}`] : [];
      return create(file.replaceAll(/[^\w-]/g, '-'), subject, ['basicConstraints=CA:FALSE', usage, ...san], ca);
    },
  };
}

/** Paths of the key with which service accounts' tokens are signed, and of its public half. */
export interface TokenKey {
  key: string;
  publicKey: string;
}

export function createTokenKey(folder: string): TokenKey {
  const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const paths = { key: join(folder, 'token.key'), publicKey: join(folder, 'token.pub') };
  writeFileSync(paths.key, pair.privateKey.export({ type: 'sec1', format: 'pem' }), { mode: 0o600 });
  writeFileSync(paths.publicKey, pair.publicKey.export({ type: 'spki', format: 'pem' }));
  return paths;
}

export type Credentials = KeyPair | { token: string };

/** A kubeconfig file that needs no other file. */
export function writeKubeconfig(path: string, server: string, caCert: string, credentials: Credentials): string {
  const base64 = (file: string) => readFileSync(file).toString('base64');
  const user =
    'token' in credentials
      ? { token: credentials.token }
      : { 'client-certificate-data': base64(credentials.cert), 'client-key-data': base64(credentials.key) };
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name: 'test', cluster: { server, 'certificate-authority-data': base64(caCert) } }],
    users: [{ name: 'test', user }],
    contexts: [{ name: 'test', context: { cluster: 'test', user: 'test' } }],
    'current-context': 'test',
  };
  writeFileSync(path, JSON.stringify(config, null, 2), { mode: 0o600 }); // JSON is YAML
  return path;
}
