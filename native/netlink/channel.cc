#include "native/netlink/channel.h"

#include <sys/socket.h>

#include <cerrno>

#include "native/error.h"

namespace ipnc::netlink {
namespace {

// Each request of a thread has another number, whatever socket it is sent on.
uint32_t NextSequence() {
  thread_local uint32_t last = 0;
  return kFirstSequence | ++last;
}

const char* NameOf(int protocol) {
  return protocol == NETLINK_ROUTE ? "NETLINK_ROUTE" : "NETLINK_NETFILTER";
}

std::string Call(const char* call, const char* name) {
  return std::string(call) + "(" + name + ")";
}

}  // namespace

Fd Open(int protocol) {
  Fd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
  if (!fd) ThrowErrno(errno, Call("socket", NameOf(protocol)));
  const sockaddr_nl kernel{.nl_family = AF_NETLINK, .nl_pad = 0, .nl_pid = 0, .nl_groups = 0};
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&kernel), sizeof(kernel)) != 0)
    ThrowErrno(errno, Call("connect", NameOf(protocol)));
  return fd;
}

Channel::Channel(int socket, int protocol, Budget& budget)
    : socket_(socket), name_(NameOf(protocol)), budget_(budget) {}

void Channel::Send(View bytes) {
  if (send(socket_, bytes.data(), bytes.size(), 0) < 0) ThrowErrno(errno, Call("send", name_));
}

View Channel::Receive() {
  bool overrun = false;
  for (;;) {
    budget_.RequireTime();
    sockaddr_nl sender{};
    socklen_t length = sizeof(sender);
    const ssize_t size =
        recvfrom(socket_, buffer_, sizeof(buffer_), MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&sender), &length);
    if (size >= 0) {
      if (length != sizeof(sender) || sender.nl_pid != 0) continue;  // not the kernel's
      return View(buffer_, static_cast<size_t>(size));
    }
    if (errno == EINTR) continue;
    if (errno == ENOBUFS && !overrun) {
      overrun = true;  // the later answers were lost; the earlier ones are still there
      continue;
    }
    if (errno != EAGAIN) ThrowErrno(errno, Call("recvfrom", name_));
    if (overrun) ThrowErrno(ENOBUFS, Call("recvfrom", name_));
    return {};
  }
}

int Channel::Ask(Bytes request, const std::function<void(const Message&)>& each) {
  nlmsghdr header;
  std::memcpy(&header, request.data(), sizeof(header));
  header.nlmsg_seq = NextSequence();
  std::memcpy(request.data(), &header, sizeof(header));
  Send(request);
  const bool dump = (header.nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
  try {
    return Answer(header.nlmsg_seq, header.nlmsg_flags, each);
  } catch (Error& error) {
    if (dump && error.number == ENOBUFS) return ENOBUFS;
    error.uncertain = !dump;
    throw;
  }
}

int Channel::Answer(uint32_t sequence, uint16_t flags, const std::function<void(const Message&)>& each) {
  const bool dump = (flags & NLM_F_DUMP) == NLM_F_DUMP;
  int interrupted = 0;
  for (;;) {
    View answer = Receive();
    if (answer.empty()) ThrowErrno(ENODATA, Call("recvfrom", name_), "the kernel did not answer");
    while (const auto message = TakeMessage(answer)) {
      // What is left of an earlier request whose answer could not be received.
      if (message->header.nlmsg_seq != sequence) continue;
      if (message->header.nlmsg_flags & NLM_F_DUMP_INTR) interrupted = EINTR;
      if (const auto error = ErrorOf(*message)) return *error != 0 ? *error : interrupted;
      budget_.Spend(Budget::ObjectsOf(message->whole.size()));
      each(*message);
      if (!dump && !(flags & NLM_F_ACK)) return 0;
    }
  }
}

}  // namespace ipnc::netlink
