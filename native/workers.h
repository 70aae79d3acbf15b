// The addon's own threads, the only ones that call setns(). They are not libuv's, because a thread that stays in a
// pod's netns would do the file and DNS work of the program there.
//
// A netns never has more than one thread, because the processes in it decide how long a job takes. A netns that has
// used up the budget of a job shares one thread with all other such netns, until one of its jobs ends in time.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "native/error.h"
#include "native/netns.h"

namespace ipnc {

class Job {
 public:
  // The netns of the job: dev and inode. The job holds it open at the latest when it begins, so two netns never have
  // the same place at the same time.
  using Place = std::pair<uint64_t, uint64_t>;

  explicit Job(std::optional<Place> place = std::nullopt) : place_(place) {}
  virtual ~Job() = default;
  // Runs on a thread of the addon. May throw Error and std::bad_alloc, which becomes `error`.
  virtual void Run(Home& home) = 0;

  std::optional<Error> error;
  double waited = 0;  // microseconds in the queue

 private:
  friend class Workers;
  const std::optional<Place> place_;
  std::chrono::steady_clock::time_point submitted_;
};

class Workers {
 public:
  using Clock = std::chrono::steady_clock;
  // The kernel blocks a job that takes longer, because its budget and that of its rollback would end it earlier, also
  // without a free CPU.
  static constexpr std::chrono::milliseconds kBound = 5 * Budget::kTime;

  // How many threads are replaced while the kernel blocks them.
  static constexpr unsigned kSpare = 12;

  // `done` is called on a thread of the addon, in its own netns or before the thread ends.
  Workers(unsigned threads, size_t most_queued, std::function<void(std::unique_ptr<Job>)> done,
          std::chrono::milliseconds bound = kBound);
  // Waits for running jobs, and drops waiting ones.
  ~Workers();

  // False if the queue is full. Only from the thread that made this.
  [[nodiscard]] bool Submit(std::unique_ptr<Job> job);

  // Replaces threads that had to end, and threads whose job has taken longer than kBound. Only the thread that created
  // this
  // object may call it: a new thread starts in the netns of its creator, so a thread that could not return to its own
  // netns must not create one.
  void Replenish();

  struct Health {
    unsigned threads = 0;  // that live
    unsigned busy = 0;     // of them, with a job
    unsigned stuck = 0;    // of them, with one that has taken longer than kBound
    unsigned lost = 0;     // that could not come home and ended, ever
    size_t queued = 0;
    std::chrono::milliseconds longest{0};  // of the jobs that run, so far
  };
  Health health();

 private:
  struct Thread {
    std::thread thread;
    bool ended = false;
    std::optional<Clock::time_point> busy_since;
    std::optional<Job::Place> place;
    bool suspect = false;  // its job's place is one of `suspects_`
  };
  void Work(Thread& self);
  void LookOut();
  // The functions below are called with the mutex held.
  bool IsSuspect(const Job& job) const;
  bool MayRun(const Job& job) const;
  std::deque<std::unique_ptr<Job>>::iterator Next();
  unsigned Living() const;
  unsigned Stuck() const;
  void Judge(const Job& job);
  void NoteQueue();

  const unsigned most_threads_;
  const size_t most_queued_;
  const std::function<void(std::unique_ptr<Job>)> done_;
  const std::chrono::milliseconds bound_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Job>> queue_;
  std::atomic<bool> any_ready_ = false;    // whether `queue_` holds a job that may run
  std::atomic<bool> looking_out_ = false;  // whether a thread is awake that will find what is queued
  std::list<Thread> threads_;
  std::vector<Job::Place> suspects_;  // oldest first
  bool any_ended_ = false;
  unsigned lost_ = 0;
  bool stop_ = false;
};

}  // namespace ipnc
