// Rules made of whatever the fuzzer says, in nftables' form: one that can be written comes back saying the same,
// through the bytes that the kernel gets, and nothing else is written.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>

#include "native/error.h"
#include "native/fuzz/target.h"
#include "native/nftables/encode.h"
#include "native/nftables/message.h"

namespace {

using namespace ipnc;
using namespace ipnc::nftables;

constexpr const char* kChains[] = {"istio-output", "istio-drop", "output", "theirs", ""};

class Maker {
 public:
  explicit Maker(FuzzedDataProvider& input) : input_(input) {}

  nftables::Rule Make() {
    nftables::Rule rule;
    for (int count = input_.ConsumeIntegralInRange(0, 8); count > 0; --count)
      rule.conditions.push_back(MakeCondition());
    if (input_.ConsumeBool()) Sort(rule);
    rule.counter = input_.ConsumeBool();
    rule.target = MakeTarget(input_.ConsumeIntegralInRange(0, kTargetKinds - 1), input_.PickValueInArray(kChains),
                             [this](uint32_t most) { return input_.ConsumeIntegralInRange<uint32_t>(0, most); });
    return rule;
  }

 private:
  template <typename T>
  T Number() {
    return input_.ConsumeIntegral<T>();
  }

  FieldValue MakeValue(size_t width) {
    FieldValue value{};
    // Now and then one that is too wide.
    const size_t bytes = input_.ConsumeProbability<double>() < 0.02 ? 16 : width;
    for (size_t i = 0; i < bytes; ++i) value[i] = Number<uint8_t>();
    return value;
  }

  Condition MakeCondition() {
    Condition condition;
    condition.field = static_cast<Field>(input_.ConsumeIntegralInRange<size_t>(0, kFields.size()));
    condition.inverted = input_.ConsumeBool();
    const size_t width = condition.field <= Field::kCtState ? Info(condition.field).width : 16;
    for (int count = input_.ConsumeIntegralInRange(0, 6); count > 0; --count) {
      Interval interval;
      interval.first = interval.last = MakeValue(width);
      if (input_.ConsumeBool()) interval.last = MakeValue(width);
      condition.values.push_back(interval);
    }
    return condition;
  }

  // What the fuzzer would hardly come to by itself.
  void Sort(nftables::Rule& rule) {
    auto& conditions = rule.conditions;
    const auto say = [&](Field field, uint8_t number) {
      Interval interval;
      interval.first[0] = interval.last[0] = number;
      conditions.push_back({field, false, {interval}});
    };
    if (input_.ConsumeBool()) say(Field::kNfproto, input_.ConsumeBool() ? 2 : 10);
    if (input_.ConsumeBool()) say(Field::kL4proto, input_.ConsumeBool() ? 6 : 17);
    std::stable_sort(conditions.begin(), conditions.end(),
                     [](const Condition& a, const Condition& b) { return a.field < b.field; });
    for (Condition& condition : conditions) {
      std::vector<FieldValue> ends;
      const bool singles = std::all_of(condition.values.begin(), condition.values.end(),
                                       [](const Interval& value) { return value.first == value.last; });
      for (const Interval& value : condition.values) {
        ends.push_back(value.first);
        if (!singles) ends.push_back(value.last);
      }
      std::sort(ends.begin(), ends.end());
      condition.values.clear();
      for (size_t i = 0; i < ends.size(); i += singles ? 1 : 2) {
        const Interval interval{ends[i], ends[singles ? i : i + 1]};
        if (condition.values.empty() || condition.values.back().last < interval.first)
          condition.values.push_back(interval);
      }
    }
  }

  FuzzedDataProvider& input_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  const nftables::Rule rule = Maker(input).Make();
  Content content;
  try {
    content = Encode(nftables::Table{TableName::kNat, {{"output", {}, {rule}}}});
  } catch (const Error& error) {
    if (error.code != kInvalidRule || error.detail.empty()) __builtin_trap();
    return 0;
  }
  Writer writer;
  PutTable(writer, TableName::kNat, content);
  const Content back = Parse(writer.bytes());
  if (!Same(back, content)) __builtin_trap();
  const nftables::Rule told = Decode(TableName::kNat, back).chains[0].rules[0];
  if (!told.opaque.empty() || Encode(told) != content.chains[0].rules[0]) __builtin_trap();

  // The same with expressions left out, exchanged or doubled: never misread.
  auto expressions = content.chains[0].rules[0];
  while (input.remaining_bytes() > 2 && !expressions.empty()) {
    const size_t at = input.ConsumeIntegralInRange<size_t>(0, expressions.size() - 1);
    const size_t other = input.ConsumeIntegralInRange<size_t>(0, expressions.size() - 1);
    if (input.ConsumeBool())
      std::swap(expressions[at], expressions[other]);
    else
      expressions.erase(expressions.begin() + static_cast<ptrdiff_t>(at));
  }
  const nftables::Rule changed = Decode(expressions);
  if (changed.opaque.empty() && Encode(changed) != expressions) __builtin_trap();
  return 0;
}
