#include <linux/netfilter.h>
#include <linux/netfilter/nf_nat.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "native/nftables/message.h"

namespace ipnc::nftables {
namespace {

// A set that is not in a form of ours has no value.
using Sets = std::map<std::string, std::optional<Lookup>, std::less<>>;

constexpr char kUnreadable[] = "unreadable";

std::optional<Data> ReadData(std::optional<View> nest) {
  if (!nest) return std::nullopt;
  Attributes attributes(*nest);
  const auto value = attributes.Get(NFTA_DATA_VALUE);
  Data data;
  if (!value || value->size() > data.bytes.size() || !attributes.NothingElse()) return std::nullopt;
  std::copy(value->begin(), value->end(), data.bytes.begin());
  data.size = static_cast<uint8_t>(value->size());
  return data;
}

std::optional<Expression> ReadMeta(Attributes& attributes) {
  const auto key = attributes.U32(NFTA_META_KEY);
  if (!key) return std::nullopt;
  if (attributes.Is(NFTA_META_DREG, NFT_REG_1)) return MetaLoad{*key};
  if (attributes.Is(NFTA_META_SREG, NFT_REG_1)) return MetaSet{*key};
  return std::nullopt;
}

std::optional<Expression> ReadCt(Attributes& attributes) {
  const auto key = attributes.U32(NFTA_CT_KEY);
  if (!key) return std::nullopt;
  if (attributes.Is(NFTA_CT_DREG, NFT_REG_1)) return CtLoad{*key};
  if (attributes.Is(NFTA_CT_SREG, NFT_REG_1)) return CtSet{*key};
  return std::nullopt;
}

std::optional<Expression> ReadPayload(Attributes& attributes) {
  const auto base = attributes.U32(NFTA_PAYLOAD_BASE);
  const auto offset = attributes.U32(NFTA_PAYLOAD_OFFSET);
  const auto length = attributes.U32(NFTA_PAYLOAD_LEN);
  if (!attributes.Is(NFTA_PAYLOAD_DREG, NFT_REG_1) || !base || !offset || !length) return std::nullopt;
  return Payload{*base, *offset, *length};
}

std::optional<Expression> ReadByteOrder(Attributes& attributes) {
  const bool hton = attributes.Is(NFTA_BYTEORDER_SREG, NFT_REG_1) && attributes.Is(NFTA_BYTEORDER_DREG, NFT_REG_1) &&
                    attributes.Is(NFTA_BYTEORDER_OP, NFT_BYTEORDER_HTON) && attributes.Is(NFTA_BYTEORDER_LEN, 4) &&
                    attributes.Is(NFTA_BYTEORDER_SIZE, 4);
  return hton ? std::optional<Expression>(Hton{}) : std::nullopt;
}

std::optional<Expression> ReadBitwise(Attributes& attributes) {
  const auto length = attributes.U32(NFTA_BITWISE_LEN);
  const auto mask = ReadData(attributes.Get(NFTA_BITWISE_MASK));
  const auto flipped = ReadData(attributes.Get(NFTA_BITWISE_XOR));
  if (!attributes.Is(NFTA_BITWISE_SREG, NFT_REG_1) || !attributes.Is(NFTA_BITWISE_DREG, NFT_REG_1) || !mask ||
      length != mask->size || flipped != Data{.size = mask->size})
    return std::nullopt;
  if (attributes.Has(NFTA_BITWISE_OP) && !attributes.Is(NFTA_BITWISE_OP, NFT_BITWISE_BOOL)) return std::nullopt;
  return Bitwise{*mask};
}

std::optional<Expression> ReadCmp(Attributes& attributes) {
  const auto op = attributes.U32(NFTA_CMP_OP);
  const auto data = ReadData(attributes.Get(NFTA_CMP_DATA));
  if (!attributes.Is(NFTA_CMP_SREG, NFT_REG_1) || !op || !data) return std::nullopt;
  return Cmp{*op, *data};
}

std::optional<Expression> ReadRange(Attributes& attributes) {
  const auto op = attributes.U32(NFTA_RANGE_OP);
  const auto first = ReadData(attributes.Get(NFTA_RANGE_FROM_DATA));
  const auto last = ReadData(attributes.Get(NFTA_RANGE_TO_DATA));
  if (!attributes.Is(NFTA_RANGE_SREG, NFT_REG_1) || !op || *op > NFT_RANGE_NEQ || !first || !last) return std::nullopt;
  return Range{*op == NFT_RANGE_NEQ, *first, *last};
}

std::optional<Expression> ReadLookup(Attributes& attributes, const Sets& sets) {
  const auto set = sets.find(attributes.Text(NFTA_LOOKUP_SET));
  attributes.Get(NFTA_LOOKUP_SET_ID);  // only to the kernel, never from it
  const uint32_t flags = attributes.U32(NFTA_LOOKUP_FLAGS).value_or(0);
  if (!attributes.Is(NFTA_LOOKUP_SREG, NFT_REG_1) || flags > NFT_LOOKUP_F_INV || set == sets.end() || !set->second)
    return std::nullopt;
  Lookup lookup = *set->second;
  lookup.inverted = flags != 0;
  return lookup;
}

std::optional<Expression> ReadImmediate(Attributes& attributes) {
  const auto nest = attributes.Get(NFTA_IMMEDIATE_DATA);
  if (!nest) return std::nullopt;
  if (attributes.Is(NFTA_IMMEDIATE_DREG, NFT_REG_1)) {
    const auto data = ReadData(nest);
    return data ? std::optional<Expression>(Immediate{*data}) : std::nullopt;
  }
  if (!attributes.Is(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT)) return std::nullopt;
  Attributes data(*nest);
  Attributes verdict(data.Get(NFTA_DATA_VERDICT).value_or(View{}));
  const auto code = verdict.U32(NFTA_VERDICT_CODE);
  std::string chain(verdict.Text(NFTA_VERDICT_CHAIN));
  if (!code || !data.NothingElse() || !verdict.NothingElse()) return std::nullopt;
  return VerdictTo{static_cast<int32_t>(*code), std::move(chain)};
}

std::optional<Expression> ReadCounter(Attributes& attributes) {
  attributes.Get(NFTA_COUNTER_BYTES);
  attributes.Get(NFTA_COUNTER_PACKETS);
  return Counter{};
}

std::optional<Expression> ReadRedir(Attributes& attributes) {
  // The kernel tells of a range of one port.
  if (attributes.Has(NFTA_REDIR_REG_PROTO_MAX) && !attributes.Is(NFTA_REDIR_REG_PROTO_MAX, NFT_REG_1))
    return std::nullopt;
  if (!attributes.Is(NFTA_REDIR_REG_PROTO_MIN, NFT_REG_1) ||
      !attributes.Is(NFTA_REDIR_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED))
    return std::nullopt;
  return RedirectPort{};
}

std::optional<Expression> ReadTproxy(Attributes& attributes) {
  if (!attributes.Is(NFTA_TPROXY_FAMILY, 0) || !attributes.Is(NFTA_TPROXY_REG_PORT, NFT_REG_1)) return std::nullopt;
  return TproxyPort{};
}

std::optional<Expression> ReadKnown(std::string_view name, Attributes& attributes, const Sets& sets) {
  if (name == "meta") return ReadMeta(attributes);
  if (name == "ct") return ReadCt(attributes);
  if (name == "payload") return ReadPayload(attributes);
  if (name == "byteorder") return ReadByteOrder(attributes);
  if (name == "bitwise") return ReadBitwise(attributes);
  if (name == "cmp") return ReadCmp(attributes);
  if (name == "range") return ReadRange(attributes);
  if (name == "lookup") return ReadLookup(attributes, sets);
  if (name == "immediate") return ReadImmediate(attributes);
  if (name == "counter") return ReadCounter(attributes);
  if (name == "redir") return ReadRedir(attributes);
  if (name == "tproxy") return ReadTproxy(attributes);
  return std::nullopt;
}

Expression ReadExpression(View element, const Sets& sets) {
  Attributes outer(element);
  const std::string name(outer.Text(NFTA_EXPR_NAME));
  Attributes attributes(outer.Get(NFTA_EXPR_DATA).value_or(View{}));
  auto known = ReadKnown(name, attributes, sets);
  if (known && attributes.NothingElse() && outer.NothingElse()) return std::move(*known);
  return Unknown{name.empty() ? kUnreadable : name};
}

std::vector<Expression> ReadRule(View list, const Sets& sets) {
  std::vector<Expression> expressions;
  while (const auto element = TakeAttribute(list)) expressions.push_back(ReadExpression(element->data, sets));
  if (!list.empty()) expressions.push_back(Unknown{kUnreadable});
  return expressions;
}

// Reads the messages of a table one after the other.
class Parser {
 public:
  Content Finish() { return std::move(content_); }

