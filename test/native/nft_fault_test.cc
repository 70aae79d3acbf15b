// All or nothing in the nftables form, whichever system call or allocation of an install fails.
#include <functional>
#include <new>

#include "test/native/nft.h"

namespace {

using namespace ipnc;
using namespace ipnc::nftables;
using check::InNetns;
using check::Look;

struct Case {
  const Tables* older;  // what stands there, or nothing
  const Tables* wanted;
  bool fresh;
};

enum class Failure : uint8_t { kNone, kError, kMemory };

Failure Install(const Tables& tables, Channel& channel, bool fresh, std::string& rollback) {
  Undo undo;
  std::vector<TableResult> results;
  try {
    tables.Apply(channel, fresh, results, undo);
    tables.RequireInstalled(channel, results);
    return Failure::kNone;
  } catch (const Error&) {
    rollback = undo.Run();
    return Failure::kError;
  } catch (const std::bad_alloc&) {
    rollback = undo.Run();
    return Failure::kMemory;
  }
}

// `arm` makes the n-th fail; `count` stops that and says how many were made.
void Exhaust(const Case& each, const std::function<void(long)>& arm, const std::function<long()>& count) {
  long failures = 0;
  for (long n = 1;; ++n) {
    long made = 0;
    InNetns([&](Channel& channel) {
      check::Nft("table inet theirs { chain c { counter packets 1 bytes 2; }; }");
      std::string rollback;
      if (each.older) Install(*each.older, channel, true, rollback);
      const auto before = Look(channel);
      arm(n);
      const Failure failure = Install(*each.wanted, channel, each.fresh, rollback);
      made = count();
      failures += failure != Failure::kNone;
      const std::string where = "the " + std::to_string(n) + "th: ";
      if (!rollback.empty()) throw std::runtime_error(where + rollback);
      if (failure != Failure::kNone && Look(channel) != before) throw std::runtime_error(where + "not as it was");
      if (failure == Failure::kNone && !each.wanted->Drift(channel).empty())
        throw std::runtime_error(where + "said to be done");
      CHECK(check::Nft("list table inet theirs").find("packets 1 bytes 2") != std::string::npos);
    });
    if (made < n) break;
  }
  CHECK(failures > 3);
}

void ExhaustAll(const std::function<void(long)>& arm, const std::function<long()>& count) {
  const Tables none({});
  const Tables one(check::SomeTables(15001, false));
  const Tables two(check::SomeTables(16001, true));
  for (const Case& each :
       {Case{nullptr, &two, true}, Case{nullptr, &two, false}, Case{&one, &two, true}, Case{&one, &two, false},
        Case{&two, &two, true}, Case{&two, &one, false}, Case{&two, &none, false}})
    Exhaust(each, arm, count);
}

TEST("nftables: a system call that fails leaves all or nothing, whichever it is") {
  for (const int number : {ENOMEM, EPERM, EAGAIN, ENOBUFS})
    ExhaustAll([number](long n) { check::FailCall(n, number); }, [] { return check::FailCall(0); });
}

TEST("nftables: out of memory at every single allocation leaves all or nothing") {
  ExhaustAll([](long n) { check::FailAllocation(n); }, [] { return check::FailAllocation(0); });
}

}  // namespace
