// Reads and writes netlink messages of any family. Reading never goes past the end, whatever the bytes are. Pure.
#pragma once

#include <linux/netlink.h>

#include <algorithm>
#include <array>
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

// The attributes in a message's payload, behind its fixed part, by their type.
template <size_t kMost>
class Attributes {
 public:
  explicit Attributes(View data) {
    while (const auto attribute = TakeAttribute(data))
      if (attribute->type <= kMost) attributes_[attribute->type] = attribute->data;
  }
  bool Has(size_t type) const { return attributes_[type].has_value(); }
  // Returns `otherwise` unless the attribute is there and has the size of Value.
  template <typename Value>
  Value Get(size_t type, Value otherwise) const {
    if (!Has(type) || attributes_[type]->size() != sizeof(Value)) return otherwise;
    std::memcpy(&otherwise, attributes_[type]->data(), sizeof(otherwise));
    return otherwise;
  }
  bool Is(size_t type, const void* value, size_t size) const {
    return Has(type) && attributes_[type]->size() == size && std::memcmp(attributes_[type]->data(), value, size) == 0;
  }
  // Returns null unless the attribute is there and has that size.
  const uint8_t* Bytes(size_t type, size_t size) const {
    return Has(type) && attributes_[type]->size() == size ? attributes_[type]->data() : nullptr;
  }

 private:
  std::array<std::optional<View>, kMost + 1> attributes_;
};

// The result in an NLMSG_ERROR or an NLMSG_DONE: 0 or an errno. Empty for any other message.
std::optional<int> ErrorOf(const Message& message);
// The same of a datagram's first message, whose end may be cut off.
std::optional<int> ErrorOf(const nlmsghdr& header, View payload);

}  // namespace ipnc::netlink
