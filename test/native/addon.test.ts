/** The addon and the TypeScript around it agree on every name and number that crosses as an index. */
import assert from 'node:assert/strict';
import { LAYOUT, native, requireLayout } from '../../lib/native/addon.ts';
import { suite } from '../suite.ts';

const test = suite('addon');
test.needs('addon');

test('the addon that is built has the layout of these sources', () => {
  assert.doesNotThrow(native);
});

const others: Record<string, [layout: unknown, names: string]> = {
  'none, as an older addon': [undefined, 'tables, how, phases, doubts, widths, chains, listChain, comment, nftChains'],
  'another order': [{ ...LAYOUT, how: LAYOUT.how.toReversed() }, 'how'],
  'a name more': [{ ...LAYOUT, phases: [...LAYOUT.phases, 'more'] }, 'phases'],
  'another width': [{ ...LAYOUT, widths: { ...LAYOUT.widths, mark: 8 } }, 'widths'],
  'a field less, another comment': [
    { ...LAYOUT, comment: 'other', widths: Object.fromEntries(Object.entries(LAYOUT.widths).slice(1)) },
    'widths, comment',
  ],
};
for (const [what, [layout, names]] of Object.entries(others)) {
  test(`another layout is refused, with what to do: ${what}`, () => {
    assert.throws(() => requireLayout(layout), {
      code: 'ERR_NOT_BUILT',
      message: `the native addon was built from other sources than these: it differs in ${names}`,
    });
  });
}
