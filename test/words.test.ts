/** Documents, messages and comments avoid the phrases that readers had to read twice. */
import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from './suite.ts';

const test = suite('words');
const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** Each phrase, and what to write instead. */
const AVOID: [phrase: RegExp, instead: string][] = [
  [/would be right/, 'expected X'],
  [/\b(told|tells?) of\b/, 'reports'],
  [/\bput right\b/, 'repaired, corrected'],
  [/\b(made|begun|begins?) anew\b/, 'again, restarted'],
  [/\bpassed over\b/, 'ignored'],
  [/\bhalf done\b/, 'all changes are undone'],
  [/\bin so many words\b/, 'explicitly'],
  [/\bof no (account|effect)\b/, 'ignored, has no effect'],
  [/\bis no error\b/, 'is not an error'],
  [/\bwhose word\b/, 'what decides'],
  [/\bwhat stands\b|\bstands? (there )?already\b/, 'the installed rules'],
  [/\blets? traffic pass by\b/, 'lets traffic bypass the proxy'],
  [/\bcannot be honoured\b/, 'is invalid'],
  [/\bfor ever\b/, 'forever'],
];

const FILES = globSync(['lib/**/*.ts', 'native/gate/*', 'chart/**/*.{yaml,tpl,txt,json,ts}', '**/*.md', 'setup'], {
  cwd: ROOT,
  exclude: (name) => /(^|\/)(node_modules|build|results|\.git)$/.test(name),
});

test('no text has a phrase that readers did not understand at once', () => {
  assert.ok(FILES.length > 120, `${FILES.length} files`);
  const found = FILES.flatMap((file) =>
    readFileSync(join(ROOT, file), 'utf8')
      .split('\n')
      .flatMap((line, at) =>
        AVOID.filter(([phrase]) => phrase.test(line)).map(
          ([phrase, instead]) => `${file}:${at + 1}: ${phrase.exec(line)?.[0]}: write "${instead}"`,
        ),
      ),
  );
  assert.deepEqual(found, []);
});
