#include "native/budget.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <thread>

#include "native/error.h"
#include "native/fd.h"

namespace ipnc {
namespace {

// How long this thread has waited for a CPU, ever (Documentation/scheduler/sched-stats.rst). 0 if the kernel does not
// count it.
std::chrono::nanoseconds WaitedForCpu() {
  static thread_local const Fd file(open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC));
  char text[96];
  const ssize_t length = pread(file.get(), text, sizeof text - 1, 0);
  if (length <= 0) return {};
  text[length] = '\0';
  unsigned long long waited = 0;
  if (std::sscanf(text, "%*u %llu", &waited) != 1) return {};
  return std::chrono::nanoseconds(waited);
}

}  // namespace

Budget::Budget(std::chrono::milliseconds time, size_t objects) : time_(time), most_objects_(objects) {
  Renew();
}

void Budget::RequireTime() const {
  if (Clock::now() < deadline_) return;
  const auto waited = WaitedForCpu() - waited_;
  deadline_ = began_ + std::min<Clock::duration>(time_ + waited, kMostTimes * time_);
  if (Clock::now() < deadline_) return;
  const auto ms = [](Clock::duration duration) {
    return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(duration).count()) + " ms";
  };
  throw Error{.code = kBudget,
              .detail = "the job was not done after " + ms(Clock::now() - began_) + ", of which it waited " +
                        ms(waited) + " for a CPU, and has read " + std::to_string(objects_) + " objects"};
}

void Budget::Require(size_t objects) const {
  if (objects <= most_objects_ - objects_) return;
  throw Error{.code = kBudget,
              .detail = "there is more to read than the " + std::to_string(most_objects_) + " objects of one job"};
}

void Budget::Spend(size_t objects) {
  Require(objects);
  objects_ += objects;
}

void Budget::Refuse(const std::string& what, size_t most) {
  throw Error{.code = kBudget, .detail = "there are more than " + std::to_string(most) + " " + what};
}

void Budget::Pause(std::chrono::nanoseconds duration) const {
  std::this_thread::sleep_until(std::min<Clock::time_point>(deadline_, Clock::now() + duration));
  RequireTime();
}

void Budget::Renew() {
  began_ = Clock::now();
  waited_ = WaitedForCpu();
  deadline_ = began_ + time_;
  objects_ = 0;
}

}  // namespace ipnc
