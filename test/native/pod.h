// A netns to do things to.
#pragma once

#include <sched.h>
#include <unistd.h>

#include <condition_variable>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

#include "native/error.h"
#include "native/netns.h"
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

// Runs `body(home)` on a thread of its own, which ends in whatever netns it is. Throws what it threw.
template <typename Body>
void OnThread(Body body) {
  std::exception_ptr failure;
  std::thread([&] {
    try {
      ipnc::Home home;
      body(home);
    } catch (const ipnc::Error& error) {
      failure = std::make_exception_ptr(std::runtime_error("errno " + std::to_string(error.number) + " " + error.code +
                                                           " " + error.syscall + " " + error.detail));
    } catch (...) {
      failure = std::current_exception();
    }
  }).join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace check
