// Bytes as the kernel might hand them over, read as lists of rules, routes and addresses: never past their end, and
// what we write is read as the same.
#include <fuzzer/FuzzedDataProvider.h>

#include "native/gate/network.h"
#include "native/route_message.h"

namespace {

using namespace ipnc;
using netlink::Bytes;
using netlink::View;

void Read(View rest) {
  while (const auto message = netlink::TakeMessage(rest)) {
    netlink::ErrorOf(*message);
    ReadItem(*message);
    const auto address = ReadGlobalAddress(*message);
    if (address && address->text.empty()) __builtin_trap();
    gate::Addresses found;
    gate::AddAddress(*message, found);
    if (address && !found.global.v4 && !found.global.v6) __builtin_trap();
    gate::IsTproxyRule(*message, 1337, 133);
    gate::IsTproxyRoute(*message, 133);
  }
}

RouteItem MakeItem(FuzzedDataProvider& input) {
  RouteItem item{.kind = static_cast<RouteItem::Kind>(input.ConsumeIntegralInRange(0, 2)),
                 .family = input.ConsumeBool() ? Family::kV4 : Family::kV6};
  if (item.kind == RouteItem::Kind::kAddress) return {};
  if (item.kind == RouteItem::Kind::kRule) item.mark = input.ConsumeIntegral<uint32_t>();
  item.table = input.ConsumeIntegral<uint32_t>();
  return item;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  const RouteItem item = MakeItem(input);
  Bytes request = ChangeOf(item, Change::kAdd);
  View rest = request;
  const auto message = netlink::TakeMessage(rest);
  const auto listed = message ? ReadItem(*message) : std::nullopt;
  if (!listed || !(listed->item == item) || !listed->ours || !rest.empty()) __builtin_trap();

  // The same damaged, which the fuzzer would hardly come to by itself. Cut to a size of its own, so that a step past
  // the end is seen.
  while (input.remaining_bytes() > 2 && input.ConsumeBool())
    request[input.ConsumeIntegralInRange<size_t>(0, request.size() - 1)] = input.ConsumeIntegral<uint8_t>();
  const size_t kept = input.ConsumeIntegralInRange<size_t>(0, request.size());
  const Bytes damaged(request.begin(), request.begin() + static_cast<ptrdiff_t>(kept));
  Read(damaged);
  const std::vector<uint8_t> any = input.ConsumeRemainingBytes<uint8_t>();
  Read(any);
  return 0;
}
