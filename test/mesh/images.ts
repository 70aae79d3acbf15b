/** The mesh's images, laid out as Istio's Dockerfiles lay them out. */
import { readFileSync } from 'node:fs';
import { commandFiles } from '../../chart/image/bench.ts';
import { type ImageFile, PATH, program } from '../../chart/image/files.ts';
import type { Image } from '../cluster/images/archive.ts';
import { envoyPath, istioFiles, meshPrograms } from './programs.ts';

/** What Istio's charts put between `global.hub` and `global.tag`. */
const named = (name: string) => `localhost/${name}:test`;

/** Istio's echo server and client, as /server and /client. */
export const ECHO = named('echo');
export const DNS = named('dns');

/** The uid of istiod and of istio-proxy. */
const PROXY = 1337;
/** The commands that istio-iptables looks for; the plain name is the nf_tables variant, as in Istio's base image. */
const IPTABLES = ['', '6'].flatMap((family) =>
  ['', '-nft', '-legacy'].flatMap((variant) =>
    ['', '-save', '-restore'].map((verb) => `ip${family}tables${variant}${verb}`),
  ),
);

const file = (path: string, name: string): ImageFile => program(path, meshPrograms.path(name));
const tmp: ImageFile = { path: 'tmp', folder: true, mode: 0o1777 };
const accounts: ImageFile[] = [
  { path: 'etc/passwd', content: Buffer.from(`root:x:0:0::/:\nistio-proxy:x:${PROXY}:${PROXY}::/:\n`) },
  { path: 'etc/group', content: Buffer.from(`root:x:0:\nistio-proxy:x:${PROXY}:\n`) },
];

export const meshImages = {
  pilot: async (): Promise<Image> => ({
    name: named('pilot'),
    layers: [[file('usr/local/bin/pilot-discovery', 'pilot-discovery'), ...accounts, tmp]],
    entrypoint: ['/usr/local/bin/pilot-discovery'],
    env: [PATH],
    user: `${PROXY}:${PROXY}`,
  }),

  /** Sidecar, istio-init and istio-validation. */
  proxyv2: async (): Promise<Image> => ({
    name: named('proxyv2'),
    layers: [
      (await commandFiles([...IPTABLES, 'nft'], [envoyPath()])).files,
      [
        program('usr/local/bin/envoy', envoyPath()),
        file('usr/local/bin/pilot-agent', 'pilot-agent'),
        {
          path: 'var/lib/istio/envoy/envoy_bootstrap_tmpl.json',
          content: readFileSync(istioFiles().bootstrap),
        },
        ...accounts,
        tmp,
        { path: 'run', folder: true },
      ],
    ],
    entrypoint: ['/usr/local/bin/pilot-agent'],
    env: [PATH],
  }),

  'install-cni': async (): Promise<Image> => ({
    name: named('install-cni'),
    layers: [
      (await commandFiles([...IPTABLES, 'nft'])).files,
      [file('opt/cni/bin/istio-cni', 'istio-cni'), file('usr/local/bin/install-cni', 'install-cni'), ...accounts, tmp],
    ],
    // Istio's image has it as its command; the chart names the command itself.
    entrypoint: ['/usr/local/bin/install-cni'],
    env: [`${PATH}:/opt/cni/bin`],
  }),

  echo: async (): Promise<Image> => ({
    name: ECHO,
    layers: [[file('server', 'echo-server'), file('client', 'echo-client'), tmp]],
    entrypoint: ['/server'],
    env: [PATH],
  }),

  dns: async (): Promise<Image> => ({ name: DNS, layers: [[file('dns', 'dns')]], entrypoint: ['/dns'] }),
} as const;
