#include "native/gate/probe.h"

#include <errno.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <cstring>

#include "native/gate/clock.h"

namespace ipnc::gate {
namespace {

// SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST (linux/netfilter_ipv4.h and linux/netfilter_ipv6/ip6_tables.h, which clash
// with netinet/in.h).
constexpr int kOriginalDst = 80;

// Packets over lo are nearly always answered before the system call that sends them returns.
constexpr int64_t kLimitUs = 20'000;

// The most foreign connections that one round accepts and drops. More of them make the round fail.
constexpr int kStrangers = 256;

bool Enable(const Fd& fd, int level, int option) {
  const int on = 1;
  return setsockopt(fd.get(), level, option, &on, sizeof(on)) == 0;
}

// A TCP socket that is reset when it is closed, because the proxy uses the port next and no connection may linger
// there.
Fd Stream(bool v6) {
  Fd fd(socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  constexpr linger kReset{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &kReset, sizeof(kReset));
  return fd;
}

}  // namespace

bool Prober::Same(const SocketAddress& one, const SocketAddress& other, bool v6) {
  if (one.any.sa_family != other.any.sa_family) return false;
  if (v6)
    return one.v6.sin6_port == other.v6.sin6_port &&
           std::memcmp(&one.v6.sin6_addr, &other.v6.sin6_addr, sizeof(in6_addr)) == 0;
  return one.v4.sin_port == other.v4.sin_port && one.v4.sin_addr.s_addr == other.v4.sin_addr.s_addr;
}

int Prober::Listen(bool v6) {
  if (listeners_[v6]) return 0;
  Fd fd = Stream(v6);
  if (!fd) return errno;
  // Connections of an earlier gate do not block the port. A listener of another process still does.
  Enable(fd, SOL_SOCKET, SO_REUSEADDR);
  const SocketAddress here = At(v6, INADDR_LOOPBACK, 1, capture_port_);
  if (bind(fd.get(), &here.any, SizeOf(v6)) != 0 || listen(fd.get(), 64) != 0) return errno;
  listeners_[v6] = std::move(fd);
  return 0;
}

int TryPort(bool v6, uint16_t port) {
  return Prober(port, port).Listen(v6);
}

Probed Prober::Probe(FamilySet families, uint32_t v4_target) {
  Dial dials[2];
  dials[1].v6 = true;
  char tokens[2 * sizeof(Dial::token)];
  if (getrandom(tokens, sizeof(tokens), 0) != sizeof(tokens)) return {};
  for (Dial& dial : dials) {
    if (!(dial.v6 ? families.v6 : families.v4)) continue;
    std::memcpy(dial.token, tokens + dial.v6 * sizeof(dial.token), sizeof(dial.token));
    Start(dial, v4_target);
  }
  for (const int64_t limit = NowUs() + kLimitUs;;) {
    pollfd polled[4];
    nfds_t count = 0;
    for (Dial& dial : dials) {
      if (dial.pending) Advance(dial);
      if (!dial.pending) continue;
      polled[count++] = {dial.accepted ? dial.accepted.get() : listeners_[dial.v6].get(), POLLIN, 0};
      polled[count++] = {dial.dialler.get(), 0, 0};
    }
    if (count == 0) break;
    const int64_t left = limit - NowUs();
    if (left <= 0) break;
    poll(polled, count, static_cast<int>(left / 1000) + 1);
  }
  return {dials[0].result, dials[1].result};
}

void Prober::Start(Dial& dial, uint32_t v4_target) {
  const bool v6 = dial.v6;
  const socklen_t size = SizeOf(v6);
  if (Listen(v6) != 0) {
    dial.result = Dialled::kNoListener;
    return;
  }
  dial.result = Dialled::kUnreachable;
  if (!v6 && v4_target == 0) return;
  dial.to = At(v6, v4_target, 6, probe_port_);
  dial.dialler = Stream(v6);
  // The source is not ::6, which the kernel would choose and the rules exclude. The packets must use lo.
  dial.from = At(v6, INADDR_LOOPBACK, 1, 0);
  setsockopt(dial.dialler.get(), SOL_SOCKET, SO_BINDTODEVICE, "lo", 3);
  socklen_t length = size;
  if (bind(dial.dialler.get(), &dial.from.any, size) != 0 ||
      getsockname(dial.dialler.get(), &dial.from.any, &length) != 0)
    return;
  if (connect(dial.dialler.get(), &dial.to.any, size) != 0 && errno != EINPROGRESS) {
    if (errno == ECONNREFUSED) dial.result = Dialled::kRefused;
    return;
  }
  dial.result = Dialled::kUnanswered;
  dial.pending = true;
}

void Prober::Accept(Dial& dial) {
  for (int i = 0; i < kStrangers; ++i) {
    SocketAddress peer{};
    socklen_t length = sizeof(peer);
    Fd accepted(accept4(listeners_[dial.v6].get(), &peer.any, &length, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!accepted && errno == ECONNABORTED) continue;
    if (!accepted) return;
    if (!Same(peer, dial.from, dial.v6)) continue;
    dial.accepted = std::move(accepted);
    return;
  }
}

void Prober::Advance(Dial& dial) {
  const auto settle = [&dial](Dialled result) {
    dial.result = result;
    dial.pending = false;
  };
  if (!dial.accepted) {
    Accept(dial);
    if (!dial.accepted) {
      int error = 0;
      socklen_t length = sizeof(error);
      getsockopt(dial.dialler.get(), SOL_SOCKET, SO_ERROR, &error, &length);
      if (error != 0) return settle(error == ECONNREFUSED ? Dialled::kRefused : Dialled::kUnreachable);
      SocketAddress peer{};
      length = sizeof(peer);
      if (getpeername(dial.dialler.get(), &peer.any, &length) == 0) dial.result = Dialled::kElsewhere;
      return;
    }
    if (send(dial.dialler.get(), dial.token, sizeof(dial.token), MSG_NOSIGNAL) != sizeof(dial.token))
      return settle(Dialled::kElsewhere);
  }
  char token[sizeof(dial.token)];
  const ssize_t got = recv(dial.accepted.get(), token, sizeof(token), MSG_PEEK);
  if ((got < 0 && errno == EAGAIN) || (got > 0 && static_cast<size_t>(got) < sizeof(token))) return;
  SocketAddress original{};
  socklen_t length = sizeof(original);
  const bool captured =
      got == sizeof(token) && std::memcmp(token, dial.token, sizeof(token)) == 0 &&
      getsockopt(dial.accepted.get(), dial.v6 ? IPPROTO_IPV6 : IPPROTO_IP, kOriginalDst, &original, &length) == 0 &&
      Same(original, dial.to, dial.v6);
  settle(captured ? Dialled::kCaptured : Dialled::kElsewhere);
}

}  // namespace ipnc::gate
