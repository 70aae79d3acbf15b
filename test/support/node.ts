/** The environment for a Node that is to load the addon; with `more` in it. */
export function nodeEnvironment(more: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  // An addon built with a sanitizer needs the sanitizer's runtime there before it (test/native/sanitize.sh).
  const runtime = process.env.IPNC_SANITIZER_RUNTIME;
  return { ...process.env, ...(runtime && { LD_PRELOAD: runtime }), ...more };
}