  void Take(const Message& message) {
    Attributes attributes(message.attributes);
    switch (message.header.nlmsg_type & 0xff) {
      case NFT_MSG_NEWTABLE:
        if (const uint32_t flags = attributes.U32(NFTA_TABLE_FLAGS).value_or(0))
          Other("flags " + std::to_string(flags));
        return;
      case NFT_MSG_NEWCHAIN:
        return TakeChain(attributes);
      case NFT_MSG_NEWSET:
        return TakeSet(attributes);
      case NFT_MSG_NEWSETELEM:
        return TakeElements(attributes);
      case NFT_MSG_NEWRULE:
        return TakeRule(attributes);
      case NFT_MSG_NEWOBJ:
        return Other("object " + std::string(attributes.Text(NFTA_OBJ_NAME)));
      case NFT_MSG_NEWFLOWTABLE:
        return Other("flowtable " + std::string(attributes.Text(NFTA_FLOWTABLE_NAME)));
      default:
        Other(kUnreadable);
    }
  }
  void Other(std::string what) { content_.others.push_back(std::move(what)); }

 private:
  void TakeChain(Attributes& attributes) {
    ChainContent& chain = content_.chains.emplace_back();
    chain.name = attributes.Text(NFTA_CHAIN_NAME);
    if (attributes.U32(NFTA_CHAIN_FLAGS).value_or(0) & ~static_cast<uint32_t>(NFT_CHAIN_BASE))
      Other("flags of chain " + chain.name);
    const auto nest = attributes.Get(NFTA_CHAIN_HOOK);
    if (!nest) return;
    Attributes hook(*nest);
    const auto point = hook.U32(NFTA_HOOK_HOOKNUM);
    const auto priority = hook.U32(NFTA_HOOK_PRIORITY);
    const auto policy = attributes.U32(NFTA_CHAIN_POLICY);
    if (!point || !priority || !policy || !hook.NothingElse()) return Other("hook of chain " + chain.name);
    chain.hook =
        HookContent{std::string(attributes.Text(NFTA_CHAIN_TYPE)), *point, static_cast<int32_t>(*priority), *policy};
  }

