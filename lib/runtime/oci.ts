/**
 * What a runtime's specification of a container says. It is JSON that another program wrote, so a part of another type
 * counts as absent.
 *
 * https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#namespaces
 */

/** Empty if there is no such annotation. */
export function annotationOf(spec: unknown, name: string): string {
  return textOf(mappingOf(mappingOf(spec).annotations)[name]);
}

/** `host`: the container has no network namespace of its own. `path` is that of its namespace, on the node. */
export function networkOf(spec: unknown): { host: boolean; path: string | undefined } {
  const { namespaces } = mappingOf(mappingOf(spec).linux);
  if (!Array.isArray(namespaces)) return { host: false, path: undefined };
  const entry = namespaces.map(mappingOf).find(({ type }) => type === 'network');
  return { host: entry === undefined, path: textOf(entry?.path) || undefined };
}

/** Empty if `value` is no mapping. */
export function mappingOf(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}
