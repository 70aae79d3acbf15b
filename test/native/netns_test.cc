// Threads and netns: who comes home, who does not, and what is left behind. Real namespaces, faults on demand.
#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "native/gate/name.h"
#include "native/install.h"
#include "native/workers.h"
#include "test/native/check.h"
#include "test/native/pod.h"

namespace {

using namespace ipnc;
using check::Pod;

ino_t OwnNetns() {
  struct stat st;
  CHECK(stat("/proc/thread-self/ns/net", &st) == 0);
  return st.st_ino;
}

class FunctionJob : public Job {
 public:
  explicit FunctionJob(std::function<void(Home&)> body, std::optional<Place> place = std::nullopt)
      : Job(place), body_(std::move(body)) {}
  void Run(Home& home) override { body_(home); }

 private:
  std::function<void(Home&)> body_;
};

// Lets those who wait go on.
class Latch {
 public:
  void Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return open_; });
  }
  void Open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
};

// Opens the latch when a test ends early: a Crew waits for its jobs. Declared after the Crew.
class OpenAtEnd {
 public:
  explicit OpenAtEnd(Latch& latch) : latch_(latch) {}
  ~OpenAtEnd() { latch_.Open(); }
  OpenAtEnd(const OpenAtEnd&) = delete;
  OpenAtEnd& operator=(const OpenAtEnd&) = delete;

 private:
  Latch& latch_;
};

// Jobs that wait at a latch: how many do at once.
struct Waiters {
  std::function<void(Home&)> Body() {
    return [this](Home&) {
      most = std::max<int>(most, ++inside);
      latch.Wait();
      --inside;
    };
  }
  // A job that a thread has taken may not have begun yet.
  void AwaitFirst() const {
    while (inside == 0) std::this_thread::yield();
  }

  Latch latch;
  std::atomic<int> inside = 0;
  std::atomic<int> most = 0;
};

// Workers whose jobs can be waited for.
class Crew {
 public:
  explicit Crew(unsigned threads = 2, size_t most_queued = 16, std::chrono::milliseconds bound = Workers::kBound)
      : workers_(
            threads, most_queued,
            [this](std::unique_ptr<Job> job) {
              const std::lock_guard lock(mutex_);
              last_ = std::move(job);
              ++done_;
              changed_.notify_all();
            },
            bound) {}
  // Runs `body` as a job that must not fail.
  void MustRun(std::function<void(Home&)> body) {
    if (const auto error = Run(std::move(body)))
      throw std::runtime_error(error->code + std::to_string(error->number) + " " + error->syscall + " " +
                               error->detail);
  }
  // Runs `body` as a job; what it failed with.
  std::optional<Error> Run(std::function<void(Home&)> body) {
    std::unique_lock lock(mutex_);
    const int before = done_;
    lock.unlock();
    CHECK(workers_.Submit(std::make_unique<FunctionJob>(std::move(body))));
    lock.lock();
    changed_.wait(lock, [&] { return done_ > before; });
    return last_->error;
  }
  // Adds a job and does not wait for it.
  void Start(std::function<void(Home&)> body, std::optional<Job::Place> place = std::nullopt) {
    CHECK(workers_.Submit(std::make_unique<FunctionJob>(std::move(body), place)));
  }
  void WaitFor(int done) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_ >= done; });
  }
  Workers& workers() { return workers_; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::unique_ptr<Job> last_;
  int done_ = 0;
  Workers workers_;
};

Ruleset SomeRules() {
  Ruleset ruleset{.families = {Family::kV4, Family::kV6}, .tables = {}, .routes = {.loopback6 = true, .tproxy = {}}};
  ruleset.routes.tproxy = TproxyRoute{1337, 133};
  const Rule redirect{.protocol = IPPROTO_TCP, .target = Redirect{15001}};
  const Rule jump{.protocol = IPPROTO_TCP, .target = Jump{"ISTIO_REDIRECT"}};
  const Rule jump_mark{.protocol = IPPROTO_TCP, .target = Jump{"ISTIO_DIVERT"}};
  const Rule mark{.target = SetMark{1337}};
  ruleset.tables.push_back(
      {TableName::kMangle, {{"ISTIO_DIVERT", false, {}, {mark}}, {"PREROUTING", true, {}, {jump_mark}}}});
  ruleset.tables.push_back(
      {TableName::kNat, {{"ISTIO_REDIRECT", false, {}, {redirect}}, {"OUTPUT", true, {}, {jump}}}});
  return ruleset;
}

