// What anybody may see of the network namespace he is in: its addresses, policy rules and routes, over rtnetlink.
#pragma once

#include <cstdint>

#include "native/fd.h"
#include "native/gate/options.h"
#include "native/netlink/message.h"

namespace ipnc::gate {

struct Addresses {
  FamilySet global;
  uint32_t v4 = 0;              // one of the IPv4 ones, host byte order
  bool v4_beyond_link = false;  // one of them is not in 169.254.0.0/16
};

// These functions read one message of a list. They have no side effects, and the fuzz target `route` calls them.

// Adds the address if it is a global unicast address on an interface other than lo. The controller looks for the same
// addresses (native/route_message.cc).
void AddAddress(const netlink::Message& message, Addresses& found);
// Whether it is `ip rule fwmark MARK lookup TABLE`.
bool IsTproxyRule(const netlink::Message& message, uint32_t mark, uint32_t table);
// Whether it is `ip route local default dev lo table TABLE`.
bool IsTproxyRoute(const netlink::Message& message, uint32_t table);

class Network {
 public:
  Network();

  // The addresses that AddAddress adds; none if the kernel does not answer.
  Addresses ReadAddresses();

  // Whether IPv6 is on for lo, without which nothing can be redirected there.
  static bool HasIpv6OnLoopback();

  // Whether this family has the policy rule and the route that TPROXY needs in addition to its rules.
  bool HasTproxyRoutes(bool v6, uint32_t mark, uint32_t table);

 private:
  // Hands each message of the answer to `each`; false if there was none, or not all of it.
  template <typename Each>
  bool Dump(uint16_t type, uint8_t family, const Each& each);

  Fd socket_;
  uint32_t sequence_ = 0;
};

}  // namespace ipnc::gate
