// What wakes the gate: a datagram at an abstract address, which the netns confines, and a change of the annotations'
// file. Each is a reason to look, and nothing else.
#pragma once

#include <cstdint>

#include "native/fd.h"

namespace ipnc::gate {

enum class Wake : unsigned char { kNone, kDatagram, kFile, kSignal };

class Hints {
 public:
  // Listens for datagrams, and for SIGTERM and SIGINT; to be called first. 0 or the errno of the datagrams' address:
  // somebody else has it.
  int Open();

  // Watches the folder of `path`: a kubelet replaces the link `..data` there. False if it cannot be.
  bool Watch(const char* path);

  // Waits at most that long. Datagrams and files that were heard are drained; `deaf` leaves them for later.
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