TEST("workers: a thread that cannot come home runs nothing more, and is replaced by one that is at home") {
  Crew crew(1);
  const ino_t home_netns = OwnNetns();
  const Pod pod;
  pid_t lost = 0;
  crew.Run([&](Home& home) {
    lost = gettid();
    const Visit visit(home, pod.path(), nullptr);
    check::FailSetns(1);
  });
  CHECK(lost != 0);
  for (int i = 0; i < 20; ++i) {
    const auto error = crew.Run([&](Home&) {
      CHECK(gettid() != lost);
      CHECK(OwnNetns() == home_netns);
    });
    CHECK(!error);
  }
  CHECK(crew.workers().health().lost == 1);
}

TEST("workers: a queue that is full says so and takes nothing") {
  Waiters waiters;
  Crew crew(1, 2);
  const OpenAtEnd open(waiters.latch);
  auto& workers = crew.workers();
  CHECK(workers.Submit(std::make_unique<FunctionJob>(waiters.Body())));
  waiters.AwaitFirst();
  for (int i = 0; i < 2; ++i) CHECK(workers.Submit(std::make_unique<FunctionJob>([](Home&) {})));
  CHECK(!workers.Submit(std::make_unique<FunctionJob>([](Home&) {})));
}

TEST("workers: a netns has one thread at most, and others are served meanwhile") {
  Waiters waiters;
  Crew crew(4);
  const OpenAtEnd open(waiters.latch);
  for (int i = 0; i < 8; ++i) crew.Start(waiters.Body(), Job::Place(4, 1));
  for (int i = 0; i < 8; ++i) crew.Start([](Home&) {}, Job::Place(4, static_cast<uint64_t>(i + 2)));
  crew.WaitFor(8);
  waiters.AwaitFirst();
  CHECK(waiters.most == 1);
  const Workers::Health health = crew.workers().health();
  CHECK(health.threads == 4);
  CHECK(health.queued == 7);
  waiters.latch.Open();
  crew.WaitFor(16);
  CHECK(waiters.most == 1);
}

TEST("workers: netns that used up their budget share one thread until they are done in time") {
  Waiters waiters;
  Latch second;
  std::atomic<int> inside = 0;
  Crew crew(4, 64);
  const OpenAtEnd open(waiters.latch);
  const OpenAtEnd open_second(second);
  const auto over = [](Home&) { throw Error{.code = kBudget}; };
  for (uint64_t i = 1; i <= 4; ++i) crew.Start(over, Job::Place(4, i));
  crew.WaitFor(4);
  for (uint64_t i = 1; i <= 4; ++i) crew.Start(waiters.Body(), Job::Place(4, i));
  for (uint64_t i = 5; i <= 20; ++i) crew.Start([](Home&) {}, Job::Place(4, i));
  crew.WaitFor(4 + 16);
  waiters.AwaitFirst();
  CHECK(waiters.most == 1);
  waiters.latch.Open();
  crew.WaitFor(4 + 16 + 4);
  CHECK(waiters.most == 1);
  // Each was done in time.
  for (uint64_t i = 1; i <= 4; ++i)
    crew.Start(
        [&](Home&) {
          if (++inside == 4) second.Open();
          second.Wait();
        },
        Job::Place(4, i));
  crew.WaitFor(4 + 16 + 4 + 4);
}

struct Spent {
  std::chrono::nanoseconds cpu;
  std::chrono::nanoseconds waited;  // for a CPU
  std::chrono::nanoseconds clock;
};

std::chrono::nanoseconds WaitedForCpu() {
  uint64_t ran = 0, waited = 0;
  std::ifstream("/proc/thread-self/schedstat") >> ran >> waited;
  return std::chrono::nanoseconds(waited);
}

