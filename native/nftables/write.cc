#include <arpa/inet.h>
#include <linux/netfilter/nf_nat.h>
#include <linux/netfilter/nf_tables.h>

#include <cstring>

#include "native/nftables/message.h"

namespace ipnc::nftables {
namespace {

// Of userdata: nft's own, which decide how it prints a set (libnftnl's udata.h).
constexpr uint8_t kKeyByteOrder = 0;
constexpr uint32_t kHost = 1;
constexpr uint32_t kBigEndian = 2;
constexpr uint8_t kElementFlags = 1;
constexpr uint32_t kOpenInterval = 1;

constexpr char kGuardName[] = "istio-proxy-guard";

constexpr size_t kElementsInMessage = 1000;  // of at most 40 bytes: an attribute is shorter than 64 KiB

View ViewOf(const Data& data) {
  return View(data.bytes.data(), data.size);
}

void PutData(Writer& writer, uint16_t attribute, const Data& data) {
  const size_t nest = writer.Open(attribute);
  writer.Put(NFTA_DATA_VALUE, ViewOf(data));
  writer.Close(nest);
}

void PutUserdata(Writer& writer, uint16_t attribute, uint8_t type, uint32_t value) {
  std::array<uint8_t, 6> userdata{type, sizeof(value)};
  std::memcpy(userdata.data() + 2, &value, sizeof(value));
  writer.Put(attribute, userdata);
}

std::string SetName(uint32_t number) {
  return "__set" + std::to_string(number);
}

// In the attribute's order of nft. `set` is the number of the set that a lookup is to find.
struct ExpressionWriter {
  Writer& writer;
  uint32_t set;
  uint32_t set_id;

  template <typename Body>
  void Wrap(const char* name, Body body) const {
    PutExpression(writer, name, body);
  }
  void Wrap(const char* name, std::initializer_list<std::pair<uint16_t, uint32_t>> attributes) const {
    Wrap(name, [&] {
      for (const auto& [attribute, value] : attributes) writer.PutU32(attribute, value);
    });
  }

