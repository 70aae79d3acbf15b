// What the gate is told: its own flags, istio-iptables' command line as injectors write it, and the environment
// variables of both. Pure.
#pragma once

#include <cstdint>
#include <string_view>

#include "native/gate/text.h"

namespace ipnc::gate {

// As the CLI's own, but for 2: a word on the command line that cannot be read.
enum class Exit : int { kOpen = 0, kConfiguration = 1, kUsage = 2, kNotRedirected = 126 };

enum class Expect : uint8_t { kRedirect, kTproxy, kNone };

struct FamilySet {
  bool v4 = false;
  bool v6 = false;
  bool any() const { return v4 || v6; }
  bool operator==(const FamilySet&) const = default;
};

// Defaults are those of lib/istio/options.ts. Pointers are into the arguments and the environment.
struct Options {
  Expect expect = Expect::kRedirect;
  uint16_t outbound_port = 15001;
  uint16_t inbound_port = 15006;
  uint16_t tunnel_port = 15008;
  uint16_t probe_port = 15002;
  // Lists that can be read; no gids are the same as uids.
  std::string_view uids = "1337";
  std::string_view gids;
  bool captures_inbound = true;
  uint32_t tproxy_mark = 1337;
  uint32_t tproxy_table = 133;
  bool captures_dns = false;
  // Whether the range of loopback is among what is captured.
  bool captures_loopback = false;
  uint32_t loopback_address = 0x7f000001;
  uint8_t loopback_prefix = 32;
  std::string_view excluded_ports;
  bool excludes_lo = false;
  bool auto_families = true;
  FamilySet families;  // where not auto
  // With auto: whether the proxy serves both families of a pod that has both, and whether the other one is left without
  // rules (lib/netns/families.ts).
  bool dual_stack = false;
  bool leaves_unserved = true;
  // 0: what the rest says, see TimeoutMs().
  uint64_t timeout_ms = 0;
  // Of istio-iptables, which looks for rules that it has written itself. 0: not given.
  uint64_t probe_timeout_ms = 0;
  const char* annotations = "/etc/podinfo/pod_annotations";
  bool annotations_named = false;
  const char* termination_log = "/dev/termination-log";
  // The program that the gate becomes, and its arguments; ends with a null pointer. None: it ends.
  const char* const* program = nullptr;
  // Of the proxy's readiness, which is waited for in place of the rules. 0: it is not.
  uint16_t ready_port = 0;
  bool help = false;
};

struct Refusal {
  Exit code = Exit::kUsage;
  Line message;  // field, value, what is wrong, and what is expected
};

// `words` and `environment` end with a null pointer; the program's name is not among the words. True if all of it can
// be honoured.
bool ReadOptions(const char* const* words, const char* const* environment, Options& options, Refusal& refusal);

// How long to wait, milliseconds. A gate that becomes the proxy waits for 20 ms and ignores --probe-timeout. While it
// waits its container runs, and a kubelet that has lost the container's hook takes a running sidecar for a started one:
// no kubelet or runtime that is restarted may be back before the gate has ended. The kubelet then starts it again.
uint64_t TimeoutMs(const Options& options);

// Whether the rules take what this user sends over lo to the inbound port, as they do for the proxy. Each owner's rules
// end with one that lets everybody else's traffic on lo go, so without loopback among what is captured it is the first
// owner alone.
bool IsCaptured(const Options& options, uint32_t uid, uint32_t gid);

// The families of a pod with these addresses that get rules. `v4_beyond_link`: whether one of IPv4 is not link-local.
FamilySet Captured(const Options& options, FamilySet present, bool v4_beyond_link);

// Whether `address` (host byte order) is what the rules take for the application's own loopback, and leave alone.
bool IsLoopback(const Options& options, uint32_t address);

extern const char kHelp[];

}  // namespace ipnc::gate
