#include "native/gate/ready.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "native/fd.h"
#include "native/gate/address.h"
#include "native/gate/clock.h"

namespace ipnc::gate {
namespace {

// A proxy on an idle node is ready 300 to 500 ms after its start. Each look costs a refused connection until the proxy
// listens. A proxy that is not ready after two seconds waits for something else, such as istiod.
constexpr int64_t kOftenUs = 5'000;
constexpr int64_t kSeldomUs = 50'000;
constexpr int64_t kOftenForUs = 2'000'000;
// The agent asks Envoy before it answers.
constexpr int64_t kAnswerUs = 1'000'000;

constexpr std::string_view kRequest =
    "GET /healthz/ready HTTP/1.1\r\nHost: localhost\r\nUser-Agent: pod-network-gate\r\nConnection: close\r\n\r\n";
// `HTTP/1.1 200 OK`: the status is after the first space.
constexpr size_t kStatusAt = 9;
constexpr size_t kStatusEnd = kStatusAt + 3;

bool Await(const Fd& fd, short events, int64_t until_us) {
  const int64_t left = until_us - NowUs();
  if (left <= 0) return false;
  pollfd polled{fd.get(), events, 0};
  return poll(&polled, 1, static_cast<int>(left / 1000) + 1) > 0;
}

// The status of the answer; 0 without an answer.
int Ask(bool v6, uint16_t port) {
  const int64_t until = NowUs() + kAnswerUs;
  const Fd fd(socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return 0;
  const SocketAddress to = At(v6, INADDR_LOOPBACK, 1, port);
  if (connect(fd.get(), &to.any, SizeOf(v6)) != 0 && errno != EINPROGRESS) return 0;
  if (!Await(fd, POLLOUT, until) ||
      send(fd.get(), kRequest.data(), kRequest.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(kRequest.size()))
    return 0;
  char answer[kStatusEnd];
  for (size_t length = 0; length < sizeof(answer);) {
    if (!Await(fd, POLLIN, until)) return 0;
    const ssize_t got = recv(fd.get(), answer + length, sizeof(answer) - length, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (got <= 0) return 0;
    length += static_cast<size_t>(got);
  }
  int status = 0;
  const auto [end, error] = std::from_chars(answer + kStatusAt, answer + kStatusEnd, status);
  const bool http = std::string_view(answer, kStatusAt - 1).starts_with("HTTP/1.");
  return http && error == std::errc() && end == answer + kStatusEnd ? status : 0;
}

}  // namespace

Ending AwaitReady(const Options& options) {
  const int64_t start = NowUs();
  const int64_t limit = static_cast<int64_t>(TimeoutMs(options)) * 1000;
  int last = 0;
  for (;;) {
    for (const bool v6 : {false, true}) {
      const int status = Ask(v6, options.ready_port);
      if (status == 200) {
        Ending ending{static_cast<int>(Exit::kOpen), {}};
        ending.line << "the proxy is ready after " << Duration(NowUs() - start);
        return ending;
      }
      if (status != 0) last = status;
    }
    const int64_t elapsed = NowUs() - start;
    if (elapsed >= limit) break;
    usleep(static_cast<useconds_t>(elapsed < kOftenForUs ? kOftenUs : kSeldomUs));
  }
  Ending ending{static_cast<int>(Exit::kNotRedirected), {}};
  ending.line << "the proxy was not ready within " << Duration(limit) << ": http://localhost:" << options.ready_port
              << "/healthz/ready ";
  if (last == 0) {
    ending.line << "did not answer";
  } else {
    ending.line << "answered " << last;
  }
  ending.line << "; the log of the proxy's container says what it waits for";
  return ending;
}

}  // namespace ipnc::gate
