// What to do to put things back, newest first.
#pragma once

#include <functional>
#include <new>
#include <string>
#include <vector>

#include "native/error.h"

namespace ipnc {

class Undo {
 public:
  // Before the change, so that no change goes unremembered for want of memory: a step must do no harm where nothing was
  // changed.
  void Add(std::function<void()> step) { steps_.push_back(std::move(step)); }
  // The newest step: there was nothing to change.
  void Drop() { steps_.pop_back(); }

  // Runs every step, whatever the others do. Returns what went wrong, or nothing.
  std::string Run() {
    std::string failures;
    for (; !steps_.empty(); steps_.pop_back()) {
      try {
        steps_.back()();
      } catch (const Error& error) {
        failures += (failures.empty() ? "" : "; ") + error.table + " " + error.syscall + " " + error.detail;
      } catch (const std::bad_alloc&) {
        failures += "out of memory";
      }
    }
    return failures;
  }

 private:
  std::vector<std::function<void()>> steps_;
};

}  // namespace ipnc
