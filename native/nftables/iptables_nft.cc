#include "native/nftables/iptables_nft.h"

// First: see native/xtables/family.h.
#include "native/xtables/table.h"

#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nf_tables_compat.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <map>
#include <set>

#include "native/error.h"
#include "native/istio.h"
#include "native/nftables/message.h"
#include "native/xtables/encode.h"

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

// The rest of a rule that is not known.
Opaque Unreadable(std::string name) {
  return {.name = std::move(name), .revision = 0, .data = {}};
}

AddressMatch AddressOf(const Payload& payload, const std::optional<Bitwise>& mask, const Cmp& cmp) {
  AddressMatch match{.inverted = cmp.op == NFT_CMP_NEQ};
  std::copy_n(cmp.data.bytes.begin(), cmp.data.size, match.address.begin());
  match.prefix = static_cast<uint8_t>(8 * payload.length);
  if (mask) {
    match.prefix = 0;
    for (size_t i = 0; i < mask->mask.size; ++i)
      match.prefix = static_cast<uint8_t>(match.prefix + std::popcount(mask->mask.bytes[i]));
  }
  return match;
}

// A name with its NUL is that interface; one without is the beginning of a name, "eth+".
std::string InterfaceOf(const Data& data) {
  const auto* text = reinterpret_cast<const char*>(data.bytes.data());
  std::string name(text, strnlen(text, data.size));
  if (name.size() == data.size) name += '+';
  return name;
}

uint32_t HostOrder(const Data& data) {
  uint32_t value = 0;
  std::memcpy(&value, data.bytes.data(), std::min<size_t>(data.size, sizeof(value)));
  return value;
}

// Collects what the expressions of a rule say.
class Reader {
 public:
  explicit Reader(Family family) { rule_.family = family; }
  ipnc::Rule Finish() { return std::move(rule_); }

  void Take(const Expression& expression, View raw) {
    if (const auto* meta = std::get_if<MetaLoad>(&expression))
      Load(*meta);
    else if (const auto* payload = std::get_if<Payload>(&expression))
      Load(*payload);
    else if (const auto* bitwise = std::get_if<Bitwise>(&expression))
      mask_ = *bitwise;
    else if (const auto* cmp = std::get_if<Cmp>(&expression))
      Compare(*cmp);
    else if (const auto* immediate = std::get_if<Immediate>(&expression))
      port_ = immediate->data;
    else if (const auto* verdict = std::get_if<VerdictTo>(&expression))
      rule_.target = TargetOf(*verdict);
    else if (std::holds_alternative<RedirectPort>(expression))
      rule_.target = Redirect{static_cast<uint16_t>(port_.bytes[0] << 8 | port_.bytes[1])};
    else if (const auto* unknown = std::get_if<Unknown>(&expression))
      Wrapped(unknown->name, raw);
    else if (!std::holds_alternative<Counter>(expression))
      rule_.matches.emplace_back(Unreadable("expression"));
  }

 private:
  using Loaded = std::variant<std::monostate, MetaLoad, Payload>;

  void Load(Loaded loaded) {
    loaded_ = loaded;
    mask_.reset();
  }

  void Compare(const Cmp& cmp) {
    const bool inverted = cmp.op == NFT_CMP_NEQ;
    const bool known = (cmp.op == NFT_CMP_EQ || inverted) &&
                       (std::holds_alternative<MetaLoad>(loaded_)  ? CompareMeta(std::get<MetaLoad>(loaded_).key, cmp)
                        : std::holds_alternative<Payload>(loaded_) ? ComparePayload(std::get<Payload>(loaded_), cmp)
                                                                   : false);
    if (!known) rule_.matches.emplace_back(Unreadable("cmp"));
  }

  bool CompareMeta(uint32_t key, const Cmp& cmp) {
    const bool inverted = cmp.op == NFT_CMP_NEQ;
    if (mask_) return false;
    switch (key) {
      case NFT_META_IIFNAME:
        rule_.in_interface = InterfaceOf(cmp.data);
        return !inverted;
      case NFT_META_OIFNAME:
        rule_.out_interface = InterfaceOf(cmp.data);
        return !inverted;
      case NFT_META_L4PROTO:
        rule_.protocol = cmp.data.bytes[0];
        return !inverted && cmp.data.size == 1;
      case NFT_META_MARK:
        rule_.matches.emplace_back(MarkMatch{false, HostOrder(cmp.data), inverted});
        return true;
      case NFT_META_SKUID:
      case NFT_META_SKGID:
        rule_.matches.emplace_back(OwnerMatch{key == NFT_META_SKGID, HostOrder(cmp.data), inverted});
        return true;
      default:
        return false;
    }
  }

