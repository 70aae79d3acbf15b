#include "native/nftables/channel.h"

#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "native/error.h"

namespace ipnc::nftables {
namespace {

constexpr char kSyscall[] = "nf_tables";

// Of an NLMSG_ERROR, or of an NLMSG_DONE; what it quotes may be cut off.
std::optional<int> ErrorOf(View answer, const nlmsghdr& header) {
  int error = 0;
  if (header.nlmsg_type != NLMSG_ERROR && header.nlmsg_type != NLMSG_DONE) return std::nullopt;
  if (answer.size() >= NLMSG_HDRLEN + sizeof(error)) std::memcpy(&error, answer.data() + NLMSG_HDRLEN, sizeof(error));
  return -error;
}

}  // namespace

Channel::Channel(int socket) : socket_(socket) {
  while (!Receive().empty()) {
  }
}

// The kernel answers before send() returns, and goes on with a dump whenever some of it has been received: there is
// never anything to wait for.
View Channel::Receive() {
  bool overrun = false;
  for (;;) {
    const ssize_t length = recv(socket_, buffer_, sizeof(buffer_), MSG_DONTWAIT);
    if (length > 0) return View(buffer_, static_cast<size_t>(length));
    if (length < 0 && errno == ENOBUFS && !overrun)
      overrun = true;  // of the answers the later ones were lost
    else if (length < 0 && errno == EINTR)
      continue;
    else if (length < 0 && errno != EAGAIN)
      ThrowErrno(errno, "recv(NETLINK_NETFILTER)");
    else if (overrun)
      ThrowErrno(ENOBUFS, "recv(NETLINK_NETFILTER)");
    else
      return {};
  }
}

int Channel::Ask(uint16_t type, uint16_t flags, const std::function<void(Writer&)>& fill,
                 const std::function<void(const Message&)>& each) {
  const uint32_t sequence = sequence_++;
  Writer request(sequence);
  request.Begin(type, flags);
  fill(request);
  request.End();
  if (send(socket_, request.bytes().data(), request.bytes().size(), 0) < 0)
    ThrowErrno(errno, "send(NETLINK_NETFILTER)");
  int interrupted = 0;
  for (;;) {
    View answer = Receive();
    if (answer.empty()) ThrowErrno(ENODATA, kSyscall, "the kernel did not answer");
    nlmsghdr header;
    if (answer.size() < sizeof(header)) continue;
    std::memcpy(&header, answer.data(), sizeof(header));
    if (header.nlmsg_seq != sequence) continue;
    if (header.nlmsg_type == NLMSG_ERROR) return ErrorOf(answer, header).value_or(0);
    while (const auto message = TakeMessage(answer)) {
      if (message->header.nlmsg_flags & NLM_F_DUMP_INTR) interrupted = EINTR;
      if (message->header.nlmsg_type == NLMSG_DONE) {
        const int error = ErrorOf(message->whole, message->header).value_or(0);
        return error != 0 ? error : interrupted;
      }
      each(*message);
      if (!(flags & NLM_F_DUMP)) return 0;
    }
  }
}

void Channel::MakeRoom(size_t size) {
  constexpr size_t kSpare = 4096;
  constexpr size_t kSure = 64 * 1024;
  if (size < kSure) return;
  int room = 0;
  socklen_t length = sizeof(room);
  if (getsockopt(socket_, SOL_SOCKET, SO_SNDBUF, &room, &length) != 0) ThrowErrno(errno, "getsockopt(SO_SNDBUF)");
  if (size + kSpare < static_cast<size_t>(room)) return;
  const int wanted = static_cast<int>(size + kSpare);
  // Without the right to more, send() says if it is too little.
  if (setsockopt(socket_, SOL_SOCKET, SO_SNDBUFFORCE, &wanted, sizeof(wanted)) != 0 &&
      setsockopt(socket_, SOL_SOCKET, SO_SNDBUF, &wanted, sizeof(wanted)) != 0)
    ThrowErrno(errno, "setsockopt(SO_SNDBUF)");
}

std::optional<Refusal> Channel::Send(const Batch& batch) {
  MakeRoom(batch.bytes.size());
  if (send(socket_, batch.bytes.data(), batch.bytes.size(), 0) < 0) ThrowErrno(errno, "send(NETLINK_NETFILTER)");
  try {
    return ReceiveOutcome(batch);
  } catch (Error& error) {
    error.uncertain = true;
    throw;
  }
}

std::optional<Refusal> Channel::ReceiveOutcome(const Batch& batch) {
  std::optional<Refusal> refusal;
  for (;;) {
    const View answer = Receive();
    if (answer.empty()) break;
    nlmsghdr header;
    if (answer.size() < sizeof(header)) continue;
    std::memcpy(&header, answer.data(), sizeof(header));
    const auto error = ErrorOf(answer, header);
    if (!error || header.nlmsg_seq >= kFirstSequence) continue;
    // Refusals come first: an answer that all is well is the last.
    if (*error == 0 && header.nlmsg_seq == batch.last && !refusal) return std::nullopt;
    if (*error != 0 && !refusal) refusal = Refusal{*error, header.nlmsg_seq};
  }
  if (!refusal) ThrowErrno(ENODATA, kSyscall, "the kernel did not answer");
  return refusal;
}

std::optional<uint32_t> Generation(Channel& channel) {
  std::optional<uint32_t> generation;
  const int error = channel.Ask(
      NFT_MSG_GETGEN, 0, [](Writer&) {},
      [&](const Message& message) { generation = Attributes(message.attributes).U32(NFTA_GEN_ID); });
  if (error == EINVAL || error == EOPNOTSUPP) return std::nullopt;
  if (error != 0) ThrowErrno(error, kSyscall);
  return generation.value_or(0);
}

std::optional<uint32_t> AskTable(Channel& channel, TableName table, const std::function<void(const Message&)>& each) {
  std::optional<uint32_t> use;
  const int error = channel.Ask(
      NFT_MSG_GETTABLE, 0, [table](Writer& writer) { writer.PutText(NFTA_TABLE_NAME, KernelName(table)); },
      [&](const Message& message) {
        use = Attributes(message.attributes).U32(NFTA_TABLE_USE).value_or(0);
        each(message);
      });
  if (error == ENOENT || error == EINVAL || error == EOPNOTSUPP) return std::nullopt;
  if (error != 0) throw Error{.number = error, .syscall = kSyscall, .table = std::string("inet ") + KernelName(table)};
  return use;
}

}  // namespace ipnc::nftables
