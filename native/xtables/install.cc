#include "native/xtables/install.h"

#include <fcntl.h>
#include <linux/netfilter/x_tables.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string_view>

#include "native/error.h"
#include "native/fd.h"

namespace ipnc::xtables {
namespace {

size_t Index(TableName table) {
  return static_cast<size_t>(table);
}

template <typename F>
std::string Name(TableName table) {
  return std::string(F::kName) + " " + ToString(table);
}

template <typename F>
std::string NotRestored(TableName table) {
  return "table " + Name<F>(table) + " could not be restored";
}

// Reads a table, lets `change` say what it is to be, writes it; again if somebody was faster. `change` gets the table
// and what was read of it, and returns nullopt for "as it is". Returns whether it wrote.
template <typename F, typename Change>
bool ReadModifyWrite(const Access& access, TableName table, Change change) {
  constexpr int kAttempts = 64;
  for (int attempt = 1;; ++attempt) {
    TableCopy<F> copy(access, table);
    const std::optional<State> wanted = change(copy, copy.Read());
    if (!wanted) return false;
    copy.Write(*wanted);
    if (copy.Commit()) return true;
    if (attempt == kAttempts)
      throw Error{.number = EAGAIN,
                  .syscall = kMergeCall,
                  .detail = "another process keeps changing this table",
                  .table = Name<F>(table)};
    access.budget.Pause(std::chrono::microseconds(20) * attempt);
  }
}

// Makes ours `wanted`, whatever else is there, and remembers how it was. Returns whether there was anything to do.
template <typename F>
bool MergeInto(const Access& access, TableName table, const Wanted& wanted, bool first, Undo& undo) {
  const auto before = std::make_shared<std::optional<State>>();
  const auto put_back = [access, table, before] {
    if (*before)
      ReadModifyWrite<F>(access, table, [&](const TableCopy<F>&, const State& current) {
        return std::optional(PutBack(**before, current));
      });
  };
  const auto merge = [&](const TableCopy<F>& copy, State current) -> std::optional<State> {
    before->reset();
    // In raw it is not the order that counts: see TableCopy::Ahead.
    const bool move = first && table != TableName::kRaw && !copy.Ahead(current).empty();
    const bool matches = Matches(current, wanted);
    if (!move && matches) return std::nullopt;
    if (!matches) current.Claim();
    *before = std::move(current);
    return Merge(**before, wanted, move);
  };
  return undo.Do(NotRestored<F>(table), put_back, [&] { return ReadModifyWrite<F>(access, table, merge); });
}

// False where this kernel has no such table.
template <typename F>
bool HasTable(int socket, TableName table) {
  typename F::Info info{};
  std::strcpy(info.name, ToString(table));
  socklen_t length = sizeof(info);
  return getsockopt(socket, F::kSocketLevel, IPT_SO_GET_INFO, &info, &length) == 0;
}

template <typename F>
Chain Decoded(const std::string& name, bool builtin, const std::vector<Entry>& entries) {
  Chain chain{.name = name, .builtin = builtin, .inserts = {}, .rules = {}};
  for (const Entry& entry : entries) chain.rules.push_back(Decode<F>(entry));
  return chain;
}

}  // namespace

template <typename F>
TableSet Existing(int socket) {
  // Lines: "nat\nmangle\n", newest first; at most five tables, so one read has them all.
  const char* path =
      F::kFamily == Family::kV4 ? "/proc/thread-self/net/ip_tables_names" : "/proc/thread-self/net/ip6_tables_names";
  TableSet existing{};
  const Fd fd(open(path, O_RDONLY | O_CLOEXEC));
  if (!fd) {
    if (errno == ENOENT) return existing;  // this kernel has no legacy iptables
    if (errno == EACCES) {  // a user namespace without a uid 0 owns this netns: nobody may look, so ask, and so make
      for (TableName table : kTableNames) existing[Index(table)] = HasTable<F>(socket, table);
      return existing;
    }
    throw Error{.number = errno, .syscall = "open", .path = path};
  }
  char text[256];
  const ssize_t length = read(fd.get(), text, sizeof(text));
  if (length < 0) throw Error{.number = errno, .syscall = "read", .path = path};
  std::string_view rest(text, static_cast<size_t>(length));
  for (size_t end; (end = rest.find('\n')) != std::string_view::npos; rest.remove_prefix(end + 1))
    for (TableName table : kTableNames)
      if (rest.substr(0, end) == ToString(table)) existing[Index(table)] = true;
  return existing;
}

template <typename F>
bool HasOurs(const Access& access, const TableSet& existing) {
  return std::any_of(kTableNames.begin(), kTableNames.end(), [&](TableName table) {
    return existing[Index(table)] && TableCopy<F>(access, table).Read().HasOurs();
  });
}

namespace {

// A table and what of it is ours.
template <typename F>
struct Seen {
  Seen(const Access& access, TableName table) : copy(access, table), state(copy.Read()) {}

