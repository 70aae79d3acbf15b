// Limits the time of a job in a pod's network namespace, and how much it reads there.
//
// A pod with NET_ADMIN in its own user namespace decides how much there is to read, and how often it changes. Every
// loop that reads, waits or tries again uses up a part of one budget. The job fails when the budget is used up.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

namespace ipnc {

class Budget {
 public:
  using Clock = std::chrono::steady_clock;

  // An ordinary install takes less than a millisecond, one of 1,000 ports and CIDRs less than 100. Time in which the
  // thread could run but waits for a CPU does not count: on a busy node it says nothing about the pod. A pod can cause
  // such waits with busy processes, so on the clock a job may take only kMostTimes this time, and its rollback as much.
  static constexpr std::chrono::milliseconds kTime{2000};
  static constexpr int kMostTimes = 2;
  // Table entries, chains, sets, elements, routes and addresses, each time that they are read. The largest ruleset that
  // we write has a quarter of it.
  static constexpr size_t kObjects = 65'536;

  // The time starts now.
  explicit Budget(std::chrono::milliseconds time = kTime, size_t objects = kObjects);
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  // Throws ERR_BUDGET if the time is over.
  void RequireTime() const;
  // Throws ERR_BUDGET if `objects` is more than the job may still read.
  void Require(size_t objects) const;
  // Does the same, and counts the objects as read. A long object counts as several: see ObjectsOf.
  void Spend(size_t objects);
  // How many objects an object of this size counts as, so that the memory for objects is bounded too (to 8 MiB).
  static constexpr size_t ObjectsOf(size_t bytes) { return 1 + bytes / 128; }
  // Throws ERR_BUDGET: there are more than `most` of `what`, "addresses in the network namespace".
  [[noreturn]] static void Refuse(const std::string& what, size_t most);
  // Waits, but not beyond the deadline. Throws ERR_BUDGET if the time is over after that.
  void Pause(std::chrono::nanoseconds duration) const;
  // Grants a second budget for the rollback, because a job that has used up its budget must be undone too.
  void Renew();

 private:
  const std::chrono::milliseconds time_;
  const size_t most_objects_;
  Clock::time_point began_;
  std::chrono::nanoseconds waited_;  // for a CPU, this thread before the job
  mutable Clock::time_point deadline_;
  size_t objects_ = 0;
};

}  // namespace ipnc
