#include "native/install.h"

#include <fcntl.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <iterator>
#include <memory>
#include <new>

#include "native/error.h"
#include "native/nftables/iptables_nft.h"
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
      if (netlink.List({item}).wanted.empty()) netlink.Add(item);
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

// A switch of the visited netns; off where this kernel does not have it.
bool IsOn(const char* path) {
  const Fd fd(open(path, O_RDONLY | O_CLOEXEC));
  char digit = '0';
  return fd && read(fd.get(), &digit, 1) == 1 && digit != '0';
}

// lo's IPv6 in the visited netns.
bool HasIpv6(const Visit& visit) {
  return visit.has_ipv6() && !IsOn("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
}

uint32_t DoubtsIn(const Visit& visit, const Ruleset& ruleset) {
  uint32_t doubts = 0;
  if (ruleset.routes.tproxy && ruleset.Has(Family::kV4) &&
      (IsOn("/proc/sys/net/ipv4/conf/all/src_valid_mark") || IsOn("/proc/sys/net/ipv4/conf/eth0/src_valid_mark")))
    doubts |= kSourceMark;
  ifreq request{};
  std::strcpy(request.ifr_name, "tap0_kata");  // kata-containers, src/runtime/virtcontainers/network_linux.go
  if (ioctl(visit.socket(), SIOCGIFINDEX, &request) == 0) doubts |= kVirtualMachine;
  return doubts;
}

}  // namespace

// A visit, and the ways to ask the kernel there, each made at first use.
class Session final : public Visit {
 public:
  using Visit::Visit;

  xtables::Access access() { return {socket(), budget()}; }
  Rtnetlink& routes() {
    if (!routes_) routes_.emplace(route_socket(), budget());
    return *routes_;
  }
  // Throws EPROTONOSUPPORT where this kernel has no nfnetlink.
  nftables::Channel& nftables() {
    if (!nftables_) nftables_.emplace(netfilter_socket(), budget());
    return *nftables_;
  }
  // Null where this kernel has no nfnetlink.
  nftables::Channel* nftables_if_any() {
    try {
      return &nftables();
    } catch (const Error& error) {
      if (error.number != EPROTONOSUPPORT) throw;
      return nullptr;
    }
  }

 private:
  std::optional<Rtnetlink> routes_;
  std::optional<nftables::Channel> nftables_;
};

