// Hints wake the gate: a datagram to an abstract address, which is visible only in the netns, and a change of the file
// with the annotations. A hint proves nothing; the gate checks the rules after it.
#pragma once

#include <cstdint>

#include "native/fd.h"

namespace ipnc::gate {

enum class Wake : unsigned char { kNone, kDatagram, kFile, kSignal };

class Hints {
 public:
  // Listens for datagrams, SIGTERM and SIGINT. Must be called first. Returns 0, or an errno if another process uses the
  // address of the datagrams.
  int Open();

  // Watches the folder of `path`, in which the kubelet replaces the link `..data`. Returns false on failure.
  bool Watch(const char* path);

  // Waits at most that long, and drains the reported datagrams and changes. With `deaf` it ignores them until later.
  Wake Wait(int64_t microseconds, bool deaf);

  // The number of the signal that kSignal was about.
  int signal() const { return signal_; }

 private:
  Fd datagrams_;
  Fd folder_;
  Fd changes_;  // of the folder
  Fd signals_;
  int signal_ = 0;
};

}  // namespace ipnc::gate
