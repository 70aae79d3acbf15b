// The nftables form of a rule as it crosses from TypeScript (lib/ruleset/nftables/model.ts has the same shapes). No
// kernel types here.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "native/rule.h"

namespace ipnc::nftables {

// In the order in which the conditions of a rule stand.
enum class Field : uint8_t {
  kInInterface,
  kOutInterface,
  kNfproto,
  kSource4,
  kDestination4,
  kSource6,
  kDestination6,
  kL4proto,
  kSourcePort,
  kDestinationPort,
  kUid,
  kGid,
  kMark,
  kCtMark,
  kCtState,
};

struct FieldInfo {
  const char* name;  // as TypeScript has it
  uint8_t width;     // bytes
};

inline constexpr std::array<FieldInfo, 15> kFields{{
    {"iifname", 16},
    {"oifname", 16},
    {"nfproto", 1},
    {"ip saddr", 4},
    {"ip daddr", 4},
    {"ip6 saddr", 16},
    {"ip6 daddr", 16},
    {"l4proto", 1},
    {"sport", 2},
    {"dport", 2},
    {"skuid", 4},
    {"skgid", 4},
    {"mark", 4},
    {"ct mark", 4},
    {"ct state", 4},
}};

inline constexpr const FieldInfo& Info(Field field) {
  return kFields[static_cast<size_t>(field)];
}

// Big-endian, in the first Info(field).width bytes; the rest is zero.
using FieldValue = std::array<uint8_t, 16>;

// Inclusive.
struct Interval {
  FieldValue first{};
  FieldValue last{};
  bool operator==(const Interval&) const = default;
};

struct Condition {
  Field field = Field::kNfproto;
  bool inverted = false;
  std::vector<Interval> values;  // sorted, disjoint, at least one; of kCtState each is one bit
  bool operator==(const Condition&) const = default;
};

struct Rule {
  std::vector<Condition> conditions;
  bool counter = false;
  Target target;
  // What the kernel holds and this version did not write: its expressions, as far as they can be named. The rest is
  // empty then.
  std::string opaque = {};
  bool operator==(const Rule&) const = default;
};

struct Hook {
  enum class Type : uint8_t { kFilter, kNat, kRoute };
  enum class Point : uint8_t { kPrerouting, kOutput };
  Type type = Type::kFilter;
  Point point = Point::kPrerouting;
  int32_t priority = 0;
  bool operator==(const Hook&) const = default;
};

struct Chain {
  std::string name;
  std::optional<Hook> hook;
  std::vector<Rule> rules;
  bool operator==(const Chain&) const = default;
};

// The table `inet istio-proxy-<name>`.
struct Table {
  TableName name = TableName::kNat;
  std::vector<Chain> chains;
  bool operator==(const Table&) const = default;
};

}  // namespace ipnc::nftables
