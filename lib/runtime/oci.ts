/** What a runtime's specification of a container says of its network. */

/** https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#namespaces */
export interface OciSpec {
  annotations?: Record<string, string>;
  linux?: { namespaces?: { type: string; path?: string }[] };
}

/** `host`: the container has no network namespace of its own. `path` is that of its namespace, on the node. */
export function networkOf({ linux }: OciSpec): { host: boolean; path: string | undefined } {
  const entry = linux?.namespaces?.find(({ type }) => type === 'network');
  return { host: linux?.namespaces !== undefined && entry === undefined, path: entry?.path || undefined };
}