namespace {

// Whether anybody has ever written to nf_tables in the visited netns.
bool HasHistory(Session& visit) {
  nftables::Channel* channel = visit.nftables_if_any();
  return channel && nftables::Generation(*channel) > nftables::kFirstGeneration;
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
  Session scratch(home);
  if (is_nftables_) nftables_.Try(scratch.nftables());
  if (ruleset_.Has(Family::kV4)) v4_.BuildTemplates(scratch.access());
  if (ruleset_.Has(Family::kV6)) v6_.BuildTemplates(scratch.access());
}

ApplyResult Compiled::Apply(Home& home, const NetnsRef& target, ApplyOptions options) const {
  Stopwatch watch;
  ApplyResult result;
  Session visit(home, target.path, &target.identity, Visit::Purpose::kWrite);
  result.timings.enter = watch.Lap();
  // Istio's CNI plugin may have written rules before us, into tables that our install does not touch.
  options.fresh = options.fresh && !HasHistory(visit);
  // Gone when all is put back.
  std::optional<nftables::Guard> guard;
  Undo undo;
  try {
    // Another process that read a table before we wrote it can overwrite it: of its being changed the kernel sees only
    // the number of entries.
    constexpr int kAttempts = 8;
    for (int attempt = 1;; ++attempt) {
      options.fresh = options.fresh && Install(visit, options, result, undo);
      if (!options.fresh) {
        if (!guard && ReplacesTproxy(visit)) guard.emplace(visit.nftables());
        Install(visit, options, result, undo);
      }
      watch.Lap();
      try {
        v4_.RequireInstalled(visit.access(), result.tables);
        v6_.RequireInstalled(visit.access(), result.tables);
        if (is_nftables_) nftables_.RequireInstalled(visit.nftables(), result.tables);
        result.timings.verify += watch.Lap();
        break;
      } catch (const Error& error) {
        if (error.code != kVerify || attempt == kAttempts) throw;
        options.fresh = false;
      }
    }
    if (!options.fresh) TakeFromIptablesNft(visit, result);
    if (HasRules()) result.doubts |= DoubtsIn(visit, ruleset_);
  } catch (Error& error) {
    visit.budget().Renew();
    error.rollback = undo.Run();
    throw;
  } catch (const std::bad_alloc&) {
    visit.budget().Renew();
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

// The last step, after our rules were read back. It is one transaction, so nothing has to be rolled back after it.
void Compiled::TakeFromIptablesNft(Session& visit, ApplyResult& result) const {
  Stopwatch watch;
  if (nftables::Channel* channel = visit.nftables_if_any())
    for (const auto& from : nftables::RemoveIptablesNft(*channel)) {
      result.doubts |= kTookOver;
      const auto known = std::find_if(result.tables.begin(), result.tables.end(), [&](const TableResult& table) {
        return table.family == from.family && table.table == from.name;
      });
      if (known == result.tables.end())
        result.tables.push_back({from.family, from.name, How::kCleaned});
      else if (known->how == How::kUnchanged)
        known->how = How::kCleaned;
    }
  result.timings.nftables += watch.Lap();
}

// Whether TPROXY stands in the other form. While both do, the second takes what the first has marked for the proxy's
// own traffic, and remembers that with the connection for good.
bool Compiled::ReplacesTproxy(Session& visit) const {
  if (!ruleset_.routes.tproxy) return false;
  constexpr std::array kMangle{TableName::kMangle};
  nftables::Channel* channel = visit.nftables_if_any();
  if (channel && nftables::HasIptablesNft(*channel, TableName::kMangle)) return true;
  if (!is_nftables_) return channel && nftables::HasOurs(*channel, kMangle);
  const auto stands = [&]<typename F>(F) {
    TableSet mangle{};
    constexpr auto kIndex = static_cast<size_t>(TableName::kMangle);
    mangle[kIndex] = xtables::Existing<F>(visit.socket())[kIndex];
    return xtables::HasOurs<F>(visit.access(), mangle);
  };
  return stands(V4{}) || stands(V6{});
}

// False if it was said to be fresh and was not: leftovers are still to be looked for.
bool Compiled::Install(Session& visit, ApplyOptions options, ApplyResult& result, Undo& undo) const {
  const bool fresh = options.fresh;
  Stopwatch watch;
  // Two equal policy rules can stand side by side, so the kernel's EEXIST is no answer for them: look first.
  const PresentRoutes present = fresh && !ruleset_.routes.tproxy ? PresentRoutes{} : visit.routes().List(routes_);
  // Routes first: a packet that TPROXY marks must find its way from the first one on.
  if (HasRules()) BringLoopbackUp(visit, result.routes);
  ipnc::Add(visit.routes(), Without(routes_, present.wanted), result.routes, undo);
  result.timings.routes += watch.Lap();
  // The form that is wanted first: the other one captures until it stands.
  if (!is_nftables_) InstallLegacy(visit, options, result, undo);
  if (is_nftables_ || !fresh) InstallNftables(visit, fresh, result, undo);
  if (is_nftables_ && !fresh) InstallLegacy(visit, options, result, undo);
  watch.Lap();
  ipnc::Remove(visit.routes(), Without(present.ours, routes_), result.routes, undo);
  result.timings.routes += watch.Lap();
  result.tables = Condensed(result.tables);
  return !fresh || std::all_of(result.tables.begin(), result.tables.end(),
                               [](const TableResult& table) { return table.how == How::kReplayed; });
}

void Compiled::InstallLegacy(Session& visit, ApplyOptions options, ApplyResult& result, Undo& undo) const {
  Stopwatch watch;
  const bool fresh = options.fresh, first = options.first;
  const TableSet v4 = fresh ? TableSet{} : xtables::Existing<V4>(visit.socket());
  const TableSet v6 = fresh ? TableSet{} : xtables::Existing<V6>(visit.socket());
  v4_.Apply(visit.access(), v4, first, result.tables, undo);
  result.timings.v4 += watch.Lap();
  v6_.Apply(visit.access(), v6, first, result.tables, undo);
  result.timings.v6 += watch.Lap();
}

void Compiled::InstallNftables(Session& visit, bool fresh, ApplyResult& result, Undo& undo) const {
  Stopwatch watch;
  if (nftables::Channel* channel = is_nftables_ ? &visit.nftables() : visit.nftables_if_any())
    nftables_.Apply(*channel, fresh, result.tables, undo);
  result.timings.nftables += watch.Lap();
}

VerifyResult Compiled::Verify(Home& home, const NetnsRef& target) const {
  Stopwatch watch;
  Session visit(home, target.path, &target.identity);
  VerifyResult result;
  result.timings.enter = watch.Lap();
  const auto add = [&](auto difference) {
    std::move(difference.drift.begin(), difference.drift.end(), std::back_inserter(result.legacy));
    if (HasRules())
      std::move(difference.ahead.begin(), difference.ahead.end(), std::back_inserter(result.legacy_ahead));
  };
  add(v4_.Compare(visit.access(), xtables::Existing<V4>(visit.socket())));
  result.timings.v4 = watch.Lap();
  add(v6_.Compare(visit.access(), xtables::Existing<V6>(visit.socket())));
  result.timings.v6 = watch.Lap();
  if (nftables::Channel* channel = visit.nftables_if_any()) {
    result.nftables = nftables_.Drift(*channel);
    for (auto& table : nftables::ReadIptablesNft(*channel))
      result.iptables_nft.push_back({table.family, table.name, std::move(table.chains)});
    if (HasRules()) result.nftables_ahead = nftables::RulesAhead(*channel);
  }
  if (HasRules()) result.doubts = DoubtsIn(visit, ruleset_);
  result.timings.nftables = watch.Lap();
  const PresentRoutes present = visit.routes().List(routes_);
  for (const RouteItem& item : Without(routes_, present.wanted))
    result.missing_routes.push_back(IpCommand(item, "add"));
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
  Session visit(home, path, nullptr);
  Identity identity{.netns = visit.identity(),
                    .addresses = visit.routes().GlobalAddresses(),
                    .ipv6 = HasIpv6(visit),
                    .loopback_up = LoopbackIsUp(visit.socket()),
                    .foreign_userns = visit.foreign_userns()};
  if (fresh) return identity;
  nftables::Channel* channel = visit.nftables_if_any();
  identity.has_nftables = channel && nftables::HasOurs(*channel);
  identity.has_iptables_nft = channel && nftables::HasIptablesNft(*channel);
  identity.has_legacy = xtables::HasOurs<V4>(visit.access(), xtables::Existing<V4>(visit.socket())) ||
                        xtables::HasOurs<V6>(visit.access(), xtables::Existing<V6>(visit.socket()));
  return identity;
}

ProbeResult Probe(Home& home) {
  ProbeResult result;
  try {
    Session scratch(home);
    const auto probe = [&]<typename F>(F, bool possible) {
      for (TableName table : kTableNames) {
        int error = possible ? 0 : EAFNOSUPPORT;
        try {
          if (possible) xtables::Read<F>(scratch.access(), table);
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
    nftables::Channel* channel = scratch.nftables_if_any();
    result.nftables = channel ? nftables::ProbeGeneration(*channel) : EPROTONOSUPPORT;
    if (result.nftables == 0) result.missing_expressions = nftables::MissingExpressions(*channel);
  } catch (const Error& error) {
    result.netns = error.number;
  }
  return result;
}

}  // namespace ipnc
