#include "native/budget.h"

#include <algorithm>
#include <thread>

#include "native/error.h"

namespace ipnc {

void Budget::RequireTime() const {
  if (Clock::now() < deadline_) return;
  throw Error{.code = kBudget,
              .detail = "the job was not done within " + std::to_string(time_.count()) + " ms, and has read " +
                        std::to_string(objects_) + " objects"};
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
  deadline_ = Clock::now() + time_;
  objects_ = 0;
}

}  // namespace ipnc
