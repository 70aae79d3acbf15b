#include "native/nftables/iptables_nft.h"

// First: see native/xtables/family.h.
#include "native/xtables/table.h"

#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "native/error.h"
#include "native/istio.h"
#include "native/nftables/iptables_rule.h"
#include "native/nftables/message.h"

namespace ipnc::nftables {
namespace {

// Thrown where something changed while it was being read.
struct Changed {};

constexpr std::array<const char*, 2> kBuiltin{"PREROUTING", "OUTPUT"};

struct Place {
  Family family;
  TableName table;
};

uint8_t ProtocolFamily(Family family) {
  return family == Family::kV4 ? NFPROTO_IPV4 : NFPROTO_IPV6;
}

std::string Named(const Place& place) {
  return std::string("table ") + (place.family == Family::kV4 ? "ip " : "ip6 ") + ToString(place.table);
}

void RequireDone(int error, const Place& place) {
  if (error == EINTR || error == ENOENT) throw Changed{};
  if (error != 0) throw Error{.number = error, .syscall = "nf_tables dump", .table = Named(place)};
}

struct HeldRule {
  Bytes handle;  // NFTA_RULE_HANDLE as the kernel writes it
  ipnc::Rule rule;
};
struct HeldChain {
  std::string name;
  bool builtin = false;
  uint32_t uses = 0;            // its rules, and jumps to it
  std::vector<HeldRule> rules;  // all of them
};
struct HeldTable {
  Place place;
  std::vector<HeldChain> chains;
  const HeldChain* Find(std::string_view name) const {
    const auto found =
        std::find_if(chains.begin(), chains.end(), [&](const auto& chain) { return chain.name == name; });
    return found == chains.end() ? nullptr : &*found;
  }
};

bool HasTable(Channel& channel, const Place& place) {
  const int error = channel.Ask(
      NFT_MSG_GETTABLE, 0, [&](Writer& writer) { writer.PutText(NFTA_TABLE_NAME, ToString(place.table)); },
      [](const Message&) {}, ProtocolFamily(place.family));
  if (error == ENOENT || error == EINVAL || error == EOPNOTSUPP) return false;
  if (error != 0) throw Error{.number = error, .syscall = "nf_tables", .table = Named(place)};
  return true;
}

// How often the chain is used, by its rules and by jumps to it; nullopt where there is no such chain.
std::optional<uint32_t> AskChain(Channel& channel, const Place& place, const char* name) {
  std::optional<uint32_t> uses;
  const int error = channel.Ask(
      NFT_MSG_GETCHAIN, 0,
      [&](Writer& writer) {
        writer.PutText(NFTA_CHAIN_TABLE, ToString(place.table));
        writer.PutText(NFTA_CHAIN_NAME, name);
      },
      [&](const Message& message) { uses = Attributes(message.attributes).U32(NFTA_CHAIN_USE).value_or(0); },
      ProtocolFamily(place.family));
  if (error != ENOENT) RequireDone(error, place);
  return uses;
}

std::optional<HeldChain> ReadChain(Channel& channel, const Place& place, const char* name, bool builtin) {
  const auto uses = AskChain(channel, place, name);
  if (!uses) return std::nullopt;
  channel.budget().Require(*uses);
  HeldChain chain{.name = name, .builtin = builtin, .uses = *uses, .rules = {}};
  const int error = channel.Ask(
      NFT_MSG_GETRULE, NLM_F_DUMP,
      [&](Writer& writer) {
        writer.PutText(NFTA_RULE_TABLE, ToString(place.table));
        writer.PutText(NFTA_RULE_CHAIN, name);
      },
      [&](const Message& message) {
        Attributes rule(message.attributes);
        // Older kernels leave out the filter.
        if (message.family != ProtocolFamily(place.family) || rule.Text(NFTA_RULE_TABLE) != ToString(place.table) ||
            rule.Text(NFTA_RULE_CHAIN) != name)
          return;
        const View handle = rule.Get(NFTA_RULE_HANDLE).value_or(View{});
        const View list = rule.Get(NFTA_RULE_EXPRESSIONS).value_or(View{});
        chain.rules.push_back({{handle.begin(), handle.end()}, ReadIptablesRule(place.family, list)});
      },
      ProtocolFamily(place.family));
  RequireDone(error, place);
  return chain;
}

HeldTable ReadTable(Channel& channel, const Place& place) {
  HeldTable table{.place = place, .chains = {}};
  for (const char* name : kBuiltin)
    if (auto chain = ReadChain(channel, place, name, true)) table.chains.push_back(std::move(*chain));
  for (const char* name : xtables::kOurChains)
    if (auto chain = ReadChain(channel, place, name, false)) table.chains.push_back(std::move(*chain));
  return table;
}

std::vector<ipnc::Rule> RulesOf(const HeldTable& table, std::string_view name) {
  std::vector<ipnc::Rule> rules;
  if (const HeldChain* chain = table.Find(name))
    for (const HeldRule& held : chain->rules) rules.push_back(held.rule);
  return rules;
}

// Drops the rules in the kernel's chains that are not Istio's.
void KeepIstios(HeldTable& table, bool old) {
  const bool any =
      std::any_of(table.chains.begin(), table.chains.end(), [](const auto& each) { return !each.builtin; });
  const auto interfaces =
      any ? IstioInterfaces(RulesOf(table, "PREROUTING"), RulesOf(table, "OUTPUT")) : std::set<std::string>{};
  for (HeldChain& chain : table.chains) {
    if (!chain.builtin) continue;
    std::erase_if(chain.rules, [&](const HeldRule& held) {
      const ipnc::Rule& rule = held.rule;
      if (const auto* jump = std::get_if<Jump>(&rule.target); jump && xtables::IsOurChain(jump->chain)) return false;
      switch (IstioFormOf(rule, table.place.table, chain.name)) {
        case IstioForm::kSure:
          return false;
        case IstioForm::kOld:
          return !old;
        case IstioForm::kInterface:
          return !interfaces.contains(rule.in_interface + rule.out_interface);
        case IstioForm::kNone:
          break;
      }
      return true;
    });
  }
}

// How many of the table's rules that are Istio's jump to the chain.
size_t JumpsTo(const HeldTable& table, std::string_view name) {
  size_t jumps = 0;
  for (const HeldChain& chain : table.chains)
    jumps += static_cast<size_t>(std::count_if(chain.rules.begin(), chain.rules.end(), [&](const HeldRule& held) {
      const auto* jump = std::get_if<Jump>(&held.rule.target);
      return jump && jump->chain == name;
    }));
  return jumps;
}

// Whether a rule of another program jumps there.
bool IsWanted(const HeldTable& table, const HeldChain& chain) {
  return chain.uses > chain.rules.size() + JumpsTo(table, chain.name);
}

// The kernel's chains and an empty chain that is wanted do not count, because they remain without Istio's rules.
bool HasIstios(const HeldTable& table) {
  return std::any_of(table.chains.begin(), table.chains.end(), [&](const HeldChain& chain) {
    return !chain.rules.empty() || (!chain.builtin && !IsWanted(table, chain));
  });
}

struct Held {
  uint32_t generation = 0;
  std::vector<HeldTable> tables;  // in which something is Istio's
};

Held ReadOnce(Channel& channel, uint32_t generation) {
  Held held{.generation = generation, .tables = {}};
  for (Family family : {Family::kV4, Family::kV6}) {
    bool old = false;
    // nat first: it shows how old the rules are.
    for (TableName name : {TableName::kNat, TableName::kMangle, TableName::kRaw}) {
      const Place place{family, name};
      if (!HasTable(channel, place)) continue;
      HeldTable table = ReadTable(channel, place);
      if (name == TableName::kNat)
        for (const ipnc::Rule& rule : RulesOf(table, "OUTPUT")) old = old || IsOldJump(rule, "OUTPUT");
      KeepIstios(table, old);
      if (HasIstios(table)) held.tables.push_back(std::move(table));
    }
  }
  return held;
}

// Nullopt if this kernel has no nf_tables, or if nobody has used it.
std::optional<Held> Read(Channel& channel) {
  constexpr int kAttempts = 16;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const auto generation = Generation(channel);
    if (!generation || *generation <= kFirstGeneration) return std::nullopt;
    try {
      Held held = ReadOnce(channel, *generation);
      if (held.tables.empty() || Generation(channel) == generation) return held;
    } catch (const Changed&) {
    }
  }
  ThrowErrno(EAGAIN, "nf_tables", "another process keeps changing the ruleset");
}

std::vector<IptablesTable> AsTables(const Held& held) {
  std::vector<IptablesTable> tables;
  for (const HeldTable& from : held.tables) {
    IptablesTable& table = tables.emplace_back(IptablesTable{from.place.family, from.place.table, {}});
    for (const HeldChain& chain : from.chains) {
      if (chain.builtin && chain.rules.empty()) continue;
      ipnc::Chain& to = table.chains.emplace_back();
      to.name = chain.name;
      to.builtin = chain.builtin;
      for (const HeldRule& rule : chain.rules) to.rules.push_back(rule.rule);
    }
  }
  return tables;
}

Batch RemovalOf(const Held& held) {
  Writer writer;
  writer.BeginBatch(held.generation);
  for (const HeldTable& table : held.tables) {
    const uint8_t family = ProtocolFamily(table.place.family);
    const auto put = [&](uint16_t type, uint16_t table_attribute, uint16_t chain_attribute, const HeldChain& chain,
                         View handle) {
      writer.Begin(type, 0, family);
      writer.PutText(table_attribute, ToString(table.place.table));
      writer.PutText(chain_attribute, chain.name);
      if (!handle.empty()) writer.Put(NFTA_RULE_HANDLE, handle);
      writer.End();
    };
    for (const HeldChain& chain : table.chains) {
      if (chain.builtin)
        for (const HeldRule& rule : chain.rules)
          put(NFT_MSG_DELRULE, NFTA_RULE_TABLE, NFTA_RULE_CHAIN, chain, rule.handle);
      else if (!chain.rules.empty())
        put(NFT_MSG_DELRULE, NFTA_RULE_TABLE, NFTA_RULE_CHAIN, chain, {});
    }
    for (const HeldChain& chain : table.chains)
      if (!chain.builtin && !IsWanted(table, chain))
        put(NFT_MSG_DELCHAIN, NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, chain, {});
  }
  return writer.EndBatch();
}

}  // namespace

