// The address at which a pod's gate listens for hints: an abstract unix datagram socket, whose name is local to the
// network namespace. A datagram proves nothing; the gate checks the rules after it.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <cstring>

namespace ipnc::gate {

constexpr char kName[] = "istio-pod-network-controller/gate";

struct Address {
  sockaddr_un address{};
  socklen_t length;
};

inline Address HintAddress() {
  Address hint;
  hint.address.sun_family = AF_UNIX;
  std::memcpy(hint.address.sun_path + 1, kName, sizeof(kName) - 1);
  hint.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + sizeof(kName));
  return hint;
}

}  // namespace ipnc::gate
