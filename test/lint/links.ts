/** Links between documents: the file is there, and has the heading. Links to other sites are not followed. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { filesIn } from './files.ts';

export function documentsIn(root: string): string[] {
  return filesIn(root, '**/*.md', '.github/**/*.md');
}

/** Headings as GitHub links to them: letters, digits, "_" and "-" stay, blanks become "-", the second gets "-1". */
export function anchorsIn(path: string): Set<string> {
  const anchors = new Set<string>();
  const text = readFileSync(path, 'utf8').replace(/^```.*?^```/gms, '');
  for (const [, heading = ''] of text.matchAll(/^#{1,6} +(.*?) *#*$/gm)) {
    const plain = heading.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase();
    const anchor = plain.replace(/[^\p{L}\p{N}\p{M}_ -]/gu, '').replaceAll(' ', '-');
    let unique = anchor;
    for (let at = 1; anchors.has(unique); at++) unique = `${anchor}-${at}`;
    anchors.add(unique);
  }
  return anchors;
}

/** A line for each link that leads nowhere. */
export function brokenLinks(root: string): string[] {
  return documentsIn(root).flatMap((document) =>
    targetsIn(prose(join(root, document))).flatMap((target) => {
      const [path = '', anchor] = target.split('#');
      const file = path === '' ? document : normalize(join(dirname(document), path));
      if (!existsSync(join(root, file))) return [`${document}: ${target}: no such file`];
      if (anchor !== undefined && !anchorsIn(join(root, file)).has(anchor)) {
        return [`${document}: ${target}: no such heading`];
      }
      return [];
    }),
  );
}

function targetsIn(text: string): string[] {
  const inline = text.matchAll(/\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)/g);
  const named = text.matchAll(/^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)/gm);
  const html = text.matchAll(/<(?:a|img|source)\b[^>]*?\s(?:href|src|srcset)="([^"]+)"/g);
  const targets = [...inline, ...named, ...html].map(([, target = '']) => target);
  return targets.filter((target) => !/^[a-z][a-z0-9+.-]*:/i.test(target));
}

/** Without code, in which nothing is a link. */
function prose(path: string): string {
  return readFileSync(path, 'utf8')
    .replace(/^```.*?^```/gms, '')
    .replace(/^(?: {4}|\t).*$/gm, '')
    .replace(/`[^`\n]*`/g, (code) => code.replace(/[[\]()]/g, '_'));
}