// Uses up a budget of this time on a CPU on which so many other threads of this niceness run all the time.
Spent UseUp(std::chrono::milliseconds time, size_t others, int niceness) {
  cpu_set_t one, before;
  CHECK(sched_getaffinity(0, sizeof before, &before) == 0);
  CPU_ZERO(&one);
  int cpu = 0;
  while (!CPU_ISSET(cpu, &before)) ++cpu;
  CPU_SET(cpu, &one);
  const auto now = [](clockid_t clock) {
    timespec time;
    CHECK(clock_gettime(clock, &time) == 0);
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
  };
  std::atomic<bool> over = false;
  std::vector<std::thread> threads;
  for (size_t i = 0; i < others; ++i)
    threads.emplace_back([&] {
      CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
      CHECK(setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), niceness) == 0);
      while (!over) {
      }
    });
  Spent spent{};
  std::thread([&] {
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    // The clock is read first here and last below, so that it contains each wait.
    const auto clock_before = now(CLOCK_MONOTONIC);
    const auto cpu_before = now(CLOCK_THREAD_CPUTIME_ID);
    const auto waited_before = WaitedForCpu();
    const Budget budget(time);
    std::string code;
    try {
      for (;;) budget.RequireTime();
    } catch (const Error& error) {
      code = error.code;
    }
    CHECK(code == kBudget);
    spent = {.cpu = now(CLOCK_THREAD_CPUTIME_ID) - cpu_before,
             .waited = WaitedForCpu() - waited_before,
             .clock = now(CLOCK_MONOTONIC) - clock_before};
  }).join();
  over = true;
  for (std::thread& thread : threads) thread.join();
  return spent;
}

TEST("budget: time in which the thread waits for a CPU does not count, up to a limit on the clock") {
  constexpr std::chrono::milliseconds kTime(200);
  constexpr auto kMost = Budget::kMostTimes * kTime;
  // It gets three quarters of the CPU, or less on a busy machine. A virtual machine has time that is neither: its host
  // runs something else then.
  const Spent most = UseUp(kTime, 1, 5);
  CHECK(most.waited > std::chrono::milliseconds(1));
  CHECK(most.clock >= std::min<std::chrono::nanoseconds>(kTime + most.waited, kMost) - std::chrono::milliseconds(1));
  // It gets a ninth.
  const Spent little = UseUp(kTime, 8, 0);
  CHECK(little.clock >= kMost);
  CHECK(little.cpu < kTime * 9 / 10);
}

