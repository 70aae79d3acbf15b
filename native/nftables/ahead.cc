#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nf_tables_compat.h>
#include <linux/netfilter/xt_CT.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <string_view>

#include "native/error.h"
#include "native/nftables/channel.h"
#include "native/nftables/message.h"

namespace ipnc::nftables {
namespace {

// Where ours are: see lib/ruleset/nftables/lower.ts.
constexpr int32_t kOurNatPriority = -100;
constexpr int32_t kConntrackPriority = -200;  // NF_IP_PRI_CONNTRACK
constexpr size_t kMostShown = 16;

// What a table's chains that come before ours can do.
struct Before {
  bool translates = false;  // a chain of type nat
  bool exempts = false;     // a chain before connection tracking
};
using Tables = std::map<std::pair<uint8_t, std::string>, Before>;

const char* FamilyName(uint8_t family) {
  return family == NFPROTO_IPV4 ? "ip" : family == NFPROTO_IPV6 ? "ip6" : "inet";
}

bool IsOurs(uint8_t family, std::string_view table) {
  return family == NFPROTO_INET && std::any_of(kTableNames.begin(), kTableNames.end(),
                                               [table](TableName name) { return table == KernelName(name); });
}

void Note(const Message& message, Tables& tables) {
  if (message.family != NFPROTO_INET && message.family != NFPROTO_IPV4 && message.family != NFPROTO_IPV6) return;
  Attributes chain(message.attributes);
  const auto nest = chain.Get(NFTA_CHAIN_HOOK);
  const std::string table(chain.Text(NFTA_CHAIN_TABLE));
  if (!nest || IsOurs(message.family, table)) return;
  Attributes hook(*nest);
  const uint32_t point = hook.U32(NFTA_HOOK_HOOKNUM).value_or(NF_INET_NUMHOOKS);
  const auto priority = static_cast<int32_t>(hook.U32(NFTA_HOOK_PRIORITY).value_or(0));
  if (point != NF_INET_PRE_ROUTING && point != NF_INET_LOCAL_OUT) return;
  // Of two chains of the same priority the newer one comes first.
  const bool translates = chain.Text(NFTA_CHAIN_TYPE) == "nat" && priority <= kOurNatPriority;
  const bool exempts = priority < kConntrackPriority;
  if (!translates && !exempts) return;
  Before& before = tables[{message.family, table}];
  before.translates |= translates;
  before.exempts |= exempts;
}

// `name` is that of an expression, or of the target of iptables that it wraps.
bool LetsPass(std::string_view name, const Before& before) {
  constexpr std::array<std::string_view, 5> kTranslate{"nat", "redir", "DNAT", "REDIRECT", "NETMAP"};
  constexpr std::array<std::string_view, 3> kExempt{"notrack", "NOTRACK", "CT"};
  return (before.translates && std::find(kTranslate.begin(), kTranslate.end(), name) != kTranslate.end()) ||
         (before.exempts && std::find(kExempt.begin(), kExempt.end(), name) != kExempt.end());
}

// The target CT may also set a zone and exempt nothing.
bool Exempts(std::optional<View> info) {
  uint16_t flags = XT_CT_NOTRACK;
  if (info && info->size() >= sizeof(flags)) std::memcpy(&flags, info->data(), sizeof(flags));
  return (flags & XT_CT_NOTRACK) != 0;
}

bool LetsPass(const Message& rule, const Before& before) {
  View list = Attributes(rule.attributes).Get(NFTA_RULE_EXPRESSIONS).value_or(View{});
  while (const auto element = TakeAttribute(list)) {
    Attributes expression(element->data);
    const std::string_view name = expression.Text(NFTA_EXPR_NAME);
    if (LetsPass(name, before)) return true;
    const auto data = expression.Get(NFTA_EXPR_DATA);
    if (name != "target" || !data) continue;
    Attributes target(*data);
    const std::string_view target_name = target.Text(NFTA_TARGET_NAME);
    if (LetsPass(target_name, before) && (target_name != "CT" || Exempts(target.Get(NFTA_TARGET_INFO)))) return true;
  }
  return false;
}

// False: it changed while it was being read.
bool Read(Channel& channel, std::vector<std::string>& ahead) {
  Tables tables;
  const auto done = [](int error) {
    if (error == 0) return true;
    if (error == EINTR || error == ENOENT) return false;
    ThrowErrno(error, "nf_tables dump");
  };
  const int error = channel.Ask(
      NFT_MSG_GETCHAIN, NLM_F_DUMP, [](Writer&) {}, [&](const Message& message) { Note(message, tables); },
      NFPROTO_UNSPEC);
  if (error == EINVAL || error == EOPNOTSUPP) return true;  // this kernel has no nf_tables
  if (!done(error)) return false;
  for (const auto& [place, before] : tables) {
    const auto& [family, table] = place;
    const int result = channel.Ask(
        NFT_MSG_GETRULE, NLM_F_DUMP, [&](Writer& writer) { writer.PutText(NFTA_RULE_TABLE, table); },
        [&](const Message& message) {
          if (message.family != family || TableOf(message) != table || ahead.size() >= kMostShown) return;
          if (!LetsPass(message, before)) return;
          ahead.push_back(std::string("table ") + FamilyName(family) + " " + table + ", " + Describe(message));
        },
        family);
    if (!done(result)) return false;
  }
  return true;
}

}  // namespace

std::vector<std::string> RulesAhead(Channel& channel) {
  constexpr int kAttempts = 16;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    std::vector<std::string> ahead;
    if (Read(channel, ahead)) return ahead;
  }
  ThrowErrno(EAGAIN, "nf_tables", "another process keeps changing the ruleset");
}

}  // namespace ipnc::nftables
