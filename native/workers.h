// The addon's own threads, the only ones that ever setns. Never libuv's: a thread that stays in a pod's netns would run
// the program's own file and DNS work there.
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

#include "native/error.h"
#include "native/netns.h"

namespace ipnc {

class Job {
 public:
  virtual ~Job() = default;
  // On a thread of ours. May throw Error and std::bad_alloc; that becomes `error`.
  virtual void Run(Home& home) = 0;

  std::optional<Error> error;
  double waited = 0;  // microseconds in the queue

 private:
  friend class Workers;
  std::chrono::steady_clock::time_point submitted_;
};

class Workers {
 public:
  // `done` is called on a thread of ours, in its own netns or on its way out.
  Workers(unsigned threads, size_t most_queued, std::function<void(std::unique_ptr<Job>)> done);
  // Lets running jobs end, drops those that wait.
  ~Workers();

  // False if the queue is full. Only from the thread that made this.
  [[nodiscard]] bool Submit(std::unique_ptr<Job> job);

  // Starts threads in the place of those that had to end. Only from the thread that made this: a thread begins its life
  // in the netns of the one that starts it, and one that could not come home must not be a parent.
  void Replenish();

  unsigned lost() const { return lost_; }

 private:
  struct Thread {
    std::thread thread;
    bool ended = false;
  };
  void Work(Thread& self);
  void LookOut();

  const unsigned most_threads_;
  const size_t most_queued_;
  const std::function<void(std::unique_ptr<Job>)> done_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Job>> queue_;
  std::atomic<bool> any_queued_ = false;   // whether `queue_` holds any
  std::atomic<bool> looking_out_ = false;  // whether a thread is awake that will find what is queued
  std::list<Thread> threads_;
  bool any_ended_ = false;
  unsigned lost_ = 0;
  bool stop_ = false;
};

}  // namespace ipnc
