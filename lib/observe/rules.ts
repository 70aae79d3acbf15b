/**
 * The rules of one pod: whether they are installed as planned, the differences, and the plan. Whoever has NET_ADMIN in the pod
 * decides what is read back, so the text is bounded, and so is the work to make it.
 */
import { printable } from '../errors.ts';
import type { VerifyResult } from '../native/addon.ts';
import { diff, heading } from '../ruleset/diff.ts';
import type { Form } from '../ruleset/form.ts';
import { formTexts } from '../ruleset/form-text.ts';

/** What the controller planned for a pod, and what the kernel has. */
export interface PodRules {
  namespace: string;
  name: string;
  form: Form;
  verified: VerifyResult;
}

export interface RulesSection {
  title: string;
  /** Whether the first character of each line says what the line is: ' ' as planned, '-' missing, '+' surplus. */
  diff: boolean;
  lines: string[];
}

/** Twice the rules that a pod may have (MAX_RULES in istio/rule-count.ts). */
const MOST_RULES = 8192;
/** The most pairs of lines that are compared in a chain. Above it the chain is shown as missing and as surplus. */
const MOST_PAIRS = 250_000;
const MOST_LINES = 2000;
const MOST_CHARACTERS = 400;

export function rulesSections({ namespace, name, form, verified }: PodRules): RulesSection[] {
  const { ok, ahead, doubts } = verified;
  const result = ok ? 'The installed rules are as planned.' : 'The installed rules differ from the plan.';
  const plan = formTexts(form).join('\n').trimEnd().split('\n');
  return [
    { title: `${namespace}/${name}`, diff: false, lines: [`${form.backend}. ${result}`] },
    ...differences(form, verified),
    ...section('Rules of other programs that let traffic bypass the proxy', ahead),
    ...section('Why the rules do not work in this pod', doubts),
    { title: 'The plan', diff: false, lines: plan },
  ];
}

function differences(form: Form, verified: VerifyResult): RulesSection[] {
  const { legacy, iptablesNft, nftables } = verified;
  const tables: { chains: readonly { rules: readonly unknown[] }[] }[] = [...legacy, ...iptablesNft, ...nftables];
  const found = tables.flatMap(({ chains }) => chains).reduce((sum, { rules }) => sum + rules.length, 0);
  if (found > MOST_RULES) {
    return section('Differences', [`The tables that differ have ${found} rules, which are too many to show.`]);
  }
  return diff(form, verified, MOST_PAIRS).map((each) => ({
    title: `Differences: ${heading(each).replace(/^# /, '')}`,
    diff: true,
    lines: bounded(each.lines),
  }));
}

function section(title: string, lines: readonly string[]): RulesSection[] {
  return lines.length === 0 ? [] : [{ title, diff: false, lines: bounded(lines) }];
}

function bounded(lines: readonly string[]): string[] {
  const shown = lines.slice(0, MOST_LINES).map((line) => printable(line.slice(0, MOST_CHARACTERS)));
  return lines.length <= MOST_LINES ? shown : [...shown, ` ... and ${lines.length - MOST_LINES} more lines`];
}

/** For programs and terminals. */
export function rulesText(sections: readonly RulesSection[]): string {
  return sections.map(({ title, lines }) => `## ${title}\n${lines.join('\n')}\n`).join('\n');
}
