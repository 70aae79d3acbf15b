// Addresses of either family, as sockets take them.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>

namespace ipnc::gate {

union SocketAddress {
  sockaddr any;
  sockaddr_in v4;
  sockaddr_in6 v6;
};

inline socklen_t SizeOf(bool v6) {
  return v6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
}

// `v4` in host byte order, or the IPv6 address ::`v6_last`.
inline SocketAddress At(bool v6, uint32_t v4, uint8_t v6_last, uint16_t port) {
  SocketAddress address{};
  if (v6) {
    address.v6.sin6_family = AF_INET6;
    address.v6.sin6_port = htons(port);
    address.v6.sin6_addr.s6_addr[15] = v6_last;
  } else {
    address.v4.sin_family = AF_INET;
    address.v4.sin_port = htons(port);
    address.v4.sin_addr.s_addr = htonl(v4);
  }
  return address;
}

}  // namespace ipnc::gate
