// Converts policy rules, routes and addresses to messages of rtnetlink and back. Pure.
#pragma once

#include "native/netlink/message.h"
#include "native/route.h"

namespace ipnc {

// The request that adds or removes the item. It asks the kernel for a confirmation.
enum class Change : uint8_t { kAdd, kRemove };
netlink::Bytes ChangeOf(const RouteItem& item, Change change);

// The requests that list things. Kernels that are asked strictly (NETLINK_GET_STRICT_CHK) leave out what does not fit.
netlink::Bytes ListRules(Family family);
// Those with our protocol number; with `table` all local ones in that table.
netlink::Bytes ListRoutes(Family family, std::optional<uint32_t> table);
// With `loopback` those of the first interface.
netlink::Bytes ListAddresses(Family family, bool loopback);

// What a message of such a list says, if it says something that could be ours.
struct Listed {
  RouteItem item;
  bool ours = false;  // or Istio's, in the form in which it always writes it
};

std::optional<Listed> ReadItem(const netlink::Message& message);

// The global unicast address that a message says, if it is of an interface other than lo.
std::optional<Address> ReadGlobalAddress(const netlink::Message& message);

}  // namespace ipnc
