/**
 * Programs that are built from pinned Go modules, once a machine, and kept in the user's cache folder.
 *
 * The folder of a set is named by its content: go.mod, go.sum, main packages beside them, and the flags of each program.
 * The Go that builds is not part of the name: every Go that go.mod accepts makes programs that do the same, and a folder
 * that was brought from another machine serves where there is no Go.
 */
import { createHash } from 'node:crypto';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { type DebianPackage, installPackages, packagesImpossible } from '../support/debian.ts';
import { build } from './build.ts';

/** One program, as `go build` gets it. */
export interface Program {
  /** The name of the file. */
  name: string;
  /** Import path of its main package; `./folder` for one beside go.mod. */
  package: string;
  tags: readonly string[];
  /** Flags for the linker. */
  ldflags: readonly string[];
  /** Built with a C compiler, which needs these packages; without one if absent. */
  cgo?: readonly DebianPackage[];
}

/** Of any version: it can fetch the one that go.mod asks for. */
const GO: DebianPackage = { name: 'golang-go', brings: ['go'] };

export class ProgramSet {
  /** Of the cache's subfolder, and in messages. */
  readonly name: string;
  /** Where go.mod and go.sum are. */
  readonly source: string;
  readonly #define: (version: (module: string) => string) => Program[];
  #defined: { programs: Program[]; folder: string } | undefined;

  /** `define` gets a function that says which version of a module go.mod asks for, such as v1.36.3. */
  constructor(name: string, source: string, define: (version: (module: string) => string) => Program[]) {
    this.name = name;
    this.source = source;
    this.#define = define;
  }

  /** An image may hold code that imports the set, and not the set's go.mod. */
  get defined(): boolean {
    return existsSync(join(this.source, 'go.mod'));
  }

  get programs(): readonly Program[] {
    return this.#read().programs;
  }

  /** Where the programs are once they are built. */
  get folder(): string {
    return this.#read().folder;
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  /** Those of `names` that are not built; of all programs if none is named. */
  missing(names: readonly string[] = []): Program[] {
    for (const name of names) {
      if (!this.programs.some((program) => program.name === name)) {
        const known = this.programs.map(({ name }) => name).join(', ');
        throw new Error(`${this.name}: there is no program ${name}; expected one of ${known}`);
      }
    }
    return this.programs.filter(
      ({ name }) => (names.length === 0 || names.includes(name)) && !existsSync(this.path(name)),
    );
  }

  /** Why there is no such program, in words; undefined if there is. */
  lack(name: string): string | undefined {
    if (this.missing([name]).length === 0) return undefined;
    return `no ${name}: it is not built; run "npm run programs -- ${this.name}"`;
  }

  /** Why build() cannot succeed for want of packages, or undefined. */
  impossible(names: readonly string[] = []): string | undefined {
    return packagesImpossible(packagesFor(this.missing(names)));
  }

  /**
   * Builds those of `names` that are missing, of all programs if none is named; quiet if none is. As root on Debian it first installs what
   * building needs. Says on stderr what it does. Throws an Error that says why a program cannot be built.
   */
  async build(names: readonly string[] = []): Promise<void> {
    const missing = this.missing(names);
    if (missing.length === 0) return;
    installPackages(packagesFor(missing));
    await build(this, names);
  }

  /** What go.mod and go.sum say nothing about. */
  #ownFiles(folder: string): string[] {
    const files = globSync('*.go', { cwd: join(this.source, folder) }).sort();
    return files.map((name) => readFileSync(join(this.source, folder, name), 'utf8'));
  }

  #read(): { programs: Program[]; folder: string } {
    if (this.#defined === undefined) {
      const [mod, sum] = ['go.mod', 'go.sum'].map((name) => readFileSync(join(this.source, name), 'utf8'));
      const programs = this.#define((module) => versionIn(mod ?? '', module));
      const built = programs.map((program) => ({
        ...program,
        cgo: program.cgo !== undefined,
        ...(program.package.startsWith('./') && { files: this.#ownFiles(program.package) }),
      }));
      const key = createHash('sha256')
        .update(JSON.stringify([mod, sum, built]))
        .digest('hex')
        .slice(0, 16);
      this.#defined = { programs, folder: join(cacheFolder(), this.name, key) };
    }
    return this.#defined;
  }
}

function packagesFor(programs: readonly Program[]): DebianPackage[] {
  return programs.length === 0 ? [] : [GO, ...programs.flatMap(({ cgo }) => cgo ?? [])];
}

/** Holds what is made once a machine. */
export function cacheFolder(): string {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'istio-pod-network-controller');
}

function versionIn(mod: string, module: string): string {
  const line = mod.split('\n').find((line) =>
    line
      .trim()
      .replace(/^require /, '')
      .startsWith(`${module} `),
  );
  const version = line === undefined ? undefined : /\s(v\S+)/.exec(line)?.[1];
  if (version === undefined) throw new Error(`go.mod requires no module ${module}`);
  return version;
}
