#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <list>

#include "toolbox.h"

namespace toolbox {
namespace {

constexpr int kMaxLine = 4096;
// SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST (linux/netfilter_ipv4.h and linux/netfilter_ipv6/ip6_tables.h, which clash
// with netinet/in.h).
constexpr int kOriginalDst = 80;

struct Options {
  Actor actor;
  std::vector<unsigned> tcp;
  std::vector<unsigned> udp;
  bool transparent = false;
  std::string name = "toolbox";
};

struct Listener {
  Fd fd;
  bool tcp;
  unsigned port;
};

struct Connection {
  Fd fd;
  unsigned port;
  std::string original;
  std::string line;
};

std::vector<unsigned> ParsePorts(const std::string& list) {
  std::vector<unsigned> ports;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    ports.push_back(Number(list.substr(begin, end - begin), "port", 65535));
    begin = end + 1;
  }
  return ports;
}

Options ParseOptions(const Arguments& arguments) {
  Options options;
  for (size_t i = 0; i < arguments.size(); i++) {
    if (ParseActor(arguments, i, options.actor)) continue;
    if (arguments[i] == "--tcp") {
      options.tcp = ParsePorts(Value(arguments, i));
    } else if (arguments[i] == "--udp") {
      options.udp = ParsePorts(Value(arguments, i));
    } else if (arguments[i] == "--transparent") {
      options.transparent = true;
    } else if (arguments[i] == "--name") {
      options.name = Value(arguments, i);
    } else {
      Usage("serve: unknown argument " + arguments[i]);
    }
  }
  if (options.tcp.empty() && options.udp.empty()) Usage("serve: nothing to listen on; give --tcp or --udp");
  return options;
}

void Enable(int fd, int level, int option, const char* what) {
  const int on = 1;
  if (setsockopt(fd, level, option, &on, sizeof(on)) != 0) Fail("setsockopt", what, errno);
}

// One socket a family rather than one for both: SO_ORIGINAL_DST has a level of its own in each. False where the
// family is not there.
bool Listen(const Options& options, int family, bool tcp, unsigned port, std::list<Listener>& listeners) {
  const bool v6 = family == AF_INET6;
  Fd fd(socket(family, (tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd.get() < 0) {
    if (v6 && errno == EAFNOSUPPORT) return false;
    Fail("socket", v6 ? "IPv6" : "IPv4", errno);
  }
  if (tcp) Enable(fd.get(), SOL_SOCKET, SO_REUSEADDR, "SO_REUSEADDR");
  if (v6) Enable(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, "IPV6_V6ONLY");
  if (!tcp) {
    // The answer must come from the address that was asked, or conntrack does not translate it back.
    if (v6) {
      Enable(fd.get(), IPPROTO_IPV6, IPV6_RECVPKTINFO, "IPV6_RECVPKTINFO");
    } else {
      Enable(fd.get(), IPPROTO_IP, IP_PKTINFO, "IP_PKTINFO");
    }
  }
  if (options.transparent) {
    if (v6) {
      Enable(fd.get(), IPPROTO_IPV6, IPV6_TRANSPARENT, "IPV6_TRANSPARENT");
    } else {
      Enable(fd.get(), IPPROTO_IP, IP_TRANSPARENT, "IP_TRANSPARENT");
    }
  }
  const Address any = *ParseAddress(v6 ? "::" : "0.0.0.0", port);
  if (bind(fd.get(), any.raw(), any.size) != 0) {
    if (v6 && errno == EADDRNOTAVAIL) return false;
    Fail("bind", any.Text(), errno);
  }
  if (tcp && listen(fd.get(), 1024) != 0) Fail("listen", any.Text(), errno);
  listeners.push_back({std::move(fd), tcp, port});
  return true;
}

std::string LocalAddress(int fd) {
  Address local;
  return getsockname(fd, local.raw(), &local.size) == 0 ? local.Text() : ErrnoName(errno);
}

// Where the client meant to go. What TPROXY took carries it as its local address; what nothing redirected may have no
// entry in conntrack.
std::string OriginalDestination(int fd, unsigned port) {
  Address local;
  if (getsockname(fd, local.raw(), &local.size) != 0) return ErrnoName(errno);
  const bool v6 = local.family() == AF_INET6;
  const unsigned local_port = ntohs(v6 ? reinterpret_cast<const sockaddr_in6&>(local.storage).sin6_port
                                       : reinterpret_cast<const sockaddr_in&>(local.storage).sin_port);
  Address original;
  const int level = v6 ? IPPROTO_IPV6 : IPPROTO_IP;
  if (local_port != port || getsockopt(fd, level, kOriginalDst, original.raw(), &original.size) != 0) {
    return local.Text();
  }
  return original.Text();
}

std::string Answer(const Options& options, unsigned port, const std::string& original, std::string_view token) {
  return options.name + " " + std::to_string(port) + " " + original + " " + std::string(token) + "\n";
}

void Accept(const Options& options, const Listener& listener, std::list<Connection>& connections) {
  for (;;) {
    Address from;
    Fd fd(accept4(listener.fd.get(), from.raw(), &from.size, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (fd.get() < 0) return;
    const std::string original = OriginalDestination(fd.get(), listener.port);
    JsonLine()
        .Add("event", "accept")
        .Add("name", options.name)
        .Add("proto", "tcp")
        .Add("port", static_cast<long>(listener.port))
        .Add("from", from.Text())
        .Add("original", original)
        .Add("local", LocalAddress(fd.get()))
        .Print();
    connections.push_back({std::move(fd), listener.port, original, {}});
  }
}

// False when the connection is over.
bool Read(const Options& options, Connection& connection) {
  char chunk[kMaxLine];
  const ssize_t got = recv(connection.fd.get(), chunk, sizeof(chunk), 0);
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  connection.line.append(chunk, static_cast<size_t>(got));
  const size_t end = connection.line.find('\n');
  if (end == std::string::npos) return got > 0 && connection.line.size() < kMaxLine;
  const std::string answer =
      Answer(options, connection.port, connection.original, std::string_view(connection.line).substr(0, end));
  send(connection.fd.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
  return false;
}

void AnswerDatagrams(const Options& options, const Listener& listener) {
  for (;;) {
    char token[kMaxLine];
    alignas(cmsghdr) char control[128];
    Address from;
    iovec part = {token, sizeof(token)};
    msghdr message = {};
    message.msg_name = from.raw();
    message.msg_namelen = from.size;
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t got = recvmsg(listener.fd.get(), &message, 0);
    if (got < 0 && errno == ECONNREFUSED) continue;  // an ICMP answer to an earlier answer of ours
    if (got < 0) return;

    Address local;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_PKTINFO) {
        auto* info = reinterpret_cast<in_pktinfo*>(CMSG_DATA(header));
        auto& in = reinterpret_cast<sockaddr_in&>(local.storage);
        in.sin_family = AF_INET;
        in.sin_port = htons(static_cast<uint16_t>(listener.port));
        in.sin_addr = info->ipi_spec_dst = info->ipi_addr;
        info->ipi_ifindex = 0;
      } else if (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_PKTINFO) {
        auto* info = reinterpret_cast<in6_pktinfo*>(CMSG_DATA(header));
        auto& in6 = reinterpret_cast<sockaddr_in6&>(local.storage);
        in6.sin6_family = AF_INET6;
        in6.sin6_port = htons(static_cast<uint16_t>(listener.port));
        in6.sin6_addr = info->ipi6_addr;
        info->ipi6_ifindex = 0;
      }
    }
    JsonLine()
        .Add("event", "datagram")
        .Add("name", options.name)
        .Add("proto", "udp")
        .Add("port", static_cast<long>(listener.port))
        .Add("from", from.Text())
        .Add("local", local.Text())
        .Print();
    std::string_view line(token, static_cast<size_t>(got));
    line = line.substr(0, line.find('\n'));
    std::string answer = Answer(options, listener.port, local.Text(), line);
    part = {answer.data(), answer.size()};
    sendmsg(listener.fd.get(), &message, MSG_NOSIGNAL);
  }
}

}  // namespace

int Serve(const Arguments& arguments) {
  const Options options = ParseOptions(arguments);
  const pid_t parent = getppid();
  Become(options.actor);
  std::list<Listener> listeners;
  bool v6 = true;
  for (const bool tcp : {true, false}) {
    for (const unsigned port : tcp ? options.tcp : options.udp) {
      Listen(options, AF_INET, tcp, port, listeners);
      v6 = v6 && Listen(options, AF_INET6, tcp, port, listeners);
    }
  }
  DropCapabilities(options.actor);
  // Changing ids forgets this setting, so it comes last; the parent may be gone by now.
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) return 1;
  JsonLine().Add("event", "listening").Add("name", options.name).Add("ipv6", v6).Print();

  std::list<Connection> connections;
  for (;;) {
    std::vector<pollfd> polled;
    for (const Listener& listener : listeners) polled.push_back({listener.fd.get(), POLLIN, 0});
    for (const Connection& connection : connections) polled.push_back({connection.fd.get(), POLLIN, 0});
    if (poll(polled.data(), polled.size(), -1) < 0) {
      if (errno == EINTR) continue;
      Fail("poll", "sockets", errno);
    }
    auto ready = polled.begin() + static_cast<ptrdiff_t>(listeners.size());
    for (auto it = connections.begin(); it != connections.end(); ++ready) {
      it = ready->revents != 0 && !Read(options, *it) ? connections.erase(it) : std::next(it);
    }
    ready = polled.begin();
    for (const Listener& listener : listeners) {
      if ((ready++)->revents == 0) continue;
      if (listener.tcp) {
        Accept(options, listener, connections);
      } else {
        AnswerDatagrams(options, listener);
      }
    }
  }
}

}  // namespace toolbox
