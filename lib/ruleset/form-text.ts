/** The rules of a form as text that the tools of its backend accept. */
import type { Form } from './form.ts';
import { iptablesText, routeLines } from './iptables.ts';
import type { Family } from './model.ts';
import { nftablesText } from './nftables/text.ts';

const RESTORE = { 4: 'iptables-legacy-restore --noflush', 6: 'ip6tables-legacy-restore --noflush' } as const;

/**
 * One text for each family of iptables, or one for nftables, and one for the routes if there are any. Each begins with a
 * heading, which is a comment, so that the text can be the input of the program that the heading names.
 */
export function formTexts(form: Form): string[] {
  const routes = routeLines(form.ruleset).map((line) => `# ip ${line}\n`);
  return [...ruleTexts(form), ...(routes.length === 0 ? [] : [['# routes\n', ...routes].join('')])];
}

/** `IPv4 and IPv6` */
export function familyNames(families: readonly Family[]): string {
  return families.map((family) => `IPv${family}`).join(' and ');
}

function ruleTexts({ backend, ruleset }: Form): string[] {
  if (backend === 'nftables') {
    const rules = nftablesText(ruleset);
    return [`# ${familyNames(ruleset.families)}: ${rules === '' ? 'no rules' : 'nft -f'}\n${rules}`];
  }
  return ruleset.families.map((family) => {
    const rules = iptablesText(ruleset, family);
    return rules === '' ? `# IPv${family}: no rules\n` : `# IPv${family}: ${RESTORE[family]}\n${rules}`;
  });
}
