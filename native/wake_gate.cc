#include "native/wake_gate.h"

#include "native/fd.h"
#include "native/gate/name.h"

namespace ipnc {

void WakeGate() {
  const Fd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return;
  const gate::Address gate = gate::HintAddress();
  constexpr char kWord = 1;
  sendto(fd.get(), &kWord, sizeof(kWord), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&gate.address), gate.length);
}

}  // namespace ipnc
