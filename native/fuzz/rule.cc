// Rules made of whatever the fuzzer says: one that can be written comes back as it was, and nothing else is written.
#include <fuzzer/FuzzedDataProvider.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>

#include "native/fuzz/reread.h"
#include "native/fuzz/target.h"

namespace {

using namespace ipnc;
using namespace ipnc::xtables;

// Says what a rule consists of. `wild`: also what the model or the kernel's form has no place for.
class Maker {
 public:
  explicit Maker(FuzzedDataProvider& input) : input_(input), wild_(input.ConsumeBool()) {}
  bool wild() const { return wild_; }

  template <typename F>
  Rule MakeRule() {
    Rule rule;
    rule.family = F::kFamily;
    rule.source = Address<F>();
    rule.destination = Address<F>();
    rule.in_interface = Text(0, wild_ ? 40 : IFNAMSIZ - 1);
    rule.out_interface = Text(0, wild_ ? 40 : IFNAMSIZ - 1);
    rule.protocol = wild_ ? Number<uint8_t>() : input_.PickValueInArray<uint8_t>({0, IPPROTO_TCP, IPPROTO_UDP});
    for (int count = input_.ConsumeIntegralInRange(0, wild_ ? 40 : 5); count > 0; --count)
      rule.matches.push_back(MakeMatch(rule.protocol));
    rule.target = AnyTarget();
    return rule;
  }

 private:
  template <typename T>
  T Number() {
    return input_.ConsumeIntegral<T>();
  }

  // Without NUL, which ends a text for the kernel.
  std::string Text(size_t least, size_t most) {
    std::string text = input_.ConsumeRandomLengthString(most);
    if (!wild_)
      for (char& c : text)
        if (c == '\0') c = '0';
    if (text.size() < least) text.resize(least, 'x');
    return text;
  }

  template <typename F>
  std::optional<AddressMatch> Address() {
    if (!input_.ConsumeBool()) return std::nullopt;
    AddressMatch match;
    match.prefix = wild_ ? Number<uint8_t>() : input_.ConsumeIntegralInRange<uint8_t>(0, F::kAddressSize * 8);
    match.inverted = input_.ConsumeBool();
    for (size_t i = 0; i < F::kAddressSize; ++i) match.address[i] = Number<uint8_t>();
    if (wild_) return match;
    for (size_t bit = match.prefix; bit < F::kAddressSize * 8; ++bit)
      match.address[bit / 8] &= static_cast<uint8_t>(~(0x80 >> (bit % 8)));
    // "0.0.0.0/0" is no condition.
    if (match.prefix == 0 && !match.inverted) return std::nullopt;
    return match;
  }

  PortRange Range() {
    PortRange range{Number<uint16_t>(), Number<uint16_t>()};
    if (!wild_ && range.first > range.last) std::swap(range.first, range.last);
    return range;
  }

  Match MakeMatch(uint8_t protocol) {
    const bool ports = wild_ || protocol != 0;
    switch (input_.ConsumeIntegralInRange(ports ? 0 : 2, 6)) {
      case 0: {
        PortMatch match{input_.ConsumeBool(), Range(), input_.ConsumeBool()};
        // Every port: the kernel's form has no side for it.
        if (match.range == PortRange{0, 0xffff} && !wild_) match.source = match.inverted = false;
        return match;
      }
      case 1: {
        MultiportMatch match{.ports = {}, .inverted = input_.ConsumeBool()};
        for (int count = input_.ConsumeIntegralInRange(wild_ ? 0 : 1, wild_ ? 20 : 7); count > 0; --count)
          match.ports.push_back(Range());
        return match;
      }
      case 2:
        return OwnerMatch{input_.ConsumeBool(), Number<uint32_t>(), input_.ConsumeBool()};
      case 3:
        return ConntrackMatch{std::max(Number<uint16_t>(), static_cast<uint16_t>(wild_ ? 0 : 1))};
      case 4:
        return MarkMatch{input_.ConsumeBool(), Number<uint32_t>(), input_.ConsumeBool()};
      case 5:
        return CommentMatch{Text(0, wild_ ? 300 : 255)};
      default:
        return MakeOpaque();
    }
  }

  Opaque MakeOpaque() {
    // A name of its own where it must come back as opaque.
    Opaque opaque{.name = (wild_ ? "" : "~") + Text(0, wild_ ? 40 : 27), .revision = Number<uint8_t>(), .data = {}};
    opaque.data = input_.ConsumeBytes<uint8_t>(input_.ConsumeIntegralInRange<size_t>(0, 64));
    if (!wild_) opaque.data.resize(opaque.data.size() / 8 * 8);
    return opaque;
  }

  Target AnyTarget() {
    const int kind = input_.ConsumeIntegralInRange(0, kTargetKinds);
    if (kind == kTargetKinds) {
      // Four bytes of zero and padding are a jump.
      Opaque opaque = MakeOpaque();
      if (!wild_ && opaque.data.size() == 8) opaque.data.back() = 1;
      return opaque;
    }
    return MakeTarget(kind, (wild_ ? "" : "J") + Text(0, wild_ ? 40 : 27),
                      [this](uint32_t most) { return input_.ConsumeIntegralInRange<uint32_t>(0, most); });
  }

  FuzzedDataProvider& input_;
  const bool wild_;
};

template <typename F>
void Try(FuzzedDataProvider& input) {
  Maker maker(input);
  const Rule rule = maker.MakeRule<F>();
  Entry entry;
  try {
    entry = Encode<F>(rule);
  } catch (const Error& error) {
    if (!maker.wild() || error.code != kInvalidRule || error.detail.empty()) __builtin_trap();
    return;
  }
  typename F::Entry header;
  if (entry.size() < sizeof(header) || entry.size() % 8 != 0) __builtin_trap();
  const Rule back = Decode<F>(entry);
  if (!maker.wild() && !(back == rule)) __builtin_trap();

  // The same with bytes changed: what the fuzzer would hardly come to by itself.
  while (input.remaining_bytes() > 2) {
    const size_t at = input.ConsumeIntegralInRange<size_t>(0, entry.size() - 1);
    entry[at] = input.ConsumeIntegral<uint8_t>();
  }
  // Of a size of its own, so that a step past the end is seen.
  const std::vector<uint8_t> damaged = entry;
  Reread<F>(damaged.data(), damaged.size(), input.ConsumeBool() ? "RETURN" : "ISTIO_OUTPUT");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  if (input.ConsumeBool())
    Try<V4>(input);
  else
    Try<V6>(input);
  return 0;
}
