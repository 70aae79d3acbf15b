// What the kernel's nf_tables evaluates, as far as our rules use it. One register does for all of them: nft's "reg 1".
// Two rules are the same when these are.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "native/rule.h"

namespace ipnc::nftables {

// What a register is compared with or loaded from.
struct Data {
  std::array<uint8_t, 16> bytes{};
  uint8_t size = 0;
  auto operator<=>(const Data&) const = default;
};

// Numbers are the kernel's own: linux/netfilter/nf_tables.h.
struct MetaLoad {
  uint32_t key = 0;
  bool operator==(const MetaLoad&) const = default;
};
struct MetaSet {
  uint32_t key = 0;
  bool operator==(const MetaSet&) const = default;
};
struct CtLoad {
  uint32_t key = 0;
  bool operator==(const CtLoad&) const = default;
};
struct CtSet {
  uint32_t key = 0;
  bool operator==(const CtSet&) const = default;
};
struct Payload {
  uint32_t base = 0;
  uint32_t offset = 0;
  uint32_t length = 0;
  bool operator==(const Payload&) const = default;
};
// Four bytes from the host's order to the network's.
struct Hton {
  bool operator==(const Hton&) const = default;
};
// reg 1 = reg 1 & mask
struct Bitwise {
  Data mask;
  bool operator==(const Bitwise&) const = default;
};
struct Cmp {
  uint32_t op = 0;
  Data data;
  bool operator==(const Cmp&) const = default;
};
struct Range {
  bool inverted = false;
  Data first;
  Data last;
  bool operator==(const Range&) const = default;
};
struct Element {
  Data key;
  bool end = false;  // of an interval: the first key behind it
  bool operator==(const Element&) const = default;
};
// In an anonymous set, which stands here itself.
struct Lookup {
  bool inverted = false;
  uint32_t type = 0;    // of the key, by nft's numbers
  bool ranges = false;  // a set of intervals: elements are where one starts and where it has ended
  uint8_t width = 0;
  std::vector<Element> elements;  // sorted by key, an end before a start
  bool operator==(const Lookup&) const = default;
};
struct Immediate {
  Data data;
  bool operator==(const Immediate&) const = default;
};
struct VerdictTo {
  int32_t code = 0;
  std::string chain = {};
  bool operator==(const VerdictTo&) const = default;
};
struct Counter {  // whatever it counted
  bool operator==(const Counter&) const = default;
};
struct RedirectPort {
  bool operator==(const RedirectPort&) const = default;
};
struct TproxyPort {
  bool operator==(const TproxyPort&) const = default;
};
// Anything else, or one of the above in a form that we do not write.
struct Unknown {
  std::string name;
  bool operator==(const Unknown&) const = default;
};

using Expression = std::variant<MetaLoad, MetaSet, CtLoad, CtSet, Payload, Hton, Bitwise, Cmp, Range, Lookup, Immediate,
                                VerdictTo, Counter, RedirectPort, TproxyPort, Unknown>;

// A table as the kernel holds it, or is to.
struct HookContent {
  std::string type;
  uint32_t point = 0;
  int32_t priority = 0;
  uint32_t policy = 0;
  bool operator==(const HookContent&) const = default;
};
struct ChainContent {
  std::string name;
  std::optional<HookContent> hook;
  std::vector<std::vector<Expression>> rules;
  bool operator==(const ChainContent&) const = default;
};
struct Content {
  std::vector<ChainContent> chains;
  std::vector<std::string> others;  // what else is in it: "set blocked", "flags dormant"
};

// Whatever the order of the chains.
bool Same(const Content& one, const Content& other);

// The table's name for the kernel: "istio-proxy-nat".
inline constexpr const char* KernelName(TableName table) {
  constexpr std::array<const char*, 3> names{"istio-proxy-raw", "istio-proxy-mangle", "istio-proxy-nat"};
  return names[static_cast<size_t>(table)];
}

}  // namespace ipnc::nftables
