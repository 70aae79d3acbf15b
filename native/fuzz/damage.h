// The bytes that a fuzz target reads.
#pragma once

#include "native/netlink/message.h"

namespace ipnc {

// The input's own bytes, or the sample with some of its bytes replaced: the first byte of the input says which. A copy
// of its own size, so that the sanitizer sees a step past its end. `size` is at least 1.
inline netlink::Bytes AnyOrDamaged(const netlink::Bytes& sample, const uint8_t* data, size_t size) {
  if (data[0] % 2 != 0) return netlink::Bytes(data + 1, data + size);
  netlink::Bytes bytes = sample;
  for (size_t at = 1; at + 3 <= size; at += 3)
    bytes[(static_cast<size_t>(data[at]) << 8 | data[at + 1]) % bytes.size()] = data[at + 2];
  return bytes;
}

}  // namespace ipnc
