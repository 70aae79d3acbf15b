#include <netinet/in.h>

#include <linux/netfilter.h>

#include "native/error.h"
#include "native/nftables/encode.h"
#include "native/nftables/install.h"
#include "native/nftables/message.h"

namespace ipnc::nftables {
namespace {

Interval Between(std::initializer_list<uint8_t> first, std::initializer_list<uint8_t> last) {
  Interval interval;
  std::copy(first.begin(), first.end(), interval.first.begin());
  std::copy(last.begin(), last.end(), interval.last.begin());
  return interval;
}

Interval Only(std::initializer_list<uint8_t> value) {
  return Between(value, value);
}

Condition Is(Field field, std::vector<Interval> values) {
  return {field, false, std::move(values)};
}

const Hook kNat{Hook::Type::kNat, Hook::Point::kOutput, -100};
const Hook kRoute{Hook::Type::kRoute, Hook::Point::kOutput, -150};
const Hook kFilter{Hook::Type::kFilter, Hook::Point::kPrerouting, -150};
const Hook kOutput{Hook::Type::kFilter, Hook::Point::kOutput, -300};

struct Probe {
  const char* name;
  Hook hook;
  std::optional<Rule> rule;
};

std::vector<Probe> Probes() {
  const Condition tcp = Is(Field::kL4proto, {Only({IPPROTO_TCP})});
  const auto rule = [](std::vector<Condition> conditions, Target target = Verdict::kReturn) {
    return Rule{.conditions = std::move(conditions), .counter = true, .target = std::move(target)};
  };
  return {
      {"nat chain", kNat, std::nullopt},
      {"route chain", kRoute, std::nullopt},
      {"redirect", kNat, rule({tcp}, Redirect{15001})},
      {"tproxy", kFilter, rule({tcp}, Tproxy{15006, 1337})},
      {"ct zone", kOutput, rule({}, CtZone{1})},
      {"ct state", kFilter, rule({Is(Field::kCtState, {Only({0, 0, 0, 2})})})},
      {"ct mark", kFilter, rule({Is(Field::kCtMark, {Only({0, 0, 5, 57})})})},
      {"meta skuid", kOutput, rule({Is(Field::kUid, {Only({0, 0, 5, 57})})})},
      {"sets", kOutput, rule({tcp, Is(Field::kDestinationPort, {Only({0, 80}), Only({0, 90})})})},
      {"interval sets", kOutput, rule({tcp, Is(Field::kDestinationPort, {Only({0, 80}), Between({0, 90}, {0, 99})})})},
  };
}

Batch Trying(const std::vector<Probe>& probes, Writer::Deed deed) {
  Table table;
  for (const Probe& probe : probes) {
    Chain& chain = table.chains.emplace_back();
    chain.name = probe.name;
    chain.hook = probe.hook;
    if (probe.rule) chain.rules.push_back(*probe.rule);
  }
  Writer writer;
  writer.BeginBatch(std::nullopt);
  PutTable(writer, table.name, Encode(table));
  return writer.EndBatch(deed);
}

}  // namespace

std::vector<std::string> MissingExpressions(Channel& channel) {
  std::vector<std::string> missing;
  // All at once, and for real: to forget what was only tried takes the kernel longer than all the rest.
  if (!channel.Send(Trying(Probes(), Writer::Deed::kCommit))) return missing;
  for (const Probe& probe : Probes())
    if (channel.Send(Trying({probe}, Writer::Deed::kCheck))) missing.push_back(probe.name);
  return missing;
}

}  // namespace ipnc::nftables
