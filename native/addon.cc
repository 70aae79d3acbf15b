// The interface to JavaScript: lib/native/addon.ts has its types. from_js.cc checks arguments, the threads of
// workers.cc do the work, and the promises are settled here.
#include <napi.h>
#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "native/from_js.h"
#include "native/install.h"
#include "native/to_js.h"
#include "native/workers.h"

namespace ipnc {
namespace {

constexpr size_t kMostQueued = 4096;

// Two threads for each processor, because half of them wait for locks in the kernel (one for the tables of each family,
// one for routes, one for per-CPU memory). They do a quarter more installs per second than one for each. More than four
// gain nothing.
unsigned ThreadCount() {
  return std::clamp(2 * std::thread::hardware_concurrency(), 2U, 4U);
}

Job::Place PlaceOf(const NetnsRef& netns) {
  return {netns.identity.dev, netns.identity.ino};
}

// A job for a path that does not exist fails at once, so it needs no place.
std::optional<Job::Place> PlaceAt(const std::string& path) {
  struct stat st;
  if (stat(path.c_str(), &st) != 0) return std::nullopt;
  return Job::Place(st.st_dev, st.st_ino);
}

class PromiseJob : public Job {
 public:
  PromiseJob(Napi::Env env, std::optional<Place> place) : Job(place), deferred_(env) {}
  Napi::Promise promise() const { return deferred_.Promise(); }
  // Runs on the JavaScript thread.
  void Settle(Napi::Env env) {
    if (error)
      deferred_.Reject(ToJs(env, *error));
    else
      deferred_.Resolve(Result(env));
  }

 protected:
  virtual Napi::Value Result(Napi::Env env) = 0;

 private:
  Napi::Promise::Deferred deferred_;
};

// `Work`: Home& -> R, on a thread of ours. `Convert`: (env, const R&, microseconds waited) -> value.
template <typename Work, typename Convert>
class JobOf final : public PromiseJob {
 public:
  JobOf(Napi::Env env, std::optional<Place> place, Work work, Convert convert)
      : PromiseJob(env, place), work_(std::move(work)), convert_(std::move(convert)) {}
  void Run(Home& home) override { result_.emplace(work_(home)); }
  Napi::Value Result(Napi::Env env) override { return convert_(env, *result_, waited); }

 private:
  Work work_;
  Convert convert_;
  std::optional<std::invoke_result_t<Work, Home&>> result_;
};

// A ruleset as kernel-ready bytes.
class CompiledWrap : public Napi::ObjectWrap<CompiledWrap> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(
        env, "Compiled",
        {InstanceMethod<&CompiledWrap::Apply>("apply"), InstanceMethod<&CompiledWrap::Verify>("verify")});
  }
  explicit CompiledWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "a Compiled is made by compile()");
    compiled_ = *info[0].As<Napi::External<std::shared_ptr<const Compiled>>>().Data();
    // Tells the garbage collector how much memory it holds.
    Napi::MemoryManagement::AdjustExternalMemory(info.Env(), static_cast<int64_t>(compiled_->Size()));
  }
  void Finalize(Napi::BasicEnv env) override {
    Napi::MemoryManagement::AdjustExternalMemory(env, -static_cast<int64_t>(compiled_->Size()));
  }

 private:
  Napi::Value Apply(const Napi::CallbackInfo& info);
  Napi::Value Verify(const Napi::CallbackInfo& info);

  std::shared_ptr<const Compiled> compiled_;
};

// The state of one JavaScript environment that loads the addon.
class Addon : public Napi::Addon<Addon> {
 public:
  Addon(Napi::Env env, Napi::Object exports) {
    compiled_class_ = Napi::Persistent(CompiledWrap::Define(env));
    wake_ = Wake::New(env, "ipnc", 0, 1, this);
    wake_.Unref(env);
    workers_ = std::make_unique<Workers>(ThreadCount(), kMostQueued,
                                         [this](std::unique_ptr<Job> job) { Finished(std::move(job)); });
    // This ends the threads before the clean-up of the wake-up function, because no thread may call it after that.
    env.AddCleanupHook([this] { workers_.reset(); });
    DefineAddon(exports, {InstanceMethod<&Addon::Probe>("probe"), InstanceMethod<&Addon::Identify>("identify"),
                          InstanceMethod<&Addon::Compile>("compile"), InstanceMethod<&Addon::Clean>("clean"),
                          InstanceMethod<&Addon::Health>("health")});
    exports.Set("layout", LayoutToJs(env));
  }

  template <typename Work, typename Convert>
  Napi::Value Enqueue(Napi::Env env, std::optional<Job::Place> place, Work work, Convert convert) {
    auto job = std::make_unique<JobOf<Work, Convert>>(env, place, std::move(work), std::move(convert));
    const Napi::Promise promise = job->promise();
    if (pending_++ == 0) wake_.Ref(env);
    if (!workers_->Submit(std::move(job))) {
      if (--pending_ == 0) wake_.Unref(env);
      const auto full = Napi::Promise::Deferred::New(env);
      full.Reject(ToJs(
          env, Error{.code = kQueueFull, .detail = std::to_string(kMostQueued) + " installs are waiting already"}));
      return full.Promise();
    }
    return promise;
  }

