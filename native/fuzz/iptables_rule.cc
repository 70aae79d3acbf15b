// Bytes as the kernel might hand them over, read as a rule of iptables-nft: never past their end.
#include "native/nftables/iptables_rule.h"

#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nf_tables_compat.h>

#include "native/fuzz/damage.h"
#include "native/istio.h"
#include "native/nftables/message.h"

namespace {

using namespace ipnc;
using namespace ipnc::nftables;

// `-i lo -p tcp -m mark --mark 1337 -j CONNMARK`, more or less, to be damaged.
Bytes Sample() {
  Writer writer;
  const auto wrap = [&writer](const char* name, auto body) { PutExpression(writer, name, body); };
  const auto compare = [&](uint32_t key, View value) {
    wrap("meta", [&] {
      writer.PutU32(NFTA_META_KEY, key);
      writer.PutU32(NFTA_META_DREG, NFT_REG_1);
    });
    wrap("cmp", [&] {
      writer.PutU32(NFTA_CMP_SREG, NFT_REG_1);
      writer.PutU32(NFTA_CMP_OP, NFT_CMP_EQ);
      const size_t data = writer.Open(NFTA_CMP_DATA);
      writer.Put(NFTA_DATA_VALUE, value);
      writer.Close(data);
    });
  };
  constexpr uint8_t kLo[] = {'l', 'o', 0};
  constexpr uint8_t kTcp[] = {6};
  constexpr uint8_t kMark[] = {0x39, 5, 0, 0};
  compare(NFT_META_IIFNAME, kLo);
  compare(NFT_META_L4PROTO, kTcp);
  compare(NFT_META_MARK, kMark);
  wrap("payload", [&] {
    writer.PutU32(NFTA_PAYLOAD_DREG, NFT_REG_1);
    writer.PutU32(NFTA_PAYLOAD_BASE, NFT_PAYLOAD_NETWORK_HEADER);
    writer.PutU32(NFTA_PAYLOAD_OFFSET, 12);
    writer.PutU32(NFTA_PAYLOAD_LEN, 4);
  });
  wrap("match", [&] {
    writer.PutText(NFTA_MATCH_NAME, "owner");
    writer.PutU32(NFTA_MATCH_REV, 1);
    writer.Put(NFTA_MATCH_INFO, Bytes(24));
  });
  wrap("target", [&] {
    writer.PutText(NFTA_TARGET_NAME, "CONNMARK");
    writer.PutU32(NFTA_TARGET_REV, 2);
    writer.Put(NFTA_TARGET_INFO, Bytes(16));
  });
  return writer.bytes();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Bytes kSample = Sample();
  if (size == 0) return 0;
  const Bytes bytes = AnyOrDamaged(kSample, data, size);
  for (Family family : {Family::kV4, Family::kV6}) {
    const ipnc::Rule rule = ReadIptablesRule(family, bytes);
    for (TableName table : kTableNames)
      for (const char* chain : {"PREROUTING", "OUTPUT"}) IstioFormOf(rule, table, chain);
    IsOldJump(rule, "OUTPUT");
    IstioInterfaces({rule}, {rule});
  }
  return 0;
}
