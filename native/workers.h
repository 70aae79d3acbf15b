// The addon's own threads, the only ones that ever setns. Never libuv's: a thread that stays in a pod's netns would run
// the program's own file and DNS work there.
//
// One netns never has more than one thread: who is inside decides how long a job takes. A netns that has used up a
// job's budget shares one thread with all others that did, until a job of it is done in time.
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
  // Which netns the job is for: dev and inode. Held open by the job at the latest when it begins, so never of two netns
  // at once.
  using Place = std::pair<uint64_t, uint64_t>;

  explicit Job(std::optional<Place> place = std::nullopt) : place_(place) {}
  virtual ~Job() = default;
  // On a thread of ours. May throw Error and std::bad_alloc; that becomes `error`.
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
  // A job that takes longer is held up by the kernel: its budget ends it long before.
  static constexpr std::chrono::milliseconds kBound = 5 * Budget::kTime;

  // Threads that are replaced while the kernel holds them up.
  static constexpr unsigned kSpare = 12;

  // `done` is called on a thread of ours, in its own netns or on its way out.
  Workers(unsigned threads, size_t most_queued, std::function<void(std::unique_ptr<Job>)> done,
          std::chrono::milliseconds bound = kBound);
  // Lets running jobs end, drops those that wait.
  ~Workers();

  // False if the queue is full. Only from the thread that made this.
  [[nodiscard]] bool Submit(std::unique_ptr<Job> job);

  // Starts threads in the place of those that had to end, and of those whose job has taken longer than kBound. Only
  // from the thread that made this: a thread begins its life in the netns of the one that starts it, and one that could
  // not come home must not be a parent.
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
  // What follows is called with the mutex held.
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
