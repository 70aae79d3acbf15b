// The whole of an install, a check and a clean-up of one netns: enter, tables of both families, routes, read back,
// come home. All or nothing. Runs on a thread of workers.cc.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "native/netns.h"
#include "native/nftables/install.h"
#include "native/route.h"
#include "native/rule.h"
#include "native/table_result.h"
#include "native/xtables/install.h"

namespace ipnc {

struct NetnsRef {
  std::string path;
  NetnsIdentity identity;
};

// Microseconds.
struct Timings {
  double enter = 0;
  double v4 = 0;
  double v6 = 0;
  double nftables = 0;
  double routes = 0;
  double verify = 0;
  double release = 0;
  double total = 0;
};
// In the order in which they cross to JavaScript; the first is the wait for a thread.
inline constexpr std::array<const char*, 9> kPhaseNames{"queue",  "enter",  "v4",      "v6",   "nftables",
                                                        "routes", "verify", "release", "total"};

struct Identity {
  NetnsIdentity netns;
  std::vector<Address> addresses;  // global ones
  bool ipv6 = false;               // the kernel has it, and it is not disabled on lo
  bool loopback_up = false;
  bool foreign_userns = false;  // by another user namespace than ours
  // The forms in which rules of ours stand there already.
  bool has_legacy = false;
  bool has_nftables = false;
  bool has_iptables_nft = false;  // Istio's rules in the tables of iptables-nft
};

// Why the rules may not do what they are for although they are all there. Bits.
enum Doubt : uint32_t {
  // IPv4 packets that TPROXY marks are dropped: net.ipv4.conf.*.src_valid_mark is 1.
  kSourceMark = 1,
  // The pod is a virtual machine of Kata's: its traffic is passed on by tc, before netfilter sees it.
  kVirtualMachine = 2,
};
// With the bits of Doubt: Istio's rules were removed from the tables of iptables-nft.
inline constexpr uint32_t kTookOver = 4;
// Their names in lib/native/addon.ts, from the lowest bit on.
inline constexpr std::array<const char*, 3> kDoubtNames{"sourceMark", "virtualMachine", "tookOver"};

struct ApplyResult {
  std::vector<TableResult> tables;
  std::vector<std::string> routes;  // what was done, as IpCommand has it
  uint32_t doubts = 0;
  Timings timings;
};

struct VerifyResult {
  std::vector<xtables::ActualTable> legacy;        // tables that differ
  std::vector<xtables::ActualTable> iptables_nft;  // Istio's in the tables of iptables-nft: none is wanted
  std::vector<nftables::Table> nftables;
  std::vector<std::string> missing_routes;  // as the commands that make them
  std::vector<std::string> surplus_routes;
  // Others' rules that can let traffic pass by ours.
  std::vector<xtables::ActualTable> legacy_ahead;
  std::vector<std::string> nftables_ahead;
  uint32_t doubts = 0;
  Timings timings;
};

// What this kernel and process can do. An error is an errno, 0 where it works.
struct ProbeResult {
  int netns = 0;  // of unshare or setns
  struct Table {
    Family family;
    TableName name;
    int error;
  };
  std::vector<Table> legacy;
  int nftables = 0;
  std::vector<std::string> missing_extensions;   // of legacy iptables
  std::vector<std::string> missing_expressions;  // of nftables
};

// `fresh`: the caller knows that nobody installed anything there yet, and what stands is not looked for.
Identity Identify(Home& home, const std::string& path, bool fresh = false);
ProbeResult Probe(Home& home);
// Removes everything of ours.
ApplyResult Clean(Home& home, const NetnsRef& target);

struct ApplyOptions {
  // The caller knows that nobody installed anything there yet, so leftovers in tables that the ruleset does not use
  // need no search. If a table turns out to have rules after all, the search is made.
  bool fresh = false;
  // Wake the pod's gate as soon as all stands.
  bool wake_gate = false;
  // Legacy rules of ours that are installed behind others' rules are moved in front of them.
  bool first = false;
};

class Session;  // native/install.cc

// A ruleset in one of two forms. The other form is what it wants nothing of: what stands there in it is taken away, so
// that a netns never keeps both.
class Compiled {
 public:
  // Builds the tables in a scratch netns: what this kernel refuses is refused here. Either `ruleset.tables` or
  // `nftables` is empty, or both.
  Compiled(Home& home, Ruleset ruleset, std::vector<nftables::Table> nftables = {});

  ApplyResult Apply(Home& home, const NetnsRef& target, ApplyOptions options) const;
  VerifyResult Verify(Home& home, const NetnsRef& target) const;
  // Bytes that it holds, roughly.
  size_t Size() const { return v4_.Size() + v6_.Size() + nftables_.Size(); }

 private:
  friend ApplyResult Clean(Home& home, const NetnsRef& target);
  Compiled(Ruleset ruleset, std::vector<nftables::Table> nftables);
  // In either form.
  bool HasRules() const { return is_nftables_ || !ruleset_.tables.empty(); }
  bool ReplacesTproxy(Session& visit) const;
  void TakeFromIptablesNft(Session& visit, ApplyResult& result) const;
  bool Install(Session& visit, ApplyOptions options, ApplyResult& result, Undo& undo) const;
  void InstallLegacy(Session& visit, ApplyOptions options, ApplyResult& result, Undo& undo) const;
  void InstallNftables(Session& visit, bool fresh, ApplyResult& result, Undo& undo) const;

  Ruleset ruleset_;
  bool is_nftables_;
  std::vector<RouteItem> routes_;
  xtables::Tables<xtables::V4> v4_;
  xtables::Tables<xtables::V6> v6_;
  nftables::Tables nftables_;
};

}  // namespace ipnc
