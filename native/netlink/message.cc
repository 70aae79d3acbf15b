#include "native/netlink/message.h"

#include <cerrno>

namespace ipnc::netlink {

std::optional<Message> TakeMessage(View& rest) {
  Message message;
  if (rest.size() < sizeof(message.header)) return std::nullopt;
  std::memcpy(&message.header, rest.data(), sizeof(message.header));
  const size_t length = message.header.nlmsg_len;
  if (length < NLMSG_HDRLEN || length > rest.size()) return std::nullopt;
  message.whole = rest.first(length);
  message.payload = message.whole.subspan(NLMSG_HDRLEN);
  rest = rest.subspan(std::min<size_t>(NLMSG_ALIGN(length), rest.size()));
  return message;
}

std::optional<Attribute> TakeAttribute(View& rest) {
  nlattr header;
  if (rest.size() < sizeof(header)) return std::nullopt;
  std::memcpy(&header, rest.data(), sizeof(header));
  if (header.nla_len < NLA_HDRLEN || header.nla_len > rest.size()) return std::nullopt;
  const View whole = rest.first(header.nla_len);
  rest = rest.subspan(std::min<size_t>(NLA_ALIGN(header.nla_len), rest.size()));
  return Attribute{static_cast<uint16_t>(header.nla_type & NLA_TYPE_MASK), whole.subspan(NLA_HDRLEN), whole};
}

std::optional<int> ErrorOf(const Message& message) {
  return ErrorOf(message.header, message.payload);
}

std::optional<int> ErrorOf(const nlmsghdr& header, View payload) {
  if (header.nlmsg_type != NLMSG_ERROR && header.nlmsg_type != NLMSG_DONE) return std::nullopt;
  constexpr int kMostErrno = 4095;
  int error = 0;
  if (payload.size() >= sizeof(error)) std::memcpy(&error, payload.data(), sizeof(error));
  return error <= 0 && error >= -kMostErrno ? -error : EBADMSG;
}

}  // namespace ipnc::netlink
