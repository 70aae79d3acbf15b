#include "native/install.h"

#include <fcntl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "native/error.h"

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
    // Until the kernel says that it was there already: its answer may be lost. Where there is none of ours to remove,
    // Remove does nothing.
    const auto added = std::make_shared<bool>(true);
    undo.Add([&netlink, item, added] {
      if (*added) netlink.Remove(item);
    });
    *added = netlink.Add(item);
    if (*added) done.push_back(IpCommand(item, "add"));
  }
}

void Remove(Rtnetlink& netlink, const std::vector<RouteItem>& items, std::vector<std::string>& done, Undo& undo) {
  for (const RouteItem& item : items) {
    // Looked for first: it may not have been removed, and the kernel takes the same rule twice.
    undo.Add([&netlink, item] {
      for (const RouteItem& missing : Without({item}, netlink.List().all)) netlink.Add(missing);
    });
    netlink.Remove(item);
    done.push_back(IpCommand(item, "delete"));
  }
}

// Of several passes over a table the last one that changed it counts.
std::vector<xtables::TableResult> Condensed(const std::vector<xtables::TableResult>& passes) {
  std::vector<xtables::TableResult> tables;
  for (const xtables::TableResult& pass : passes) {
    const auto known = std::find_if(tables.begin(), tables.end(), [&pass](const auto& table) {
      return table.family == pass.family && table.table == pass.table;
    });
    if (known == tables.end())
      tables.push_back(pass);
    else if (pass.how != xtables::How::kUnchanged)
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

// Whether nf_tables answers a question about its generation.
int ProbeNftables() {
  const Fd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  if (!fd) return errno;
  struct {
    nlmsghdr header;
    nfgenmsg message;
  } request{.header = {.nlmsg_len = sizeof(request),
                       .nlmsg_type = NFNL_SUBSYS_NFTABLES << 8 | 16,  // NFT_MSG_GETGEN
                       .nlmsg_flags = NLM_F_REQUEST,
                       .nlmsg_seq = 1,
                       .nlmsg_pid = 0},
            .message = {.nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0, .res_id = 0}};
  if (send(fd.get(), &request, sizeof(request), 0) < 0) return errno;
  struct {
    nlmsghdr header;
    nlmsgerr error;
    char rest[1024];
  } answer{};
  if (recv(fd.get(), &answer, sizeof(answer), 0) < 0) return errno;
  return answer.header.nlmsg_type == NLMSG_ERROR ? -answer.error.error : 0;
}

}  // namespace

Compiled::Compiled(Ruleset ruleset)
    : ruleset_(std::move(ruleset)), routes_(WantedRoutes(ruleset_)), v4_(ruleset_), v6_(ruleset_) {}

Compiled::Compiled(Home& home, Ruleset ruleset) : Compiled(std::move(ruleset)) {
  if (ruleset_.tables.empty()) return;
  const Visit scratch(home);
  if (ruleset_.Has(Family::kV4)) v4_.BuildTemplates(scratch.socket());
  if (ruleset_.Has(Family::kV6)) v6_.BuildTemplates(scratch.socket());
}

ApplyResult Compiled::Apply(Home& home, const NetnsRef& target, bool fresh) const {
  Stopwatch watch;
  ApplyResult result;
  Visit visit(home, target.path, &target.identity);
  Rtnetlink netlink(visit.route_socket());
  result.timings.enter = watch.Lap();
  Undo undo;
  try {
    // Another process that read a table before we wrote it can overwrite it: of its being changed the kernel sees only
    // the number of entries.
    constexpr int kAttempts = 8;
    for (int attempt = 1;; ++attempt) {
      fresh = fresh && Install(visit, netlink, true, result, undo);
      if (!fresh) Install(visit, netlink, false, result, undo);
      watch.Lap();
      try {
        v4_.RequireStanding(visit.socket(), result.tables);
        v6_.RequireStanding(visit.socket(), result.tables);
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
  } catch (...) {
    undo.Run();
    throw;
  }
  result.timings.total = watch.Total();
  return result;
}

// False if it was said to be fresh and was not: leftovers are still to be looked for.
bool Compiled::Install(const Visit& visit, Rtnetlink& netlink, bool fresh, ApplyResult& result, Undo& undo) const {
  Stopwatch watch;
  Timings& timings = result.timings;
  const TableSet v4 = fresh ? TableSet{} : xtables::Existing<V4>();
  const TableSet v6 = fresh ? TableSet{} : xtables::Existing<V6>();
  // Two equal policy rules can stand side by side, so the kernel's EEXIST is no answer for them: look first.
  const PresentRoutes present = fresh && !ruleset_.routes.tproxy ? PresentRoutes{} : netlink.List();
  // Routes first: a packet that TPROXY marks must find its way from the first one on.
  if (!ruleset_.tables.empty()) BringLoopbackUp(visit, result.routes);
  ipnc::Add(netlink, Without(routes_, present.all), result.routes, undo);
  timings.routes += watch.Lap();
  v4_.Apply(visit.socket(), v4, result.tables, undo);
  timings.v4 += watch.Lap();
  v6_.Apply(visit.socket(), v6, result.tables, undo);
  timings.v6 += watch.Lap();
  ipnc::Remove(netlink, Without(present.ours, routes_), result.routes, undo);
  timings.routes += watch.Lap();
  result.tables = Condensed(result.tables);
  return !fresh || std::all_of(result.tables.begin(), result.tables.end(),
                               [](const auto& table) { return table.how == xtables::How::kReplayed; });
}

VerifyResult Compiled::Verify(Home& home, const NetnsRef& target) const {
  Stopwatch watch;
  Visit visit(home, target.path, &target.identity);
  VerifyResult result;
  result.timings.enter = watch.Lap();
  result.tables = v4_.Drift(xtables::Existing<V4>());
  result.timings.v4 = watch.Lap();
  const auto v6 = v6_.Drift(xtables::Existing<V6>());
  result.tables.insert(result.tables.end(), v6.begin(), v6.end());
  result.timings.v6 = watch.Lap();
  const PresentRoutes present = Rtnetlink(visit.route_socket()).List();
  for (const RouteItem& item : Without(routes_, present.all)) result.missing_routes.push_back(IpCommand(item, "add"));
  for (const RouteItem& item : Without(present.ours, routes_)) result.surplus_routes.push_back(IpCommand(item, "add"));
  if (!ruleset_.tables.empty() && !LoopbackIsUp(visit.socket())) result.missing_routes.push_back("link set lo up");
  result.timings.routes = watch.Lap();
  result.timings.total = watch.Total();
  return result;
}

ApplyResult Clean(Home& home, const NetnsRef& target) {
  return Compiled(Ruleset{}).Apply(home, target, false);
}

Identity Identify(Home& home, const std::string& path) {
  Visit visit(home, path, nullptr);
  return {.netns = visit.identity(),
          .families = Rtnetlink(visit.route_socket()).GlobalFamilies(),
          .ipv6 = HasIpv6(visit),
          .loopback_up = LoopbackIsUp(visit.socket())};
}

ProbeResult Probe(Home& home) {
  ProbeResult result;
  try {
    const Visit scratch(home);
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
    result.nftables = ProbeNftables();
  } catch (const Error& error) {
    result.netns = error.number;
  }
  return result;
}

}  // namespace ipnc
