// Reads and writes netlink messages of any family. Reading never goes past the end, whatever the bytes are. Pure.
#pragma once

#include <linux/netlink.h>

#include <algorithm>

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

namespace ipnc::netlink {

using Bytes = std::vector<uint8_t>;
using View = std::span<const uint8_t>;

// Takes the first message off `rest`; empty if there is no complete one.
struct Message {
  nlmsghdr header{};
  View payload;
  View whole;
};
std::optional<Message> TakeMessage(View& rest);

// Takes the first attribute off `rest`.
struct Attribute {
  uint16_t type = 0;
  View data;
  View whole;
};
std::optional<Attribute> TakeAttribute(View& rest);

// Takes the fixed part and its padding off `payload`; empty if `payload` is shorter.
template <typename Header>
std::optional<Header> TakeHeader(View& payload) {
  Header header;
  if (payload.size() < sizeof(header)) return std::nullopt;
  std::memcpy(&header, payload.data(), sizeof(header));
  payload = payload.subspan(std::min<size_t>(NLMSG_ALIGN(sizeof(header)), payload.size()));
  return header;
}

// The result in an NLMSG_ERROR or an NLMSG_DONE: 0 or an errno. Empty for any other message.
std::optional<int> ErrorOf(const Message& message);
// The same of a datagram's first message, whose end may be cut off.
std::optional<int> ErrorOf(const nlmsghdr& header, View payload);

}  // namespace ipnc::netlink
