// Where the gate of a pod listens for the word that its rules are real: an abstract unix datagram socket, whose name is
// scoped to the network namespace. What is sent there means nothing by itself: it is a reason to look.
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
