// The nftables form in netns of every kind: what it does to ours, and that it leaves the others' alone.
#include <algorithm>

#include "test/native/nft.h"

namespace {

using namespace ipnc;
using namespace ipnc::nftables;
using check::Do;
using check::InNetns;
using check::Ipv4;
using check::Look;
using check::Nft;
using check::Tcp;
using check::Where;
using nftables::Chain;
using nftables::Rule;
using nftables::Table;

std::vector<TableResult> Applied(const Tables& tables, Channel& channel, bool fresh) {
  Undo undo;
  std::vector<TableResult> results;
  tables.Apply(channel, fresh, results, undo);
  tables.RequireInstalled(channel, results);
  CHECK(tables.Drift(channel).empty());
  return results;
}

bool Are(const std::vector<TableResult>& results, std::vector<std::pair<TableName, How>> expected) {
  return results.size() == expected.size() && std::all_of(results.begin(), results.end(), [&](const auto& result) {
           return !result.family &&
                  std::find(expected.begin(), expected.end(), std::pair(result.table, result.how)) != expected.end();
         });
}

void ApplyAll(bool fresh) {
  const Tables one(check::SomeTables(15001, false));
  const Tables two(check::SomeTables(16001, true));
  const Tables none({});
  InNetns([&](Channel& channel) {
    CHECK(!HasOurs(channel));
    CHECK(Are(Applied(none, channel, fresh), {}));
    CHECK(Are(Applied(one, channel, fresh), {{TableName::kNat, How::kReplayed}}));
    CHECK(HasOurs(channel));
    const auto before = Look(channel);
    CHECK(Are(Applied(one, channel, fresh), {{TableName::kNat, How::kUnchanged}}));
    CHECK(Look(channel) == before);
    CHECK(Are(Applied(two, channel, fresh), {{TableName::kMangle, How::kReplayed}, {TableName::kNat, How::kReplaced}}));
    CHECK(one.Drift(channel).size() == 2);
    CHECK(Are(Applied(one, channel, false), {{TableName::kMangle, How::kCleaned}, {TableName::kNat, How::kReplaced}}));
    CHECK(Look(channel) == before);
    CHECK(Are(Applied(none, channel, fresh), {{TableName::kNat, How::kCleaned}}));
    CHECK(!HasOurs(channel));
    CHECK(Nft("list ruleset").empty());
  });
}

TEST("nftables: installs, leaves alone, replaces and cleans") {
  ApplyAll(false);
}

TEST("nftables: what is not fresh after all is looked at") {
  ApplyAll(true);
}

TEST("nftables: this kernel has all that our rules need, and keeps them in the form they are given") {
  InNetns([](Channel& channel) {
    CHECK(ProbeGeneration(channel) == 0);
    CHECK(MissingExpressions(channel).empty());
  });
  InNetns([](Channel& channel) { Tables(check::SomeTables(15001, true)).Try(channel); });
}

TEST("nftables: nft prints our rules as it prints its own") {
  const auto where = [](Field field, std::vector<std::pair<uint64_t, uint64_t>> values, bool inverted = false) {
    return Where(field, std::move(values), inverted);
  };
  const Condition ipv6 = Where(Field::kNfproto, 10);
  const Interval fd00{{0xfd}, {0xfd, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}};
  const Condition both = where(Field::kL4proto, {{6, 6}, {17, 17}});
  const std::vector<std::pair<Rule, const char*>> rules{
      {Do({{Field::kOutInterface, false, {check::Name("lo")}}, Ipv4(), Where(Field::kSource4, 0x7f000006)},
          Verdict::kReturn),
       "oifname \"lo\" ip saddr 127.0.0.6 counter return"},
      {Do({{Field::kInInterface, true, {check::Name("eth0"), check::Name("lo")}}}, Verdict::kReturn),
       "iifname != { \"eth0\", \"lo\" } counter return"},
      {Do({Ipv4(), where(Field::kDestination4, {{0x0a000000, 0x0affffff}})}, Verdict::kReturn),
       "ip daddr 10.0.0.0/8 counter return"},
      {Do({Ipv4(), where(Field::kDestination4, {{0x0a100000, 0x0a1fffff}}, true)}, Verdict::kReturn),
       "ip daddr != 10.16.0.0/12 counter return"},
      {Do({Ipv4(), where(Field::kDestination4, {{0x0a000001, 0x0a000007}})}, Verdict::kReturn),
       "ip daddr 10.0.0.1-10.0.0.7 counter return"},
      {Do({Ipv4(), where(Field::kDestination4, {{0x0a000001, 0x0a000007}}, true)}, Verdict::kReturn),
       "ip daddr != 10.0.0.1-10.0.0.7 counter return"},
      {Do({Ipv4(), where(Field::kDestination4, {{0x0a000000, 0x0affffff}, {0xff000000, 0xffffffff}})},
          Verdict::kReturn),
       "ip daddr { 10.0.0.0/8, 255.0.0.0/8 } counter return"},
      {Do({Ipv4(), where(Field::kDestination4, {{1, 1}, {0x0a000001, 0x0a000001}}, true)}, Verdict::kReturn),
       "ip daddr != { 0.0.0.1, 10.0.0.1 } counter return"},
      {Do({ipv6, Condition{Field::kDestination6, false, {fd00}}}, Verdict::kReturn),
       "ip6 daddr fd00::/8 counter return"},
      {Do({ipv6, Condition{Field::kDestination6,
                           false,
                           {{check::Value(Field::kDestination6, 1), check::Value(Field::kDestination6, 1)}, fd00}}},
          Verdict::kReturn),
       "ip6 daddr { ::1, fd00::/8 } counter return"},
      {Do({Tcp(), Where(Field::kDestinationPort, 80)}, Verdict::kReturn), "tcp dport 80 counter return"},
      {Do({Tcp(), where(Field::kDestinationPort, {{80, 90}})}, Verdict::kReturn), "tcp dport 80-90 counter return"},
      {Do({Tcp(), where(Field::kSourcePort, {{80, 80}, {90, 65535}})}, Verdict::kReturn),
       "tcp sport { 80, 90-65535 } counter return"},
      {Do({both, Where(Field::kDestinationPort, 53)}, Verdict::kReturn),
       "meta l4proto { 6, 17 } th dport 53 counter return"},
      {Do({both, where(Field::kDestinationPort, {{53, 53}, {60, 70}})}, Verdict::kReturn),
       "meta l4proto { 6, 17 } th dport { 53, 60-70 } counter return"},
      {Do({Where(Field::kNfproto, 10), Where(Field::kL4proto, 17), Where(Field::kDestinationPort, 53)},
          Redirect{15053}),
       "meta nfproto ipv6 udp dport 53 counter redirect to :15053"},
      {Do({Tcp()}, Redirect{15001}), "meta l4proto tcp counter redirect to :15001"},
      {Do({Where(Field::kUid, 1337), Where(Field::kGid, 1337, true)}, Verdict::kReturn),
       "meta skuid 1337 meta skgid != 1337 counter return"},
      {Do({where(Field::kUid, {{1, 1}, {1337, 1337}}), where(Field::kGid, {{1, 5}, {9, 9}}, true)}, Verdict::kReturn),
       "meta skuid { 1, 1337 } meta skgid != { 1-5, 9 } counter return"},
      {Do({where(Field::kGid, {{1, 300}})}, Verdict::kReturn), "meta skgid 1-300 counter return"},
      {Do({where(Field::kGid, {{1, 300}}, true)}, Verdict::kReturn), "meta skgid != 1-300 counter return"},
      {Do({Where(Field::kMark, 1337), where(Field::kCtMark, {{1, 1}, {7, 7}})}, Verdict::kReturn),
       "meta mark 1337 ct mark { 1, 7 } counter return"},
      {Do({where(Field::kCtState, {{2, 2}, {4, 4}})}, Verdict::kAccept), "ct state established,related counter accept"},
      {Do({where(Field::kCtState, {{2, 2}, {4, 4}}, true)}, Verdict::kAccept),
       "ct state ! established,related counter accept"},
      {Do({}, SetMark{1338}), "counter meta mark set 1338"},
      {Do({}, CopyMark{true}), "counter ct mark set meta mark"},
      {Do({}, CopyMark{false}), "counter meta mark set ct mark"},
      {Do({Tcp()}, CtZone{1}), "meta l4proto tcp counter ct zone set 1"},
      {Do({}, Jump{"istio-output"}), "counter jump istio-output"},
      {{.conditions = {}, .counter = false, .target = Verdict::kDrop}, "drop"},
  };
  Table table{TableName::kNat, {{"istio-output", {}, {}}, {"output", check::kNatOutput, {}}}};
  std::string script =
      "add table inet istio-proxy-nat\nadd chain inet istio-proxy-nat istio-output\n"
      "add chain inet istio-proxy-nat output { type nat hook output priority -100; policy accept; }\n";
  for (const auto& [rule, text] : rules) {
    table.chains[1].rules.push_back(rule);
    script += std::string("add rule inet istio-proxy-nat output ") + text + "\n";
  }
  Table mangle{TableName::kMangle, {{"prerouting", check::kManglePrerouting, {Do({Tcp()}, Tproxy{15006, 1337})}}}};
  script +=
      "add table inet istio-proxy-mangle\n"
      "add chain inet istio-proxy-mangle prerouting { type filter hook prerouting priority -150; policy accept; }\n"
      "add rule inet istio-proxy-mangle prerouting meta l4proto tcp counter tproxy to :15006 meta mark set 1337 accept";
  std::string ours;
  std::string theirs;
  InNetns([&](Channel& channel) {
    Applied(Tables({table, mangle}), channel, true);
    ours = Nft("list ruleset");
  });
  InNetns([&](Channel&) {
    Nft(script);
    theirs = Nft("list ruleset");
  });
  if (ours != theirs) throw std::runtime_error("ours:\n" + ours + "theirs:\n" + theirs);
}

TEST("nftables: thousands of elements, in a batch that is larger than a socket's buffer") {
  std::vector<Rule> rules;
  for (uint64_t set = 0; set < 4; ++set) {
    std::vector<std::pair<uint64_t, uint64_t>> ranges;
    for (uint64_t i = 0; i < 4000; ++i) ranges.push_back({0x0a000000 + i * 16, 0x0a000000 + i * 16 + set});
    rules.push_back(Do({Ipv4(), Where(Field::kDestination4, ranges)}, Verdict::kReturn));
  }
  InNetns([&](Channel& channel) {
    const Tables tables({{TableName::kNat, {{"output", check::kNatOutput, rules}}}});
    tables.Try(channel);
    CHECK(Are(Applied(tables, channel, false), {{TableName::kNat, How::kUnchanged}}));
  });
}

constexpr char kForeign[] =
    "table ip nat { chain OUTPUT { type nat hook output priority -100; counter packets 3 bytes 7 return; }; }\n"
    "table inet theirs { set blocked { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; }\n"
    "chain input { type filter hook input priority 0; ip saddr @blocked drop; }; }\n"
    "table inet istio-proxy-nat2 { chain output { counter; }; }\n";

TEST("nftables: the tables of others stay as they are, handles and all") {
  InNetns([](Channel& channel) {
    Nft(kForeign);
    const std::string before = Nft("list ruleset");
    for (const bool fresh : {true, false}) {
      Applied(Tables(check::SomeTables(15001, true)), channel, fresh);
      CHECK(Nft("list ruleset").starts_with(before));
      Applied(Tables(check::SomeTables(16001, false)), channel, fresh);
      Applied(Tables({}), channel, false);
      CHECK(Nft("list ruleset") == before);
    }
  });
}

// All that we neither write nor understand.
constexpr char kOdd[] =
    "table inet istio-proxy-nat {\n"
    "  flags dormant;\n"
    "  counter hits { packets 5 bytes 6 }\n"
    "  set blocked { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.0.0-192.168.0.9, 255.0.0.0/8 } "
    "}\n"
    "  set seen { type inet_service; flags dynamic,timeout; timeout 1h; }\n"
    "  map ports { type inet_service : verdict; elements = { 80 : jump istio-drop, 90 : accept } }\n"
    "  chain istio-drop { counter packets 11 bytes 22 drop comment \"mine\"; }\n"
    "  chain other { type filter hook input priority 5; policy drop;\n"
    "    ip saddr @blocked counter name hits\n"
    "    tcp dport vmap @ports\n"
    "    udp dport { 1, 2-5, 65535 } ct state vmap { new : accept, established : goto istio-drop }\n"
    "    ip daddr . tcp dport { 1.2.3.4 . 80, 1.2.3.5 . 90-99 } limit rate 5/second log prefix \"odd\" accept\n"
    "  }\n"
    "  chain output { type nat hook output priority -100; tcp dport 80 dnat ip to 10.0.0.1:80; }\n"
    "}\n";

TEST("nftables: what we do not understand is told of, replaced, and put back as it was") {
  InNetns([](Channel& channel) {
    Nft(kOdd);
    const std::string before = Nft("list ruleset");
    const Tables tables(check::SomeTables(15001, true));
    const auto drift = tables.Drift(channel);
    CHECK(drift.size() == 2);
    CHECK(drift[1].name == TableName::kNat && drift[1].chains.size() == 4);
    for (const Chain& chain : drift[1].chains)
      for (const Rule& rule : chain.rules) CHECK(rule.opaque.size() > 2 || rule.target == Target(Verdict::kDrop));
    for (const bool clean : {false, true}) {
      Undo undo;
      std::vector<TableResult> results;
      (clean ? Tables({}) : tables).Apply(channel, false, results, undo);
      CHECK(Nft("list ruleset") != before);
      CHECK(undo.Run().empty());
      const std::string after = Nft("list ruleset");
      if (after != before) throw std::runtime_error("before:\n" + before + "after:\n" + after);
    }
    Applied(tables, channel, false);
  });
}

TEST("nftables: any difference is seen, and put right") {
  constexpr const char* kDamages[] = {
      "add rule inet istio-proxy-nat output accept",
      "insert rule inet istio-proxy-nat output accept",
      "flush chain inet istio-proxy-nat output",
      "add chain inet istio-proxy-nat more",
      "add set inet istio-proxy-nat more { type ipv4_addr; }",
      "add counter inet istio-proxy-nat more",
      "add chain inet istio-proxy-nat output { type nat hook output priority -100; policy drop; }",
      "add table inet istio-proxy-nat { flags dormant; }",
      "delete table inet istio-proxy-nat",
      "add table inet istio-proxy-raw",
      "delete table inet istio-proxy-nat\nadd table inet istio-proxy-nat\n"
      "add chain inet istio-proxy-nat output { type nat hook output priority -99; policy accept; }",
  };
  const Tables tables(check::SomeTables(15001, false));
  for (const char* damage : kDamages)
    InNetns([&](Channel& channel) {
      Applied(tables, channel, true);
      const auto before = Look(channel);
      Nft(damage);
      if (tables.Drift(channel).size() != 1) throw std::runtime_error(std::string("not seen: ") + damage);
      Applied(tables, channel, false);
      CHECK(Look(channel) == before);
    });
}

TEST("nftables: what changes between the making and the check is told") {
  const Tables tables(check::SomeTables(15001, false));
  InNetns([&](Channel& channel) {
    Undo undo;
    std::vector<TableResult> results;
    tables.Apply(channel, true, results, undo);
    Nft("add chain inet istio-proxy-nat more");
    bool told = false;
    try {
      tables.RequireInstalled(channel, results);
    } catch (const Error& error) {
      told = error.code == kVerify && error.table == "inet istio-proxy-nat";
    }
    CHECK(told);
    CHECK(undo.Run().empty());
    CHECK(!HasOurs(channel));
  });
}

TEST("nftables: a table that a pod has made huge is not read to its end") {
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (uint64_t i = 0; i < 4000; ++i) ranges.push_back({0x0a000000 + i * 16, 0x0a000000 + i * 16 + 1});
  const std::vector<Rule> rules(60, Do({Ipv4(), Where(Field::kDestination4, ranges)}, Verdict::kReturn));
  InNetns([&](Channel& channel) {
    const Tables huge({{TableName::kNat, {{"output", check::kNatOutput, rules}}}});
    Undo undo;
    std::vector<TableResult> results;
    huge.Apply(channel, true, results, undo);
    std::string code;
    std::string detail;
    try {
      Tables({}).Drift(channel);
    } catch (const Error& error) {
      code = error.code;
      detail = error.detail;
    }
    CHECK(code == kBudget && detail.find("65536 objects") != std::string::npos);
  });
}

TEST("nftables: a refusal names what was refused") {
  // The kernel has redirect in chains of type nat alone.
  const Tables tables({{TableName::kMangle, {{"prerouting", check::kManglePrerouting, {Do({Tcp()}, Redirect{1})}}}}});
  InNetns([&](Channel& channel) {
    Undo undo;
    std::vector<TableResult> results;
    std::string table;
    std::string detail;
    try {
      tables.Apply(channel, false, results, undo);
    } catch (const Error& error) {
      table = error.table;
      detail = error.detail;
    }
    CHECK(table == "inet istio-proxy-mangle");
    CHECK(detail == "rule in chain prerouting: meta, cmp, counter, immediate, redir");
    CHECK(!HasOurs(channel));
  });
}

}  // namespace
