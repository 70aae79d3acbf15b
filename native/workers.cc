#include "native/workers.h"

#include <csignal>

#include <algorithm>
#include <exception>
#include <new>

namespace ipnc {
namespace {

constexpr size_t kMostSuspects = 1'024;  // remembered: more pods than a node has

}  // namespace

Workers::Workers(unsigned threads, size_t most_queued, std::function<void(std::unique_ptr<Job>)> done,
                 std::chrono::milliseconds bound)
    : most_threads_(threads), most_queued_(most_queued), done_(std::move(done)), bound_(bound) {
  suspects_.reserve(kMostSuspects);  // so that a lack of memory cannot fail later
}

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
  bool ready;
  {
    const std::lock_guard lock(mutex_);
    if (queue_.size() >= most_queued_) return false;
    job->submitted_ = Clock::now();
    ready = MayRun(*job);
    queue_.push_back(std::move(job));
    if (ready) any_ready_ = true;
  }
  if (ready && !looking_out_) wake_.notify_one();
  return true;
}

// A pod's second job comes right after its first one, and to wake a thread takes as long as the rules of a family. So
// one thread stays awake for that long.
void Workers::LookOut() {
  constexpr std::chrono::microseconds kLonger(50);
  if (looking_out_.exchange(true)) return;
  const auto end = Clock::now() + kLonger;
  while (!any_ready_ && Clock::now() < end) std::this_thread::yield();
  looking_out_ = false;
}

bool Workers::IsSuspect(const Job& job) const {
  return job.place_ && std::find(suspects_.begin(), suspects_.end(), *job.place_) != suspects_.end();
}

bool Workers::MayRun(const Job& job) const {
  if (!job.place_) return true;
  const bool suspect = IsSuspect(job);
  return std::none_of(threads_.begin(), threads_.end(),
                      [&](const Thread& thread) { return thread.place == job.place_ || (suspect && thread.suspect); });
}

std::deque<std::unique_ptr<Job>>::iterator Workers::Next() {
  return std::find_if(queue_.begin(), queue_.end(), [this](const auto& job) { return MayRun(*job); });
}

void Workers::NoteQueue() {
  any_ready_ = Next() != queue_.end();
}

unsigned Workers::Living() const {
  return static_cast<unsigned>(
      std::count_if(threads_.begin(), threads_.end(), [](const Thread& thread) { return !thread.ended; }));
}

unsigned Workers::Stuck() const {
  const auto since = Clock::now() - bound_;
  const auto stuck = std::count_if(threads_.begin(), threads_.end(), [since](const Thread& thread) {
    return thread.busy_since && *thread.busy_since < since;
  });
  return static_cast<unsigned>(stuck);
}

// Whether the netns of the job has used up a budget.
void Workers::Judge(const Job& job) {
  if (!job.place_) return;
  std::erase(suspects_, *job.place_);
  if (!job.error || job.error->code != kBudget) return;
  if (suspects_.size() == kMostSuspects) suspects_.erase(suspects_.begin());
  suspects_.push_back(*job.place_);
}

Workers::Health Workers::health() {
  const std::lock_guard lock(mutex_);
  Health health{.threads = Living(), .stuck = Stuck(), .lost = lost_, .queued = queue_.size()};
  const auto now = Clock::now();
  for (const Thread& thread : threads_) {
    if (!thread.busy_since) continue;
    ++health.busy;
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(now - *thread.busy_since);
    health.longest = std::max(health.longest, took);
  }
  return health;
}

void Workers::Replenish() {
  const std::lock_guard lock(mutex_);
  const unsigned wanted = most_threads_ + std::min(Stuck(), kSpare);
  if (threads_.size() >= wanted && !any_ended_) return;
  any_ended_ = false;
  for (auto thread = threads_.begin(); thread != threads_.end();) {
    if (!thread->ended) {
      ++thread;
      continue;
    }
    thread->thread.join();
    thread = threads_.erase(thread);
  }
  // The signals of the process are for its own threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  while (threads_.size() < wanted) {
    Thread& self = threads_.emplace_back();
    try {
      self.thread = std::thread([this, &self] { Work(self); });
    } catch (...) {  // EAGAIN: the system has no more threads now
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
      auto next = queue_.end();
      wake_.wait(lock, [&] { return stop_ || (next = Next()) != queue_.end(); });
      if (stop_) return;
      job = std::move(*next);
      queue_.erase(next);
      self.busy_since = Clock::now();
      self.place = job->place_;
      self.suspect = IsSuspect(*job);
      NoteQueue();
      more = any_ready_;
    }
    if (more) wake_.notify_one();  // the thread that stayed awake may have kept others asleep
    job->waited = std::chrono::duration<double, std::micro>(*self.busy_since - job->submitted_).count();
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
    {
      const std::lock_guard lock(mutex_);
      Judge(*job);
      self.place = std::nullopt;
      self.suspect = false;
      NoteQueue();
      more = any_ready_;
      // The replaced thread has returned meanwhile, so this replacement is no longer needed.
      const bool surplus = !lost && Living() > most_threads_ + Stuck();
      if (lost || surplus) {
        lost_ += lost;
        self.busy_since = std::nullopt;
        self.ended = any_ended_ = true;
      }
    }
    const bool ended = self.ended;
    done_(std::move(job));
    if (ended) {
      if (more) wake_.notify_one();
      return;
    }
    if (home) home->Sweep();
    {
      const std::lock_guard lock(mutex_);
      self.busy_since = std::nullopt;
    }
    LookOut();
  }
}

}  // namespace ipnc
