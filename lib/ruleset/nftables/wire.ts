/**
 * Converts nftables' form for the addon and back: numbers of up to 128 bits become the bytes of their field, in hex.
 */
import type { Routes, TableName, Target } from '../model.ts';
import type { ActualNftTable, Condition, Field, Hook, NftRuleset, OpaqueRule } from './model.ts';

interface ConditionWire {
  field: Field;
  not: boolean;
  /** First and last of each interval in turn. */
  values: string[];
}

interface RuleWire {
  conditions: ConditionWire[];
  counter: boolean;
  target: Target;
}

export interface NftRulesetWire {
  families: number[];
  tables: { name: TableName; chains: { name: string; hook?: Hook; rules: RuleWire[] }[] }[];
  routes: Routes;
}

export interface ActualNftTableWire {
  table: TableName;
  chains: { name: string; hook?: Hook; rules: (RuleWire | OpaqueRule)[] }[];
}

/** Bytes of each field. The addon has the same list; the two are compared when it is loaded. */
export const WIDTHS: Record<Field, number> = {
  iifname: 16,
  oifname: 16,
  nfproto: 1,
  'ip saddr': 4,
  'ip daddr': 4,
  'ip6 saddr': 16,
  'ip6 daddr': 16,
  l4proto: 1,
  sport: 2,
  dport: 2,
  skuid: 4,
  skgid: 4,
  mark: 4,
  'ct mark': 4,
  'ct state': 4,
};

export function toWire({ families, tables, routes }: NftRuleset): NftRulesetWire {
  const condition = ({ field, not, values }: Condition): ConditionWire => {
    const hex = (value: bigint) => value.toString(16).padStart(2 * WIDTHS[field], '0');
    return { field, not, values: values.flatMap(({ first, last }) => [hex(first), hex(last)]) };
  };
  return {
    families,
    routes,
    tables: tables.map(({ name, chains }) => ({
      name,
      chains: chains.map((chain) => ({
        ...chain,
        rules: chain.rules.map((rule) => ({ ...rule, conditions: rule.conditions.map(condition) })),
      })),
    })),
  };
}

export function fromWire({ table, chains }: ActualNftTableWire): ActualNftTable {
  return {
    table,
    chains: chains.map((chain) => ({
      ...chain,
      rules: chain.rules.map((rule) =>
        'opaque' in rule ? rule : { ...rule, conditions: rule.conditions.map(conditionFrom) },
      ),
    })),
  };
}

function conditionFrom({ field, not, values }: ConditionWire): Condition {
  const intervals: Condition['values'] = [];
  for (let i = 0; i + 1 < values.length; i += 2) {
    intervals.push({ first: BigInt(`0x${values[i]}`), last: BigInt(`0x${values[i + 1]}`) });
  }
  return { field, not, values: intervals };
}
