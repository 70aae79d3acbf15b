// The pure parts of the nftables form: rules to expressions to bytes and back, and what is refused.
#include <algorithm>
#include <random>

#include "test/native/nft.h"

namespace {

using namespace ipnc;
using namespace ipnc::nftables;
using check::Do;
using check::Ipv4;
using check::Tcp;
using check::Where;
using nftables::Chain;
using nftables::Rule;
using nftables::Table;

// Through the bytes that the kernel gets.
Table Through(const Table& table) {
  Writer writer;
  PutTable(writer, table.name, Encode(table));
  return Decode(table.name, Parse(writer.bytes()));
}

Table Holding(std::vector<Rule> rules) {
  return {TableName::kNat, {{"output", check::kNatOutput, std::move(rules)}}};
}

Condition Ipv6() {
  return Where(Field::kNfproto, 10);
}

Condition InterfaceIs(Field field, std::vector<Interval> names, bool inverted = false) {
  return {field, inverted, std::move(names)};
}

TEST("nftables: a rule of every kind comes back as it was") {
  const auto back = [](Rule rule) {
    const Table table = Holding({rule});
    CHECK(Through(table) == table);
    rule.counter = !rule.counter;
    CHECK(Decode(Encode(rule)) == rule);
  };
  const auto when = [&](std::vector<Condition> conditions) { back(Do(std::move(conditions), Verdict::kReturn)); };
  back(Do({}, Verdict::kAccept));
  back(Do({}, Verdict::kDrop));
  back(Do({}, Jump{"istio-output"}));
  back(Do({Tcp()}, Redirect{15001}));
  back(Do({Tcp()}, Tproxy{15006, 1337}));
  back(Do({}, SetMark{1338}));
  back(Do({}, CopyMark{true}));
  back(Do({}, CopyMark{false}));
  back(Do({}, CtZone{2}));
  for (const bool inverted : {false, true}) {
    for (const Field field : {Field::kInInterface, Field::kOutInterface}) {
      when({InterfaceIs(field, {check::Name("lo")}, inverted)});
      when({InterfaceIs(field, {check::Name("eth0"), check::Name("lo")}, inverted)});
    }
    when({Where(Field::kNfproto, 2, inverted)});
    when({Where(Field::kNfproto, {{2, 2}, {10, 10}}, inverted)});
    for (const Field field : {Field::kSource4, Field::kDestination4}) {
      when({Ipv4(), Where(field, 0x7f000006, inverted)});
      when({Ipv4(), Where(field, {{0x0a000000, 0x0affffff}}, inverted)});
      when({Ipv4(), Where(field, {{0x0a100000, 0x0a1fffff}}, inverted)});
      when({Ipv4(), Where(field, {{0x0a000001, 0x0a000007}}, inverted)});
      when({Ipv4(), Where(field, {{0x0a000000, 0x0affffff}, {0xff000000, 0xffffffff}}, inverted)});
      when({Ipv4(), Where(field, {{0, 0x00ffffff}, {0x0a000000, 0x0a000000}}, inverted)});
      when({Ipv4(), Where(field, {{0x01020304, 0x01020304}, {0x01020305, 0x01020305}}, inverted)});
    }
    for (const Field field : {Field::kSource6, Field::kDestination6}) {
      Condition condition{field, inverted, {}};
      condition.values.push_back({check::Value(field, 1), check::Value(field, 1)});
      when({Ipv6(), condition});
      condition.values.push_back({check::Value(field, 3), check::Value(field, 9)});
      when({Ipv6(), condition});
      Interval prefix;  // fd00::/8
      prefix.first[0] = prefix.last[0] = 0xfd;
      std::fill(prefix.last.begin() + 1, prefix.last.end(), 0xff);
      when({Ipv6(), Condition{field, inverted, {prefix}}});
    }
    when({Where(Field::kL4proto, 6, inverted)});
    when({Where(Field::kL4proto, {{6, 6}, {17, 17}}, inverted)});
    for (const Field field : {Field::kSourcePort, Field::kDestinationPort}) {
      when({Tcp(), Where(field, 53, inverted)});
      when({Tcp(), Where(field, {{80, 90}}, inverted)});
      when({Tcp(), Where(field, {{80, 80}, {81, 81}}, inverted)});
      when({Tcp(), Where(field, {{0, 80}, {443, 443}, {60000, 65535}}, inverted)});
    }
    for (const Field field : {Field::kUid, Field::kGid, Field::kMark, Field::kCtMark}) {
      when({Where(field, 1337, inverted)});
      when({Where(field, {{256, 65536}}, inverted)});
      when({Where(field, {{1, 1}, {65536, 65536}}, inverted)});
      when({Where(field, {{1, 256}, {65536, UINT32_MAX}}, inverted)});
    }
    when({Where(Field::kCtState, 1, inverted)});
    when({Where(Field::kCtState, {{2, 2}, {4, 4}}, inverted)});
  }
}

// Valid ones, of any fields.
class Maker {
 public:
  explicit Maker(uint32_t seed) : random_(seed) {}

