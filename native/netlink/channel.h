// Requests to the kernel and their answers, on a netlink socket that lives in a pod's network namespace.
//
// In it any process with NET_ADMIN may send to any socket by its port id, which is the process id of its owner and easy
// to guess, and may fill its buffer. So sockets are connected to the kernel, which then delivers messages of no other
// sender. Messages that were queued before that are recognised by their sender. The channel never waits, because the
// kernel answers before send() returns, and continues a dump whenever a part of it was received.
#pragma once

#include <functional>

#include "native/budget.h"
#include "native/fd.h"
#include "native/netlink/message.h"

namespace ipnc::netlink {

// In the calling thread's netns, connected to the kernel. Throws Error.
Fd Open(int protocol);

class Channel {
 public:
  // A socket of Open, which stays the caller's, and the budget of the job that it is for.
  Channel(int socket, int protocol, Budget& budget);

  // Sends one message with a new number. `each` gets the messages of the answer. Returns 0 or an errno; for a dump,
  // EINTR and ENOBUFS mean that it is incomplete. Throws Error, which is `uncertain` if the answer to a change was
  // lost.
  int Ask(Bytes request, const std::function<void(const Message&)>& each);

  Budget& budget() { return budget_; }

 protected:
  void Send(View bytes);
  // The bytes of one datagram from the kernel; empty if there is none. An error message quotes the request, and may be
  // cut off after its error number. Throws Error: ENOBUFS if datagrams were lost.
  View Receive();

  int socket() const { return socket_; }

 private:
  int Answer(uint32_t sequence, uint16_t flags, const std::function<void(const Message&)>& each);

  const int socket_;
  const char* const name_;
  Budget& budget_;
  alignas(nlmsghdr) uint8_t buffer_[32 * 1024];  // the kernel makes no longer one but a refusal
};

// Numbers of requests, above those of any transaction of nf_tables.
constexpr uint32_t kFirstSequence = uint32_t{1} << 31;

}  // namespace ipnc::netlink
