// All or nothing, whichever system call of an install fails: each is made to fail once, in netns of each kind.
#include <algorithm>
#include <cstring>
#include <exception>
#include <thread>

#include "native/install.h"
#include "test/native/check.h"
#include "test/native/pod.h"

namespace {

using namespace ipnc;
using namespace ipnc::xtables;
using check::OnThread;
using check::Pod;

// Everything an install can change.
struct Snapshot {
  std::vector<Blob> tables;
  std::vector<RouteItem> routes;
  bool loopback_up = false;
};

template <typename F>
void ReadTables(int socket, Snapshot& snapshot) {
  for (TableName table : kTableNames) {
    Budget budget;
    Blob blob = Read<F>({socket, budget}, table);
    // What the kernel keeps for itself.
    for (size_t at = sizeof(typename F::Replace); at < blob.size();) {
      typename F::Entry entry;
      std::memcpy(&entry, blob.data() + at, sizeof(entry));
      entry.comefrom = 0;
      std::memcpy(blob.data() + at, &entry, sizeof(entry));
      at += entry.next_offset;
    }
    snapshot.tables.push_back(std::move(blob));
  }
}

Snapshot Look(const std::string& path) {
  Snapshot snapshot;
  OnThread([&](Home& home) {
    Visit visit(home, path, nullptr);
    ReadTables<V4>(visit.socket(), snapshot);
    ReadTables<V6>(visit.socket(), snapshot);
    snapshot.routes = Rtnetlink(visit.route_socket(), visit.budget()).List({}).ours;
    snapshot.loopback_up = LoopbackIsUp(visit.socket());
  });
  return snapshot;
}

Rule To(Target target, std::vector<Match> matches = {}) {
  return Rule{.protocol = IPPROTO_TCP, .matches = std::move(matches), .target = std::move(target)};
}

Ruleset Rules(uint16_t port, std::optional<TproxyRoute> tproxy) {
  Ruleset ruleset{
      .families = {Family::kV4, Family::kV6}, .tables = {}, .routes = {.loopback6 = true, .tproxy = tproxy}};
  ruleset.tables.push_back(
      {TableName::kNat,
       {{"ISTIO_REDIRECT", false, {}, {To(Redirect{port})}}, {"OUTPUT", true, {}, {To(Jump{"ISTIO_REDIRECT"})}}}});
  if (!tproxy) return ruleset;
  ruleset.tables.push_back({TableName::kMangle,
                            {{"ISTIO_TPROXY", false, {}, {To(Tproxy{port, tproxy->mark})}},
                             {"PREROUTING", true, {}, {To(Jump{"ISTIO_TPROXY"})}}}});
  return ruleset;
}

// A chain of others, with a jump to it and one from it to a chain of ours if that is there.
template <typename F>
void AddForeign(TableName table) {
  xtc_handle* handle = F::Init(ToString(table));
  CHECK(handle);
  const auto append = [handle](const char* chain, const Rule& rule) {
    const Entry entry = Encode<F>(rule);
    CHECK(F::Append(chain, reinterpret_cast<const typename F::Entry*>(entry.data()), handle));
  };
  CHECK(F::CreateChain("THEIRS", handle));
  append("THEIRS", To(Verdict::kReturn, {MarkMatch{false, 7, true}}));
  if (F::IsChain("ISTIO_REDIRECT", handle)) append("THEIRS", To(Jump{"ISTIO_REDIRECT"}));
  append("OUTPUT", To(Jump{"THEIRS"}));
  CHECK(F::Commit(handle));
  F::Free(handle);
}

void Prepare(const std::string& path, const Compiled* older, bool foreign) {
  OnThread([&](Home& home) {
    if (older) older->Apply(home, {path, Identify(home, path).netns}, {});
    if (!foreign) return;
    const Visit visit(home, path, nullptr);
    for (TableName table : {TableName::kNat, TableName::kMangle}) {
      AddForeign<V4>(table);
      AddForeign<V6>(table);
    }
  });
}

enum class Deed { kApply, kApplyFresh, kClean };

// Does it with each call failing in turn.
void Exhaust(const Compiled* older, bool foreign, Deed deed, const Compiled& compiled, int number) {
  long failures = 0;
  for (long n = 1;; ++n) {
    const Pod pod;
    Prepare(pod.path(), older, foreign);
    const Snapshot before = Look(pod.path());
    std::optional<Error> failure;
    long made = 0;
    bool stands = false;
    OnThread([&](Home& home) {
      const NetnsRef target{pod.path(), Identify(home, pod.path()).netns};
      home.Sweep();
      check::FailCall(n, number);
      try {
        if (deed == Deed::kClean)
          Clean(home, target);
        else
          compiled.Apply(home, target, {.fresh = deed == Deed::kApplyFresh, .wake_gate = true});
      } catch (const Error& error) {
        failure = error;
      }
      made = check::FailCall(0);
      CHECK(!home.lost());
      home.Sweep();
      const VerifyResult result = compiled.Verify(home, target);
      stands = result.legacy.empty() && result.nftables.empty() && result.missing_routes.empty() &&
               result.surplus_routes.empty();
    });
    const std::string where = "call " + std::to_string(n) + " failing with errno " + std::to_string(number) + ": " +
                              (failure ? failure->syscall + " " + failure->table + " " + failure->rollback : "done");
    const auto require = [&where](bool yes, const char* what) {
      if (!yes) throw std::runtime_error(where + ": " + what);
    };
    if (failure) {
      ++failures;
      require(failure->rollback.empty(), "the rollback was not complete");
      const Snapshot after = Look(pod.path());
      require(after.tables == before.tables, "the tables are not as they were");
      std::string routes = "the routes were";
      for (const RouteItem& item : before.routes) routes += " | " + IpCommand(item, "add");
      routes += ", and are";
      for (const RouteItem& item : after.routes) routes += " | " + IpCommand(item, "add");
      require(after.routes == before.routes, routes.c_str());
      require(after.loopback_up || !before.loopback_up, "lo is down");
    } else if (deed != Deed::kClean) {
      require(stands, "it was said to be done");
    }
    if (made < n) break;
  }
  CHECK(failures > 10);
}

void ExhaustAll(int number) {
  std::unique_ptr<Compiled> older;
  std::unique_ptr<Compiled> compiled;
  std::unique_ptr<Compiled> none;
  OnThread([&](Home& home) {
    none = std::make_unique<Compiled>(home, Ruleset{});
    older = std::make_unique<Compiled>(home, Rules(15001, std::nullopt));
    compiled = std::make_unique<Compiled>(home, Rules(16001, TproxyRoute{1337, 133}));
  });
  Exhaust(nullptr, false, Deed::kApplyFresh, *compiled, number);
  Exhaust(nullptr, true, Deed::kApplyFresh, *compiled, number);
  Exhaust(nullptr, true, Deed::kApply, *compiled, number);
  Exhaust(older.get(), true, Deed::kApply, *compiled, number);
  Exhaust(compiled.get(), true, Deed::kApply, *older, number);
  Exhaust(compiled.get(), true, Deed::kApply, *none, number);
  Exhaust(compiled.get(), true, Deed::kClean, *compiled, number);
}

TEST("install: a table that somebody changes as soon as we have written it stands") {
  std::unique_ptr<Compiled> older;
  std::unique_ptr<Compiled> compiled;
  OnThread([&](Home& home) {
    older = std::make_unique<Compiled>(home, Rules(15001, std::nullopt));
    compiled = std::make_unique<Compiled>(home, Rules(16001, TproxyRoute{1337, 133}));
  });
  const Pod pod;
  Prepare(pod.path(), older.get(), true);
  OnThread([&](Home& home) {
    const NetnsRef target{pod.path(), Identify(home, pod.path()).netns};
    check::FailAddCounters(true);
    const ApplyResult result = compiled->Apply(home, target, {});
    CHECK(std::all_of(result.tables.begin(), result.tables.end(), [](const auto& t) { return t.how == How::kMerged; }));
    CHECK(compiled->Verify(home, target).legacy.empty());
  });
}

TEST("rollback: where every system call fails from some point on, the error says what is left") {
  std::unique_ptr<Compiled> older;
  std::unique_ptr<Compiled> compiled;
  OnThread([&](Home& home) {
    older = std::make_unique<Compiled>(home, Rules(15001, std::nullopt));
    compiled = std::make_unique<Compiled>(home, Rules(16001, TproxyRoute{1337, 133}));
  });
  long left = 0;
  for (const bool fresh : {true, false})
    for (long n = 1;; ++n) {
      const Pod pod;
      Prepare(pod.path(), fresh ? nullptr : older.get(), !fresh);
      const Snapshot before = Look(pod.path());
      std::optional<Error> failure;
      long made = 0;
      OnThread([&](Home& home) {
        const NetnsRef target{pod.path(), Identify(home, pod.path()).netns};
        home.Sweep();
        check::FailCallsFrom(n, EPERM);
        try {
          compiled->Apply(home, target, {.fresh = fresh});
        } catch (const Error& error) {
          failure = error;
        }
        made = check::FailCall(0);
      });
      if (made < n) break;
      if (!failure) continue;  // the rules were all in by then
      const Snapshot after = Look(pod.path());
      // What was looked at may have been a table's first touch.
      const bool same = after.tables == before.tables && after.routes == before.routes;
      if (!same && failure->rollback.empty())
        throw std::runtime_error("from call " + std::to_string(n) + " on: something is left, and the error is silent");
      if (same) continue;
      ++left;
      CHECK(failure->rollback.find(" could not be ") != std::string::npos);
      CHECK(failure->rollback.find("(EPERM, ") != std::string::npos);
    }
  CHECK(left > 10);
}

TEST("rollback: a system call that fails for want of memory leaves all or nothing, whichever it is") {
  ExhaustAll(ENOMEM);
}

TEST("rollback: a system call that is not permitted leaves all or nothing, whichever it is") {
  ExhaustAll(EPERM);
}

TEST("rollback: a system call that is to be tried again leaves all or nothing, whichever it is") {
  ExhaustAll(EAGAIN);
}

}  // namespace
