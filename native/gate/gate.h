// The wait itself: what is looked at, in which order, and what is said at the end.
#pragma once

#include "native/gate/ending.h"
#include "native/gate/hints.h"
#include "native/gate/mark.h"
#include "native/gate/network.h"
#include "native/gate/options.h"
#include "native/gate/probe.h"

namespace ipnc::gate {

class Gate {
 public:
  explicit Gate(const Options& options)
      : options_(options), prober_(options.inbound_port, options.probe_port), mark_file_(options.annotations) {}

  Ending Run();

 private:
  // What can be refused at once; false with the reason in `line`.
  bool Prepare(Line& line);
  bool PortsAreFree(Line& line);
  // Whether all that is waited for is there.
  bool Look();
  // A pass that nobody announced, after a failure: an install may be about to be rolled back.
  bool Confirm();
  FamilySet Wanted(const Addresses& addresses);
  void SayWaiting();
  // After a hint that was none. The more of them come, the longer none is heard; after a second of quiet as at first.
  Wake HoldOff();

  Ending Open(Wake wake);
  Ending Expired();
  Ending Failed();
  Ending Stopped();
  int64_t ElapsedUs() const;
  // Of the time that is given, and not more than `most`.
  int64_t LeftUs(int64_t most = INT64_MAX) const;

  const Options& options_;
  Prober prober_;
  Network network_;
  Hints hints_;
  MarkFile mark_file_;
  int64_t start_us_ = 0;
  // Of the last look.
  Told told_ = Told::kNoFile;
  FamilySet wanted_;
  FamilySet routed_;
  Probed probed_;
  uint32_t target_ = 0;
  int looks_ = 0;
  int64_t hold_us_ = 0;
  int64_t last_vain_us_ = 0;
  bool deaf_to_datagrams_ = false;
};

}  // namespace ipnc::gate
