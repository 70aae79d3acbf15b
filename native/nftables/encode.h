// Converts rules to expressions and back, as nft writes them for the same text. Pure: no system call, no state.
#pragma once

#include <array>
#include <vector>

#include "native/nftables/expression.h"
#include "native/nftables/rule.h"

namespace ipnc::nftables {

// Where a field comes from.
struct FieldForm {
  enum class Source : uint8_t { kMeta, kCt, kNetwork, kTransport };
  Source source;
  uint8_t key;      // of meta and ct; otherwise the offset
  bool host_order;  // the kernel has it as a number of its own
  uint8_t type;     // nft's number for it (its datatype.h): how a set of them is printed
};
const FieldForm& FormOf(Field field);

// Converts a field between network byte order and host byte order, if the kernel has it in host byte order.
FieldValue Swapped(Field field, const FieldValue& value);

// The chains that a table of ours may have.
inline constexpr std::array<const char*, 10> kChainNames{
    "istio-divert",     "istio-drop",     "istio-inbound", "istio-in-redirect", "istio-output",
    "istio-output-dns", "istio-redirect", "istio-tproxy",  "prerouting",        "output",
};

// Throws ERR_INVALID_RULE, naming what is wrong.
std::vector<Expression> Encode(const Rule& rule);
Content Encode(const Table& table);

// Never fails: unknown rules, and rules that Encode would write differently, become opaque.
Rule Decode(const std::vector<Expression>& expressions);
Table Decode(TableName name, const Content& content);

// Throws ERR_INVALID_RULE if the rule is empty, or if a condition lacks another one that it needs.
void RequireValid(const Rule& rule);
// Checks what concerns several rules: names, jumps, and tables that occur twice.
void RequireValid(const std::vector<Table>& tables);

}  // namespace ipnc::nftables
