// Rule <-> kernel bytes.
#include <cstring>
#include <random>

#include "native/error.h"
#include "native/fuzz/target.h"
#include "native/xtables/encode.h"
#include "native/xtables/replay.h"
#include "test/native/check.h"

namespace {

using namespace ipnc;
using namespace ipnc::xtables;

std::mt19937 generator(check::Seed());

uint32_t Below(uint32_t bound) {
  return std::uniform_int_distribution<uint32_t>(0, bound - 1)(generator);
}
bool Maybe() {
  return Below(2) == 1;
}
PortRange RandomRange() {
  const auto first = static_cast<uint16_t>(1 + Below(60000));
  return {first, static_cast<uint16_t>(first + (Maybe() ? Below(5000) : 0))};
}

template <typename F>
std::optional<AddressMatch> RandomAddress() {
  if (Maybe()) return std::nullopt;
  AddressMatch match{.prefix = static_cast<uint8_t>(1 + Below(F::kAddressSize * 8)), .inverted = Maybe()};
  for (size_t bit = 0; bit < match.prefix; ++bit)
    if (Maybe()) match.address[bit / 8] |= static_cast<uint8_t>(0x80 >> (bit % 8));
  return match;
}

Match RandomMatch(uint8_t protocol) {
  switch (Below(protocol ? 6 : 4)) {
    case 0:
      return OwnerMatch{Maybe(), Below(UINT32_MAX), Maybe()};
    case 1:
      return ConntrackMatch{static_cast<uint16_t>(1 + Below(15))};
    case 2:
      return MarkMatch{Maybe(), Below(UINT32_MAX), Maybe()};
    case 3:
      return CommentMatch{std::string(Below(256), 'c')};
    case 4:
      // A port match that matches everything says nothing, and the kernel's form cannot tell which side it was.
      return PortMatch{Maybe(), RandomRange(), Maybe()};
    default: {
      MultiportMatch match{.ports = {}, .inverted = Maybe()};
      for (uint32_t i = 0, count = 1 + Below(7); i < count; ++i) match.ports.push_back(RandomRange());
      return match;
    }
  }
}

template <typename F>
Rule RandomRule() {
  Rule rule;
  rule.family = F::kFamily;
  rule.source = RandomAddress<F>();
  rule.destination = RandomAddress<F>();
  if (Maybe()) rule.in_interface = std::string(1 + Below(15), 'i');
  if (Maybe()) rule.out_interface = std::string(1 + Below(15), 'o');
  rule.protocol = Below(3) == 0 ? 0 : Maybe() ? IPPROTO_TCP : IPPROTO_UDP;
  for (uint32_t i = Below(4); i > 0; --i) rule.matches.push_back(RandomMatch(rule.protocol));
  rule.target = MakeTarget(static_cast<int>(Below(kTargetKinds)), "ISTIO_OUTPUT",
                           [](uint32_t most) { return std::uniform_int_distribution<uint32_t>(0, most)(generator); });
  return rule;
}

template <typename F>
std::string TargetName(const Entry& entry) {
  typename F::Entry header;
  std::memcpy(&header, entry.data(), sizeof(header));
  xt_entry_target target;
  std::memcpy(&target, entry.data() + header.target_offset, sizeof(target));
  return target.u.user.name;
}

template <typename F>
void RoundTrips() {
  for (int i = 0; i < 20'000; ++i) {
    const Rule rule = RandomRule<F>();
    const Entry entry = Encode<F>(rule);
    CHECK(entry.size() % 8 == 0);
    CHECK(Decode<F>(entry) == rule);
    CHECK(Canonical<F>(entry.data(), entry.size(), TargetName<F>(entry)) == entry);
  }
}

TEST("encode: every rule comes back from its bytes, IPv4") {
  RoundTrips<V4>();
}

TEST("encode: every rule comes back from its bytes, IPv6") {
  RoundTrips<V6>();
}

template <typename F>
void SurvivesDamage() {
  for (int i = 0; i < 20'000; ++i) {
    Entry entry = Encode<F>(RandomRule<F>());
    for (uint32_t flips = 1 + Below(8); flips > 0; --flips)
      entry[Below(static_cast<uint32_t>(entry.size()))] ^= static_cast<uint8_t>(1 << Below(8));
    if (Maybe()) entry.resize(Below(static_cast<uint32_t>(entry.size()) + 1));
    try {
      const Entry canonical = Canonical<F>(entry.data(), entry.size(), "RETURN");
      const Rule rule = Decode<F>(canonical);
      // What came out is either all of it or marked as unknown.
      const bool whole = rule.matches.empty() || !std::holds_alternative<Opaque>(rule.matches.front());
      if (whole) Encode<F>(rule);
    } catch (const Error& error) {
      CHECK(error.code == kInvalidRule);
    }
  }
}

TEST("decode: damaged entries are refused or come back as opaque, never read past their end") {
  SurvivesDamage<V4>();
  SurvivesDamage<V6>();
}

TEST("decode: a rule whose header says more than the model is opaque") {
  ipt_entry header{};
  Entry entry = Encode<V4>(Rule{.protocol = IPPROTO_TCP, .target = Verdict::kReturn});
  std::memcpy(&header, entry.data(), sizeof(header));
  header.ip.invflags |= IPT_INV_PROTO;
  std::memcpy(entry.data(), &header, sizeof(header));
  const Rule rule = Decode<V4>(entry);
  CHECK(rule.matches.size() == 1 && std::holds_alternative<Opaque>(rule.matches[0]));
}

template <typename Change>
bool Refused(Change change) {
  Rule rule{.protocol = IPPROTO_TCP, .target = Verdict::kReturn};
  change(rule);
  try {
    Encode<V4>(rule);
  } catch (const Error& error) {
    return error.code == kInvalidRule && !error.detail.empty();
  }
  return false;
}

TEST("encode: refuses what the kernel's form cannot hold") {
  CHECK(Refused([](Rule& rule) { rule.in_interface = std::string(16, 'x'); }));
  CHECK(Refused([](Rule& rule) { rule.source = AddressMatch{.address = {10, 0, 0, 1}, .prefix = 8}; }));
  CHECK(Refused([](Rule& rule) { rule.source = AddressMatch{.prefix = 33}; }));
  CHECK(Refused([](Rule& rule) { rule.matches = {CommentMatch{std::string(256, 'c')}}; }));
  CHECK(Refused([](Rule& rule) { rule.matches = {MultiportMatch{}}; }));
  CHECK(Refused([](Rule& rule) { rule.matches = {MultiportMatch{std::vector<PortRange>(8, {1, 2}), false}}; }));
  CHECK(Refused([](Rule& rule) { rule.matches = {PortMatch{false, {2, 1}, false}}; }));
  CHECK(Refused([](Rule& rule) { rule.matches = {ConntrackMatch{}}; }));
  CHECK(Refused([](Rule& rule) { rule.target = Jump{""}; }));
  CHECK(Refused([](Rule& rule) { rule.target = Jump{std::string(29, 'X')}; }));
  CHECK(Refused([](Rule& rule) {
    rule.protocol = 0;
    rule.matches = {PortMatch{false, {1, 2}, false}};
  }));
  CHECK(Refused([](Rule& rule) { rule.matches.assign(300, CommentMatch{"x"}); }));
}

TEST("replay: the comparison of tables sees one changed byte, and not a counter") {
  const Entry entry = Encode<V4>(Rule{.protocol = IPPROTO_TCP, .target = Redirect{15001}});
  Blob blob(sizeof(ipt_replace) + entry.size());
  std::copy(entry.begin(), entry.end(), blob.begin() + sizeof(ipt_replace));
  CHECK(SameEntries<V4>(blob, entry.data(), entry.size()));
  for (size_t i = 0; i < entry.size(); ++i) {
    Entry changed = entry;
    changed[i] ^= 1;
    const bool own = (i >= offsetof(ipt_entry, nfcache) && i < offsetof(ipt_entry, target_offset)) ||
                     (i >= offsetof(ipt_entry, comefrom) && i < sizeof(ipt_entry));
    CHECK(SameEntries<V4>(blob, changed.data(), changed.size()) == own);
  }
}

}  // namespace