std::vector<IptablesTable> ReadIptablesNft(Channel& channel) {
  const auto held = Read(channel);
  return held ? AsTables(*held) : std::vector<IptablesTable>{};
}

bool HasIptablesNft(Channel& channel, std::optional<TableName> table) {
  const auto generation = Generation(channel);
  if (!generation || *generation <= kFirstGeneration) return false;
  for (Family family : {Family::kV4, Family::kV6})
    for (TableName name : kTableNames) {
      const Place place{family, name};
      if ((table && *table != name) || !HasTable(channel, place)) continue;
      try {
        for (const char* chain : xtables::kOurChains)
          if (AskChain(channel, place, chain)) return true;
      } catch (const Changed&) {
        return true;  // the caller then reads the tables
      }
    }
  return false;
}

std::vector<IptablesTable> RemoveIptablesNft(Channel& channel) {
  constexpr int kAttempts = 16;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const auto held = Read(channel);
    if (!held || held->tables.empty()) return {};
    const auto refusal = channel.Send(RemovalOf(*held));
    if (!refusal) return AsTables(*held);
    if (refusal->number != ERESTART)
      throw Error{.number = refusal->number,
                  .syscall = "nf_tables",
                  .detail = "Istio's rules in the tables of iptables-nft could not be removed",
                  .table = Named(held->tables.front().place)};
  }
  ThrowErrno(EAGAIN, "nf_tables", "another process keeps changing the ruleset");
}

}  // namespace ipnc::nftables
