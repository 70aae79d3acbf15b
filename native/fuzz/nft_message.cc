// Bytes as the kernel might hand them over, read as a dump of a table: never past their end, and what comes out of them
// is written and read as the same.
#include <linux/netfilter/nf_tables.h>

#include <cstring>

#include "native/error.h"
#include "native/fuzz/damage.h"
#include "native/nftables/encode.h"
#include "native/nftables/message.h"

namespace {

using namespace ipnc;
using namespace ipnc::nftables;

// A table with something of everything, to be damaged.
Bytes Sample() {
  const auto condition = [](Field field, std::initializer_list<uint8_t> numbers) {
    Condition condition{field, false, {}};
    for (uint8_t number : numbers) {
      FieldValue value{};
      value[Info(field).width - 1] = number;
      condition.values.push_back({value, value});
    }
    return condition;
  };
  const auto tcp = condition(Field::kL4proto, {6});
  auto ranges = condition(Field::kDestinationPort, {80, 90});
  ranges.values[1].last[1] = 99;
  nftables::Table table{TableName::kNat,
                        {{"istio-drop", {}, {{{}, true, Verdict::kDrop}}},
                         {"output",
                          Hook{},
                          {{{tcp, condition(Field::kDestinationPort, {1, 2})}, true, Jump{"istio-drop"}},
                           {{tcp, ranges}, false, Redirect{15001}},
                           {{condition(Field::kUid, {1}), condition(Field::kCtState, {2, 4})}, true, SetMark{1}}}}}};
  Writer writer;
  PutTable(writer, TableName::kNat, Encode(table));
  return writer.bytes();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Bytes kSample = Sample();
  if (size == 0) return 0;
  const Bytes bytes = AnyOrDamaged(kSample, data, size);
  const Content content = Parse(bytes);
  Decode(TableName::kNat, content);
  for (const ChainContent& chain : content.chains)
    for (const auto& rule : chain.rules) {
      const nftables::Rule told = Decode(rule);
      if (told.opaque.empty() && Encode(told) != rule) __builtin_trap();
    }
  View rest = bytes;
  while (const auto message = TakeMessage(rest)) {
    Describe(*message);
    TableOf(*message);
  }
  Writer writer;
  PutRecreation(writer, bytes);
  // Whole messages, which say the same when they are put once more.
  Writer again;
  PutRecreation(again, writer.bytes());
  rest = writer.bytes();
  while (TakeMessage(rest)) {
  }
  if (!rest.empty() || again.bytes().size() != writer.bytes().size()) __builtin_trap();
  return 0;
}