  bool ComparePayload(const Payload& payload, const Cmp& cmp) {
    if (payload.length != cmp.data.size) return false;
    if (payload.base == NFT_PAYLOAD_TRANSPORT_HEADER) {
      if (payload.length != 2 || payload.offset > 2 || mask_) return false;
      const auto port = static_cast<uint16_t>(cmp.data.bytes[0] << 8 | cmp.data.bytes[1]);
      rule_.matches.emplace_back(PortMatch{payload.offset == 0, {port, port}, cmp.op == NFT_CMP_NEQ});
      return true;
    }
    if (payload.base != NFT_PAYLOAD_NETWORK_HEADER) return false;
    const bool v4 = rule_.family == Family::kV4;
    if (payload.length == 1 && payload.offset == (v4 ? 9 : 6) && !mask_ && cmp.op == NFT_CMP_EQ) {
      rule_.protocol = cmp.data.bytes[0];
      return true;
    }
    if (payload.offset == (v4 ? 12 : 8))
      rule_.source = AddressOf(payload, mask_, cmp);
    else if (payload.offset == (v4 ? 16 : 24))
      rule_.destination = AddressOf(payload, mask_, cmp);
    else
      return false;
    return true;
  }

  static Target TargetOf(const VerdictTo& verdict) {
    switch (verdict.code) {
      case NF_ACCEPT:
        return Verdict::kAccept;
      case NF_DROP:
        return Verdict::kDrop;
      case NFT_RETURN:
        return Verdict::kReturn;
      case NFT_JUMP:
      case NFT_GOTO:
        return Jump{verdict.chain};
      default:
        return Unreadable("verdict");
    }
  }

  // nf_tables wraps the matches and targets of iptables.
  void Wrapped(const std::string& name, View raw) {
    Attributes outer(raw);
    Attributes inner(outer.Get(NFTA_EXPR_DATA).value_or(View{}));
    const auto read = [&inner](uint16_t name, uint16_t revision, uint16_t info) {
      const View data = inner.Get(info).value_or(View{});
      return Opaque{.name = std::string(inner.Text(name)),
                    .revision = static_cast<uint8_t>(inner.U32(revision).value_or(0)),
                    .data = {data.begin(), data.end()}};
    };
    if (name == "match") {
      rule_.matches.push_back(xtables::DecodeMatch(read(NFTA_MATCH_NAME, NFTA_MATCH_REV, NFTA_MATCH_INFO)));
    } else if (name == "target") {
      const Opaque target = read(NFTA_TARGET_NAME, NFTA_TARGET_REV, NFTA_TARGET_INFO);
      rule_.target = rule_.family == Family::kV4 ? xtables::DecodeTarget<xtables::V4>(target)
                                                 : xtables::DecodeTarget<xtables::V6>(target);
    } else {
      rule_.matches.emplace_back(Unreadable(name));
    }
  }

  ipnc::Rule rule_;
  Loaded loaded_;
  std::optional<Bitwise> mask_;
  Data port_;
};

ipnc::Rule ReadRule(Family family, View list) {
  Reader reader(family);
  for (const Expression& expression : ReadExpressions(list)) {
    const auto element = TakeAttribute(list);
    reader.Take(expression, element ? element->data : View{});
  }
  return reader.Finish();
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
        chain.rules.push_back({{handle.begin(), handle.end()}, ReadRule(place.family, list)});
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

// Leaves of the kernel's chains what is Istio's.
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

// A rule of somebody else jumps there.
bool IsWanted(const HeldTable& table, const HeldChain& chain) {
  return chain.uses > chain.rules.size() + JumpsTo(table, chain.name);
}

// What remains when Istio's rules are gone does not count: the kernel's chains, and an empty chain that is wanted.
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

// Nullopt where this kernel has no nf_tables, or nobody has used it.
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
        return true;  // whoever asks looks closer then
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