TEST("workers: threads that the kernel holds up are told of, replaced, and not needed any more once they come back") {
  Latch latch;
  Crew crew(2, 64, std::chrono::milliseconds(20));
  const OpenAtEnd open(latch);
  for (uint64_t i = 1; i <= 2; ++i) crew.Start([&](Home&) { latch.Wait(); }, Job::Place(4, i));
  while (crew.workers().health().stuck < 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(crew.workers().health().longest >= std::chrono::milliseconds(20));
  crew.Start([](Home&) {}, Job::Place(4, 3));
  crew.WaitFor(1);
  CHECK(crew.workers().health().threads == 4);
  latch.Open();
  crew.WaitFor(3);
  for (int done = 4; crew.workers().health().threads > 2; ++done) {
    CHECK(done < 200);
    crew.Start([](Home&) {});
    crew.WaitFor(done);
  }
  CHECK(crew.workers().health().stuck == 0);
  CHECK(crew.workers().health().lost == 0);
}

TEST("netns: refuses the namespace it lives in, by each of its names") {
  Crew crew;
  for (const char* path : {"/proc/self/ns/net", "/proc/thread-self/ns/net"}) {
    const auto error = crew.Run([path](Home& home) { const Visit visit(home, path, nullptr); });
    CHECK(error && error->code == kHostNetns);
  }
}

TEST("netns: refuses the machine's own by its cookie, to read and to write, and comes home") {
  Crew crew(1);
  const ino_t home_netns = OwnNetns();
  const Pod pod;
  crew.MustRun([&](Home& home) { CHECK(!Visit(home, pod.path(), nullptr).identity().IsInitial()); });
  for (const auto purpose : {Visit::Purpose::kRead, Visit::Purpose::kWrite}) {
    const auto error = crew.Run([&](Home& home) {
      check::FakeCookie(1);
      const Visit visit(home, pod.path(), nullptr, purpose);
    });
    crew.MustRun([&](Home&) {
      check::FakeCookie(0);
      CHECK(OwnNetns() == home_netns);
    });
    CHECK(error && error->code == kHostNetns && error->path == pod.path());
  }
  CHECK((NetnsIdentity{.dev = 4, .ino = 0xEFFFFFF9, .cookie = 7}.IsInitial()));
}

TEST("netns: a failed entry leaves the thread at home") {
  Crew crew(1);
  const ino_t home_netns = OwnNetns();
  const Pod pod;
  for (int i = 0; i < 3; ++i) {
    const auto error = crew.Run([&](Home& home) {
      check::FailSetns(1);
      const Visit visit(home, pod.path(), nullptr);
    });
    CHECK(error && error->number == EPERM && error->path == pod.path());
    crew.MustRun([&](Home&) { CHECK(OwnNetns() == home_netns); });
  }
}

TEST("install: wakes the gate when asked to, whether or not one listens, or reads") {
  Crew crew(1);
  const Pod pod;
  crew.MustRun([&](Home& home) {
    const auto compiled = std::make_unique<Compiled>(home, SomeRules());
    const NetnsRef target{pod.path(), Identify(home, pod.path()).netns};
    compiled->Apply(home, target, {.wake_gate = true});
    Fd gate;
    {
      const Visit visit(home, pod.path(), nullptr);
      gate = Fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      const gate::Address name = gate::HintAddress();
      CHECK(bind(gate.get(), reinterpret_cast<const sockaddr*>(&name.address), name.length) == 0);
    }
    const auto words = [&gate] {
      int count = 0;
      for (char word; recv(gate.get(), &word, sizeof(word), 0) >= 0;) ++count;
      return count;
    };
    compiled->Apply(home, target, {});
    CHECK(words() == 0);
    compiled->Apply(home, target, {.wake_gate = true});
    CHECK(words() == 1);
    for (int i = 0; i < 1000; ++i) compiled->Apply(home, target, {.wake_gate = true});
    CHECK(words() > 1);
  });
}

// Installs with the n-th allocation failing, for every n there is.
TEST("install: out of memory at every single allocation leaves all or nothing, and every thread at home") {
  Crew crew(1);
  const ino_t home_netns = OwnNetns();
  std::shared_ptr<const Compiled> compiled;
  std::shared_ptr<const Compiled> nothing;
  crew.MustRun([&](Home& home) {
    compiled = std::make_shared<Compiled>(home, SomeRules());
    nothing = std::make_shared<Compiled>(home, Ruleset{});
  });
  for (const bool fresh : {true, false}) {
    long failures = 0;
    for (long n = 1;; ++n) {
      const Pod pod;
      NetnsRef target;
      crew.MustRun([&](Home& home) { target = {pod.path(), Identify(home, pod.path()).netns}; });
      bool reached = false;
      const auto error = crew.Run([&](Home& home) {
        check::FailAllocation(n);
        try {
          compiled->Apply(home, target, {.fresh = fresh});
        } catch (...) {
          reached = check::FailAllocation(0) >= n;
          throw;
        }
        reached = check::FailAllocation(0) >= n;
      });
      bool whole = false;
      bool none = false;
      crew.MustRun([&](Home& home) {
        CHECK(OwnNetns() == home_netns);
        const auto stands = [&](const Compiled& what) {
          const VerifyResult result = what.Verify(home, target);
          return result.legacy.empty() && result.nftables.empty() && result.missing_routes.empty() &&
                 result.surplus_routes.empty();
        };
        whole = stands(*compiled);
        none = stands(*nothing);
      });
      if (error) {
        CHECK(error->number == ENOMEM);
        CHECK(error->rollback.empty());
        CHECK(none);
        ++failures;
      } else {
        CHECK(whole);
      }
      if (!reached) break;
    }
    CHECK(failures > 10);
  }
  CHECK(crew.workers().health().lost == 0);
}

}  // namespace
