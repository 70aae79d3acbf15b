// Proves that the rules are active: the gate connects as the proxy's user over lo to a port without a listener, and the
// connection arrives at the gate's own listener on the capture port. Only a redirect rule can do that.
#pragma once

#include <cstdint>

#include "native/fd.h"
#include "native/gate/address.h"
#include "native/gate/options.h"

namespace ipnc::gate {

// The result of the last connection in a family.
enum class Dialled : uint8_t {
  kNot,          // the family was not probed
  kCaptured,     // the rules redirected it
  kRefused,      // no rule redirects it, or one redirects it to a port without a listener
  kUnanswered,   // its packets are dropped
  kElsewhere,    // another listener accepted it, or the token did not arrive
  kUnreachable,  // there is no route or no address of that family; for IPv6 the install adds ::6 to lo
  kNoListener,   // there is no loopback address of that family, or the port is in use
};

struct Probed {
  Dialled v4 = Dialled::kNot;
  Dialled v6 = Dialled::kNot;
  bool captured() const {
    const auto fine = [](Dialled dialled) { return dialled == Dialled::kNot || dialled == Dialled::kCaptured; };
    return (v4 == Dialled::kCaptured || v6 == Dialled::kCaptured) && fine(v4) && fine(v6);
  }
};

class Prober {
 public:
  Prober(uint16_t capture_port, uint16_t probe_port) : capture_port_(capture_port), probe_port_(probe_port) {}

  // Opens the listener on the family's loopback address, unless it is open. 0 or an errno.
  int Listen(bool v6);

  // One dial in each of these families, at the same time, in at most 20 ms. `v4_target` (host byte order) is the IPv4
  // address that is dialled; 0 if there is none.
  Probed Probe(FamilySet families, uint32_t v4_target);

 private:
  struct Dial {
    bool v6 = false;
    Fd dialler;
    Fd accepted;
    SocketAddress from{};
    SocketAddress to{};
    char token[16];
    Dialled result = Dialled::kNot;
    bool pending = false;
  };

  static bool Same(const SocketAddress& one, const SocketAddress& other, bool v6);
  void Start(Dial& dial, uint32_t v4_target);
  void Advance(Dial& dial);
  // Accepts the connection of this dial, and drops connections of other processes.
  void Accept(Dial& dial);

  const uint16_t capture_port_;
  const uint16_t probe_port_;
  Fd listeners_[2];  // IPv4, IPv6
};

// 0 or an errno: whether this port of the family's loopback address could be listened on.
int TryPort(bool v6, uint16_t port);

}  // namespace ipnc::gate
