/** A kubeconfig's file, and who talks to the API server by it. */
import { KubeConfig } from '@kubernetes/client-node';
import { ApiClient } from '../../lib/kube/client.ts';

export function configOf(kubeconfig: string): KubeConfig {
  const config = new KubeConfig();
  config.loadFromFile(kubeconfig);
  return config;
}

/** Reads the file anew where credentials are refused. */
export function kubeOf(kubeconfig: string): ApiClient {
  return new ApiClient(() => configOf(kubeconfig));
}
