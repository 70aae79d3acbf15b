// Sets up over rtnetlink what the rules need: `lo` up, `::6/128` on lo, and for TPROXY a policy rule and a local route
// for each family. Works on the netns of the socket.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "native/netlink/channel.h"
#include "native/rule.h"

namespace ipnc {

// Marks our rules and routes (ip(8): "proto 133"). It is not in /etc/iproute2/rt_protos.
inline constexpr uint8_t kOurProtocol = 133;

// A policy rule, a local default route or an address, of ours or of Istio's.
struct RouteItem {
  enum class Kind : uint8_t { kRule, kRoute, kAddress };
  Kind kind = Kind::kAddress;
  Family family = Family::kV6;
  uint32_t mark = 0;   // rules
  uint32_t table = 0;  // rules and routes
  uint8_t protocol = kOurProtocol;
  // Whoever made it.
  bool operator==(const RouteItem& other) const {
    return kind == other.kind && family == other.family && mark == other.mark && table == other.table;
  }
};

struct Address {
  Family family;
  std::string text;  // as inet_ntop(3) writes it
};

// The ip(8) command that does `verb` to it, without "ip": "-4 rule add fwmark 0x539 lookup 133".
std::string IpCommand(const RouteItem& item, const char* verb);

// What `routes` asks for in these families, in the order in which it is to be added.
std::vector<RouteItem> WantedRoutes(const Ruleset& ruleset);

// What is in this netns. Rules and routes are ours by their protocol number, the address by what it is.
struct PresentRoutes {
  std::vector<RouteItem> wanted;  // those of the items asked for that are there, whoever made them
  std::vector<RouteItem> ours;
};

class Rtnetlink : private netlink::Channel {
 public:
  // A NETLINK_ROUTE socket, which stays the caller's.
  Rtnetlink(int socket, Budget& budget);

  PresentRoutes List(const std::vector<RouteItem>& wanted);
  // False if it already existed. For a rule, List finds out, because the kernel accepts the same rule twice.
  bool Add(const RouteItem& item);
  // False if it did not exist.
  bool Remove(const RouteItem& item);

  // Global unicast addresses on interfaces other than lo.
  std::vector<Address> GlobalAddresses();

 private:
  bool Has(const RouteItem& item);
  // What `read` makes of the messages of a list. Throws Error.
  template <typename T>
  std::vector<T> Dump(const netlink::Bytes& request, std::optional<T> (*read)(const netlink::Message&));

  bool strict_ = false;
};

// Any socket of the netns is suitable.
bool LoopbackIsUp(int socket);
void SetLoopbackUp(int socket);

}  // namespace ipnc
