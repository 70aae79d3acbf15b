// Writes and reads messages of nf_tables. Reading never goes past the end, whatever the bytes are. Pure.
#pragma once

#include <initializer_list>
#include <string_view>

#include "native/netlink/message.h"

namespace ipnc::nftables {

// NFPROTO_INET of linux/netfilter.h, which cannot be included next to every other header.
inline constexpr uint8_t kInet = 1;

using netlink::Attribute;
using netlink::Bytes;
using netlink::TakeAttribute;
using netlink::View;

// A transaction: messages between NFNL_MSG_BATCH_BEGIN and _END. The kernel answers the last one when the transaction
// succeeds, and each message that it refuses.
struct Batch {
  Bytes bytes;
  uint32_t last = 0;  // its number
};

// Writes a sequence of messages of nf_tables. Numbers in attributes are big-endian.
class Writer {
 public:
  explicit Writer(uint32_t first_sequence = 1) : sequence_(first_sequence) {}

  // `type` is NFT_MSG_*; NLM_F_REQUEST comes by itself. `family` is NFPROTO_*.
  void Begin(uint16_t type, uint16_t flags, uint8_t family = kInet);
  void End();
  // The kernel refuses the batch (ERESTART) if its ruleset is of another generation.
  void BeginBatch(std::optional<uint32_t> generation);
  enum class Deed : uint8_t { kCommit, kCheck };  // kCheck: the kernel tries it and forgets it
  Batch EndBatch(Deed deed = Deed::kCommit);
  // Whole messages, as another Writer made them.
  void Append(View messages) { bytes_.insert(bytes_.end(), messages.begin(), messages.end()); }

  void Put(uint16_t attribute, View data);
  void PutU32(uint16_t attribute, uint32_t value);
  void PutWhole(View attribute);                            // as TakeAttribute has it
  void PutText(uint16_t attribute, std::string_view text);  // with the NUL at its end
  // A nested attribute: Close takes what Open said.
  size_t Open(uint16_t attribute);
  void Close(size_t at);

  const Bytes& bytes() const { return bytes_; }

 private:
  void BeginAny(uint16_t type, uint16_t flags, uint8_t family, uint16_t resource);

  Bytes bytes_;
  size_t message_ = 0;  // where the newest starts
  uint32_t sequence_;
};

struct Message {
  nlmsghdr header{};
  uint8_t family = 0;
  View attributes;  // empty if the message is too short for any
  View whole;
};
Message MessageOf(const netlink::Message& message);
// Takes the first message off `rest`; empty if there is no complete one.
std::optional<Message> TakeMessage(View& rest);

uint32_t BigEndian32(View data);  // of at least four bytes

// The attributes of a message by type. It remembers which ones were read, because an unknown attribute may mean
// anything.
class Attributes {
 public:
  explicit Attributes(View data);

  bool Has(uint16_t type) const { return type < kMost && present_ & bit(type); }
  std::optional<View> Get(uint16_t type);
  std::optional<uint32_t> U32(uint16_t type);
  std::optional<uint64_t> U64(uint16_t type);
  std::string_view Text(uint16_t type);  // up to a NUL; empty if absent
  bool Is(uint16_t type, uint32_t value) { return U32(type) == value; }
  // Whether every attribute was read, and the message was well formed.
  bool NothingElse() const { return !odd_ && (present_ & ~asked_) == 0; }

 private:
  static constexpr size_t kMost = 32;
  static uint32_t bit(uint16_t type) { return uint32_t{1} << type; }

  View data_[kMost];
  uint32_t present_ = 0;
  uint32_t asked_ = 0;
  bool odd_ = false;
};

}  // namespace ipnc::nftables
