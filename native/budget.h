// What a job may spend in a pod's network namespace.
//
// A pod with NET_ADMIN in its own user namespace decides how much there is to read and how often it changes meanwhile.
// Every loop that reads, waits or tries again spends of one budget, and the job fails when that is used up.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

namespace ipnc {

class Budget {
 public:
  using Clock = std::chrono::steady_clock;

  // An ordinary install takes less than a millisecond, one of 1,000 ports and CIDRs less than 100. It is time on the
  // clock: a machine with 20 busy processes a CPU takes ten times that and more.
  static constexpr std::chrono::milliseconds kTime{2000};
  // Table entries, chains, sets, elements, routes and addresses, each time that they are read. The largest ruleset that
  // we write has a quarter of it.
  static constexpr size_t kObjects = 65'536;

  // Starts now.
  explicit Budget(std::chrono::milliseconds time = kTime, size_t objects = kObjects)
      : time_(time), most_objects_(objects), deadline_(Clock::now() + time) {}
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  // Throws ERR_BUDGET if the time is over.
  void RequireTime() const;
  // Throws ERR_BUDGET if that is more than may still be read.
  void Require(size_t objects) const;
  // The same, and counts them as read. A long object counts as several: see ObjectsOf.
  void Spend(size_t objects);
  // What one object of so many bytes counts, so that the memory for what is read is bounded as well (to 8 MiB).
  static constexpr size_t ObjectsOf(size_t bytes) { return 1 + bytes / 128; }
  // Throws ERR_BUDGET: there are more than `most` of `what`, "addresses in the network namespace".
  [[noreturn]] static void Refuse(const std::string& what, size_t most);
  // Waits, but not beyond the deadline. Throws ERR_BUDGET if the time is over then.
  void Pause(std::chrono::nanoseconds duration) const;
  // As much again, for putting back what the job has changed: a job that has used up its budget must be undone too.
  void Renew();

 private:
  const std::chrono::milliseconds time_;
  const size_t most_objects_;
  Clock::time_point deadline_;
  size_t objects_ = 0;
};

}  // namespace ipnc