  void TakeSet(Attributes& attributes) {
    const std::string name(attributes.Text(NFTA_SET_NAME));
    const uint32_t flags = attributes.U32(NFTA_SET_FLAGS).value_or(0);
    const auto type = attributes.U32(NFTA_SET_KEY_TYPE);
    const auto width = attributes.U32(NFTA_SET_KEY_LEN);
    const uint32_t ours = NFT_SET_ANONYMOUS | NFT_SET_CONSTANT;
    std::optional<Lookup>& set = sets_[name];
    set.reset();
    if (!(flags & NFT_SET_ANONYMOUS)) Other("set " + name);
    if (type && width && *width <= 16 && (flags & ~static_cast<uint32_t>(NFT_SET_INTERVAL)) == ours &&
        !attributes.Has(NFTA_SET_TIMEOUT) && !attributes.Has(NFTA_SET_EXPR) && !attributes.Has(NFTA_SET_EXPRESSIONS))
      set = Lookup{.type = *type, .ranges = flags != ours, .width = static_cast<uint8_t>(*width), .elements = {}};
  }

  void TakeElements(Attributes& attributes) {
    const auto found = sets_.find(attributes.Text(NFTA_SET_ELEM_LIST_SET));
    if (found == sets_.end()) return Other(kUnreadable);
    std::optional<Lookup>& set = found->second;
    View list = attributes.Get(NFTA_SET_ELEM_LIST_ELEMENTS).value_or(View{});
    while (const auto element = TakeAttribute(list))
      if (set && !TakeElement(element->data, *set)) set.reset();
    if (!list.empty()) set.reset();
    if (!set) return;
    // An end before a start of the same key.
    std::sort(set->elements.begin(), set->elements.end(),
              [](const Element& a, const Element& b) { return a.key != b.key ? a.key < b.key : a.end > b.end; });
  }