  void operator()(const MetaLoad& meta) const {
    Wrap("meta", {{NFTA_META_KEY, meta.key}, {NFTA_META_DREG, NFT_REG_1}});
  }
  void operator()(const MetaSet& meta) const { Wrap("meta", {{NFTA_META_KEY, meta.key}, {NFTA_META_SREG, NFT_REG_1}}); }
  void operator()(const CtLoad& ct) const { Wrap("ct", {{NFTA_CT_KEY, ct.key}, {NFTA_CT_DREG, NFT_REG_1}}); }
  void operator()(const CtSet& ct) const { Wrap("ct", {{NFTA_CT_KEY, ct.key}, {NFTA_CT_SREG, NFT_REG_1}}); }
  void operator()(const Payload& payload) const {
    Wrap("payload", {{NFTA_PAYLOAD_DREG, NFT_REG_1},
                     {NFTA_PAYLOAD_BASE, payload.base},
                     {NFTA_PAYLOAD_OFFSET, payload.offset},
                     {NFTA_PAYLOAD_LEN, payload.length}});
  }
  void operator()(const Hton&) const {
    Wrap("byteorder", {{NFTA_BYTEORDER_SREG, NFT_REG_1},
                       {NFTA_BYTEORDER_DREG, NFT_REG_1},
                       {NFTA_BYTEORDER_OP, NFT_BYTEORDER_HTON},
                       {NFTA_BYTEORDER_LEN, 4},
                       {NFTA_BYTEORDER_SIZE, 4}});
  }
  void operator()(const Bitwise& bitwise) const {
    Wrap("bitwise", [&] {
      writer.PutU32(NFTA_BITWISE_SREG, NFT_REG_1);
      writer.PutU32(NFTA_BITWISE_DREG, NFT_REG_1);
      writer.PutU32(NFTA_BITWISE_LEN, bitwise.mask.size);
      PutData(writer, NFTA_BITWISE_MASK, bitwise.mask);
      PutData(writer, NFTA_BITWISE_XOR, Data{.size = bitwise.mask.size});
    });
  }
  void operator()(const Cmp& cmp) const {
    Wrap("cmp", [&] {
      writer.PutU32(NFTA_CMP_SREG, NFT_REG_1);
      writer.PutU32(NFTA_CMP_OP, cmp.op);
      PutData(writer, NFTA_CMP_DATA, cmp.data);
    });
  }
  void operator()(const Range& range) const {
    Wrap("range", [&] {
      writer.PutU32(NFTA_RANGE_SREG, NFT_REG_1);
      writer.PutU32(NFTA_RANGE_OP, range.inverted ? NFT_RANGE_NEQ : NFT_RANGE_EQ);
      PutData(writer, NFTA_RANGE_FROM_DATA, range.first);
      PutData(writer, NFTA_RANGE_TO_DATA, range.last);
    });
  }
  void operator()(const Lookup& lookup) const {
    Wrap("lookup", [&] {
      writer.PutU32(NFTA_LOOKUP_SREG, NFT_REG_1);
      writer.PutText(NFTA_LOOKUP_SET, SetName(set));
      writer.PutU32(NFTA_LOOKUP_SET_ID, set_id);
      if (lookup.inverted) writer.PutU32(NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
    });
  }
  void operator()(const Immediate& immediate) const {
    Wrap("immediate", [&] {
      writer.PutU32(NFTA_IMMEDIATE_DREG, NFT_REG_1);
      PutData(writer, NFTA_IMMEDIATE_DATA, immediate.data);
    });
  }
  void operator()(const VerdictTo& verdict) const {
    Wrap("immediate", [&] {
      writer.PutU32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
      const size_t data = writer.Open(NFTA_IMMEDIATE_DATA);
      const size_t nest = writer.Open(NFTA_DATA_VERDICT);
      writer.PutU32(NFTA_VERDICT_CODE, static_cast<uint32_t>(verdict.code));
      if (!verdict.chain.empty()) writer.PutText(NFTA_VERDICT_CHAIN, verdict.chain);
      writer.Close(nest);
      writer.Close(data);
    });
  }
  void operator()(const Counter&) const { Wrap("counter", {}); }
  void operator()(const RedirectPort&) const {
    Wrap("redir", {{NFTA_REDIR_REG_PROTO_MIN, NFT_REG_1}, {NFTA_REDIR_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED}});
  }
  void operator()(const TproxyPort&) const {
    Wrap("tproxy", {{NFTA_TPROXY_FAMILY, 0}, {NFTA_TPROXY_REG_PORT, NFT_REG_1}});
  }
  void operator()(const Unknown& unknown) const { Wrap(unknown.name.c_str(), {}); }
};

void PutElements(Writer& writer, const char* table, uint32_t number, uint32_t id, const Lookup& lookup) {
  for (size_t at = 0; at < lookup.elements.size(); at += kElementsInMessage) {
    writer.Begin(NFT_MSG_NEWSETELEM, NLM_F_CREATE);
    writer.PutText(NFTA_SET_ELEM_LIST_TABLE, table);
    writer.PutText(NFTA_SET_ELEM_LIST_SET, SetName(number));
    writer.PutU32(NFTA_SET_ELEM_LIST_SET_ID, id);
    const size_t list = writer.Open(NFTA_SET_ELEM_LIST_ELEMENTS);
    for (size_t i = at; i < lookup.elements.size() && i < at + kElementsInMessage; ++i) {
      const Element& element = lookup.elements[i];
      const size_t nest = writer.Open(NFTA_LIST_ELEM);
      if (element.end) writer.PutU32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
      PutData(writer, NFTA_SET_ELEM_KEY, element.key);
      if (lookup.ranges && !element.end && i + 1 == lookup.elements.size())
        PutUserdata(writer, NFTA_SET_ELEM_USERDATA, kElementFlags, kOpenInterval);
      writer.Close(nest);
    }
    writer.Close(list);
    writer.End();
  }
}

bool BigEndianKey(const Lookup& lookup) {
  constexpr uint32_t kPortType = 13;
  constexpr uint32_t kIpv4Type = 7;
  constexpr uint32_t kIpv6Type = 8;
  return lookup.type == kPortType || lookup.type == kIpv4Type || lookup.type == kIpv6Type;
}

void PutSet(Writer& writer, const char* table, uint32_t number, uint32_t id, const Lookup& lookup) {
  writer.Begin(NFT_MSG_NEWSET, NLM_F_CREATE);
  writer.PutText(NFTA_SET_TABLE, table);
  writer.PutText(NFTA_SET_NAME, SetName(number));
  writer.PutU32(NFTA_SET_FLAGS, NFT_SET_ANONYMOUS | NFT_SET_CONSTANT | (lookup.ranges ? NFT_SET_INTERVAL : 0));
  writer.PutU32(NFTA_SET_KEY_TYPE, lookup.type);
  writer.PutU32(NFTA_SET_KEY_LEN, lookup.width);
  writer.PutU32(NFTA_SET_ID, id);
  const size_t desc = writer.Open(NFTA_SET_DESC);
  writer.PutU32(NFTA_SET_DESC_SIZE, static_cast<uint32_t>(lookup.elements.size()));
  writer.Close(desc);
  PutUserdata(writer, NFTA_SET_USERDATA, kKeyByteOrder, BigEndianKey(lookup) ? kBigEndian : kHost);
  writer.End();
  PutElements(writer, table, number, id, lookup);
}

void PutChain(Writer& writer, const char* table, const ChainContent& chain) {
  writer.Begin(NFT_MSG_NEWCHAIN, NLM_F_CREATE);
  writer.PutText(NFTA_CHAIN_TABLE, table);
  writer.PutText(NFTA_CHAIN_NAME, chain.name);
  if (chain.hook) {
    writer.PutText(NFTA_CHAIN_TYPE, chain.hook->type);
    writer.PutU32(NFTA_CHAIN_POLICY, chain.hook->policy);
    const size_t hook = writer.Open(NFTA_CHAIN_HOOK);
    writer.PutU32(NFTA_HOOK_HOOKNUM, chain.hook->point);
    writer.PutU32(NFTA_HOOK_PRIORITY, static_cast<uint32_t>(chain.hook->priority));
    writer.Close(hook);
  }
  writer.End();
}

void PutTableName(Writer& writer, uint16_t type, uint16_t flags, const char* table) {
  writer.Begin(type, flags);
  writer.PutText(NFTA_TABLE_NAME, table);
  writer.End();
}

// `first_id` of sets: unique in a transaction.
void PutContent(Writer& writer, const char* table, uint32_t first_id, const Content& content) {
  for (const ChainContent& chain : content.chains) PutChain(writer, table, chain);
  uint32_t sets = 0;
  for (const ChainContent& chain : content.chains)
    for (const auto& rule : chain.rules) {
      uint32_t set = sets;
      for (const Expression& expression : rule)
        if (const auto* lookup = std::get_if<Lookup>(&expression)) {
          PutSet(writer, table, sets, first_id + sets, *lookup);
          ++sets;
        }
      writer.Begin(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
      writer.PutText(NFTA_RULE_TABLE, table);
      writer.PutText(NFTA_RULE_CHAIN, chain.name);
      const size_t list = writer.Open(NFTA_RULE_EXPRESSIONS);
      for (const Expression& expression : rule) {
        std::visit(ExpressionWriter{writer, set, first_id + set}, expression);
        if (std::holds_alternative<Lookup>(expression)) ++set;
      }
      writer.Close(list);
      writer.End();
    }
}

}  // namespace

void PutTable(Writer& writer, TableName name, const Content& content) {
  // The kernel refuses it where the table stands.
  PutTableName(writer, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, KernelName(name));
  PutContent(writer, KernelName(name), (static_cast<uint32_t>(name) + 1) << 24, content);
}

void PutGuard(Writer& writer, const Content& content) {
  writer.Begin(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL);
  writer.PutText(NFTA_TABLE_NAME, kGuardName);
  writer.PutU32(NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER);
  writer.End();
  PutContent(writer, kGuardName, 0, content);
}

void PutGuardRemoval(Writer& writer) {
  PutTableName(writer, NFT_MSG_DELTABLE, 0, kGuardName);
}

void PutRemoval(Writer& writer, TableName name, bool surely) {
  if (surely) PutTableName(writer, NFT_MSG_NEWTABLE, NLM_F_CREATE, KernelName(name));
  PutTableName(writer, NFT_MSG_DELTABLE, 0, KernelName(name));
}

}  // namespace ipnc::nftables
