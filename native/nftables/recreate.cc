#include <linux/netfilter/nf_tables.h>

#include <algorithm>

#include "native/nftables/message.h"

namespace ipnc::nftables {
namespace {

constexpr uint16_t kMake = NLM_F_CREATE;

constexpr uint64_t Bits(std::initializer_list<uint16_t> types) {
  uint64_t bits = 0;
  for (uint16_t type : types) bits |= uint64_t{1} << type;
  return bits;
}

// The attributes that make an object. The others are the kernel's: handles, places, numbers of uses.
uint64_t Making(uint16_t type) {
  switch (type) {
    case NFT_MSG_NEWTABLE:
      return Bits({NFTA_TABLE_NAME, NFTA_TABLE_FLAGS, NFTA_TABLE_USERDATA});
    case NFT_MSG_NEWCHAIN:
      return Bits({NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE,
                   NFTA_CHAIN_COUNTERS, NFTA_CHAIN_USERDATA});
    case NFT_MSG_NEWFLOWTABLE:
      return Bits({NFTA_FLOWTABLE_TABLE, NFTA_FLOWTABLE_NAME, NFTA_FLOWTABLE_HOOK, NFTA_FLOWTABLE_FLAGS});
    case NFT_MSG_NEWOBJ:
      return Bits({NFTA_OBJ_TABLE, NFTA_OBJ_NAME, NFTA_OBJ_TYPE, NFTA_OBJ_DATA, NFTA_OBJ_USERDATA});
    case NFT_MSG_NEWSET:
      return Bits({NFTA_SET_TABLE, NFTA_SET_NAME, NFTA_SET_FLAGS, NFTA_SET_KEY_TYPE, NFTA_SET_KEY_LEN,
                   NFTA_SET_DATA_TYPE, NFTA_SET_DATA_LEN, NFTA_SET_POLICY, NFTA_SET_DESC, NFTA_SET_TIMEOUT,
                   NFTA_SET_GC_INTERVAL, NFTA_SET_USERDATA, NFTA_SET_OBJ_TYPE, NFTA_SET_EXPR, NFTA_SET_EXPRESSIONS});
    case NFT_MSG_NEWSETELEM:
      return Bits({NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS});
    case NFT_MSG_NEWRULE:
      return Bits({NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_COMPAT, NFTA_RULE_USERDATA});
    default:
      return 0;
  }
}

}  // namespace

void PutRecreation(Writer& writer, View dump) {
  uint32_t set_id = uint32_t{1} << 30;
  while (const auto message = TakeMessage(dump)) {
    const uint16_t type = message->header.nlmsg_type & 0xff;
    const uint64_t making = Making(type);
    if (making == 0) continue;
    writer.Begin(type, type == NFT_MSG_NEWRULE ? kMake | NLM_F_APPEND : kMake);
    View rest = message->attributes;
    while (const auto attribute = TakeAttribute(rest)) {
      if (attribute->type >= 64 || !(making >> attribute->type & 1)) continue;
      writer.PutWhole(attribute->whole);
    }
    if (type == NFT_MSG_NEWSET) writer.PutU32(NFTA_SET_ID, set_id++);
    writer.End();
  }
}

}  // namespace ipnc::nftables
