#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "toolbox.h"

namespace toolbox {
namespace {

struct Options {
  Actor actor;
  std::string from;
  unsigned from_port = 0;
  unsigned timeout_ms = 1000;
  bool tcp = true;
  bool stray = false;
  Address to;
  std::string token = "hello";
};

Options ParseOptions(const Arguments& arguments) {
  Options options;
  std::vector<std::string> words;
  for (size_t i = 0; i < arguments.size(); i++) {
    if (ParseActor(arguments, i, options.actor)) continue;
    if (arguments[i] == "--bind") {
      options.from = Value(arguments, i);
    } else if (arguments[i] == "--bind-port") {
      options.from_port = Number(Value(arguments, i), "--bind-port", 65535);
    } else if (arguments[i] == "--timeout") {
      options.timeout_ms = Number(Value(arguments, i), "--timeout", 3'600'000);
    } else if (arguments[i].starts_with("--")) {
      Usage("dial: unknown argument " + arguments[i]);
    } else {
      words.push_back(arguments[i]);
    }
  }
  if (words.size() < 3 || words.size() > 4) Usage("dial: expected tcp|udp|stray ADDR PORT [TOKEN]");
  options.stray = words[0] == "stray";
  options.tcp = options.stray || words[0] == "tcp";
  if (!options.tcp && words[0] != "udp") Usage("dial: \"" + words[0] + "\" is neither tcp nor udp nor stray");
  const auto to = ParseAddress(words[1], Number(words[2], "port", 65535));
  if (!to) Usage("dial: \"" + words[1] + "\" is not an IP address");
  options.to = *to;
  if (words.size() == 4) options.token = words[3];
  return options;
}

// 0 when ready, else an errno.
int Wait(int fd, short events, long deadline) {
  for (;;) {
    pollfd polled = {fd, events, 0};
    const long left = deadline - NowMs();
    const int ready = left > 0 ? poll(&polled, 1, static_cast<int>(left)) : 0;
    if (ready > 0) return 0;
    if (ready == 0) return ETIMEDOUT;
    if (errno != EINTR) return errno;
  }
}

// 0 when the line is in `reply`, else an errno; an answer cut short is ENODATA.
int Exchange(const Options& options, int fd, std::string& reply) {
  const long deadline = NowMs() + options.timeout_ms;
  if (connect(fd, options.to.raw(), options.to.size) != 0) {
    if (errno != EINPROGRESS) return errno;
    if (const int error = Wait(fd, POLLOUT, deadline)) return error;
    int error = 0;
    socklen_t size = sizeof(error);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
    if (error != 0) return error;
  }
  const std::string line = options.token + "\n";
  if (send(fd, line.data(), line.size(), MSG_NOSIGNAL) < 0) return errno;
  while (reply.find('\n') == std::string::npos) {
    if (const int error = Wait(fd, POLLIN, deadline)) return error;
    char chunk[4096];
    const ssize_t got = recv(fd, chunk, sizeof(chunk), 0);
    if (got < 0 && errno != EAGAIN && errno != EINTR) return errno;
    if (got == 0) return ENODATA;
    if (got > 0) reply.append(chunk, static_cast<size_t>(got));
  }
  reply.resize(reply.find('\n'));
  return 0;
}

// The end of a connection that never was: conntrack finds such a FIN invalid, and a kernel that gets it answers with a
// reset. Never 0.
int Stray(const Options& options, int fd) {
  const auto set = [fd](int level, int option, auto value) {
    return setsockopt(fd, level, option, &value, sizeof(value));
  };
  // A socket under repair is connected without a word; without a window its FIN would have to wait. One that is aborted
  // does not outlive this process.
  if (set(IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON) != 0 || connect(fd, options.to.raw(), options.to.size) != 0 ||
      set(IPPROTO_TCP, TCP_REPAIR_WINDOW, tcp_repair_window{0, 65535, 65535, 65535, 0}) != 0 ||
      set(IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP) != 0 || set(SOL_SOCKET, SO_LINGER, linger{1, 0}) != 0 ||
      shutdown(fd, SHUT_WR) != 0) {
    return errno;
  }
  // Nothing is asked for: POLLHUP and POLLERR come anyhow.
  if (const int error = Wait(fd, 0, NowMs() + options.timeout_ms)) return error;
  int error = 0;
  socklen_t size = sizeof(error);
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
  return error != 0 ? error : ENODATA;
}

}  // namespace

int Dial(const Arguments& arguments) {
  const Options options = ParseOptions(arguments);
  Become(options.actor);
  // Repair is for CAP_NET_ADMIN.
  if (!options.stray) DropCapabilities(options.actor);
  const Fd fd(socket(options.to.family(), (options.tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  int error = fd.get() < 0 ? errno : 0;
  if (error == 0 && (!options.from.empty() || options.from_port != 0)) {
    const std::string any = options.to.family() == AF_INET6 ? "::" : "0.0.0.0";
    const auto from = ParseAddress(options.from.empty() ? any : options.from, options.from_port);
    if (!from) Usage("dial: --bind: \"" + options.from + "\" is not an IP address");
    if (bind(fd.get(), from->raw(), from->size) != 0) error = errno;
  }
  std::string reply;
  if (error == 0) error = options.stray ? Stray(options, fd.get()) : Exchange(options, fd.get(), reply);
  if (error == 0) {
    JsonLine().Add("ok", true).Add("reply", reply).Print();
  } else {
    JsonLine().Add("ok", false).Add("error", ErrnoName(error)).Print();
  }
  return 0;
}

}  // namespace toolbox
