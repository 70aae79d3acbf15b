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

}  // namespace

Channel::Channel(int socket, Budget& budget) : netlink::Channel(socket, NETLINK_NETFILTER, budget) {}

int Channel::Ask(uint16_t type, uint16_t flags, const std::function<void(Writer&)>& fill,
                 const std::function<void(const Message&)>& each, uint8_t family) {
  Writer request;
  request.Begin(type, flags, family);
  fill(request);
  request.End();
  return netlink::Channel::Ask(request.bytes(), [&each](const netlink::Message& message) { each(MessageOf(message)); });
}

void Channel::MakeRoom(size_t size) {
  constexpr size_t kSpare = 4096;
  constexpr size_t kSure = 64 * 1024;
  if (size < kSure) return;
  int room = 0;
  socklen_t length = sizeof(room);
  if (getsockopt(socket(), SOL_SOCKET, SO_SNDBUF, &room, &length) != 0) ThrowErrno(errno, "getsockopt(SO_SNDBUF)");
  if (size + kSpare < static_cast<size_t>(room)) return;
  const int wanted = static_cast<int>(size + kSpare);
  // Without the right to more, send() says if it is too little.
  if (setsockopt(socket(), SOL_SOCKET, SO_SNDBUFFORCE, &wanted, sizeof(wanted)) != 0 &&
      setsockopt(socket(), SOL_SOCKET, SO_SNDBUF, &wanted, sizeof(wanted)) != 0)
    ThrowErrno(errno, "setsockopt(SO_SNDBUF)");
}

std::optional<Refusal> Channel::Send(const Batch& batch) {
  MakeRoom(batch.bytes.size());
  // What an earlier request, whose answer could not be received, has left: batches have the same numbers.
  while (!Receive().empty()) {
  }
  netlink::Channel::Send(batch.bytes);
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
    const auto error = netlink::ErrorOf(header, answer.subspan(NLMSG_HDRLEN));
    if (!error || header.nlmsg_seq >= netlink::kFirstSequence) continue;
    // Refusals come first, and what they quote may be cut off: an answer that all is well is the last.
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
