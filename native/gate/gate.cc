#include "native/gate/gate.h"

#include <arpa/inet.h>
#include <errno.h>

#include <cstring>

#include "native/gate/clock.h"

namespace ipnc::gate {
namespace {

constexpr int64_t kFallbackUs = 500'000;
constexpr int64_t kConfirmUs = 10'000;
constexpr int64_t kShortestHoldUs = 50;
constexpr int64_t kLongestHoldUs = 100'000;
constexpr int64_t kQuietUs = 1'000'000;
// What the proxy itself sends from, and what rules look at on lo (lib/istio/plan.ts).
constexpr uint32_t kPassthrough = 0x7f000006;

std::string_view Name(FamilySet families) {
  return families.v4 && families.v6 ? "IPv4 and IPv6" : families.v4 ? "IPv4" : "IPv6";
}

std::string_view ErrnoName(int error) {
  const char* name = strerrorname_np(error);
  return name ? name : "unknown error";
}

std::string_view What(Dialled dialled) {
  switch (dialled) {
    case Dialled::kRefused:
      return "refused";
    case Dialled::kUnanswered:
      return "not answered";
    case Dialled::kElsewhere:
      return "answered by another process";
    case Dialled::kUnreachable:
      return "impossible, because this address does not exist here";
    case Dialled::kNoListener:
      return "impossible, because the gate cannot listen on the loopback address of this family";
    default:
      return "captured";
  }
}

}  // namespace

int64_t Gate::ElapsedUs() const {
  return NowUs() - start_us_;
}

int64_t Gate::LeftUs(int64_t most) const {
  const int64_t left = static_cast<int64_t>(TimeoutMs(options_)) * 1000 - ElapsedUs();
  return left < 0 ? 0 : left < most ? left : most;
}

Ending Gate::Run() {
  start_us_ = NowUs();
  if (options_.expect == Expect::kNone) {
    Ending ending{static_cast<int>(Exit::kOpen), {}};
    ending.line << "open: mode NONE redirects nothing";
    return ending;
  }
  Ending refused{static_cast<int>(Exit::kConfiguration), {}};
  if (!Prepare(refused.line)) return refused;
  bool looked_again = false;
  for (Wake wake = Wake::kNone;;) {
    const bool first = looks_ == 0;
    if (Look() && (first || wake != Wake::kNone || Confirm())) return Open(wake);
    if (hints_.signal() != 0) return Stopped();
    if (told_ == Told::kFailed) return Failed();
    if (first) SayWaiting();
    if (wake != Wake::kNone) {
      if (HoldOff() == Wake::kSignal) return Stopped();
      // A true word may come a moment early: the kernel makes the local route of ::6 after the address. So each word
      // has a second look, even right after many that were false.
      const bool again = hold_us_ < kLongestHoldUs || !looked_again;
      looked_again = true;
      if (again && LeftUs() > 0) continue;
    }
    looked_again = false;
    do {
      if (LeftUs() == 0) return Expired();
      wake = hints_.Wait(LeftUs(kFallbackUs), false);
      if (wake == Wake::kSignal) return Stopped();
      if (wake != Wake::kFile) break;
      told_ = mark_file_.Read();
      if (told_ == Told::kFailed) return Failed();
      // A file that does not say so is no reason to look, and one that is written all the time none to be busy.
    } while (told_ != Told::kInitialized && (wake = HoldOff()) != Wake::kSignal);
    if (wake == Wake::kSignal) return Stopped();
  }
}

bool Gate::Prepare(Line& line) {
  const auto uid = static_cast<uint32_t>(geteuid()), gid = static_cast<uint32_t>(getegid());
  if (!IsCaptured(options_, uid, gid)) {
    std::string_view first = options_.uids;
    first = std::string_view(first.data(), first.find(',') == first.npos ? first.size() : first.find(','));
    line << "runs as uid " << uid << " and gid " << gid << ", but on lo the rules capture only traffic of uid "
         << (options_.captures_loopback ? options_.uids : first);
    if (options_.captures_loopback) line << " or gid " << (options_.gids.empty() ? options_.uids : options_.gids);
    line << ", so this gate would never open; set securityContext.runAsUser: " << first
         << ", or --proxy-uid if the proxy runs as another user";
    return false;
  }
  if (!PortsAreFree(line)) return false;
  deaf_to_datagrams_ = hints_.Open() != 0;
  hints_.Watch(options_.annotations);
  if (options_.annotations_named && mark_file_.Read() == Told::kNoFile) {
    line << "--annotations: " << Quoted(options_.annotations)
         << ": there is no such file; mount a downwardAPI volume with metadata.annotations there, or omit the flag";
    return false;
  }
  return true;
}

bool Gate::PortsAreFree(Line& line) {
  const bool v4 = options_.auto_families || options_.families.v4;
  const bool v6 = options_.auto_families || options_.families.v6;
  for (const bool is_v6 : {false, true}) {
    if (!(is_v6 ? v6 : v4)) continue;
    for (const uint16_t port : {options_.inbound_port, options_.outbound_port}) {
      const bool inbound = port == options_.inbound_port;
      const int error = inbound ? prober_.Listen(is_v6) : TryPort(is_v6, port);
      // No IPv6: the families that are waited for say whether that matters.
      if (error == 0 || error == EADDRNOTAVAIL || error == EAFNOSUPPORT) continue;
      line << (inbound ? "--inbound-capture-port: " : "--envoy-port: ") << (is_v6 ? "[::1]:" : "127.0.0.1:") << port;
      if (error == EADDRINUSE) {
        line << " is in use, but this port of the proxy must be free until the proxy starts; put this container before "
                "istio-proxy in initContainers, or free the port";
      } else {
        line << " cannot be opened (" << ErrnoName(error) << "); expected a port of 1024 or higher";
      }
      return false;
    }
  }
  return true;
}

FamilySet Gate::Wanted(const Addresses& addresses) {
  if (!options_.auto_families) return options_.families;
  if (addresses.global.any()) {
    FamilySet present = addresses.global;
    if (present.v6 && !Network::HasIpv6OnLoopback()) present.v6 = false;
    return Captured(options_, present, addresses.v4_beyond_link);
  }
  // As the controller: an address may come later.
  return {.v4 = true, .v6 = prober_.Listen(true) == 0};
}

bool Gate::Look() {
  ++looks_;
  const bool dial_own = IsLoopback(options_, kPassthrough);
  const Addresses addresses = options_.auto_families || dial_own ? network_.ReadAddresses() : Addresses{};
  target_ = dial_own ? addresses.v4 : kPassthrough;
  wanted_ = Wanted(addresses);
  probed_ = prober_.Probe(wanted_, target_);
  bool open = probed_.captured();
  if (options_.expect == Expect::kTproxy && options_.captures_inbound) {
    const auto has = [this](bool v6) {
      return network_.HasTproxyRoutes(v6, options_.tproxy_mark, options_.tproxy_table);
    };
    routed_ = {.v4 = wanted_.v4 && has(false), .v6 = wanted_.v6 && has(true)};
    open = open && routed_ == wanted_;
  }
  // Nobody without privileges can see the TPROXY rule; where the controller's word can be had, it is asked for.
  const bool needs_mark = options_.expect == Expect::kTproxy;
  if (open && !needs_mark) return true;
  told_ = mark_file_.Read();
  return open && (told_ == Told::kNoFile || told_ == Told::kInitialized);
}

bool Gate::Confirm() {
  return hints_.Wait(kConfirmUs, true) == Wake::kNone && Look();
}

Wake Gate::HoldOff() {
  const int64_t now = NowUs();
  const bool quiet = now - last_vain_us_ > kQuietUs;
  hold_us_ = quiet || hold_us_ == 0 ? kShortestHoldUs : hold_us_ * 2 < kLongestHoldUs ? hold_us_ * 2 : kLongestHoldUs;
  const Wake wake = hints_.Wait(LeftUs(hold_us_), true);
  last_vain_us_ = NowUs();
  return wake;
}

void Gate::SayWaiting() {
  Line line;
  line << "waiting up to " << Duration(static_cast<int64_t>(TimeoutMs(options_)) * 1000) << " for " << Name(wanted_)
       << " to be redirected to " << options_.inbound_port;
  if (deaf_to_datagrams_)
    line << "; another process uses the address for the controller's notifications, so the gate checks twice a second";
  if (told_ == Told::kUnreadable)
    line << "; " << options_.annotations << " cannot be read (" << ErrnoName(mark_file_.error()) << ")";
  line << '\n';
  [[maybe_unused]] const ssize_t wrote = write(STDOUT_FILENO, line.view().data(), line.view().size());
}

Ending Gate::Open(Wake wake) {
  Ending ending{static_cast<int>(Exit::kOpen), {}};
  const bool both = wanted_.v4 && wanted_.v6;
  ending.line << "open after " << Duration(ElapsedUs()) << ": " << Name(wanted_)
              << (both ? " are redirected to " : " is redirected to ") << options_.inbound_port;
  if (options_.expect == Expect::kTproxy) {
    if (options_.captures_inbound) ending.line << ", the TPROXY routes are installed";
    ending.line << (told_ == Told::kInitialized
                        ? ", the controller has marked the pod"
                        : ", the TPROXY rule was not checked because no annotations are mounted");
  }
  ending.line << "; ";
  if (looks_ == 1) {
    ending.line << "the rules were already active (1 probe)";
  } else {
    ending.line << (wake == Wake::kDatagram ? "woken by a datagram"
                    : wake == Wake::kFile   ? "woken by a change of the annotations"
                                            : "found by the periodic check")
                << " (" << looks_ << " probes)";
  }
  return ending;
}

Ending Gate::Expired() {
  Ending ending{static_cast<int>(Exit::kNotRedirected), {}};
  Line& line = ending.line;
  line << "not redirected within " << Duration(static_cast<int64_t>(TimeoutMs(options_)) * 1000) << ": ";
  std::string_view separator;
  for (const bool v6 : {false, true}) {
    if (!(v6 ? wanted_.v6 : wanted_.v4)) continue;
    const Dialled dialled = v6 ? probed_.v6 : probed_.v4;
    char address[INET_ADDRSTRLEN] = "";
    const in_addr target{.s_addr = htonl(target_)};
    inet_ntop(AF_INET, &target, address, sizeof(address));
    line << separator << (v6 ? "IPv6: the connection to [::6]:" : "IPv4: the connection to ") << (v6 ? "" : address)
         << (v6 ? "" : ":") << options_.probe_port << " was " << What(dialled);
    if (options_.expect == Expect::kTproxy && options_.captures_inbound && !(v6 ? routed_.v6 : routed_.v4))
      line << ", and \"ip " << (v6 ? "-6" : "-4") << " rule\" has no fwmark " << options_.tproxy_mark << " lookup "
           << options_.tproxy_table << ", or this table has no local default route";
    separator = "; ";
  }
  const std::string_view netns = mark_file_.marks().netns.view();
  if (told_ == Told::kNothing) line << "; the pod's annotations have no status";
  if (told_ == Told::kForAnother)
    line << "; the pod's annotations are about another network namespace " << Quoted(netns);
  if (told_ == Told::kInitialized) line << "; the pod's annotations say that the rules are installed";
  if (told_ == Told::kUnreadable)
    line << "; " << options_.annotations << " cannot be read (" << ErrnoName(mark_file_.error()) << ")";
  line << ". Check that istio-pod-network-controller runs on this node (kubectl get pods -A -o wide | grep "
          "istio-pod-network-controller), and read the Events of this pod (kubectl describe pod)";
  return ending;
}

Ending Gate::Failed() {
  Ending ending{static_cast<int>(Exit::kConfiguration), {}};
  ending.line << "the controller reports for this pod: " << mark_file_.marks().status;
  return ending;
}

Ending Gate::Stopped() {
  Ending ending{128 + hints_.signal(), {}};
  ending.line << "ended by signal " << hints_.signal() << " after " << Duration(ElapsedUs())
              << ", before the rules were active";
  return ending;
}

}  // namespace ipnc::gate
