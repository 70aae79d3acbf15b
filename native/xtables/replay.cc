#include "native/xtables/replay.h"

#include <linux/netfilter.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "native/error.h"

namespace ipnc::xtables {
namespace {

// The kernel writes the old table's counters where the blob points. Nobody reads them.
constexpr unsigned kMostPristineEntries = 8;
xt_counters discarded[kMostPristineEntries];

template <typename F>
[[noreturn]] void Throw(int number, const char* syscall, TableName table) {
  throw Error{.number = number, .syscall = syscall, .table = std::string(F::kName) + " " + ToString(table)};
}

}  // namespace

template <typename F>
Blob Read(const Access& access, TableName table) {
  constexpr int kAttempts = 16;  // the table may grow between the two calls
  const int socket = access.socket;
  for (int attempt = 0;; ++attempt) {
    access.budget.RequireTime();
    typename F::Info info{};
    std::strcpy(info.name, ToString(table));
    socklen_t length = sizeof(info);
    if (getsockopt(socket, F::kSocketLevel, IPT_SO_GET_INFO, &info, &length) != 0)
      Throw<F>(errno, "getsockopt(SO_GET_INFO)", table);
    access.budget.Spend(std::max<size_t>(info.num_entries, Budget::ObjectsOf(info.size)));

    std::vector<uint8_t> get(sizeof(typename F::GetEntries) + info.size);
    typename F::GetEntries request{};
    std::strcpy(request.name, ToString(table));
    request.size = info.size;
    std::memcpy(get.data(), &request, sizeof(request));
    length = static_cast<socklen_t>(get.size());
    if (getsockopt(socket, F::kSocketLevel, IPT_SO_GET_ENTRIES, get.data(), &length) != 0) {
      if (errno == EAGAIN && attempt < kAttempts) continue;
      Throw<F>(errno, "getsockopt(SO_GET_ENTRIES)", table);
    }

    typename F::Replace header{};
    std::strcpy(header.name, ToString(table));
    header.valid_hooks = info.valid_hooks;
    header.num_entries = info.num_entries;
    header.size = info.size;
    std::memcpy(header.hook_entry, info.hook_entry, sizeof(header.hook_entry));
    std::memcpy(header.underflow, info.underflow, sizeof(header.underflow));
    header.counters = discarded;
    Blob blob(sizeof(header) + info.size);
    std::memcpy(blob.data(), &header, sizeof(header));
    std::memcpy(blob.data() + sizeof(header), get.data() + sizeof(typename F::GetEntries), info.size);
    return blob;
  }
}

template <typename F>
bool SameEntries(const Blob& blob, const uint8_t* entries, size_t size) {
  using Entry = typename F::Entry;
  const uint8_t* wanted = blob.data() + sizeof(typename F::Replace);
  if (blob.size() - sizeof(typename F::Replace) != size) return false;
  constexpr size_t kOffsets = offsetof(Entry, target_offset);
  constexpr size_t kOwn = offsetof(Entry, nfcache);  // nfcache, and after the offsets comefrom and counters
  for (size_t at = 0; at < size;) {
    Entry header;
    if (size - at < sizeof(header)) return false;
    std::memcpy(&header, wanted + at, sizeof(header));
    if (header.next_offset < sizeof(header) || header.next_offset > size - at) return false;
    if (std::memcmp(wanted + at, entries + at, kOwn) != 0 ||
        std::memcmp(wanted + at + kOffsets, entries + at + kOffsets, offsetof(Entry, comefrom) - kOffsets) != 0 ||
        std::memcmp(wanted + at + sizeof(Entry), entries + at + sizeof(Entry), header.next_offset - sizeof(Entry)) != 0)
      return false;
    at += header.next_offset;
  }
  return true;
}

template <typename F>
bool Matches(int socket, const Blob& blob) {
  using GetEntries = typename F::GetEntries;
  const typename F::Replace header = HeaderOf<F>(blob);
  GetEntries request{};
  std::memcpy(request.name, header.name, sizeof(request.name));
  request.size = header.size;
  thread_local std::vector<uint8_t> get;
  get.resize(sizeof(request) + header.size);
  std::memcpy(get.data(), &request, sizeof(request));
  auto length = static_cast<socklen_t>(get.size());
  if (getsockopt(socket, F::kSocketLevel, IPT_SO_GET_ENTRIES, get.data(), &length) != 0) {
    if (errno == EAGAIN) return false;  // of another size
    throw Error{
        .number = errno, .syscall = "getsockopt(SO_GET_ENTRIES)", .table = std::string(F::kName) + " " + header.name};
  }
  return SameEntries<F>(blob, get.data() + sizeof(request), header.size);
}

template <typename F>
bool LooksLike(int socket, const Blob& blob) {
  const typename F::Replace wanted = HeaderOf<F>(blob);
  typename F::Info info{};
  std::memcpy(info.name, wanted.name, sizeof(info.name));
  socklen_t length = sizeof(info);
  if (getsockopt(socket, F::kSocketLevel, IPT_SO_GET_INFO, &info, &length) != 0)
    throw Error{
        .number = errno, .syscall = "getsockopt(SO_GET_INFO)", .table = std::string(F::kName) + " " + info.name};
  return info.size == wanted.size && info.num_entries == wanted.num_entries &&
         std::memcmp(info.hook_entry, wanted.hook_entry, sizeof(info.hook_entry)) == 0 &&
         std::memcmp(info.underflow, wanted.underflow, sizeof(info.underflow)) == 0;
}

template <typename F>
bool Replace(int socket, const Blob& blob) {
  if (setsockopt(socket, F::kSocketLevel, IPT_SO_SET_REPLACE, blob.data(), static_cast<socklen_t>(blob.size())) == 0)
    return true;
  if (errno == EAGAIN) return false;
  throw Error{.number = errno,
              .syscall = "setsockopt(SO_SET_REPLACE)",
              .table = std::string(F::kName) + " " + HeaderOf<F>(blob).name};
}

template <typename F>
void GuardBy(Blob& blob, const Blob& pristine) {
  typename F::Replace header = HeaderOf<F>(blob);
  header.num_counters = HeaderOf<F>(pristine).num_entries;
  if (header.num_counters > kMostPristineEntries) ThrowErrno(EOVERFLOW, "getsockopt(SO_GET_INFO)");
  std::memcpy(blob.data(), &header, sizeof(header));
}

template Blob Read<V4>(const Access&, TableName);
template Blob Read<V6>(const Access&, TableName);
template bool Matches<V4>(int, const Blob&);
template bool Matches<V6>(int, const Blob&);
template bool SameEntries<V4>(const Blob&, const uint8_t*, size_t);
template bool SameEntries<V6>(const Blob&, const uint8_t*, size_t);
template bool LooksLike<V4>(int, const Blob&);
template bool LooksLike<V6>(int, const Blob&);
template bool Replace<V4>(int, const Blob&);
template bool Replace<V6>(int, const Blob&);
template void GuardBy<V4>(Blob&, const Blob&);
template void GuardBy<V6>(Blob&, const Blob&);

}  // namespace ipnc::xtables
