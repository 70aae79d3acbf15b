// Legacy tables taken apart and put together: as libiptc does it where libiptc made them, and refused where a hostile
// process did.
#include <sys/socket.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <thread>

#include "native/install.h"
#include "native/xtables/layout.h"
#include "native/xtables/table.h"
#include "test/native/check.h"
#include "test/native/pod.h"

namespace {

using namespace ipnc;
using namespace ipnc::xtables;
using check::OnThread;
using check::Pod;

// In a netns of its own.
void InPod(const std::function<void(const Access&)>& body) {
  const Pod pod;
  OnThread([&](Home& home) {
    const Visit visit(home, pod.path(), nullptr);
    Budget budget;
    body({visit.socket(), budget});
  });
}

Rule To(Target target, std::vector<Match> matches = {}) {
  return Rule{.protocol = IPPROTO_TCP, .matches = std::move(matches), .target = std::move(target)};
}

// These rules have each kind of target, a jump forward, a jump back, and a chain without rules.
Ruleset Rules() {
  const Table nat{TableName::kNat,
                  {{"ISTIO_IN_REDIRECT", false, {}, {To(Redirect{15006})}},
                   {"ISTIO_INBOUND", false, {}, {To(Verdict::kReturn), To(Jump{"ISTIO_IN_REDIRECT"})}},
                   {"ISTIO_OUTPUT", false, {}, {To(Jump{"ISTIO_REDIRECT"}, {CommentMatch{"x"}}), To(Verdict::kAccept)}},
                   {"ISTIO_REDIRECT", false, {}, {To(Redirect{15001}, {OwnerMatch{false, 1337, true}})}},
                   {"ISTIO_DROP", false, {}, {}},
                   {"PREROUTING", true, {}, {To(Jump{"ISTIO_INBOUND"})}},
                   {"OUTPUT", true, {To(Verdict::kReturn, {CommentMatch{kRuleComment}})}, {To(Jump{"ISTIO_OUTPUT"})}}}};
  const Table mangle{TableName::kMangle,
                     {{"ISTIO_DIVERT", false, {}, {To(SetMark{7}), To(Verdict::kDrop)}},
                      {"PREROUTING", true, {}, {To(Jump{"ISTIO_DIVERT"})}}}};
  return {.families = {Family::kV4, Family::kV6}, .tables = {nat, mangle}, .routes = {}};
}

template <typename F>
bool SameTable(const Blob& one, const Blob& other) {
  const auto a = HeaderOf<F>(one);
  const auto b = HeaderOf<F>(other);
  return a.num_entries == b.num_entries && std::memcmp(a.hook_entry, b.hook_entry, sizeof(a.hook_entry)) == 0 &&
         std::memcmp(a.underflow, b.underflow, sizeof(a.underflow)) == 0 &&
         SameEntries<F>(one, other.data() + sizeof(b), other.size() - sizeof(b));
}

template <typename F>
void Compare(const Access& access) {
  for (const Table& table : Rules().tables) {
    const State none = TableCopy<F>(access, table.name).Read();
    const State wanted = Merge(none, Encode<F>(table));
    WriteByLibiptc<F>(table.name, wanted);
    const Blob theirs = Read<F>(access, table.name);
    CHECK(SameTable<F>(Build<F>(Parse<F>(theirs), theirs).blob, theirs));
    CHECK(SameOurs(TableCopy<F>(access, table.name).Read(), wanted));

    TableCopy<F> empty(access, table.name);
    empty.Write(none);
    CHECK(empty.Commit());
    CHECK(!TableCopy<F>(access, table.name).Read().HasOurs());
    TableCopy<F> copy(access, table.name);
    copy.Write(wanted);
    CHECK(copy.Commit());
    CHECK(SameTable<F>(Read<F>(access, table.name), theirs));
  }
}

TEST("layout: the tables that libiptc writes are taken apart, put together and written as libiptc does it") {
  InPod([](const Access& access) {
    Compare<V4>(access);
    Compare<V6>(access);
  });
}

template <typename F>
struct Hostile {
  const char* fault;
  std::function<void(Blob&)> change;
};

// The kernel takes each of these from any process with NET_ADMIN, unless it says so.
template <typename F>
void ChangeHeader(Blob& blob, const std::function<void(typename F::Replace&)>& change) {
  auto header = HeaderOf<F>(blob);
  change(header);
  std::memcpy(blob.data(), &header, sizeof(header));
}

// Puts a copy of the first entry in front of all others: no hook begins there, so it belongs to no chain.
template <typename F>
void PutOrphan(Blob& blob) {
  typename F::Entry first;
  std::memcpy(&first, blob.data() + sizeof(typename F::Replace), sizeof(first));
  const auto begin = blob.begin() + sizeof(typename F::Replace);
  const Blob copy(begin, begin + first.next_offset);
  blob.insert(blob.begin() + sizeof(typename F::Replace), copy.begin(), copy.end());
  ChangeHeader<F>(blob, [&](auto& header) {
    header.num_counters = header.num_entries++;
    header.size += first.next_offset;
    for (unsigned hook = 0; hook < NF_INET_NUMHOOKS; ++hook) {
      if (!(header.valid_hooks & 1U << hook)) continue;
      header.hook_entry[hook] += first.next_offset;
      header.underflow[hook] += first.next_offset;
    }
  });
}

// Offset of entry `number`.
template <typename F>
size_t EntryAt(const Blob& blob, unsigned number) {
  size_t at = sizeof(typename F::Replace);
  for (; number > 0; --number) {
    typename F::Entry entry;
    std::memcpy(&entry, blob.data() + at, sizeof(entry));
    at += entry.next_offset;
  }
  return at;
}

template <typename F>
void SetVerdict(Blob& blob, unsigned number, int verdict) {
  const size_t at = EntryAt<F>(blob, number) + sizeof(typename F::Entry) + offsetof(xt_standard_target, verdict);
  std::memcpy(blob.data() + at, &verdict, sizeof(verdict));
}

template <typename F>
std::string FaultOf(const Blob& blob) {
  try {
    Parse<F>(blob);
  } catch (const Error& error) {
    CHECK(error.code == kTableLayout);
    CHECK(error.table == std::string(F::kName) + " nat");
    return error.detail;
  }
  return {};
}

template <typename F>
void RefuseAll(const Access& access) {
  // Entries: the policies of PREROUTING, INPUT, OUTPUT and POSTROUTING, the header, rule and end of a chain, the end.
  const Table table{TableName::kNat, {{"ISTIO_REDIRECT", false, {}, {To(Redirect{15001})}}}};
  WriteByLibiptc<F>(TableName::kNat, Merge(TableCopy<F>(access, TableName::kNat).Read(), Encode<F>(table)));
  const Blob good = Read<F>(access, TableName::kNat);
  CHECK(FaultOf<F>(good).empty());

  const auto name = [](Blob& blob, const char* text) {
    const size_t at = EntryAt<F>(blob, 4) + sizeof(typename F::Entry) + offsetof(xt_error_target, errorname);
    std::memset(blob.data() + at, 0, XT_FUNCTION_MAXNAMELEN);
    std::memcpy(blob.data() + at, text, strlen(text));
  };
  const std::vector<Hostile<F>> all{
      {"the first entry belongs to no chain", PutOrphan<F>},
      {"two built-in chains begin with the same entry",
       [](Blob& blob) { ChangeHeader<F>(blob, [](auto& header) { header.hook_entry[1] = header.hook_entry[0]; }); }},
      {"INPUT has no first entry",
       [](Blob& blob) { ChangeHeader<F>(blob, [](auto& header) { header.hook_entry[1] += 8; }); }},
      {"the policy of INPUT is not at its end",
       [](Blob& blob) { ChangeHeader<F>(blob, [](auto& header) { header.underflow[1] = header.underflow[0]; }); }},
      {"a chain does not end with a verdict", [](Blob& blob) { SetVerdict<F>(blob, 6, -NF_ACCEPT - 1); }},
      {"a chain does not end with a verdict", [](Blob& blob) { SetVerdict<F>(blob, 0, XT_RETURN); }},
      {"a chain does not end with a verdict",
       [](Blob& blob) { blob[EntryAt<F>(blob, 6) + offsetof(typename F::Entry, nfcache) - 8] ^= 1; }},
      {"the name of a chain is too long", [&](Blob& blob) { name(blob, "a-chain-of-twenty-nine-letter"); }},
      {"a chain has the name of a verdict", [&](Blob& blob) { name(blob, "RETURN"); }},
      {"a chain has the name of a built-in chain", [&](Blob& blob) { name(blob, "FORWARD"); }},
      {"the table has no end",
       [](Blob& blob) {
         blob.resize(EntryAt<F>(blob, 7));
         ChangeHeader<F>(blob,
                         [&](auto& header) { header.size = static_cast<unsigned>(blob.size() - sizeof(header)); });
       }},
      {"an entry is cut off", [](Blob& blob) { blob.resize(blob.size() - 150); }},
      {"an entry has no target", [](Blob& blob) { blob.resize(blob.size() - 1); }},
  };
  for (const Hostile<F>& hostile : all) {
    Blob blob = good;
    hostile.change(blob);
    const std::string fault = FaultOf<F>(blob);
    if (fault != hostile.fault)
      throw std::runtime_error("expected \"" + std::string(hostile.fault) + "\", not \"" + fault + "\"");
  }
}

TEST("layout: a table that iptables would not write is refused, and the fault is named") {
  InPod([](const Access& access) {
    RefuseAll<V4>(access);
    RefuseAll<V6>(access);
  });
}

template <typename F>
void WriteOrphan(const Access& access) {
  Blob blob = Read<F>(access, TableName::kNat);
  PutOrphan<F>(blob);
  CHECK(Replace<F>(access.socket, blob));
}

TEST("layout: a table of a hostile pod is refused by each kind of job, and others are served") {
  Ruleset ruleset;
  ruleset.families = {Family::kV4, Family::kV6};
  for (const bool v6 : {false, true}) {
    const Pod pod;
    OnThread([&](Home& home) {
      const NetnsRef netns{pod.path(), Identify(home, pod.path()).netns};
      {
        const Visit visit(home, pod.path(), nullptr);
        Budget budget;
        if (v6)
          WriteOrphan<V6>({visit.socket(), budget});
        else
          WriteOrphan<V4>({visit.socket(), budget});
      }
      const auto refused = [](const auto& job) {
        try {
          job();
        } catch (const Error& error) {
          return error.code == kTableLayout && error.detail == "the first entry belongs to no chain";
        }
        return false;
      };
      CHECK(refused([&] { Identify(home, pod.path()); }));
      CHECK(refused([&] { Clean(home, netns); }));
      CHECK(refused([&] { Compiled(home, ruleset).Verify(home, netns); }));
      CHECK(!home.lost());
    });
  }
}

TEST("layout: a pod that exchanges its table between a good and a hostile one gets an answer each time") {
  const Pod pod;
  std::atomic<bool> over{false};
  std::atomic<bool> ready{false};
  std::thread attacker([&] {
    OnThread([&](Home& home) {
      const Visit visit(home, pod.path(), nullptr);
      Budget budget(std::chrono::minutes(10));
      const Access access{visit.socket(), budget};
      Blob good = Read<V4>(access, TableName::kNat);
      Blob hostile = good;
      PutOrphan<V4>(hostile);
      const auto number = HeaderOf<V4>(good).num_entries;
      ChangeHeader<V4>(good, [&](auto& header) { header.num_counters = number + 1; });
      std::vector<xt_counters> counters(number + 1);
      for (Blob* blob : {&good, &hostile})
        ChangeHeader<V4>(*blob, [&](auto& header) { header.counters = counters.data(); });
      while (!over) {
        CHECK(Replace<V4>(access.socket, hostile));
        CHECK(Replace<V4>(access.socket, good));
        ready = true;
      }
    });
  });
  unsigned answered = 0;
  unsigned refused = 0;
  OnThread([&](Home& home) {
    while (!ready) std::this_thread::yield();
    for (int i = 0; i < 2000; ++i) {
      try {
        Identify(home, pod.path());
        ++answered;
      } catch (const Error& error) {
        CHECK(error.code == kTableLayout || error.number == EAGAIN);
        ++refused;
      }
    }
    over = true;
  });
  over = true;
  attacker.join();
  CHECK(answered > 0);
  CHECK(refused > 0);
}

TEST("layout: a table of more entries than a job may read is refused before it is read") {
  InPod([](const Access& access) {
    Budget small(Budget::kTime, 3);
    const auto code = [&](Budget& budget) -> std::string {
      try {
        Read<V4>({access.socket, budget}, TableName::kNat);
        return {};
      } catch (const Error& error) {
        return error.code;
      }
    };
    CHECK(code(small) == kBudget);
    Budget late(std::chrono::milliseconds(0));
    CHECK(code(late) == kBudget);
    Budget enough;
    CHECK(code(enough).empty());
  });
}

}  // namespace
