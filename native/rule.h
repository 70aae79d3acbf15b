// The plain rule as it crosses from TypeScript (lib/ruleset/model.ts has the same shapes). No kernel types here.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace ipnc {

enum class Family : uint8_t { kV4 = 4, kV6 = 6 };

struct AddressMatch {
  std::array<uint8_t, 16> address{};  // network order; IPv4 in the first four bytes
  uint8_t prefix = 0;
  bool inverted = false;
  bool operator==(const AddressMatch&) const = default;
};

struct PortRange {
  uint16_t first = 0;
  uint16_t last = 0;
  bool operator==(const PortRange&) const = default;
};

struct PortMatch {
  bool source = false;
  PortRange range;
  bool inverted = false;
  bool operator==(const PortMatch&) const = default;
};

struct MultiportMatch {  // destination ports
  std::vector<PortRange> ports;
  bool inverted = false;
  bool operator==(const MultiportMatch&) const = default;
};

struct OwnerMatch {
  bool gid = false;
  uint32_t id = 0;
  bool inverted = false;
  bool operator==(const OwnerMatch&) const = default;
};

// The kernel's bits: XT_CONNTRACK_STATE_INVALID, XT_CONNTRACK_STATE_BIT (linux/netfilter/xt_conntrack.h).
enum ConntrackState : uint16_t { kStateInvalid = 1, kStateEstablished = 2, kStateRelated = 4, kStateNew = 8 };

struct ConntrackMatch {
  uint16_t states = 0;  // of ConntrackState
  bool operator==(const ConntrackMatch&) const = default;
};

struct MarkMatch {
  bool connection = false;  // connmark
  uint32_t value = 0;
  bool inverted = false;
  bool operator==(const MarkMatch&) const = default;
};

struct CommentMatch {
  std::string text;
  bool operator==(const CommentMatch&) const = default;
};

// A match or target of another program, as the kernel holds it.
struct Opaque {
  std::string name;
  uint8_t revision = 0;
  std::vector<uint8_t> data;
  bool operator==(const Opaque&) const = default;
};

using Match = std::variant<PortMatch, MultiportMatch, OwnerMatch, ConntrackMatch, MarkMatch, CommentMatch, Opaque>;

enum class Verdict : uint8_t { kAccept, kDrop, kReturn };

struct Jump {
  std::string chain;
  bool operator==(const Jump&) const = default;
};
struct Redirect {
  uint16_t port = 0;
  bool operator==(const Redirect&) const = default;
};
struct Tproxy {
  uint16_t port = 0;
  uint32_t mark = 0;
  bool operator==(const Tproxy&) const = default;
};
struct SetMark {
  uint32_t value = 0;
  bool operator==(const SetMark&) const = default;
};
struct CopyMark {
  bool save = false;  // packet to connection; else connection to packet
  bool operator==(const CopyMark&) const = default;
};
struct CtZone {
  uint16_t zone = 0;
  bool operator==(const CtZone&) const = default;
};

using Target = std::variant<Verdict, Jump, Redirect, Tproxy, SetMark, CopyMark, CtZone, Opaque>;

struct Rule {
  std::optional<Family> family;  // absent: both
  std::optional<AddressMatch> source;
  std::optional<AddressMatch> destination;
  std::string in_interface;
  std::string out_interface;
  uint8_t protocol = 0;  // IPPROTO_TCP, IPPROTO_UDP, or 0
  std::vector<Match> matches;
  Target target;
  bool operator==(const Rule&) const = default;
};

struct Chain {
  std::string name;
  bool builtin = false;
  std::vector<Rule> inserts;
  std::vector<Rule> rules;
};

enum class TableName : uint8_t { kRaw, kMangle, kNat };
inline constexpr std::array<TableName, 3> kTableNames{TableName::kRaw, TableName::kMangle, TableName::kNat};
inline constexpr const char* ToString(TableName table) {
  constexpr std::array<const char*, 3> names{"raw", "mangle", "nat"};
  return names[static_cast<size_t>(table)];
}

struct Table {
  TableName name = TableName::kNat;
  std::vector<Chain> chains;
};

struct TproxyRoute {
  uint32_t mark = 0;
  uint32_t table = 0;
};

struct Routes {
  bool loopback6 = false;
  std::optional<TproxyRoute> tproxy;
};

struct Ruleset {
  std::vector<Family> families;
  std::vector<Table> tables;
  Routes routes;

  bool Has(Family family) const {
    for (Family f : families)
      if (f == family) return true;
    return false;
  }
};

}  // namespace ipnc