  Rule Make() {
    Rule rule;
    rule.counter = Below(2);
    const bool v6 = Below(2);
    const bool addressed = Below(2);
    const bool ported = Below(2);
    for (size_t i = 0; i < kFields.size(); ++i) {
      const auto field = static_cast<Field>(i);
      const bool is_v4 = field == Field::kSource4 || field == Field::kDestination4;
      const bool is_v6 = field == Field::kSource6 || field == Field::kDestination6;
      const bool is_port = field == Field::kSourcePort || field == Field::kDestinationPort;
      if (field == Field::kNfproto) {
        if (addressed) rule.conditions.push_back(Where(field, v6 ? 10 : 2));
      } else if (field == Field::kL4proto) {
        if (ported) rule.conditions.push_back(Where(field, Below(2) ? 6 : 17));
      } else if (((is_v4 || is_v6) && (!addressed || is_v6 != v6)) || (is_port && !ported) || Below(4) != 0) {
        continue;
      } else {
        rule.conditions.push_back(Any(field));
      }
    }
    rule.target = ported && Below(2) ? Target(Redirect{static_cast<uint16_t>(Below(65536))}) : Target(Verdict::kReturn);
    return rule;
  }

 private:
  uint32_t Below(uint32_t bound) { return std::uniform_int_distribution<uint32_t>(0, bound - 1)(random_); }

  FieldValue AnyValue(Field field) {
    FieldValue value{};
    if (field == Field::kInInterface || field == Field::kOutInterface) {
      for (size_t i = 0; i <= Below(15); ++i) value[i] = static_cast<uint8_t>('a' + Below(26));
    } else if (field == Field::kCtState) {
      value[3] = static_cast<uint8_t>(1 << Below(4));
    } else {
      // Small ones touch each other.
      for (size_t i = Below(2) ? 0 : Info(field).width - 1; i < Info(field).width; ++i)
        value[i] = static_cast<uint8_t>(Below(3) ? Below(8) : Below(256));
    }
    return value;
  }

  Condition Any(Field field) {
    const bool ranges =
        Below(2) && field != Field::kInInterface && field != Field::kOutInterface && field != Field::kCtState;
    std::vector<FieldValue> ends;
    for (uint32_t count = Below(6) + 1; count > 0; --count) {
      ends.push_back(AnyValue(field));
      if (ranges) ends.push_back(AnyValue(field));
    }
    std::sort(ends.begin(), ends.end());
    Condition condition{field, Below(2) == 1, {}};
    for (size_t i = 0; i < ends.size(); i += ranges ? 2 : 1) {
      const Interval interval{ends[i], ends[ranges ? i + 1 : i]};
      if (condition.values.empty() || condition.values.back().last < interval.first)
        condition.values.push_back(interval);
    }
    return condition;
  }