  TableCopy<F> copy;
  State state;
};

// Looks in nat whether the rules are those of an old Istio, because mangle alone does not show it. Then `nat` is what
// was read.
template <typename F>
Access Knowing(Access access, const TableSet& existing, std::optional<Seen<F>>& nat) {
  if (!existing[Index(TableName::kMangle)] || !existing[Index(TableName::kNat)]) return access;
  access.old_istio = nat.emplace(access, TableName::kNat).state.old_istio;
  return access;
}

}  // namespace

template <typename F>
Tables<F>::Tables(const Ruleset& ruleset)
    : order_(ruleset.routes.tproxy ? std::array{TableName::kRaw, TableName::kMangle, TableName::kNat}
                                   : std::array{TableName::kRaw, TableName::kNat, TableName::kMangle}) {
  if (!ruleset.Has(F::kFamily)) return;
  for (const Table& table : ruleset.tables)
    tables_[Index(table.name)] = Compiled{.wanted = Encode<F>(table), .pristine = {}, .installed = {}};
}

template <typename F>
void Tables<F>::BuildTemplates(const Access& access) {
  for (TableName table : kTableNames) {
    std::optional<Compiled>& compiled = tables_[Index(table)];
    if (!compiled) continue;
    compiled->pristine = Read<F>(access, table);
    WriteByLibiptc<F>(table, Merge(TableCopy<F>(access, table).Read(), compiled->wanted));
    compiled->installed = Read<F>(access, table);
    GuardBy<F>(compiled->installed, compiled->pristine);
  }
}

template <typename F>
How Tables<F>::Install(const Access& access, TableName table, const Compiled& compiled, bool exists, bool first,
                       Undo& undo) const {
  // The number of entries alone would miss a changed policy: look first, if there is anything to look at.
  if (!exists || xtables::Matches<F>(access.socket, compiled.pristine)) {
    const auto remove = [access, table] {
      ReadModifyWrite<F>(access, table, [](const TableCopy<F>&, const State& current) -> std::optional<State> {
        if (!current.HasOurs()) return std::nullopt;
        return Merge(current, {});
      });
    };
    if (undo.Do(NotRestored<F>(table), remove, [&] { return Replace<F>(access.socket, compiled.installed); }))
      return How::kReplayed;
  }
  return MergeInto<F>(access, table, compiled.wanted, first, undo) ? How::kMerged : How::kUnchanged;
}

template <typename F>
void Tables<F>::Apply(const Access& visited, const TableSet& existing, bool first, std::vector<TableResult>& results,
                      Undo& undo) const {
  // nat is read again before it is written, because an older copy would hide more changes of other programs.
  std::optional<Seen<F>> nat;
  const Access access = Knowing<F>(visited, existing, nat);
  for (TableName table : order_)
    if (const auto& compiled = tables_[Index(table)])
      results.push_back({F::kFamily, table, Install(access, table, *compiled, existing[Index(table)], first, undo)});
  for (TableName table : order_)
    if (!tables_[Index(table)] && existing[Index(table)] && MergeInto<F>(access, table, {}, false, undo))
      results.push_back({F::kFamily, table, How::kCleaned});
}

template <typename F>
void Tables<F>::RequireInstalled(const Access& access, const std::vector<TableResult>& results) const {
  for (const TableResult& result : results) {
    if (result.family != F::kFamily || result.how == How::kUnchanged) continue;
    const std::optional<Compiled>& compiled = tables_[Index(result.table)];
    if (result.how == How::kReplayed && LooksLike<F>(access.socket, compiled->installed)) continue;
    if (!xtables::Matches(TableCopy<F>(access, result.table).Read(), compiled ? compiled->wanted : Wanted{}))
      throw Error{
          .code = kVerify,
          .detail = "the kernel has other rules than those that were installed, because another process changed them",
          .table = Name<F>(result.table)};
  }
}

template <typename F>
size_t Tables<F>::Size() const {
  size_t size = 0;
  // The entries are held twice, by chain and as one table.
  for (const auto& compiled : tables_)
    if (compiled) size += 2 * compiled->installed.size() + compiled->pristine.size();
  return size;
}

template <typename F>
typename Tables<F>::Difference Tables<F>::Compare(const Access& visited, const TableSet& existing) const {
  std::optional<Seen<F>> nat;
  const Access access = Knowing<F>(visited, existing, nat);
  Difference difference;
  for (TableName table : kTableNames) {
    const std::optional<Compiled>& compiled = tables_[Index(table)];
    State state;
    if (existing[Index(table)]) {
      std::optional<Seen<F>> read;
      Seen<F>& seen = nat && table == TableName::kNat ? *nat : read.emplace(access, table);
      state = std::move(seen.state);
      ActualTable ahead{.family = F::kFamily, .table = table, .chains = {}};
      for (const auto& [name, entries] : seen.copy.Ahead(state))
        ahead.chains.push_back(Decoded<F>(name, true, entries));
      if (!ahead.chains.empty()) difference.ahead.push_back(std::move(ahead));
    }
    if (compiled ? existing[Index(table)] && xtables::Matches(state, compiled->wanted) : !state.HasOurs()) continue;
    state.Claim();
    ActualTable actual{.family = F::kFamily, .table = table, .chains = {}};
    for (const auto& [name, slots] : state.builtin) {
      std::vector<Entry> ours;
      for (const Slot& slot : slots)
        if (slot) ours.push_back(*slot);
      actual.chains.push_back(Decoded<F>(name, true, ours));
    }
    for (const auto& [name, entries] : state.chains) actual.chains.push_back(Decoded<F>(name, false, entries));
    difference.drift.push_back(std::move(actual));
  }
  return difference;
}

template <typename F>
std::vector<std::string> MissingExtensions(int socket) {
  struct Extension {
    const char* name;
    uint8_t revision;
    bool target;
  };
  constexpr Extension kNeeded[] = {
      {"tcp", 0, false},       {"udp", 0, false},   {"multiport", 1, false}, {"owner", 1, false},
      {"conntrack", 3, false}, {"mark", 1, false},  {"connmark", 1, false},  {"comment", 0, false},
      {"REDIRECT", 0, true},   {"TPROXY", 1, true}, {"MARK", 2, true},       {"CONNMARK", 2, true},
      {"CT", 2, true},
  };
  std::vector<std::string> missing;
  for (const Extension& extension : kNeeded) {
    xt_get_revision request{};
    std::strcpy(request.name, extension.name);
    request.revision = extension.revision;
    socklen_t length = sizeof(request);
    const int option = F::kFamily == Family::kV4
                           ? (extension.target ? IPT_SO_GET_REVISION_TARGET : IPT_SO_GET_REVISION_MATCH)
                           : (extension.target ? IP6T_SO_GET_REVISION_TARGET : IP6T_SO_GET_REVISION_MATCH);
    if (getsockopt(socket, F::kSocketLevel, option, &request, &length) != 0)
      missing.push_back(std::string(extension.name) + (extension.target ? " target" : " match") + ", revision " +
                        std::to_string(extension.revision) + " (" + F::kName + ")");
  }
  return missing;
}

template TableSet Existing<V4>(int);
template TableSet Existing<V6>(int);
template bool HasOurs<V4>(const Access&, const TableSet&);
template bool HasOurs<V6>(const Access&, const TableSet&);
template class Tables<V4>;
template class Tables<V6>;
template std::vector<std::string> MissingExtensions<V4>(int);
template std::vector<std::string> MissingExtensions<V6>(int);

}  // namespace ipnc::xtables
