#include "native/workers.h"

#include <csignal>

#include <exception>
#include <new>
#include <utility>

namespace ipnc {

Workers::Workers(unsigned threads, size_t most_queued, std::function<void(std::unique_ptr<Job>)> done)
    : most_threads_(threads), most_queued_(most_queued), done_(std::move(done)) {}

Workers::~Workers() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    queue_.clear();
  }
  wake_.notify_all();
  for (Thread& thread : threads_) thread.thread.join();
}

bool Workers::Submit(std::unique_ptr<Job> job) {
  Replenish();
  {
    const std::lock_guard lock(mutex_);
    if (queue_.size() >= most_queued_) return false;
    job->submitted_ = std::chrono::steady_clock::now();
    queue_.push_back(std::move(job));
    any_queued_ = true;
  }
  if (!looking_out_) wake_.notify_one();
  return true;
}

// A pod's second job comes right after its first one, and to wake a thread takes as long as a family's rules: so one
// thread stays awake for as long as that.
void Workers::LookOut() {
  using std::chrono::steady_clock;
  constexpr std::chrono::microseconds kLonger(50);
  if (looking_out_.exchange(true)) return;
  const auto end = steady_clock::now() + kLonger;
  while (!any_queued_ && steady_clock::now() < end) std::this_thread::yield();
  looking_out_ = false;
}

void Workers::Replenish() {
  const std::lock_guard lock(mutex_);
  if (threads_.size() == most_threads_ && !any_ended_) return;
  any_ended_ = false;
  for (auto thread = threads_.begin(); thread != threads_.end();) {
    if (!thread->ended) {
      ++thread;
      continue;
    }
    thread->thread.join();
    thread = threads_.erase(thread);
  }
  // The process's signals are for its own threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  while (threads_.size() < most_threads_) {
    Thread& self = threads_.emplace_back();
    try {
      self.thread = std::thread([this, &self] { Work(self); });
    } catch (...) {  // EAGAIN: no more threads to be had now
      threads_.pop_back();
      break;
    }
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Workers::Work(Thread& self) {
  std::optional<Home> home;
  for (;;) {
    std::unique_ptr<Job> job;
    bool more;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (stop_) return;
      job = std::move(queue_.front());
      queue_.pop_front();
      more = any_queued_ = !queue_.empty();
    }
    if (more) wake_.notify_one();  // the one who looked out may have kept others from being told
    job->waited = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - job->submitted_).count();
    try {
      if (!home) home.emplace();
      job->Run(*home);
    } catch (Error& error) {
      job->error = std::move(error);
    } catch (const std::bad_alloc&) {
      job->error = Error{.number = ENOMEM, .syscall = "malloc"};
    } catch (const std::exception& error) {
      job->error = Error{.number = EINVAL, .detail = error.what()};
    }
    const bool lost = home && home->lost();
    if (lost) {
      const std::lock_guard lock(mutex_);
      ++lost_;
      self.ended = any_ended_ = true;
    }
    done_(std::move(job));
    if (lost) return;
    if (home) home->Sweep();
    LookOut();
  }
}

}  // namespace ipnc
