#include "native/nftables/netlink.h"

#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>

#include <algorithm>
#include <cstring>

#include "native/error.h"

namespace ipnc::nftables {
namespace {

static_assert(kInet == NFPROTO_INET);

constexpr size_t kHeaders = NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(nfgenmsg));

size_t Aligned(size_t size) {
  return NLMSG_ALIGN(size);
}

}  // namespace

void Writer::BeginAny(uint16_t type, uint16_t flags, uint8_t family, uint16_t resource) {
  message_ = bytes_.size();
  bytes_.resize(message_ + kHeaders);
  const nlmsghdr header{.nlmsg_len = kHeaders,
                        .nlmsg_type = type,
                        .nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags),
                        .nlmsg_seq = sequence_++,
                        .nlmsg_pid = 0};
  const nfgenmsg extra{.nfgen_family = family, .version = NFNETLINK_V0, .res_id = htons(resource)};
  std::memcpy(bytes_.data() + message_, &header, sizeof(header));
  std::memcpy(bytes_.data() + message_ + NLMSG_HDRLEN, &extra, sizeof(extra));
}

void Writer::Begin(uint16_t type, uint16_t flags, uint8_t family) {
  BeginAny(static_cast<uint16_t>(NFNL_SUBSYS_NFTABLES << 8 | type), flags, family, 0);
}

void Writer::End() {
  const auto length = static_cast<uint32_t>(bytes_.size() - message_);
  std::memcpy(bytes_.data() + message_ + offsetof(nlmsghdr, nlmsg_len), &length, sizeof(length));
}

void Writer::BeginBatch(std::optional<uint32_t> generation) {
  BeginAny(NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
  if (generation) PutU32(NFNL_BATCH_GENID, *generation);
  End();
}

Batch Writer::EndBatch(Deed deed) {
  size_t last = 0;
  View rest = bytes_;
  while (const auto message = TakeMessage(rest)) last = static_cast<size_t>(message->whole.data() - bytes_.data());
  nlmsghdr header;
  std::memcpy(&header, bytes_.data() + last, sizeof(header));
  header.nlmsg_flags |= NLM_F_ACK;
  std::memcpy(bytes_.data() + last, &header, sizeof(header));
  if (deed == Deed::kCommit) BeginAny(NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
  return {std::move(bytes_), header.nlmsg_seq};
}

void Writer::Put(uint16_t attribute, View data) {
  const size_t at = bytes_.size();
  if (data.size() > UINT16_MAX - NLA_HDRLEN) InvalidRule("a rule is too long");
  const nlattr header{.nla_len = static_cast<uint16_t>(NLA_HDRLEN + data.size()), .nla_type = attribute};
  bytes_.resize(at + Aligned(header.nla_len));
  std::memcpy(bytes_.data() + at, &header, sizeof(header));
  if (!data.empty()) std::memcpy(bytes_.data() + at + NLA_HDRLEN, data.data(), data.size());
}

void Writer::PutU32(uint16_t attribute, uint32_t value) {
  const uint32_t big_endian = htonl(value);
  Put(attribute, View(reinterpret_cast<const uint8_t*>(&big_endian), sizeof(big_endian)));
}

void Writer::PutWhole(View attribute) {
  bytes_.insert(bytes_.end(), attribute.begin(), attribute.end());
  bytes_.resize(Aligned(bytes_.size()));
}

void Writer::PutText(uint16_t attribute, std::string_view text) {
  std::string terminated(text);
  Put(attribute, View(reinterpret_cast<const uint8_t*>(terminated.c_str()), terminated.size() + 1));
}

size_t Writer::Open(uint16_t attribute) {
  const size_t at = bytes_.size();
  Put(attribute | NLA_F_NESTED, {});
  return at;
}

void Writer::Close(size_t at) {
  const size_t length = bytes_.size() - at;
  if (length > UINT16_MAX) InvalidRule("a rule is too long");
  const auto short_length = static_cast<uint16_t>(length);
  std::memcpy(bytes_.data() + at + offsetof(nlattr, nla_len), &short_length, sizeof(short_length));
}

Message MessageOf(const netlink::Message& message) {
  View attributes = message.payload;
  const auto header = netlink::TakeHeader<nfgenmsg>(attributes);
  if (!header) return {.header = message.header, .family = 0, .attributes = {}, .whole = message.whole};
  return {.header = message.header, .family = header->nfgen_family, .attributes = attributes, .whole = message.whole};
}

std::optional<Message> TakeMessage(View& rest) {
  const auto message = netlink::TakeMessage(rest);
  return message ? std::optional(MessageOf(*message)) : std::nullopt;
}

uint32_t BigEndian32(View data) {
  uint32_t value;
  std::memcpy(&value, data.data(), sizeof(value));
  return ntohl(value);
}

Attributes::Attributes(View data) {
  while (const auto attribute = TakeAttribute(data)) {
    if (attribute->type >= kMost || present_ & bit(attribute->type)) {
      odd_ = true;
      continue;
    }
    present_ |= bit(attribute->type);
    data_[attribute->type] = attribute->data;
  }
  odd_ = odd_ || !data.empty();
}

std::optional<View> Attributes::Get(uint16_t type) {
  if (!Has(type)) return std::nullopt;
  asked_ |= bit(type);
  return data_[type];
}

std::optional<uint32_t> Attributes::U32(uint16_t type) {
  const auto data = Get(type);
  if (!data || data->size() != sizeof(uint32_t)) return std::nullopt;
  return BigEndian32(*data);
}

std::optional<uint64_t> Attributes::U64(uint16_t type) {
  const auto data = Get(type);
  if (!data || data->size() != sizeof(uint64_t)) return std::nullopt;
  return uint64_t{BigEndian32(*data)} << 32 | BigEndian32(data->subspan(sizeof(uint32_t)));
}

std::string_view Attributes::Text(uint16_t type) {
  const auto data = Get(type);
  if (!data || data->empty()) return {};
  const auto* text = reinterpret_cast<const char*>(data->data());
  return {text, strnlen(text, data->size())};
}

}  // namespace ipnc::nftables