  static bool TakeElement(View nest, Lookup& set) {
    Attributes attributes(nest);
    const auto key = ReadData(attributes.Get(NFTA_SET_ELEM_KEY));
    const uint32_t flags = attributes.U32(NFTA_SET_ELEM_FLAGS).value_or(0);
    attributes.Get(NFTA_SET_ELEM_USERDATA);
    if (!key || key->size != set.width || flags > NFT_SET_ELEM_INTERVAL_END || !attributes.NothingElse()) return false;
    set.elements.push_back({*key, flags != 0});
    return true;
  }

  void TakeRule(Attributes& attributes) {
    const std::string_view name = attributes.Text(NFTA_RULE_CHAIN);
    const auto chain = std::find_if(content_.chains.begin(), content_.chains.end(),
                                    [name](const ChainContent& chain) { return chain.name == name; });
    if (chain == content_.chains.end()) return Other(kUnreadable);
    chain->rules.push_back(ReadRule(attributes.Get(NFTA_RULE_EXPRESSIONS).value_or(View{}), sets_));
  }

  Content content_;
  Sets sets_;
};

}  // namespace

std::vector<Expression> ReadExpressions(View list) {
  return ReadRule(list, {});
}

Content Parse(View dump) {
  Parser parser;
  while (const auto message = TakeMessage(dump)) parser.Take(*message);
  if (!dump.empty()) parser.Other(kUnreadable);
  return parser.Finish();
}

std::string TableOf(const Message& message) {
  return std::string(Attributes(message.attributes).Text(NFTA_TABLE_NAME));
}

std::string Describe(const Message& message) {
  if (message.header.nlmsg_type >> 8 != NFNL_SUBSYS_NFTABLES) return {};
  Attributes attributes(message.attributes);
  switch (message.header.nlmsg_type & 0xff) {
    case NFT_MSG_NEWTABLE:
    case NFT_MSG_DELTABLE:
      return "the table";
    case NFT_MSG_NEWCHAIN:
      return "chain " + std::string(attributes.Text(NFTA_CHAIN_NAME));
    case NFT_MSG_NEWSET:
    case NFT_MSG_NEWSETELEM:
      return "set " + std::string(attributes.Text(NFTA_SET_NAME));
    case NFT_MSG_NEWRULE: {
      std::string text = "rule in chain " + std::string(attributes.Text(NFTA_RULE_CHAIN));
      View list = attributes.Get(NFTA_RULE_EXPRESSIONS).value_or(View{});
      const char* separator = ": ";
      while (const auto element = TakeAttribute(list)) {
        text += separator + std::string(Attributes(element->data).Text(NFTA_EXPR_NAME));
        separator = ", ";
      }
      return text;
    }
    default:
      return "another object";
  }
}

}  // namespace ipnc::nftables
