// What anybody may see of the network namespace he is in: its addresses, policy rules and routes, over rtnetlink.
#pragma once

#include <cstdint>

#include "native/fd.h"
#include "native/gate/options.h"

namespace ipnc::gate {

struct Addresses {
  FamilySet global;
  uint32_t v4 = 0;              // one of the IPv4 ones, host byte order
  bool v4_beyond_link = false;  // one of them is not in 169.254.0.0/16
};

class Network {
 public:
  Network();

  // Global unicast addresses on interfaces other than lo, as the controller looks for them (native/route.cc). Nothing
  // where the kernel does not answer.
  Addresses ReadAddresses();

  // Whether IPv6 is on for lo, without which nothing can be redirected there.
  static bool HasIpv6OnLoopback();

  // Whether this family has what TPROXY needs beside its rules: `ip rule fwmark MARK lookup TABLE` and
  // `ip route local default dev lo table TABLE`.
  bool HasTproxyRoutes(bool v6, uint32_t mark, uint32_t table);

 private:
  // Hands each message of the answer to `each`; false if there was none, or not all of it.
  bool Dump(uint16_t type, uint8_t family, void (*each)(const void* message, void* context), void* context);

  Fd socket_;
  uint32_t sequence_ = 0;
};

}  // namespace ipnc::gate
