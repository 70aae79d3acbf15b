#include "native/xtables/table.h"

#include <linux/netfilter/xt_CT.h>

#include <algorithm>
#include <array>
#include <cstring>

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
      InvalidRule("chain " + chain.name + " is none of ours");
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
Libiptc<F>::Libiptc(const Access& access, TableName table)
    : table_(table), old_istio_(access.old_istio), budget_(access.budget) {
  RequireReadable<F>(access, table);
  handle_.reset(F::Init(ToString(table)));
  if (!handle_) Throw("iptc_init");
}

template <typename F>
void Libiptc<F>::Throw(const char* call) const {
  throw Error{.number = errno, .syscall = call, .table = Name()};
}

template <typename F>
std::string Libiptc<F>::Name() const {
  return std::string(F::kName) + " " + ToString(table_);
}

template <typename F>
std::vector<std::string> Libiptc<F>::ChainNames() const {
  std::vector<std::string> names;
  for (const char* name = F::FirstChain(handle_.get()); name; name = F::NextChain(handle_.get()))
    names.emplace_back(name);
  return names;
}

template <typename F>
bool Libiptc<F>::MayPass(const typename F::Entry* rule, unsigned depth) const {
  constexpr unsigned kDeepest = 8;  // one that leads deeper counts as one that lets traffic pass
  if (depth == kDeepest) return true;
  budget_.Spend(1);
  const std::string_view target = F::GetTarget(rule, handle_.get());
  if (F::IsChain(target.data(), handle_.get()) && !F::Builtin(target.data(), handle_.get())) {
    if (IsOurChain(target)) return false;
    for (const auto* each = F::FirstRule(target.data(), handle_.get()); each; each = F::NextRule(each, handle_.get())) {
      // In a chain of its own RETURN leads back to the rules after the jump.
      if (std::string_view(F::GetTarget(each, handle_.get())) != "RETURN" && MayPass(each, depth + 1)) return true;
    }
    return false;
  }
  if (table_ == TableName::kRaw) {
    if (target == "NOTRACK") return true;
    if (target != "CT") return false;
    const auto* data = reinterpret_cast<const uint8_t*>(rule) + rule->target_offset + sizeof(xt_entry_target);
    uint16_t flags;
    if (data + sizeof(flags) > reinterpret_cast<const uint8_t*>(rule) + rule->next_offset) return false;
    std::memcpy(&flags, data, sizeof(flags));
    return (flags & XT_CT_NOTRACK) != 0;
  }
  constexpr std::array<std::string_view, 9> kGoesOn{"",      "DROP",     "LOG",  "NFLOG", "MARK",
                                                    "TRACE", "CONNMARK", "DSCP", "TCPMSS"};
  return std::find(kGoesOn.begin(), kGoesOn.end(), target) == kGoesOn.end();
}

template <typename F>
std::map<std::string, std::vector<Entry>> Libiptc<F>::Ahead(const State& state) const {
  constexpr size_t kMost = 16;
  std::map<std::string, std::vector<Entry>> ahead;
  for (const char* chain : {"PREROUTING", "OUTPUT"}) {
    const auto found = state.builtin.find(chain);
    if (found == state.builtin.end()) continue;
    const std::vector<Slot>& slots = found->second;
    const auto last = std::find_if(slots.rbegin(), slots.rend(), [](const Slot& slot) { return slot.has_value(); });
    // Nothing is captured in raw: what counts there is the exemption, wherever it is.
    const size_t end = table_ == TableName::kRaw ? slots.size() : static_cast<size_t>(slots.rend() - last);
    size_t at = 0;
    for (const auto* rule = F::FirstRule(chain, handle_.get()); rule && at < end;
         rule = F::NextRule(rule, handle_.get()), ++at)
      if (!slots[at] && ahead[chain].size() < kMost && MayPass(rule))
        ahead[chain].push_back(Canonical<F>(rule, rule->next_offset, F::GetTarget(rule, handle_.get())));
    if (ahead[chain].empty()) ahead.erase(chain);
  }
  return ahead;
}

// Of a rule in a chain of the kernel's.
template <typename F>
bool Libiptc<F>::IsOurs(const Rule& rule, std::string_view chain, const State& state) const {
  if (const auto* jump = std::get_if<Jump>(&rule.target); jump && IsOurChain(jump->chain)) return true;
  if (HasOurComment(rule)) return true;
  const IstioForm form = IstioFormOf(rule, table_, chain);
  return form == IstioForm::kSure || (form == IstioForm::kOld && state.old_istio) ||
         (state.claims && IsIstioInterface(rule, chain, state));
}

