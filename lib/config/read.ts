/**
 * Reads the configuration of `ipnc run`: the controller's own options, and the redirect options as defaults for the whole
 * cluster. A pod's own settings take precedence over these defaults. A flag takes precedence over the environment, and
 * the environment over the file. An empty environment variable counts as unset, except for a redirect option that
 * accepts an empty list.
 */
import { readFileSync } from 'node:fs';
import { ConfigError, ConfigErrors } from '../errors.ts';
import { optionList } from '../istio/options.ts';
import { type ClusterDefaults, redirect } from '../istio/redirect.ts';
import { environmentSource, flagSource, type Given, type Source } from '../istio/sources.ts';
import { readEntries } from './file.ts';
import { type RunOption, type RunValues, runOptionList, runOptions } from './options.ts';

export interface RunConfig extends RunValues, ClusterDefaults {}

export interface RunSources {
  /** The key is the long flag without dashes. The value is true for a flag without a value. See `runFlags`. */
  flags: ReadonlyMap<string, string | true>;
  environment: Readonly<Record<string, string | undefined>>;
  /** Reads the configuration file. */
  read?: (file: string) => string;
}

/** `RunSources` after the file is read. */
interface Places extends Pick<RunSources, 'flags' | 'environment'> {
  file: ReadonlyMap<string, string>;
  fileName: string;
}

type Collect = <T>(attempt: () => T) => T | undefined;

/** The flag and the environment variable that name the file. */
export const CONFIG_FILE = { flag: 'config', env: 'IPNC_CONFIG' };
/** The field of a value that was not given. */
const DEFAULT = 'default';
const KEYS = [...runOptionList, ...optionList].map(([, { flag }]) => flag);

/** Throws ConfigErrors with all problems. */
export function readConfig({ flags, environment, read = (file) => readFileSync(file, 'utf8') }: RunSources): RunConfig {
  const problems: ConfigError[] = [];
  const collect: Collect = (attempt) => {
    try {
      return attempt();
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      problems.push(error);
      return undefined;
    }
  };
  const fileName = String(flags.get(CONFIG_FILE.flag) ?? environment[CONFIG_FILE.env] ?? '');
  const file = fileName === '' ? new Map<string, string>() : entriesOf(fileName, read, problems);
  const places = { flags, environment, file, fileName };

  const values: Partial<Record<string, unknown>> = {};
  for (const [key, option] of runOptionList) {
    const found = find(option, places);
    if (found !== undefined) values[key] = collect(() => option.parse(found.text, found));
  }
  if (find(runOptions.nodeName, places) === undefined) {
    const expected = 'the name of this node, in NODE_NAME from the field spec.nodeName';
    problems.push(new ConfigError('--node-name', undefined, 'missing', expected));
  }
  const defaults = clusterDefaults(places, collect);
  const ports = find(runOptions.defaultInboundPorts, places);
  if (ports !== undefined && ports.field !== DEFAULT && defaults.inboundPorts !== undefined) {
    const wrong = `has no effect together with ${defaults.inboundPorts.field}`;
    problems.push(new ConfigError(ports.field, ports.text, wrong, 'only one of the two'));
  }
  const failClosed = find(runOptions.nriFailClosed, places);
  const { nriFailClosed, runtimeEvents } = values as Partial<RunValues>;
  if (nriFailClosed && runtimeEvents !== undefined && runtimeEvents !== 'nri') {
    const wrong = `has no effect with --runtime-events ${runtimeEvents}`;
    problems.push(new ConfigError(failClosed?.field ?? DEFAULT, failClosed?.text, wrong, '--runtime-events nri'));
  }
  if (problems.length > 0) throw new ConfigErrors(problems);
  return { ...(values as RunValues), redirect: defaults };
}

function entriesOf(file: string, read: (file: string) => string, problems: ConfigError[]): Map<string, string> {
  let text: string;
  try {
    text = read(file);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : String(error);
    problems.push(new ConfigError(`--${CONFIG_FILE.flag}`, file, `cannot be read (${code})`, 'a YAML file'));
    return new Map();
  }
  return readEntries(text, file, KEYS, problems);
}

/** The text of the option from the source with the highest precedence, or its default; undefined if there is none. */
function find({ flag, env: [variable], initial }: RunOption, { flags, environment, file, fileName }: Places) {
  const [word, text, entry] = [flags.get(flag), environment[variable], file.get(flag)];
  if (word !== undefined) return given(String(word), `--${flag}`);
  if (text !== undefined && text !== '') return given(text, `${variable} (environment)`);
  if (entry !== undefined) return given(entry, `${flag} in ${fileName}`);
  return initial === undefined ? undefined : given(initial, DEFAULT);
}

function given(text: string, field: string): Given {
  return { text, field, source: 'default' };
}

/** Parses each default as if a pod had set it, so that a default that fails for every pod is refused at the start. */
function clusterDefaults({ flags, environment, file, fileName }: Places, collect: Collect): Source {
  const fromFile: Source = {};
  for (const [key, { flag }] of optionList) {
    const text = file.get(flag);
    if (text !== undefined) fromFile[key] = given(text, `${flag} in ${fileName}`);
  }
  const defaults: Source = { ...fromFile, ...environmentSource(environment), ...flagSource(flags) };
  let sound = true;
  for (const [key, { parse }] of optionList) {
    const found = defaults[key];
    if (found === undefined) continue;
    defaults[key] = given(found.text, found.field);
    if (collect(() => parse(found.text, { ...found, source: 'pod' })) === undefined) sound = false;
  }
  if (sound) collect(() => redirect({ pod: {}, defaults }));
  return defaults;
}