  std::mt19937 random_;
};

TEST("nftables: whatever rule is valid stands as it is wanted, and is told of as one that says the same") {
  for (uint32_t i = 0; i < 20000; ++i) {
    const Rule rule = Maker(check::Seed() + i).Make();
    const auto expressions = Encode(rule);
    Writer writer;
    const Content content = Encode(Holding({rule}));
    PutTable(writer, TableName::kNat, content);
    const Content back = Parse(writer.bytes());
    CHECK(Same(back, content));
    const Rule told = Decode(expressions);
    CHECK(told.opaque.empty());  // intervals that touch may have become one
    CHECK(Encode(told) == expressions);
  }
}

TEST("nftables: intervals of a set that touch are one") {
  const auto rule = [](std::vector<std::pair<uint64_t, uint64_t>> ports) {
    return Do({Tcp(), Where(Field::kDestinationPort, std::move(ports))}, Verdict::kReturn);
  };
  CHECK(Encode(rule({{80, 80}, {81, 90}, {92, 92}})) == Encode(rule({{80, 90}, {92, 92}})));
  CHECK(Encode(rule({{80, 80}, {81, 90}})) == Encode(rule({{80, 90}})));
}

TEST("nftables: what we would not write the same is opaque, and nothing of ours") {
  const auto expressions = Encode(Do({Tcp(), Where(Field::kDestinationPort, 80)}, Verdict::kReturn));
  for (size_t i = 0; i < expressions.size(); ++i) {
    auto changed = expressions;
    changed[i] = Unknown{"theirs"};
    CHECK(Decode(changed).opaque.find("theirs") != std::string::npos);
    changed.erase(changed.begin() + static_cast<ptrdiff_t>(i));
    const Rule rule = Decode(changed);
    CHECK(!rule.opaque.empty() || Encode(rule) == changed);
  }
  CHECK(Decode({}).opaque == "nothing");
  const auto opaque = [](std::vector<Expression> with) { return !Decode(with).opaque.empty(); };
  constexpr uint32_t kReturn = 0xfffffffb;
  constexpr uint32_t kGoto = 0xfffffffc;
  const VerdictTo back{static_cast<int32_t>(kReturn)};
  const auto cmp = [](uint32_t op) { return Cmp{op, Data{.bytes = {}, .size = 4}}; };
  const MetaLoad mark{3};
  CHECK(!opaque({mark, cmp(0), back}));
  CHECK(opaque({mark, cmp(2), back}));
  CHECK(opaque({mark, Hton{}, cmp(0), back}));
  CHECK(opaque({mark, Bitwise{Data{.bytes = {1}, .size = 4}}, cmp(0), back}));
  CHECK(opaque({Counter{}, Counter{}, back}));
  CHECK(opaque({VerdictTo{static_cast<int32_t>(kGoto), "istio-drop"}}));
}

template <typename Body>
bool Refused(Body body) {
  try {
    body();
  } catch (const Error& error) {
    return error.code == kInvalidRule && !error.detail.empty();
  }
  return false;
}

TEST("nftables: a rule that makes no sense is refused") {
  const auto refused = [](std::vector<Condition> conditions, Target target = Verdict::kReturn) {
    return Refused([&] { Encode(Do(conditions, target)); });
  };
  CHECK(!refused({Tcp(), Where(Field::kDestinationPort, 80)}));
  CHECK(refused({Where(Field::kDestinationPort, 80)}));
  CHECK(refused({Where(Field::kL4proto, 6, true), Where(Field::kDestinationPort, 80)}));
  CHECK(refused({Where(Field::kL4proto, 1), Where(Field::kDestinationPort, 80)}));
  CHECK(refused({Where(Field::kDestination4, 1)}));
  CHECK(refused({Ipv6(), Where(Field::kDestination4, 1)}));
  CHECK(refused({Ipv4(), Where(Field::kDestination6, 1)}));
  CHECK(refused({Where(Field::kNfproto, {{2, 2}, {10, 10}}), Where(Field::kDestination4, 1)}));
  CHECK(refused({Where(Field::kNfproto, 3)}));
  CHECK(refused({Where(Field::kUid, std::vector<std::pair<uint64_t, uint64_t>>{})}));
  CHECK(refused({Where(Field::kUid, {{2, 1}})}));
  CHECK(refused({Where(Field::kUid, {{1, 1}, {1, 1}})}));
  CHECK(refused({Where(Field::kUid, {{3, 9}, {5, 10}})}));
  CHECK(refused({Where(Field::kUid, {{3, 3}, {1, 1}})}));
  CHECK(refused({Where(Field::kMark, 1), Where(Field::kUid, 1)}));
  CHECK(refused({Where(Field::kUid, 1), Where(Field::kUid, 2)}));
  CHECK(!refused({Where(Field::kUid, 1), Where(Field::kUid, 2, true)}));
  CHECK(refused({Where(Field::kCtState, 3)}));
  CHECK(refused({Where(Field::kCtState, {{1, 2}})}));
  CHECK(refused({InterfaceIs(Field::kInInterface, {check::Name("")})}));
  CHECK(refused({InterfaceIs(Field::kInInterface, {check::Name("abcdefghijklmnop")})}));
  CHECK(refused({InterfaceIs(Field::kInInterface, {check::Name(std::string_view("a\0b", 3))})}));
  CHECK(refused({InterfaceIs(Field::kInInterface, {{check::Name("a").first, check::Name("b").first}})}));
  Condition wide = Where(Field::kDestinationPort, 80);
  wide.values[0].last[2] = 1;
  CHECK(refused({Tcp(), wide}));
  CHECK(refused({Condition{static_cast<Field>(kFields.size()), false, {Interval{}}}}));
  CHECK(refused({}, Redirect{1}));
  CHECK(refused({Where(Field::kL4proto, 1)}, Redirect{1}));
  CHECK(refused({}, Tproxy{1, 1}));
  CHECK(refused({}, Jump{""}));
  CHECK(refused({}, Opaque{}));
  CHECK(Refused([] { Encode(Rule{.opaque = "theirs"}); }));
  std::vector<Condition> many(70, Where(Field::kUid, 1, true));
  CHECK(refused(many));
}

TEST("nftables: tables that make no sense are refused") {
  const auto refused = [](std::vector<Table> tables) { return Refused([&] { const Tables compiled(tables); }); };
  const auto jumps = [](const char* chain, const char* target) { return Chain{chain, {}, {Do({}, Jump{target})}}; };
  const auto table = [](std::vector<Chain> chains) { return Table{TableName::kNat, std::move(chains)}; };
  CHECK(!refused({table({jumps("istio-output", "istio-drop"), {"istio-drop", {}, {}}})}));
  CHECK(refused({table({jumps("istio-output", "istio-drop")})}));
  CHECK(refused({table({jumps("istio-output", "istio-output")})}));
  CHECK(refused({table({jumps("istio-output", "istio-drop"), jumps("istio-drop", "istio-output")})}));
  CHECK(refused({table({jumps("istio-output", "output"), {"output", check::kNatOutput, {}}})}));
  CHECK(refused({table({{"theirs", {}, {}}})}));
  CHECK(refused({table({{"istio-drop", {}, {}}, {"istio-drop", {}, {}}})}));
  CHECK(refused({table({}), table({})}));
  CHECK(refused({Table{static_cast<TableName>(3), {}}}));
}

TEST("nftables: a dump that is cut short, or has a byte more, is nothing of ours") {
  const Content content = Encode(check::SomeTables(15001, false)[0]);
  Writer writer;
  PutTable(writer, TableName::kNat, content);
  const Bytes& bytes = writer.bytes();
  CHECK(Same(Parse(bytes), content));
  for (size_t size = 0; size < bytes.size(); ++size) {
    const Bytes part(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size));
    CHECK(!Same(Parse(part), content));
  }
  Bytes more = bytes;
  more.push_back(0);
  CHECK(!Same(Parse(more), content));
}

}  // namespace
