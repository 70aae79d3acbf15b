#include "native/route.h"

#include <net/if.h>

#include <linux/netlink.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "native/error.h"
#include "native/route_message.h"

namespace ipnc {
namespace {

constexpr char kSyscall[] = "rtnetlink";

// Ours in a netns: at most a rule and a route in each family, and the address; twice that while one set replaces
// another. A pod can make as many under our protocol number as it likes, and each is removed by a request of its own.
constexpr size_t kMostOurs = 64;
// Global addresses of a pod: a handful.
constexpr size_t kMostAddresses = 256;

bool Contains(const std::vector<RouteItem>& items, const RouteItem& item) {
  return std::find(items.begin(), items.end(), item) != items.end();
}

}  // namespace

std::string IpCommand(const RouteItem& item, const char* verb) {
  const std::string family = item.family == Family::kV4 ? "-4" : "-6";
  switch (item.kind) {
    case RouteItem::Kind::kRule: {
      char mark[16];
      std::snprintf(mark, sizeof(mark), "0x%x", item.mark);
      return family + " rule " + verb + " fwmark " + mark + " lookup " + std::to_string(item.table);
    }
    case RouteItem::Kind::kRoute:
      return family + " route " + verb + " local default dev lo table " + std::to_string(item.table);
    case RouteItem::Kind::kAddress:
      break;
  }
  return family + " address " + verb + " ::6/128 dev lo";
}

std::vector<RouteItem> WantedRoutes(const Ruleset& ruleset) {
  std::vector<RouteItem> wanted;
  if (ruleset.routes.loopback6 && ruleset.Has(Family::kV6)) wanted.push_back({});
  if (const auto& tproxy = ruleset.routes.tproxy)
    for (Family family : ruleset.families) {
      wanted.push_back({.kind = RouteItem::Kind::kRoute, .family = family, .mark = 0, .table = tproxy->table});
      wanted.push_back(
          {.kind = RouteItem::Kind::kRule, .family = family, .mark = tproxy->mark, .table = tproxy->table});
    }
  return wanted;
}

Rtnetlink::Rtnetlink(int socket, Budget& budget) : Channel(socket, NETLINK_ROUTE, budget) {}

template <typename T>
std::vector<T> Rtnetlink::Dump(const netlink::Bytes& request, std::optional<T> (*read)(const netlink::Message&)) {
  if (!strict_) {
    const int on = 1;
    Check(setsockopt(socket(), SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof(on)),
          "setsockopt(NETLINK_GET_STRICT_CHK)");
    strict_ = true;
  }
  constexpr int kAttempts = 8;
  for (int attempt = 1;; ++attempt) {
    std::vector<T> list;
    const int error = Ask(request, [&](const netlink::Message& message) {
      if (auto item = read(message)) list.push_back(std::move(*item));
    });
    if (error == 0) return list;
    if (error == ENOENT) return {};                               // no such table
    if (error == EOPNOTSUPP || error == EAFNOSUPPORT) return {};  // no IPv6 in this kernel
    // Changed meanwhile, or part of it was lost.
    if ((error != EINTR && error != ENOBUFS) || attempt == kAttempts) ThrowErrno(error, "rtnetlink dump");
  }
}

PresentRoutes Rtnetlink::List(const std::vector<RouteItem>& wanted) {
  PresentRoutes present;
  // Istio's policy rules. Its routes are in the tables that these rules name.
  std::vector<RouteItem> istios;
  const auto list = [&](const netlink::Bytes& request, bool ours) {
    for (const Listed& listed : Dump(request, ReadItem)) {
      if (ours && listed.ours && listed.item.protocol != kOurProtocol && listed.item.kind == RouteItem::Kind::kRule &&
          !Contains(istios, listed.item))
        istios.push_back(listed.item);
      if (Contains(wanted, listed.item) && !Contains(present.wanted, listed.item))
        present.wanted.push_back(listed.item);
      if (!ours || !listed.ours) continue;
      if (present.ours.size() == kMostOurs)
        Budget::Refuse("policy rules and routes of protocol 133 in the network namespace", kMostOurs);
      present.ours.push_back(listed.item);
    }
  };
  for (Family family : {Family::kV4, Family::kV6}) {
    list(ListRules(family), true);
    list(ListRoutes(family, std::nullopt), true);
  }
  for (const RouteItem& item : istios) list(ListRoutes(item.family, item.table), true);
  // Somebody else's route is as good as ours.
  for (const RouteItem& item : wanted)
    if (item.kind == RouteItem::Kind::kRoute && !Contains(present.wanted, item))
      list(ListRoutes(item.family, item.table), false);
  list(ListAddresses(Family::kV6, true), true);
  return present;
}

bool Rtnetlink::Has(const RouteItem& item) {
  try {
    return !List({item}).wanted.empty();
  } catch (Error& error) {
    error.uncertain = false;  // nothing was asked for but a list
    throw;
  }
}

bool Rtnetlink::Add(const RouteItem& item) {
  const int error = Ask(ChangeOf(item, Change::kAdd), [](const netlink::Message&) {});
  if (error == 0) return true;
  // Something has this place. Ours, or as good as ours?
  if (error == EEXIST && Has(item)) return false;
  ThrowErrno(error, kSyscall, "ip " + IpCommand(item, "add"));
}

bool Rtnetlink::Remove(const RouteItem& item) {
  const int error = Ask(ChangeOf(item, Change::kRemove), [](const netlink::Message&) {});
  if (error == 0) return true;
  if (error == ENOENT || error == ESRCH || error == EADDRNOTAVAIL) return false;
  ThrowErrno(error, kSyscall, "ip " + IpCommand(item, "delete"));
}

std::vector<Address> Rtnetlink::GlobalAddresses() {
  std::vector<Address> addresses;
  for (Family family : {Family::kV4, Family::kV6})
    for (Address& address : Dump(ListAddresses(family, false), ReadGlobalAddress)) {
      if (addresses.size() == kMostAddresses) Budget::Refuse("addresses in the network namespace", kMostAddresses);
      addresses.push_back(std::move(address));
    }
  return addresses;
}

bool LoopbackIsUp(int socket) {
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  Check(ioctl(socket, SIOCGIFFLAGS, &request), "ioctl(SIOCGIFFLAGS)");
  return request.ifr_flags & IFF_UP;
}

void SetLoopbackUp(int socket) {
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  Check(ioctl(socket, SIOCGIFFLAGS, &request), "ioctl(SIOCGIFFLAGS)");
  request.ifr_flags |= IFF_UP;
  Check(ioctl(socket, SIOCSIFFLAGS, &request), "ioctl(SIOCSIFFLAGS)");
}

}  // namespace ipnc
