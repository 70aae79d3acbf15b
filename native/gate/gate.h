// Waits for the rules: what the gate checks, in which order, and what it reports at the end.
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
  // Checks what can be refused at once. False, with the reason in `line`, if the gate can never open.
  bool Prepare(Line& line);
  bool PortsAreFree(Line& line);
  // Whether all rules that the gate waits for are active.
  bool Look();
  // Checks again after a success without a hint, because an install may be rolled back a moment later.
  bool Confirm();
  FamilySet Wanted(const Addresses& addresses);
  void SayWaiting();
  // Ignores hints for a while after a false hint: 50 us, doubled up to 100 ms. A second without false hints resets it.
  Wake HoldOff();

  Ending Open(Wake wake);
  Ending Expired();
  Ending Failed();
  Ending Stopped();
  int64_t ElapsedUs() const;
  // The rest of the time limit, at most `most`.
  int64_t LeftUs(int64_t most = INT64_MAX) const;

  const Options& options_;
  Prober prober_;
  Network network_;
  Hints hints_;
  MarkFile mark_file_;
  int64_t start_us_ = 0;
  // Results of the last check.
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
