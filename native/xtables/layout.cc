#include "native/xtables/layout.h"

#include <linux/netfilter.h>
#include <linux/netfilter/x_tables.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <set>
#include <string_view>

#include "native/error.h"

namespace ipnc::xtables {
namespace {

// Of the kernel's chains, by hook; libiptc has the same list.
constexpr std::array<const char*, NF_INET_NUMHOOKS> kHookNames{"PREROUTING", "INPUT", "FORWARD", "OUTPUT",
                                                               "POSTROUTING"};

struct NamedVerdict {
  std::string_view name;
  int verdict;
};
constexpr std::array<NamedVerdict, 4> kVerdicts{{
    {"ACCEPT", -NF_ACCEPT - 1},
    {"DROP", -NF_DROP - 1},
    {"QUEUE", -NF_QUEUE - 1},
    {"RETURN", XT_RETURN},
}};

constexpr size_t kStandardSize = XT_ALIGN(sizeof(xt_standard_target));
constexpr size_t kErrorSize = XT_ALIGN(sizeof(xt_error_target));

template <typename T>
T At(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

template <size_t kSize>
std::string_view NameIn(const char (&text)[kSize]) {
  return {text, strnlen(text, kSize)};
}

template <typename F>
class Parser {
 public:
  explicit Parser(const Blob& blob)
      : entries_(blob.data() + sizeof(header_)), size_(blob.size() - sizeof(header_)), header_(HeaderOf<F>(blob)) {}

  Layout Parse() {
    Split();
    Layout layout;
    for (const Chain& chain : chains_) {
      RequireEnd(chain);
      std::vector<LayoutRule> rules;
      rules.reserve(chain.places.size() - 1);
      for (size_t i = 0; i + 1 < chain.places.size(); ++i) rules.push_back(RuleOf(PartAt(chain.places[i])));
      if (chain.hook)
        layout.builtin[*chain.hook] = {.rules = std::move(rules), .policy = RuleOf(PartAt(chain.places.back()))};
      else
        layout.chains[chain.name] = std::move(rules);
    }
    return layout;
  }

 private:
  using RawEntry = typename F::Entry;

  struct Place {
    size_t at;
    size_t number;
  };

  struct Part : Place {
    xt_entry_target target{};
    RawEntry entry{};  // last, as header_
  };

  struct Chain {
    std::string name;
    std::optional<unsigned> hook;
    std::vector<Place> places;
  };

  [[noreturn]] void Refuse(const std::string& fault) const {
    throw Error{.code = kTableLayout, .detail = fault, .table = std::string(F::kName) + " " + Name()};
  }

  std::string Name() const { return std::string(NameIn(header_.name)); }

  Part PartAt(const Place& place) const {
    const size_t at = place.at;
    Part part{place};
    if (size_ - at < sizeof(RawEntry)) Refuse("an entry is cut off");
    part.entry = At<RawEntry>(entries_ + at);
    const RawEntry& entry = part.entry;
    if (entry.next_offset > size_ - at || entry.target_offset < sizeof(RawEntry) ||
        entry.target_offset + sizeof(xt_entry_target) > entry.next_offset)
      Refuse("an entry has no target");
    part.target = At<xt_entry_target>(entries_ + at + entry.target_offset);
    if (part.target.u.target_size != entry.next_offset - entry.target_offset)
      Refuse("a target does not end with its entry");
    return part;
  }

  static bool IsError(const Part& part) { return NameIn(part.target.u.user.name) == XT_ERROR_TARGET; }

  std::optional<int> VerdictOf(const Part& part) const {
    if (part.target.u.user.name[0] != '\0') return std::nullopt;
    if (part.target.u.target_size != kStandardSize) Refuse("a verdict has a wrong size");
    return At<xt_standard_target>(entries_ + part.at + part.entry.target_offset).verdict;
  }

  // The hook whose chain begins here.
  std::optional<unsigned> HookAt(size_t at) const {
    std::optional<unsigned> found;
    for (unsigned hook = 0; hook < NF_INET_NUMHOOKS; ++hook) {
      if (!(header_.valid_hooks & 1U << hook) || header_.hook_entry[hook] != at) continue;
      if (found) Refuse("two built-in chains begin with the same entry");
      found = hook;
    }
    return found;
  }

  // Finds where each chain begins and ends.
  void Split() {
    std::set<std::string> names;
    const auto begin = [&](std::string name, std::optional<unsigned> hook) {
      if (!names.insert(name).second) Refuse("two chains have the same name");
      chains_.push_back({.name = std::move(name), .hook = hook, .places = {}});
    };
    size_t number = 0;
    bool ended = false;
    for (size_t at = 0; at < size_; ++number) {
      const Part part = PartAt({.at = at, .number = number});
      const size_t next = at + part.entry.next_offset;
      const std::optional<unsigned> hook = HookAt(at);
      if (IsError(part)) {
        if (hook) Refuse("a built-in chain begins with the name of another chain");
        ended = next == size_;
        if (!ended) {
          begin(ChainNameOf(part), std::nullopt);
          if (part.entry.target_offset != sizeof(RawEntry)) Refuse("the name of a chain has a condition");
          starts_[next] = chains_.size() - 1;
        }
      } else {
        if (hook) {
          if (!chains_.empty() && !chains_.back().hook) Refuse("a built-in chain comes after other chains");
          begin(kHookNames[*hook], hook);
        }
        if (chains_.empty()) Refuse("the first entry belongs to no chain");
        chains_.back().places.push_back(part);
      }
      at = next;
    }
    if (!ended) Refuse("the table has no end");
    for (unsigned hook = 0; hook < NF_INET_NUMHOOKS; ++hook)
      if (header_.valid_hooks & 1U << hook && !names.contains(kHookNames[hook]))
        Refuse(std::string(kHookNames[hook]) + " has no first entry");
  }

  std::string ChainNameOf(const Part& part) const {
    if (part.target.u.target_size != kErrorSize) Refuse("the name of a chain has a wrong size");
    const auto error = At<xt_error_target>(entries_ + part.at + part.entry.target_offset);
    const std::string_view name = NameIn(error.errorname);
    // A jump carries it as the name of its target.
    if (name.empty() || name.size() >= sizeof(part.target.u.user.name)) Refuse("the name of a chain is too long");
    for (const NamedVerdict& verdict : kVerdicts)
      if (verdict.name == name) Refuse("a chain has the name of a verdict");
    for (const char* hook : kHookNames)
      if (hook == name) Refuse("a chain has the name of a built-in chain");
    return std::string(name);
  }

  // A chain ends with an entry that every packet matches: the policy of one of the kernel's, RETURN elsewhere.
  void RequireEnd(const Chain& chain) const {
    if (chain.places.empty()) Refuse("a chain does not end with a verdict");
    const Part last = PartAt(chain.places.back());
    const std::optional<int> verdict = VerdictOf(last);
    const auto& ip = F::Ip(last.entry);
    const std::remove_cvref_t<decltype(ip)> any{};
    const bool always = last.entry.target_offset == sizeof(RawEntry) && std::memcmp(&ip, &any, sizeof(any)) == 0;
    const bool is_policy = verdict == -NF_ACCEPT - 1 || verdict == -NF_DROP - 1;
    if (!always || !(chain.hook ? is_policy : verdict == XT_RETURN)) Refuse("a chain does not end with a verdict");
    if (chain.hook && header_.underflow[*chain.hook] != last.at)
      Refuse("the policy of " + chain.name + " is not at its end");
  }

  LayoutRule RuleOf(const Part& part) const {
    const std::optional<int> verdict = VerdictOf(part);
    const std::string_view target = verdict ? Meaning(part, *verdict) : NameIn(part.target.u.user.name);
    try {
      return {.entry = Canonical<F>(entries_ + part.at, part.entry.next_offset, target),
              .standard = verdict.has_value(),
              .number = part.number};
    } catch (const Error& error) {
      Refuse(error.detail);
    }
  }

  // The name of a verdict, or of the chain that it leads to; empty if that is the next entry.
  std::string_view Meaning(const Part& part, int verdict) const {
    for (const NamedVerdict& named : kVerdicts)
      if (named.verdict == verdict) return named.name;
    if (verdict < 0) Refuse("a verdict is unknown: " + std::to_string(verdict));
    if (static_cast<size_t>(verdict) == part.at + part.entry.next_offset) return {};
    const auto chain = starts_.find(static_cast<size_t>(verdict));
    if (chain == starts_.end()) Refuse("a jump does not lead to the first rule of a chain");
    return chains_[chain->second].name;
  }

  const uint8_t* const entries_;
  const size_t size_;
  std::vector<Chain> chains_;
  std::map<size_t, size_t> starts_;   // offset of its first rule -> chain
  const typename F::Replace header_;  // last: it ends with an array of no size
};

template <typename F>
class Builder {
 public:
  explicit Builder(const Layout& layout, const Blob& read) : layout_(layout), header_(HeaderOf<F>(read)) {}

  Built Build() {
    Place();
    built_.blob.resize(sizeof(header_));
    for (const auto& [hook, chain] : layout_.builtin) {
      header_.hook_entry[hook] = static_cast<unsigned>(Offset());
      for (const LayoutRule& rule : chain.rules) Add(rule);
      header_.underflow[hook] = static_cast<unsigned>(Offset());
      Add(chain.policy);
    }
    const LayoutRule end{.entry = Plain(kStandardSize, "RETURN"), .standard = true};
    for (const auto& [name, rules] : layout_.chains) {
      AddError(name);
      for (const LayoutRule& rule : rules) Add(rule);
      Add(end);
    }
    AddError(XT_ERROR_TARGET);
    header_.num_entries = static_cast<unsigned>(built_.numbers.size());
    header_.size = static_cast<unsigned>(Offset());
    header_.num_counters = 0;
    header_.counters = nullptr;
    std::memcpy(built_.blob.data(), &header_, sizeof(header_));
    return std::move(built_);
  }

 private:
  using RawEntry = typename F::Entry;

  size_t Offset() const { return built_.blob.size() - sizeof(header_); }

  // Where each chain's first rule will be.
  void Place() {
    size_t at = 0;
    const auto size_of = [](const std::vector<LayoutRule>& rules) {
      size_t size = sizeof(RawEntry) + kStandardSize;
      for (const LayoutRule& rule : rules) size += rule.entry.size();
      return size;
    };
    for (const auto& [hook, chain] : layout_.builtin) at += size_of(chain.rules);
    for (const auto& [name, rules] : layout_.chains) {
      at += sizeof(RawEntry) + kErrorSize;
      starts_[name] = at;
      at += size_of(rules);
    }
  }

  // An entry that every packet matches.
  static Entry Plain(size_t target_size, std::string_view name) {
    Entry entry(sizeof(RawEntry) + target_size);
    RawEntry header{};
    header.target_offset = sizeof(RawEntry);
    header.next_offset = static_cast<uint16_t>(entry.size());
    std::memcpy(entry.data(), &header, sizeof(header));
    xt_entry_target target{};
    target.u.target_size = static_cast<uint16_t>(target_size);
    std::memcpy(target.u.user.name, name.data(), name.size());
    std::memcpy(entry.data() + sizeof(header), &target, sizeof(target));
    return entry;
  }

  void AddError(std::string_view name) {
    const Entry entry = Plain(kErrorSize, XT_ERROR_TARGET);
    built_.blob.insert(built_.blob.end(), entry.begin(), entry.end());
    std::memcpy(built_.blob.data() + built_.blob.size() - kErrorSize + offsetof(xt_error_target, errorname),
                name.data(), name.size());
    built_.numbers.emplace_back();
  }

  void Add(const LayoutRule& rule) {
    const size_t at = built_.blob.size();
    built_.blob.insert(built_.blob.end(), rule.entry.begin(), rule.entry.end());
    built_.numbers.push_back(rule.number);
    if (!rule.standard) return;
    const std::string_view name = TargetName<F>(rule.entry);
    uint8_t* const bytes = built_.blob.data() + at;
    uint8_t* const target = bytes + At<RawEntry>(bytes).target_offset;
    const int verdict = VerdictFor(name);
    std::memset(target + offsetof(xt_entry_target, u.user.name), 0, sizeof(xt_entry_target{}.u.user.name));
    std::memcpy(target + offsetof(xt_standard_target, verdict), &verdict, sizeof(verdict));
  }

  // Of a rule that is the last one so far.
  int VerdictFor(std::string_view name) const {
    if (name.empty()) return static_cast<int>(Offset());
    for (const NamedVerdict& named : kVerdicts)
      if (named.name == name) return named.verdict;
    const auto start = starts_.find(name);
    if (start == starts_.end())
      throw Error{.code = kTableLayout,
                  .detail = "a rule jumps to chain " + std::string(name) + ", which is not there",
                  .table = std::string(F::kName) + " " + std::string(NameIn(header_.name))};
    return static_cast<int>(start->second);
  }

  const Layout& layout_;
  Built built_;
  std::map<std::string_view, size_t> starts_;
  typename F::Replace header_;  // last: it ends with an array of no size
};

}  // namespace

const char* HookName(unsigned hook) {
  return kHookNames[hook];
}

template <typename F>
std::string_view TargetName(const Entry& entry) {
  const auto header = At<typename F::Entry>(entry.data());
  const char* name =
      reinterpret_cast<const char*>(entry.data()) + header.target_offset + offsetof(xt_entry_target, u.user.name);
  return {name, strnlen(name, sizeof(xt_entry_target{}.u.user.name))};
}

template <typename F>
LayoutRule NewRule(const Layout& layout, const Entry& entry) {
  const std::string_view name = TargetName<F>(entry);
  const auto header = At<typename F::Entry>(entry.data());
  const auto target = At<xt_entry_target>(entry.data() + header.target_offset);
  // An extension of the same name has data of its own.
  const auto data = entry.begin() + header.target_offset + static_cast<ptrdiff_t>(sizeof(xt_entry_target));
  const bool bare = target.u.target_size == kStandardSize && target.u.user.revision == 0 &&
                    std::all_of(data, entry.end(), [](uint8_t byte) { return byte == 0; });
  const bool verdict =
      name.empty() || std::any_of(kVerdicts.begin(), kVerdicts.end(), [&](const auto& v) { return v.name == name; });
  return {.entry = entry, .standard = bare && (verdict || layout.chains.contains(name))};
}

template <typename F>
Layout Parse(const Blob& blob) {
  return Parser<F>(blob).Parse();
}

template <typename F>
Built Build(const Layout& layout, const Blob& read) {
  return Builder<F>(layout, read).Build();
}

template std::string_view TargetName<V4>(const Entry&);
template std::string_view TargetName<V6>(const Entry&);
template LayoutRule NewRule<V4>(const Layout&, const Entry&);
template LayoutRule NewRule<V6>(const Layout&, const Entry&);
template Layout Parse<V4>(const Blob&);
template Layout Parse<V6>(const Blob&);
template Built Build<V4>(const Layout&, const Blob&);
template Built Build<V6>(const Layout&, const Blob&);

}  // namespace ipnc::xtables
