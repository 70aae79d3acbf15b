// A netns to do things to.
#pragma once

#include <sched.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "test/native/check.h"

namespace check {

// A netns held by a thread of its own.
class Pod {
 public:
  Pod()
      : thread_([this] {
          CHECK(unshare(CLONE_NEWNET) == 0);
          path_ = "/proc/" + std::to_string(getpid()) + "/task/" + std::to_string(gettid()) + "/ns/net";
          std::unique_lock lock(mutex_);
          ready_ = true;
          changed_.notify_all();
          changed_.wait(lock, [this] { return leave_; });
        }) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return ready_; });
  }
  ~Pod() {
    {
      const std::lock_guard lock(mutex_);
      leave_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  const std::string& path() const { return path_; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ready_ = false;
  bool leave_ = false;
  std::string path_;
  std::thread thread_;
};

}  // namespace check