 private:
  // When an environment ends, Node calls this without one for each wake-up that is left. The threads have been joined
  // by then, and ~Addon drops the jobs.
  static void Drain(Napi::Env env, Napi::Function, Addon* addon, void*) {
    if (static_cast<napi_env>(env) != nullptr) addon->SettleFinished(env);
  }
  using Wake = Napi::TypedThreadSafeFunction<Addon, void, Drain>;

  // Runs on a thread of the addon. One wake-up is enough for all jobs that finish until the JavaScript thread looks.
  void Finished(std::unique_ptr<Job> job) {
    bool first;
    {
      const std::lock_guard lock(mutex_);
      first = finished_.empty();
      finished_.push_back(std::move(job));
    }
    if (first) wake_.NonBlockingCall();
  }

  void SettleFinished(Napi::Env env) {
    std::vector<std::unique_ptr<Job>> finished;
    {
      const std::lock_guard lock(mutex_);
      finished.swap(finished_);
    }
    workers_->Replenish();
    for (const auto& job : finished) {
      const Napi::HandleScope scope(env);
      static_cast<PromiseJob*>(job.get())->Settle(env);
    }
    pending_ -= finished.size();
    if (pending_ == 0 && !finished.empty()) wake_.Unref(env);
  }

  Napi::Value Probe(const Napi::CallbackInfo& info) {
    return Enqueue(
        info.Env(), std::nullopt, [](Home& home) { return ipnc::Probe(home); },
        [](Napi::Env env, const ProbeResult& result, double) { return ToJs(env, result); });
  }

  Napi::Value Identify(const Napi::CallbackInfo& info) {
    std::string path = PathFromJs(info[0]);
    return Enqueue(
        info.Env(), PlaceAt(path),
        [path, fresh = info[1].ToBoolean().Value()](Home& home) { return ipnc::Identify(home, path, fresh); },
        [path](Napi::Env env, const Identity& identity, double) { return ToJs(env, identity, path); });
  }

  Napi::Value Compile(const Napi::CallbackInfo& info) {
    return Enqueue(
        info.Env(), std::nullopt,
        [forms = FormsFromJs(info[0], info[1])](Home& home) {
          return std::make_shared<const Compiled>(home, forms.ruleset, forms.nftables);
        },
        [this](Napi::Env env, const std::shared_ptr<const Compiled>& compiled, double) -> Napi::Value {
          auto holder = compiled;
          return compiled_class_.New({Napi::External<std::shared_ptr<const Compiled>>::New(env, &holder)});
        });
  }

  Napi::Value Clean(const Napi::CallbackInfo& info) {
    NetnsRef netns = NetnsFromJs(info);
    return Enqueue(
        info.Env(), PlaceOf(netns), [netns](Home& home) { return ipnc::Clean(home, netns); },
        [](Napi::Env env, const ApplyResult& result, double waited) { return ToJs(env, result, waited); });
  }

  Napi::Value Health(const Napi::CallbackInfo& info) {
    // Replaces a thread that had to end, even if no job is submitted.
    workers_->Replenish();
    return ToJs(info.Env(), workers_->health());
  }

  Napi::FunctionReference compiled_class_;
  Wake wake_;
  std::unique_ptr<Workers> workers_;
  size_t pending_ = 0;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Job>> finished_;
};

Napi::Value CompiledWrap::Apply(const Napi::CallbackInfo& info) {
  NetnsRef netns = NetnsFromJs(info);
  return info.Env().GetInstanceData<Addon>()->Enqueue(
      info.Env(), PlaceOf(netns),
      [compiled = compiled_, netns,
       options = ApplyOptions{.fresh = info[4].ToBoolean().Value(),
                              .wake_gate = info[5].ToBoolean().Value(),
                              .first = info[6].ToBoolean().Value()}](Home& home) {
        return compiled->Apply(home, netns, options);
      },
      [](Napi::Env env, const ApplyResult& result, double waited) { return ToJs(env, result, waited); });
}

Napi::Value CompiledWrap::Verify(const Napi::CallbackInfo& info) {
  NetnsRef netns = NetnsFromJs(info);
  return info.Env().GetInstanceData<Addon>()->Enqueue(
      info.Env(), PlaceOf(netns), [compiled = compiled_, netns](Home& home) { return compiled->Verify(home, netns); },
      [](Napi::Env env, const VerifyResult& result, double waited) { return ToJs(env, result, waited); });
}

}  // namespace
}  // namespace ipnc

using ipnc::Addon;
NODE_API_ADDON(Addon)
