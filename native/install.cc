#include "native/install.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <new>

#include "native/error.h"
#include "native/wake_gate.h"

namespace ipnc {
namespace {

using xtables::TableSet;
using xtables::V4;
using xtables::V6;

class Stopwatch {
 public:
  // Microseconds since the last call, or since it was made.
  double Lap() {
    const auto now = std::chrono::steady_clock::now();
    return Micros(now - std::exchange(last_, now));
  }
  double Total() const { return Micros(std::chrono::steady_clock::now() - start_); }

 private:
  using Clock = std::chrono::steady_clock;
  static double Micros(Clock::duration duration) { return std::chrono::duration<double, std::micro>(duration).count(); }
  const Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = start_;
};

std::vector<RouteItem> Without(const std::vector<RouteItem>& items, const std::vector<RouteItem>& others) {
  std::vector<RouteItem> rest;
  for (const RouteItem& item : items)
    if (std::find(others.begin(), others.end(), item) == others.end()) rest.push_back(item);
  return rest;
}

// `done` gets what was changed. Not taken back when an install fails: setting lo down would take others' IPv6 addresses
// and routes on it along.
void BringLoopbackUp(const Visit& visit, std::vector<std::string>& done) {
  if (LoopbackIsUp(visit.socket())) return;
  SetLoopbackUp(visit.socket());
  done.push_back("link set lo up");
}

// `done` and `undo` get what was changed.
void Add(Rtnetlink& netlink, const std::vector<RouteItem>& items, std::vector<std::string>& done, Undo& undo) {
  for (const RouteItem& item : items) {
    const std::string command = IpCommand(item, "add");
    const auto remove = [&netlink, item] { netlink.Remove(item); };
    if (undo.Do("'ip " + command + "' could not be undone", remove, [&] { return netlink.Add(item); }))
      done.push_back(command);
  }
}

void Remove(Rtnetlink& netlink, const std::vector<RouteItem>& items, std::vector<std::string>& done, Undo& undo) {
  for (const RouteItem& item : items) {
    const std::string command = IpCommand(item, "delete");
    // Looked for first: it may not have been removed, and the kernel takes the same rule twice.
    const auto add = [&netlink, item] {
      for (const RouteItem& missing : Without({item}, netlink.List().all)) netlink.Add(missing);
    };
    if (undo.Do("'ip " + command + "' could not be undone", add, [&] { return netlink.Remove(item); }))
      done.push_back(command);
  }
}

// Of several passes over a table the last one that changed it counts.
std::vector<TableResult> Condensed(const std::vector<TableResult>& passes) {
  std::vector<TableResult> tables;
  for (const TableResult& pass : passes) {
    const auto known = std::find_if(tables.begin(), tables.end(), [&pass](const auto& table) {
      return table.family == pass.family && table.table == pass.table;
    });
    if (known == tables.end())
      tables.push_back(pass);
    else if (pass.how != How::kUnchanged)
      known->how = pass.how;
  }
  return tables;
}

// lo's IPv6 in the visited netns.
bool HasIpv6(const Visit& visit) {
  if (!visit.has_ipv6()) return false;
  const Fd fd(open("/proc/sys/net/ipv6/conf/lo/disable_ipv6", O_RDONLY | O_CLOEXEC));
  char digit = '0';
  return !fd || read(fd.get(), &digit, 1) != 1 || digit == '0';
}

// -1 where this kernel has no nfnetlink.
int NetfilterSocket(Visit& visit) {
  try {
    return visit.netfilter_socket();
  } catch (const Error& error) {
    if (error.number != EPROTONOSUPPORT) throw;
    return -1;
  }
}

}  // namespace

Compiled::Compiled(Ruleset ruleset, std::vector<nftables::Table> nftables)
    : ruleset_(std::move(ruleset)),
      is_nftables_(!nftables.empty()),
      routes_(WantedRoutes(ruleset_)),
      v4_(ruleset_),
      v6_(ruleset_),
      nftables_(std::move(nftables)) {}

Compiled::Compiled(Home& home, Ruleset ruleset, std::vector<nftables::Table> nftables)
    : Compiled(std::move(ruleset), std::move(nftables)) {
  if (!HasRules()) return;
  Visit scratch(home);
  if (is_nftables_) nftables_.Try(scratch.netfilter_socket());
  if (ruleset_.Has(Family::kV4)) v4_.BuildTemplates(scratch.socket());
  if (ruleset_.Has(Family::kV6)) v6_.BuildTemplates(scratch.socket());
}

ApplyResult Compiled::Apply(Home& home, const NetnsRef& target, ApplyOptions options) const {
  Stopwatch watch;
  bool fresh = options.fresh;
  ApplyResult result;
  Visit visit(home, target.path, &target.identity, Visit::Purpose::kWrite);
  Rtnetlink netlink(visit.route_socket());
  result.timings.enter = watch.Lap();
  // Gone when all is put back.
  std::optional<nftables::Guard> guard;
  Undo undo;
  try {
    // Another process that read a table before we wrote it can overwrite it: of its being changed the kernel sees only
    // the number of entries.
    constexpr int kAttempts = 8;
    for (int attempt = 1;; ++attempt) {
      fresh = fresh && Install(visit, netlink, true, result, undo);
      if (!fresh) {
        if (!guard && ReplacesTproxy(visit)) guard.emplace(visit.netfilter_socket());
        Install(visit, netlink, false, result, undo);
      }
      watch.Lap();
      try {
        v4_.RequireInstalled(visit.socket(), result.tables);
        v6_.RequireInstalled(visit.socket(), result.tables);
        if (is_nftables_) nftables_.RequireInstalled(visit.netfilter_socket(), result.tables);
        result.timings.verify += watch.Lap();
        break;
      } catch (const Error& error) {
        if (error.code != kVerify || attempt == kAttempts) throw;
        fresh = false;
      }
    }
  } catch (Error& error) {
    error.rollback = undo.Run();
    throw;
  } catch (const std::bad_alloc&) {
    throw Error{.number = ENOMEM, .syscall = "malloc", .rollback = undo.Run()};
  }
  if (options.wake_gate) {
    watch.Lap();
    WakeGate();
    result.timings.release = watch.Lap();
  }
  result.timings.total = watch.Total();
  return result;
}

// Whether TPROXY stands in the other form. While both do, the second takes what the first has marked for the proxy's
// own traffic, and remembers that with the connection for good.
bool Compiled::ReplacesTproxy(Visit& visit) const {
  if (!ruleset_.routes.tproxy) return false;
  constexpr std::array kMangle{TableName::kMangle};
  if (!is_nftables_) {
    const int socket = NetfilterSocket(visit);
    return socket >= 0 && nftables::HasOurs(socket, kMangle);
  }
  const auto stands = [&]<typename F>(F) {
    TableSet mangle{};
    constexpr auto kIndex = static_cast<size_t>(TableName::kMangle);
    mangle[kIndex] = xtables::Existing<F>(visit.socket())[kIndex];
    return xtables::HasOurs<F>(mangle);
  };
  return stands(V4{}) || stands(V6{});
}

// False if it was said to be fresh and was not: leftovers are still to be looked for.
bool Compiled::Install(Visit& visit, Rtnetlink& netlink, bool fresh, ApplyResult& result, Undo& undo) const {
  Stopwatch watch;
  // Two equal policy rules can stand side by side, so the kernel's EEXIST is no answer for them: look first.
  const PresentRoutes present = fresh && !ruleset_.routes.tproxy ? PresentRoutes{} : netlink.List();
  // Routes first: a packet that TPROXY marks must find its way from the first one on.
  if (HasRules()) BringLoopbackUp(visit, result.routes);
  ipnc::Add(netlink, Without(routes_, present.all), result.routes, undo);
  result.timings.routes += watch.Lap();
  // The form that is wanted first: the other one captures until it stands.
  if (!is_nftables_) InstallLegacy(visit, fresh, result, undo);
  if (is_nftables_ || !fresh) InstallNftables(visit, fresh, result, undo);
  if (is_nftables_ && !fresh) InstallLegacy(visit, fresh, result, undo);
  watch.Lap();
  ipnc::Remove(netlink, Without(present.ours, routes_), result.routes, undo);
  result.timings.routes += watch.Lap();
  result.tables = Condensed(result.tables);
  return !fresh || std::all_of(result.tables.begin(), result.tables.end(),
                               [](const TableResult& table) { return table.how == How::kReplayed; });
}

void Compiled::InstallLegacy(Visit& visit, bool fresh, ApplyResult& result, Undo& undo) const {
  Stopwatch watch;
  const TableSet v4 = fresh ? TableSet{} : xtables::Existing<V4>(visit.socket());
  const TableSet v6 = fresh ? TableSet{} : xtables::Existing<V6>(visit.socket());
  v4_.Apply(visit.socket(), v4, result.tables, undo);
  result.timings.v4 += watch.Lap();
  v6_.Apply(visit.socket(), v6, result.tables, undo);
  result.timings.v6 += watch.Lap();
}

void Compiled::InstallNftables(Visit& visit, bool fresh, ApplyResult& result, Undo& undo) const {
  Stopwatch watch;
  if (const int socket = is_nftables_ ? visit.netfilter_socket() : NetfilterSocket(visit); socket >= 0)
    nftables_.Apply(socket, fresh, result.tables, undo);
  result.timings.nftables += watch.Lap();
}

VerifyResult Compiled::Verify(Home& home, const NetnsRef& target) const {
  Stopwatch watch;
  Visit visit(home, target.path, &target.identity);
  VerifyResult result;
  result.timings.enter = watch.Lap();
  result.legacy = v4_.Drift(xtables::Existing<V4>(visit.socket()));
  result.timings.v4 = watch.Lap();
  const auto v6 = v6_.Drift(xtables::Existing<V6>(visit.socket()));
  result.legacy.insert(result.legacy.end(), v6.begin(), v6.end());
  result.timings.v6 = watch.Lap();
  if (const int socket = NetfilterSocket(visit); socket >= 0) result.nftables = nftables_.Drift(socket);
  result.timings.nftables = watch.Lap();
  const PresentRoutes present = Rtnetlink(visit.route_socket()).List();
  for (const RouteItem& item : Without(routes_, present.all)) result.missing_routes.push_back(IpCommand(item, "add"));
  for (const RouteItem& item : Without(present.ours, routes_)) result.surplus_routes.push_back(IpCommand(item, "add"));
  if (HasRules() && !LoopbackIsUp(visit.socket())) result.missing_routes.push_back("link set lo up");
  result.timings.routes = watch.Lap();
  result.timings.total = watch.Total();
  return result;
}

ApplyResult Clean(Home& home, const NetnsRef& target) {
  return Compiled(Ruleset{}, {}).Apply(home, target, {});
}

Identity Identify(Home& home, const std::string& path, bool fresh) {
  Visit visit(home, path, nullptr);
  Identity identity{.netns = visit.identity(),
                    .addresses = Rtnetlink(visit.route_socket()).GlobalAddresses(),
                    .ipv6 = HasIpv6(visit),
                    .loopback_up = LoopbackIsUp(visit.socket()),
                    .foreign_userns = visit.foreign_userns()};
  if (fresh) return identity;
  const int netfilter = NetfilterSocket(visit);
  identity.has_nftables = netfilter >= 0 && nftables::HasOurs(netfilter);
  identity.has_legacy = xtables::HasOurs<V4>(xtables::Existing<V4>(visit.socket())) ||
                        xtables::HasOurs<V6>(xtables::Existing<V6>(visit.socket()));
  return identity;
}

ProbeResult Probe(Home& home) {
  ProbeResult result;
  try {
    Visit scratch(home);
    const auto probe = [&]<typename F>(F, bool possible) {
      for (TableName table : kTableNames) {
        int error = possible ? 0 : EAFNOSUPPORT;
        try {
          if (possible) xtables::Read<F>(scratch.socket(), table);
        } catch (const Error& failure) {
          error = failure.number;
        }
        result.legacy.push_back({F::kFamily, table, error});
      }
      const auto missing = xtables::MissingExtensions<F>(scratch.socket());
      result.missing_extensions.insert(result.missing_extensions.end(), missing.begin(), missing.end());
    };
    probe(V4{}, true);
    probe(V6{}, scratch.has_ipv6());
    const int netfilter = NetfilterSocket(scratch);
    result.nftables = netfilter < 0 ? EPROTONOSUPPORT : nftables::ProbeGeneration(netfilter);
    if (result.nftables == 0) result.missing_expressions = nftables::MissingExpressions(netfilter);
  } catch (const Error& error) {
    result.netns = error.number;
  }
  return result;
}

}  // namespace ipnc
