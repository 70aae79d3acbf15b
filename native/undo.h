// The steps that undo changes, newest first.
#pragma once

#include <functional>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "native/error.h"

namespace ipnc {

class Undo {
 public:
  // Makes one change, remembering first how to undo it, so that lack of memory cannot lose the step. `change` returns
  // whether there was anything to change, and so does this. `step` must do no harm where nothing was changed: it is
  // also kept where the kernel's answer was lost. `otherwise` says what is left when the step fails: "table IPv4 nat
  // could not be restored".
  template <typename Change>
  bool Do(std::string otherwise, std::function<void()> step, Change change) {
    steps_.push_back({std::move(otherwise), std::move(step), {}});
    try {
      const bool changed = change();
      if (!changed) steps_.pop_back();
      return changed;
    } catch (const Error& error) {
      if (!error.uncertain) steps_.pop_back();
      throw;
    }
  }

  // Runs every step, even if others fail. Returns a text with what is left and why; empty if nothing is left.
  std::string Run() {
    bool failed = false;
    for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
      try {
        step->run();
      } catch (Error& error) {
        step->failure = std::move(error);
        failed = true;
      } catch (...) {
        step->failure = Error{.number = ENOMEM};
        failed = true;
      }
    }
    if (!failed) return {};
    try {
      std::string left;
      for (auto step = steps_.rbegin(); step != steps_.rend(); ++step)
        if (step->failure) left += (left.empty() ? "" : "; ") + step->otherwise + " (" + Reason(*step->failure) + ")";
      return left;
    } catch (const std::bad_alloc&) {
      return "changes";  // short enough to need no memory
    }
  }

 private:
  struct Step {
    std::string otherwise;
    std::function<void()> run;
    std::optional<Error> failure;
  };
  std::vector<Step> steps_;
};

}  // namespace ipnc