template <typename F>
State Libiptc<F>::Read() const {
  State state;
  state.old_istio = old_istio_;
  std::map<std::string, std::vector<Entry>> entries;
  std::map<std::string, std::vector<Rule>> rules;  // the same
  bool commented = false;
  for (const std::string& name : ChainNames()) {
    const bool is_builtin = F::Builtin(name.c_str(), handle_.get());
    if (!is_builtin && !IsOurChain(name)) {
      unsigned position = 0;
      for (const auto* rule = F::FirstRule(name.c_str(), handle_.get()); rule;
           rule = F::NextRule(rule, handle_.get()), ++position)
        if (const char* target = F::GetTarget(rule, handle_.get()); IsOurChain(target))
          state.jumps[name][position] = Canonical<F>(rule, rule->next_offset, target);
      continue;
    }
    auto* chain = is_builtin ? nullptr : &state.chains[name];
    for (const auto* rule = F::FirstRule(name.c_str(), handle_.get()); rule; rule = F::NextRule(rule, handle_.get())) {
      Entry entry = Canonical<F>(rule, rule->next_offset, F::GetTarget(rule, handle_.get()));
      if (chain) {
        chain->push_back(std::move(entry));
        continue;
      }
      Rule decoded = Decode<F>(entry);
      commented = commented || HasOurComment(decoded);
      state.old_istio = state.old_istio || (table_ == TableName::kNat && IsOldJump(decoded, name));
      entries[name].push_back(std::move(entry));
      rules[name].push_back(std::move(decoded));
    }
    if (is_builtin) state.builtin[name].resize(entries[name].size());
  }
  // Ours carry a comment, so where there is one these are somebody else's.
  if (!state.chains.empty() && !commented) state.interfaces = IstioInterfaces(rules["PREROUTING"], rules["OUTPUT"]);
  for (auto& [name, slots] : state.builtin)
    for (size_t i = 0; i < slots.size(); ++i) {
      if (IsOurs(rules[name][i], name, state))
        slots[i] = std::move(entries[name][i]);
      else if (IsIstioInterface(rules[name][i], name, state))
        state.claimed[name][i] = std::move(entries[name][i]);
    }
  return state;
}

template <typename F>
bool Libiptc<F>::IsIstioInterface(const Rule& rule, std::string_view chain, const State& state) const {
  return IstioFormOf(rule, table_, chain) == IstioForm::kInterface &&
         state.interfaces.contains(rule.in_interface + rule.out_interface);
}

template <typename F>
template <typename Predicate>
void Libiptc<F>::DeleteIf(const std::string& chain, Predicate predicate) {
  std::vector<unsigned> positions;
  unsigned position = 0;
  for (const auto* rule = F::FirstRule(chain.c_str(), handle_.get()); rule; rule = F::NextRule(rule, handle_.get())) {
    if (predicate(rule, F::GetTarget(rule, handle_.get()))) positions.push_back(position);
    ++position;
  }
  for (auto at = positions.rbegin(); at != positions.rend(); ++at)
    if (!F::Delete(chain.c_str(), *at, handle_.get())) Throw("iptc_delete_num_entry");
}

template <typename F>
void Libiptc<F>::Write(const State& wanted) {
  xtc_handle* handle = handle_.get();
  const auto raw = [](const Entry& entry) { return reinterpret_cast<const typename F::Entry*>(entry.data()); };
  const std::vector<std::string> names = ChainNames();
  const auto dropped = [&wanted](std::string_view chain) {
    return IsOurChain(chain) && !wanted.chains.contains(std::string(chain));
  };
  for (const std::string& name : names) {
    if (F::Builtin(name.c_str(), handle)) {
      DeleteIf(name, [&](const auto* rule, const char* target) {
        return IsOurs(Decode<F>(Canonical<F>(rule, rule->next_offset, target)), name, wanted);
      });
    } else if (IsOurChain(name)) {
      if (!F::Flush(name.c_str(), handle)) Throw("iptc_flush_entries");
    }
  }
  for (const auto& [name, entries] : wanted.chains)
    if (!F::IsChain(name.c_str(), handle) && !F::CreateChain(name.c_str(), handle)) Throw("iptc_create_chain");
  for (const auto& [name, entries] : wanted.chains)
    for (const Entry& entry : entries)
      if (!F::Append(name.c_str(), raw(entry), handle)) Throw("iptc_append_entry");
  for (const auto& [name, slots] : wanted.builtin)
    for (size_t i = 0; i < slots.size(); ++i)
      if (slots[i] && !F::Insert(name.c_str(), raw(*slots[i]), static_cast<unsigned>(i), handle))
        Throw("iptc_insert_entry");
  for (const auto& [name, jumps] : wanted.jumps) {
    if (!F::IsChain(name.c_str(), handle)) continue;
    std::vector<Entry> present;
    for (const auto* rule = F::FirstRule(name.c_str(), handle); rule; rule = F::NextRule(rule, handle))
      present.push_back(Canonical<F>(rule, rule->next_offset, F::GetTarget(rule, handle)));
    for (const auto& [position, entry] : jumps) {
      const size_t at = std::min<size_t>(position, present.size());
      if (at < present.size() && present[at] == entry) continue;
      if (!F::Insert(name.c_str(), raw(entry), static_cast<unsigned>(at), handle)) Throw("iptc_insert_entry");
      present.insert(present.begin() + static_cast<ptrdiff_t>(at), entry);
    }
  }
  // A chain can go once nobody jumps there: not even from a chain of somebody else's.
  if (std::none_of(names.begin(), names.end(), dropped)) return;
  for (const std::string& name : names)
    if (!F::Builtin(name.c_str(), handle) && !IsOurChain(name))
      DeleteIf(name, [&dropped](const auto*, const char* target) { return dropped(target); });
  for (const std::string& name : names)
    if (dropped(name) && !F::DeleteChain(name.c_str(), handle)) Throw("iptc_delete_chain");
}

template <typename F>
bool Libiptc<F>::Commit() {
  if (F::Commit(handle_.get())) return true;
  if (errno == EAGAIN) return false;
  // It writes the table before it writes the counters, and does not say which of the two failed.
  throw Error{.number = errno, .syscall = "iptc_commit", .table = Name(), .uncertain = true};
}

template Wanted Encode<V4>(const Table&);
template Wanted Encode<V6>(const Table&);
template class Libiptc<V4>;
template class Libiptc<V6>;

}  // namespace ipnc::xtables
