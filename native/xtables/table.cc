#include "native/xtables/table.h"

#include <linux/netfilter.h>
#include <linux/netfilter/xt_CT.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <memory>

#include "native/error.h"
#include "native/istio.h"

namespace ipnc::xtables {
namespace {

bool HasOurComment(const Rule& rule) {
  return std::any_of(rule.matches.begin(), rule.matches.end(), [](const Match& match) {
    const auto* comment = std::get_if<CommentMatch>(&match);
    return comment && comment->text == kRuleComment;
  });
}

std::vector<Entry> Ours(const std::vector<Slot>& slots) {
  std::vector<Entry> ours;
  for (const Slot& slot : slots)
    if (slot) ours.push_back(*slot);
  return ours;
}

// Fills each empty slot with the next of `others`. What is left of them comes last.
template <typename F>
std::vector<LayoutRule> Among(const Layout& layout, std::vector<LayoutRule> others, const std::vector<Slot>& slots) {
  std::vector<LayoutRule> rules;
  auto next = others.begin();
  for (const Slot& slot : slots) {
    if (slot)
      rules.push_back(NewRule<F>(layout, *slot));
    else if (next != others.end())
      rules.push_back(std::move(*next++));
  }
  std::move(next, others.end(), std::back_inserter(rules));
  return rules;
}

std::vector<Entry> All(const Wanted::Builtin& wanted) {
  std::vector<Entry> all = wanted.inserts;
  all.insert(all.end(), wanted.appends.begin(), wanted.appends.end());
  return all;
}

}  // namespace

bool IsOurChain(std::string_view name) {
  if (name.starts_with(kListChain)) {
    name.remove_prefix(sizeof(kListChain) - 1);
    return !name.empty() && name.find_first_not_of("0123456789") == std::string_view::npos;
  }
  return std::find(kOurChains.begin(), kOurChains.end(), name) != kOurChains.end();
}

bool State::HasOurs() const {
  return !chains.empty() ||
         std::any_of(builtin.begin(), builtin.end(), [](const auto& chain) { return !Ours(chain.second).empty(); });
}

bool SameOurs(const State& one, const State& other) {
  return one.chains == other.chains && std::equal(one.builtin.begin(), one.builtin.end(), other.builtin.begin(),
                                                  other.builtin.end(), [](const auto& a, const auto& b) {
                                                    return a.first == b.first && Ours(a.second) == Ours(b.second);
                                                  });
}

template <typename F>
Wanted Encode(const Table& table) {
  Wanted wanted;
  for (const Chain& chain : table.chains) {
    const auto encode = [](const std::vector<Rule>& rules) {
      std::vector<Entry> entries;
      for (const Rule& rule : rules)
        if (!rule.family || *rule.family == F::kFamily) entries.push_back(Encode<F>(rule));
      return entries;
    };
    if (chain.builtin) {
      wanted.builtin[chain.name] = {.inserts = encode(chain.inserts), .appends = encode(chain.rules)};
    } else if (IsOurChain(chain.name)) {
      wanted.chains[chain.name] = encode(chain.rules);
    } else {
      InvalidRule("the chain " + chain.name + " is not a chain of this project");
    }
  }
  return wanted;
}

void State::Claim() {
  for (const auto& [name, entries] : claimed)
    for (const auto& [position, entry] : entries) builtin[name][position] = entry;
  claims = true;
}

State Merge(const State& current, const Wanted& wanted, bool first) {
  State merged{.chains = wanted.chains,
               .builtin = {},
               .jumps = {},
               .claimed = {},
               .interfaces = current.interfaces,
               .claims = current.claims,
               .old_istio = current.old_istio};
  for (const auto& [name, slots] : current.builtin) {
    const auto found = wanted.builtin.find(name);
    const Wanted::Builtin builtin = found == wanted.builtin.end() ? Wanted::Builtin{} : found->second;
    // Ours at the head of the chain was inserted or stood alone there; the first of ours after that marks the place.
    size_t place = slots.size();
    const auto first_foreign = std::find(slots.begin(), slots.end(), std::nullopt);
    const auto first_appended =
        std::find_if(first_foreign, slots.end(), [](const Slot& slot) { return slot.has_value(); });
    if (first)
      place = 0;
    else if (first_appended != slots.end())
      place = static_cast<size_t>(first_appended - slots.begin());
    else if (builtin.inserts.empty() && first_foreign != slots.begin())
      place = 0;
    std::vector<Slot> layout(builtin.inserts.begin(), builtin.inserts.end());
    for (size_t i = 0; i <= slots.size(); ++i) {
      if (i == place) layout.insert(layout.end(), builtin.appends.begin(), builtin.appends.end());
      if (i < slots.size() && !slots[i]) layout.push_back(std::nullopt);
    }
    merged.builtin[name] = std::move(layout);
  }
  return merged;
}

State PutBack(const State& before, const State& current) {
  State state{.chains = before.chains,
              .builtin = {},
              .jumps = before.jumps,
              .claimed = {},
              .interfaces = current.interfaces,
              .claims = current.claims,
              .old_istio = current.old_istio};
  for (const auto& [name, now] : current.builtin) {
    auto foreign = std::count(now.begin(), now.end(), std::nullopt);
    std::vector<Slot>& layout = state.builtin[name];
    if (const auto then = before.builtin.find(name); then != before.builtin.end())
      for (const Slot& slot : then->second)
        if (slot || foreign-- > 0) layout.push_back(slot);
    for (; foreign > 0; --foreign) layout.push_back(std::nullopt);
  }
  return state;
}

bool Matches(const State& current, const Wanted& wanted) {
  if (current.chains != wanted.chains) return false;
  for (const auto& [name, slots] : current.builtin) {
    const auto found = wanted.builtin.find(name);
    if (Ours(slots) != (found == wanted.builtin.end() ? std::vector<Entry>{} : All(found->second))) return false;
  }
  return true;
}

template <typename F>
TableCopy<F>::TableCopy(const Access& access, TableName table)
    : access_(access), table_(table), read_(xtables::Read<F>(access, table)), layout_(Parse<F>(read_)) {}

template <typename F>
bool TableCopy<F>::MayPass(const LayoutRule& rule, unsigned depth) const {
  constexpr unsigned kDeepest = 8;  // one that leads deeper counts as one that lets traffic pass
  if (depth == kDeepest) return true;
  access_.budget.Spend(1);
  const std::string_view target = TargetName<F>(rule.entry);
  const auto chain = rule.standard ? layout_.chains.find(target) : layout_.chains.end();
  if (chain != layout_.chains.end()) {
    // In a chain of its own RETURN leads back to the rules after the jump.
    return !IsOurChain(target) && std::any_of(chain->second.begin(), chain->second.end(), [&](const LayoutRule& each) {
      return TargetName<F>(each.entry) != "RETURN" && MayPass(each, depth + 1);
    });
  }
  if (table_ == TableName::kRaw) {
    if (target == "NOTRACK") return true;
    if (target != "CT") return false;
    typename F::Entry header;
    std::memcpy(&header, rule.entry.data(), sizeof(header));
    const size_t data = header.target_offset + sizeof(xt_entry_target);
    uint16_t flags;
    if (data + sizeof(flags) > rule.entry.size()) return false;
    std::memcpy(&flags, rule.entry.data() + data, sizeof(flags));
    return (flags & XT_CT_NOTRACK) != 0;
  }
  constexpr std::array<std::string_view, 9> kGoesOn{"",      "DROP",     "LOG",  "NFLOG", "MARK",
                                                    "TRACE", "CONNMARK", "DSCP", "TCPMSS"};
  return std::find(kGoesOn.begin(), kGoesOn.end(), target) == kGoesOn.end();
}

template <typename F>
std::map<std::string, std::vector<Entry>> TableCopy<F>::Ahead(const State& state) const {
  constexpr size_t kMost = 16;
  std::map<std::string, std::vector<Entry>> ahead;
  for (const unsigned hook : {NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT}) {
    const auto chain = layout_.builtin.find(hook);
    if (chain == layout_.builtin.end()) continue;
    const std::vector<LayoutRule>& rules = chain->second.rules;
    const std::vector<Slot>& slots = state.builtin.at(HookName(hook));
    const auto last = std::find_if(slots.rbegin(), slots.rend(), [](const Slot& slot) { return slot.has_value(); });
    // Nothing is captured in raw: what counts there is the exemption, wherever it is.
    const size_t end = table_ == TableName::kRaw ? slots.size() : static_cast<size_t>(slots.rend() - last);
    std::vector<Entry> found;
    for (size_t at = 0; at < end && found.size() < kMost; ++at)
      if (!slots[at] && MayPass(rules[at])) found.push_back(rules[at].entry);
    if (!found.empty()) ahead[HookName(hook)] = std::move(found);
  }
  return ahead;
}

// Of a rule in a chain of the kernel's.
template <typename F>
bool TableCopy<F>::IsOurs(const Rule& rule, std::string_view chain, const State& state) const {
  if (const auto* jump = std::get_if<Jump>(&rule.target); jump && IsOurChain(jump->chain)) return true;
  if (HasOurComment(rule)) return true;
  const IstioForm form = IstioFormOf(rule, table_, chain);
  return form == IstioForm::kSure || (form == IstioForm::kOld && state.old_istio) ||
         (state.claims && IsIstioInterface(rule, chain, state));
}

template <typename F>
bool TableCopy<F>::IsIstioInterface(const Rule& rule, std::string_view chain, const State& state) const {
  return IstioFormOf(rule, table_, chain) == IstioForm::kInterface &&
         state.interfaces.contains(rule.in_interface + rule.out_interface);
}

template <typename F>
State TableCopy<F>::Read() const {
  State state;
  state.old_istio = access_.old_istio;
  std::map<std::string, std::vector<Rule>> decoded;  // the rules in chains of the kernel's
  bool commented = false;
  for (const auto& [hook, chain] : layout_.builtin) {
    const char* const name = HookName(hook);
    state.builtin[name].resize(chain.rules.size());
    for (const LayoutRule& each : chain.rules) {
      const Rule& rule = decoded[name].emplace_back(Decode<F>(each.entry));
      commented = commented || HasOurComment(rule);
      state.old_istio = state.old_istio || (table_ == TableName::kNat && IsOldJump(rule, name));
    }
  }
  for (const auto& [name, rules] : layout_.chains) {
    if (IsOurChain(name)) {
      std::vector<Entry>& entries = state.chains[name];
      for (const LayoutRule& rule : rules) entries.push_back(rule.entry);
      continue;
    }
    for (size_t position = 0; position < rules.size(); ++position)
      if (rules[position].standard && IsOurChain(TargetName<F>(rules[position].entry)))
        state.jumps[name][static_cast<unsigned>(position)] = rules[position].entry;
  }
  // Ours carry a comment, so where there is one these are somebody else's.
  if (!state.chains.empty() && !commented) state.interfaces = IstioInterfaces(decoded["PREROUTING"], decoded["OUTPUT"]);
  for (const auto& [hook, chain] : layout_.builtin) {
    const char* const name = HookName(hook);
    for (size_t i = 0; i < chain.rules.size(); ++i) {
      if (IsOurs(decoded[name][i], name, state))
        state.builtin[name][i] = chain.rules[i].entry;
      else if (IsIstioInterface(decoded[name][i], name, state))
        state.claimed[name][i] = chain.rules[i].entry;
    }
  }
  return state;
}

template <typename F>
void TableCopy<F>::Write(const State& wanted) {
  const auto dropped = [&](std::string_view chain) {
    return IsOurChain(chain) && !wanted.chains.contains(std::string(chain));
  };
  // A chain goes together with the jumps to it, also those in chains of others.
  std::erase_if(layout_.chains, [&](const auto& chain) { return dropped(chain.first); });
  for (auto& [name, rules] : layout_.chains)
    std::erase_if(rules, [&](const LayoutRule& rule) { return rule.standard && dropped(TargetName<F>(rule.entry)); });
  // All chains first, so that jumps are known as such.
  for (const auto& [name, entries] : wanted.chains) layout_.chains[name].clear();
  for (const auto& [name, entries] : wanted.chains)
    for (const Entry& entry : entries) layout_.chains[name].push_back(NewRule<F>(layout_, entry));
  for (auto& [hook, chain] : layout_.builtin) {
    std::erase_if(chain.rules, [&, name = HookName(hook)](const LayoutRule& rule) {
      return IsOurs(Decode<F>(rule.entry), name, wanted);
    });
    const auto slots = wanted.builtin.find(HookName(hook));
    if (slots != wanted.builtin.end()) chain.rules = Among<F>(layout_, std::move(chain.rules), slots->second);
  }
  for (const auto& [name, jumps] : wanted.jumps) {
    const auto chain = layout_.chains.find(name);
    if (chain == layout_.chains.end()) continue;
    std::vector<LayoutRule> merged;
    auto next = chain->second.begin();
    for (const auto& [position, entry] : jumps) {
      for (; merged.size() < position && next != chain->second.end(); ++next) merged.push_back(std::move(*next));
      if (next == chain->second.end() || next->entry != entry) merged.push_back(NewRule<F>(layout_, entry));
    }
    std::move(next, chain->second.end(), std::back_inserter(merged));
    chain->second = std::move(merged);
  }
}

template <typename F>
bool TableCopy<F>::Commit() {
  Built built = Build<F>(layout_, read_);
  // The kernel refuses the table if the present one has another number of entries, and writes their counters here.
  std::vector<xt_counters> counters(HeaderOf<F>(read_).num_entries);
  auto header = HeaderOf<F>(built.blob);
  header.num_counters = static_cast<unsigned>(counters.size());
  header.counters = counters.data();
  std::memcpy(built.blob.data(), &header, sizeof(header));
  try {
    if (!Replace<F>(access_.socket, built.blob)) return false;
  } catch (Error& error) {
    error.syscall = kMergeCall;
    throw;
  }

  std::vector<uint8_t> add(sizeof(xt_counters_info) + built.numbers.size() * sizeof(xt_counters));
  xt_counters_info info{};
  std::memcpy(info.name, header.name, sizeof(info.name));
  info.num_counters = static_cast<unsigned>(built.numbers.size());
  std::memcpy(add.data(), &info, sizeof(info));
  for (size_t i = 0; i < built.numbers.size(); ++i)
    if (const auto number = built.numbers[i])
      std::memcpy(add.data() + sizeof(info) + i * sizeof(xt_counters), &counters[*number], sizeof(xt_counters));
  if (setsockopt(access_.socket, F::kSocketLevel, IPT_SO_SET_ADD_COUNTERS, add.data(),
                 static_cast<socklen_t>(add.size())) == 0)
    return true;
  // Somebody has changed the table since. Our change is in there, unless theirs was made from an older copy.
  if (errno == EINVAL) return true;
  throw Error{.number = errno,
              .syscall = "setsockopt(SO_SET_ADD_COUNTERS)",
              .table = std::string(F::kName) + " " + ToString(table_),
              .uncertain = true};
}

template <typename F>
void WriteByLibiptc(TableName table, const State& wanted) {
  struct Free {
    void operator()(xtc_handle* handle) const { F::Free(handle); }
  };
  const auto require = [table](bool done, const char* call) {
    if (!done) throw Error{.number = errno, .syscall = call, .table = std::string(F::kName) + " " + ToString(table)};
  };
  const std::unique_ptr<xtc_handle, Free> owner(F::Init(ToString(table)));
  xtc_handle* const handle = owner.get();
  require(handle, "iptc_init");
  const auto append = [&](const std::string& chain, const Entry& entry) {
    require(F::Append(chain.c_str(), reinterpret_cast<const typename F::Entry*>(entry.data()), handle),
            "iptc_append_entry");
  };
  for (const auto& [name, entries] : wanted.chains) require(F::CreateChain(name.c_str(), handle), "iptc_create_chain");
  for (const auto& [name, entries] : wanted.chains)
    for (const Entry& entry : entries) append(name, entry);
  for (const auto& [name, slots] : wanted.builtin)
    for (const Slot& slot : slots)
      if (slot) append(name, *slot);
  require(F::Commit(handle), "iptc_commit");
}

template Wanted Encode<V4>(const Table&);
template Wanted Encode<V6>(const Table&);
template class TableCopy<V4>;
template class TableCopy<V6>;
template void WriteByLibiptc<V4>(TableName, const State&);
template void WriteByLibiptc<V6>(TableName, const State&);

}  // namespace ipnc::xtables
