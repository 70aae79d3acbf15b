#include "native/gate/options.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <optional>
#include <utility>

namespace ipnc::gate {
namespace {

constexpr char kPort[] = "not a port; expected a number from 1 to 65535";
constexpr char kRange[] = "not a port or a range of ports; expected numbers from 1 to 65535, such as 8080 or 8000-8100";
constexpr char kId[] = "not a numeric id; expected a number from 0 to 4294967294, such as 1337";
constexpr char kCidr[] = "not a CIDR; expected a CIDR such as 10.0.0.0/8 or fd00::/8";
constexpr char kFamilies[] = "not a known value; expected one of auto, 4, 6 and 4,6";
constexpr char kDuration[] = "not a duration; expected more than 0 and at most 24h, such as 300s or 1m30s";
constexpr uint64_t kDay = 24ull * 3600 * 1'000'000;

std::optional<uint64_t> Integer(std::string_view text, uint64_t low, uint64_t high, int base = 10) {
  uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value, base);
  if (error != std::errc() || stop != end || value < low || value > high) return std::nullopt;
  if (base == 10 && text.size() > 1 && text.front() == '0') return std::nullopt;
  return value;
}

// As Go's strings.TrimSpace: a block of YAML ends with a line break.
std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\n\v\f\r";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == text.npos) return text.substr(0, 0);
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

// What stands before the first `separator`, which goes with it; the rest stays.
std::string_view TakeUntil(std::string_view& text, char separator) {
  const size_t end = text.find(separator);
  const std::string_view taken(text.data(), end == text.npos ? text.size() : end);
  text.remove_prefix(end == text.npos ? text.size() : end + 1);
  return taken;
}

// Hands each item of a list to `each` until that says false; whether it never did. A list of blanks is empty.
template <typename Each>
bool ForEach(std::string_view list, Each each) {
  if (Trimmed(list).empty()) return true;
  const bool dangling = list.ends_with(',');
  while (!list.empty())
    if (!each(Trimmed(TakeUntil(list, ',')))) return false;
  return !dangling || each(std::string_view(""));
}

bool ReadRange(std::string_view text, uint64_t& first, uint64_t& last) {
  const std::string_view from = TakeUntil(text, '-');
  const bool one = from.data() + from.size() == text.data() && text.empty();
  const auto low = Integer(from, 1, 65535);
  const auto high = one ? low : Integer(text, 1, 65535);
  if (!low || !high || *high < *low) return false;
  first = *low;
  last = *high;
  return true;
}

bool HasPort(std::string_view list, uint16_t port) {
  return !ForEach(list, [port](std::string_view item) {
    uint64_t first = 0, last = 0;
    return !(ReadRange(item, first, last) && first <= port && port <= last);
  });
}

bool AreIds(std::string_view list) {
  return !Trimmed(list).empty() &&
         ForEach(list, [](std::string_view item) { return Integer(item, 0, UINT32_MAX - 1).has_value(); });
}

struct Cidr {
  bool v6 = false;
  unsigned char address[16] = {};
  uint8_t prefix = 0;
};

std::optional<Cidr> ReadCidr(std::string_view text) {
  char address[INET6_ADDRSTRLEN] = {};
  const std::string_view head = TakeUntil(text, '/');
  if (head.size() >= sizeof(address)) return std::nullopt;
  std::memcpy(address, head.data(), head.size());
  Cidr cidr;
  if (inet_pton(AF_INET, address, cidr.address) != 1) {
    cidr.v6 = true;
    if (inet_pton(AF_INET6, address, cidr.address) != 1) return std::nullopt;
  }
  const auto prefix = Integer(text, 0, cidr.v6 ? 128 : 32);
  if (!prefix) return std::nullopt;
  cidr.prefix = static_cast<uint8_t>(*prefix);
  return cidr;
}

// Readers put what they read into the options and return nothing, or return what is wrong and what is expected.
using Reader = const char* (*)(const char*, Options&);

template <uint16_t Options::*kMember>
const char* ReadPort(const char* text, Options& options) {
  const auto port = Integer(text, 1, 65535);
  if (!port) return kPort;
  options.*kMember = static_cast<uint16_t>(*port);
  return nullptr;
}

const char* ReadMode(const char* text, Options& options) {
  const std::string_view mode = text;
  if (mode != "REDIRECT" && mode != "TPROXY" && mode != "NONE")
    return "not a known value; expected one of REDIRECT, TPROXY, NONE";
  options.expect = mode == "REDIRECT" ? Expect::kRedirect : mode == "TPROXY" ? Expect::kTproxy : Expect::kNone;
  return nullptr;
}

const char* ReadExpect(const char* text, Options& options) {
  const std::string_view expect = text;
  if (expect == "auto") return nullptr;
  if (expect != "redirect" && expect != "tproxy" && expect != "none")
    return "not a known value; expected one of redirect, tproxy, none, auto";
  options.expect = expect == "redirect" ? Expect::kRedirect : expect == "tproxy" ? Expect::kTproxy : Expect::kNone;
  return nullptr;
}

const char* ReadUids(const char* text, Options& options) {
  if (!AreIds(text)) return kId;
  options.uids = text;
  return nullptr;
}

const char* ReadGids(const char* text, Options& options) {
  if (!AreIds(text)) return kId;
  options.gids = text;
  return nullptr;
}

const char* ReadInboundPorts(const char* text, Options& options) {
  const std::string_view list = Trimmed(text);
  uint64_t first, last;
  if (list != "*" && !ForEach(list, [&](std::string_view item) { return ReadRange(item, first, last); })) return kRange;
  options.captures_inbound = !list.empty();
  return nullptr;
}

const char* ReadExcludedPorts(const char* text, Options& options) {
  uint64_t first, last;
  if (!ForEach(text, [&](std::string_view item) { return ReadRange(item, first, last); })) return kRange;
  options.excluded_ports = text;
  return nullptr;
}

const char* ReadInterfaces(const char* text, Options& options) {
  options.excludes_lo = !ForEach(text, [](std::string_view item) { return item != "lo"; });
  return nullptr;
}

const char* ReadOutboundCidrs(const char* text, Options& options) {
  options.captures_loopback = false;
  if (Trimmed(text) == "*") return nullptr;
  const bool all = ForEach(text, [&options](std::string_view item) {
    const auto cidr = ReadCidr(item);
    if (!cidr) return false;
    if (cidr->v6 ? std::memcmp(cidr->address, &in6addr_loopback, 16) == 0 : cidr->address[0] == 127)
      options.captures_loopback = true;
    return true;
  });
  return all ? nullptr : kCidr;
}

const char* ReadLoopback(const char* text, Options& options) {
  const auto cidr = ReadCidr(text);
  if (!cidr || cidr->v6 || cidr->address[0] != 127 || cidr->prefix < 8)
    return "not an IPv4 loopback CIDR; expected a CIDR inside 127.0.0.0/8, such as 127.0.0.1/32";
  uint32_t address;
  std::memcpy(&address, cidr->address, sizeof(address));
  options.loopback_address = ntohl(address);
  options.loopback_prefix = cidr->prefix;
  return nullptr;
}

const char* ReadMark(const char* text, Options& options) {
  std::string_view number = text;
  const bool hex = number.starts_with("0x") || number.starts_with("0X");
  if (hex) number.remove_prefix(2);
  const auto mark = Integer(number, 1, UINT32_MAX, hex ? 16 : 10);
  if (!mark) return "not a mark; expected 1 to 4294967295 or 0x1 to 0xffffffff, such as 1337";
  options.tproxy_mark = static_cast<uint32_t>(*mark);
  return nullptr;
}

const char* ReadTable(const char* text, Options& options) {
  const auto table = Integer(text, 1, UINT32_MAX);
  if (!table) return "not the number of a route table; expected a number from 1 to 4294967295, such as 133";
  options.tproxy_table = static_cast<uint32_t>(*table);
  return nullptr;
}

// As Go's strconv.ParseBool.
template <bool Options::*kMember>
const char* ReadBoolean(const char* text, Options& options) {
  for (const std::string_view word : {"1", "t", "T", "true", "TRUE", "True"})
    if (word == text) return options.*kMember = true, nullptr;
  for (const std::string_view word : {"0", "f", "F", "false", "FALSE", "False"})
    if (word == text) return options.*kMember = false, nullptr;
  return "not a boolean; expected true or false";
}

const char* ReadUnserved(const char* text, Options& options) {
  const std::string_view choice = text;
  // What is blocked is redirected as well.
  options.leaves_unserved = choice == "leave";
  return choice == "leave" || choice == "capture" || choice == "block"
             ? nullptr
             : "not a known value; expected one of leave, capture, block";
}

const char* ReadFamilies(const char* text, Options& options) {
  const std::string_view families = text;
  options.auto_families = families == "auto";
  options.families = {.v4 = families == "4" || families == "4,6" || families == "6,4",
                      .v6 = families == "6" || families == "4,6" || families == "6,4"};
  return options.auto_families || options.families.any() ? nullptr : kFamilies;
}

// As Go's time.ParseDuration, without a sign.
template <uint64_t Options::*kMember>
const char* ReadDuration(const char* text, Options& options) {
  struct Unit {
    std::string_view name;
    uint64_t nanoseconds;
  };
  constexpr Unit kUnits[] = {{"ns", 1},         {"us", 1000},         {"\u00b5s", 1000},     {"\u03bcs", 1000},
                             {"ms", 1'000'000}, {"s", 1'000'000'000}, {"m", 60'000'000'000}, {"h", 3'600'000'000'000}};
  std::string_view rest = text;
  uint64_t total = 0;  // nanoseconds
  do {
    const auto is_digit = [&rest] { return !rest.empty() && rest.front() >= '0' && rest.front() <= '9'; };
    uint64_t whole = 0, fraction = 0, scale = 1;
    bool digits = false;
    for (; is_digit(); rest.remove_prefix(1), digits = true) {
      whole = whole * 10 + static_cast<uint64_t>(rest.front() - '0');
      if (whole > kDay * 1000) return kDuration;
    }
    if (rest.starts_with('.')) {
      for (rest.remove_prefix(1); is_digit(); rest.remove_prefix(1), digits = true)
        if (scale < 1'000'000) {
          scale *= 10;
          fraction = fraction * 10 + static_cast<uint64_t>(rest.front() - '0');
        }
    }
    std::string_view name = rest;
    while (!rest.empty() && !is_digit() && rest.front() != '.') rest.remove_prefix(1);
    name.remove_suffix(rest.size());
    uint64_t unit = 0;
    for (const Unit& known : kUnits)
      if (known.name == name) unit = known.nanoseconds;
    if (!digits || unit == 0 || whole > kDay * 1000 / unit) return kDuration;
    total += whole * unit + fraction * unit / scale;
  } while (!rest.empty());
  if (total == 0 || total > kDay * 1000) return kDuration;
  options.*kMember = (total + 999'999) / 1'000'000;
  return nullptr;
}

const char* ReadAnnotations(const char* text, Options& options) {
  options.annotations = text;
  options.annotations_named = true;
  return *text == '/' ? nullptr : "not an absolute path; expected a path such as /etc/podinfo/pod_annotations";
}

const char* ReadTerminationLog(const char* text, Options& options) {
  options.termination_log = text;
  return *text == '/' ? nullptr : "not an absolute path; expected a path such as /dev/termination-log";
}

const char* ReadReadyPort(const char* text, Options& options) {
  return ReadPort<&Options::ready_port>(text, options);
}

const char* ReadHelp(const char*, Options& options) {
  options.help = true;
  return nullptr;
}

struct Known {
  std::string_view flag;
  char letter = 0;
  bool takes_value = true;
  Reader read = nullptr;  // nothing: it says nothing about what is to be waited for
  std::string_view environment[2] = {};
  bool takes_empty = false;  // in the environment, where other options take it for unset
};

// Read in this order, so that of two that say the same the gate's own decides.
constexpr Known kKnown[] = {
    // What the rules are made of (lib/istio/options.ts).
    {"istio-inbound-interception-mode", 'm', true, ReadMode, {"ISTIO_INBOUND_INTERCEPTION_MODE"}},
    {"istio-inbound-ports", 'b', true, ReadInboundPorts, {"ISTIO_INBOUND_PORTS"}, true},
    {"istio-local-exclude-ports", 'd', true, nullptr, {"ISTIO_LOCAL_EXCLUDE_PORTS"}},
    {"istio-inbound-tproxy-mark", 't', true, ReadMark, {"ISTIO_INBOUND_TPROXY_MARK"}},
    {"istio-inbound-tproxy-route-table", 'r', true, ReadTable, {"ISTIO_INBOUND_TPROXY_ROUTE_TABLE"}},
    {"istio-service-cidr", 'i', true, ReadOutboundCidrs, {"ISTIO_SERVICE_CIDR"}, true},
    {"istio-service-exclude-cidr", 'x', true, nullptr, {"ISTIO_SERVICE_EXCLUDE_CIDR"}},
    {"istio-outbound-ports", 'q', true, nullptr, {"ISTIO_OUTBOUND_PORTS"}},
    {"istio-local-outbound-ports-exclude", 'o', true, ReadExcludedPorts, {"ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE"}, true},
    {"owner-groups", 0, true, nullptr, {"ISTIO_OUTBOUND_OWNER_GROUPS"}},
    {"owner-groups-exclude", 0, true, nullptr, {"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"}},
    {"istio-exclude-interfaces", 'c', true, ReadInterfaces, {"ISTIO_EXCLUDE_INTERFACES"}, true},
    {"kube-virt-interfaces", 'k', true, nullptr, {"KUBE_VIRT_INTERFACES"}},
    {"loopback-cidr", 0, true, ReadLoopback, {"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"}},
    {"envoy-port", 'p', true, ReadPort<&Options::outbound_port>, {"ENVOY_PORT"}},
    {"inbound-capture-port", 'z', true, ReadPort<&Options::inbound_port>, {"INBOUND_CAPTURE_PORT"}},
    {"inbound-tunnel-port", 'e', true, ReadPort<&Options::tunnel_port>, {"INBOUND_TUNNEL_PORT"}},
    {"proxy-uid", 'u', true, ReadUids, {"PROXY_UID"}},
    {"proxy-gid", 'g', true, ReadGids, {"PROXY_GID"}},
    {"redirect-dns", 0, false, ReadBoolean<&Options::captures_dns>, {"REDIRECT_DNS", "ISTIO_META_DNS_CAPTURE"}},
    {"capture-all-dns", 0, false, nullptr, {"CAPTURE_ALL_DNS"}},
    {"dns-servers"},
    {"drop-invalid", 0, false, nullptr, {"DROP_INVALID", "INVALID_DROP"}},
    {"dual-stack", 0, false, ReadBoolean<&Options::dual_stack>, {"DUAL_STACK", "ISTIO_DUAL_STACK"}},
    {"ip-families", 0, true, ReadFamilies},
    {"unserved-families", 0, true, ReadUnserved, {"IPNC_UNSERVED_FAMILIES"}},
    // How istio-iptables goes about it (lib/istio/foreign.ts).
    {"iptables-probe-port", 0, true, ReadPort<&Options::probe_port>, {"IPTABLES_PROBE_PORT"}},
    {"probe-timeout", 0, true, ReadDuration<&Options::probe_timeout_ms>, {"PROBE_TIMEOUT"}},
    {"dry-run", 'n', false},
    {"cleanup-only", 0, false},
    {"reconcile", 0, false},
    {"force-apply", 0, false},
    {"run-validation", 0, false},
    {"skip-rule-apply", 0, false},
    {"native-nftables", 0, false},
    {"force-iptables-binary"},
    {"network-namespace"},
    {"cni-mode", 0, false},
    {"host-nsenter-exec", 0, false},
    {"iptables-trace-logging", 0, false},
    {"restore-format", 'f', false},
    {"log_output_level"},
    {"log_as_json", 0, false},
    {"vklog"},
    // The gate's own.
    {"expect", 0, true, ReadExpect, {"IPNC_EXPECT"}},
    {"families", 0, true, ReadFamilies, {"IPNC_FAMILIES"}},
    {"timeout", 0, true, ReadDuration<&Options::timeout_ms>, {"IPNC_TIMEOUT"}},
    {"annotations", 0, true, ReadAnnotations, {"IPNC_ANNOTATIONS"}},
    {"termination-log", 0, true, ReadTerminationLog, {"IPNC_TERMINATION_LOG"}},
    {"await-ready", 0, true, ReadReadyPort},
    {"help", 'h', false, ReadHelp},
};
constexpr size_t kCount = sizeof(kKnown) / sizeof(kKnown[0]);
constexpr size_t kFirstOfOwn = [] {
  size_t at = 0;
  while (kKnown[at].flag != "expect") ++at;
  return at;
}();

// Where a value came from, and the value.
struct Given {
  const char* text = nullptr;
  std::string_view variable;
};

bool Refuse(Refusal& refusal, Exit code, std::string_view field, std::string_view value, std::string_view wrong) {
  refusal.code = code;
  refusal.message << field << ": " << Quoted(value) << ": " << wrong;
  return false;
}

Text<96> FieldOf(const Known& known, const Given& given) {
  Text<96> field;
  if (!given.variable.empty()) return field << given.variable << " (environment)";
  if (known.letter) field << '-' << known.letter << ", ";
  return field << "--" << known.flag;
}

bool IsProgram(std::string_view word, std::string_view name) {
  return word.ends_with(name) && (word.size() == name.size() || word[word.size() - name.size() - 1] == '/');
}

// As pflag reads them: `--flag value`, `--flag=value`, `-f value`, `-fvalue`, `-f=value`; a boolean takes a value only
// with `=`. Flags of istio-iptables before that word are the cluster's defaults.
bool ReadWords(const char* const* words, Given (&given)[kCount], Given (&defaults)[kCount], Options& options,
               Refusal& refusal) {
  const auto usage = [&refusal](std::string_view word, std::string_view wrong) {
    return Refuse(refusal, Exit::kUsage, "argument", word, wrong);
  };
  for (const char* const* at = words; *at; ++at) {
    const std::string_view word = *at;
    if (word == "--") {
      options.program = at + 1;
      if (!options.program[0]) return usage(word, "the last argument; expected a program after it");
      if (*options.program[0] != '/')
        return usage(options.program[0], "not an absolute path; expected the path of a program");
      break;
    }
    if (at == words && IsProgram(word, "pod-network-gate")) continue;
    if (IsProgram(word, "istio-iptables")) {
      for (size_t i = 0; i < kFirstOfOwn; ++i)
        if (given[i].text) defaults[i] = std::exchange(given[i], {});
      continue;
    }
    if (!word.starts_with('-') || word.size() < 2)
      return usage(word, "not a flag; expected flags of the gate, then istio-iptables and its flags (see --help)");
    const bool is_long = word.starts_with("--");
    const size_t equals = is_long ? word.find('=') : word.npos;
    std::string_view name = word;
    if (equals != word.npos) name.remove_suffix(word.size() - equals);
    if (is_long) name.remove_prefix(2);
    const Known* known = nullptr;
    for (const Known& each : kKnown)
      if (is_long ? each.flag == name : each.letter == word[1]) known = &each;
    const bool logging = is_long && name.starts_with("log_");
    if (!known && !logging)
      return usage(word,
                   "an unknown flag; expected a flag of the gate, or a flag of istio-iptables that this version knows");
    const char* value = nullptr;
    if (equals != word.npos) {
      value = *at + equals + 1;
    } else if (!is_long && word.size() > 2) {
      value = *at + (word[2] == '=' ? 3 : 2);
    } else if (known && !known->takes_value) {
      value = "true";
    } else if (!known && (!at[1] || *at[1] == '-')) {
      // Whether it takes a value is not known, and no value of a logging flag begins with a dash.
      value = "true";
    } else if (!(value = *++at)) {
      return usage(word, "the value is missing; expected a value after the flag");
    }
    if (known) given[known - kKnown] = {value, {}};
  }
  return true;
}

// The kubelet sets ENVOY_PORT=tcp://10.0.0.1:80 where a Service is named envoy, and the like for others.
bool IsServiceLink(std::string_view value) {
  return value.starts_with("tcp://") || value.starts_with("udp://") || value.starts_with("sctp://");
}

Given FromEnvironment(const Known& known, const char* const* environment) {
  for (const std::string_view variable : known.environment) {
    if (variable.empty()) continue;
    for (const char* const* at = environment; *at; ++at) {
      const std::string_view entry = *at;
      if (!entry.starts_with(variable) || entry.size() == variable.size() || entry[variable.size()] != '=') continue;
      const char* value = *at + variable.size() + 1;
      if (IsServiceLink(value) || (*value == '\0' && !known.takes_empty)) continue;
      return {value, variable};
    }
  }
  return {};
}

// What no value shows by itself: rules that stand before those which the probe is to meet.
bool CheckTogether(const Options& options, Refusal& refusal) {
  if (options.expect == Expect::kNone) return true;
  Text<8> port;
  port << options.probe_port;
  const auto refuse = [&](std::string_view why) {
    Line wrong;
    wrong << why << ", so the probe never succeeds; expected another port, such as 15002";
    return Refuse(refusal, Exit::kConfiguration, "--iptables-probe-port", port.view(), wrong.view());
  };
  if (options.probe_port == options.tunnel_port) return refuse("the proxy's own tunnel port (--inbound-tunnel-port)");
  if (options.captures_dns && options.probe_port == 53) return refuse("redirected to the proxy's DNS (--redirect-dns)");
  if (HasPort(options.excluded_ports, options.probe_port))
    return refuse("not captured (--istio-local-outbound-ports-exclude)");
  if (options.excludes_lo)
    return Refuse(refusal, Exit::kConfiguration, "-c, --istio-exclude-interfaces", "lo",
                  "the probe uses lo, so it never succeeds; expected other interfaces");
  return true;
}

}  // namespace

bool ReadOptions(const char* const* words, const char* const* environment, Options& options, Refusal& refusal) {
  Given given[kCount], defaults[kCount];
  if (!ReadWords(words, given, defaults, options, refusal)) return false;
  for (size_t i = 0; i < kCount; ++i) {
    const Known& known = kKnown[i];
    if (!known.read) continue;
    Given value = given[i].text ? given[i] : FromEnvironment(known, environment);
    if (!value.text) value = defaults[i];
    if (!value.text) continue;
    const char* wrong = known.read(value.text, options);
    if (!wrong) continue;
    const Exit code = value.variable.empty() ? Exit::kUsage : Exit::kConfiguration;
    return Refuse(refusal, code, FieldOf(known, value).view(), value.text, wrong);
  }
  return options.help || CheckTogether(options, refusal);
}

uint64_t TimeoutMs(const Options& options) {
  if (options.timeout_ms != 0) return options.timeout_ms;
  // As long as Istio's own startup probe: 600 attempts, one a second.
  if (options.ready_port != 0) return 600'000;
  if (options.program) return 20;
  return options.probe_timeout_ms != 0 ? options.probe_timeout_ms : 300'000;
}

bool IsCaptured(const Options& options, uint32_t uid, uint32_t gid) {
  enum class Verdict { kCaptured, kLetGo, kGoOn } verdict = Verdict::kGoOn;
  const auto owners = [&](std::string_view list, uint32_t id) {
    ForEach(list, [&](std::string_view item) {
      if (Integer(item, 0, UINT32_MAX) == id) {
        verdict = Verdict::kCaptured;
      } else if (!options.captures_loopback) {
        verdict = Verdict::kLetGo;
      }
      return verdict == Verdict::kGoOn;
    });
  };
  owners(options.uids, uid);
  if (verdict == Verdict::kGoOn) owners(options.gids.empty() ? options.uids : options.gids, gid);
  return verdict == Verdict::kCaptured;
}

FamilySet Captured(const Options& options, FamilySet present, bool v4_beyond_link) {
  const bool serves_v6 = options.dual_stack || !v4_beyond_link;
  return {.v4 = present.v4, .v6 = present.v6 && (serves_v6 || !options.leaves_unserved)};
}

bool IsLoopback(const Options& options, uint32_t address) {
  return ((address ^ options.loopback_address) >> (32 - options.loopback_prefix)) == 0;
}

const char kHelp[] = R"(pod-network-gate: waits until the redirect rules of a pod are active

  pod-network-gate [flags] [istio-iptables [its flags]]                   then ends
  pod-network-gate [flags] [istio-iptables [its flags]] -- PROGRAM ...    then becomes PROGRAM, with its arguments
  pod-network-gate --await-ready PORT                                     waits for the proxy instead

  --expect redirect|tproxy|none|auto   the kind of redirection (default: auto, the mode of -m)
  --families auto|4|6|4,6              the IP families (default: auto, the families of the pod's addresses)
  --timeout DURATION                   the longest wait (default: --probe-timeout if given, otherwise 300s;
                                       20ms with PROGRAM, 10m with --await-ready)
  --annotations FILE                   the pod's annotations, a file of a downwardAPI volume
                                       (default: /etc/podinfo/pod_annotations or /etc/istio/pod/annotations,
                                       if one of them exists)
  --termination-log FILE               gets the last line too (default: /dev/termination-log, if it exists)
  --await-ready PORT                   requests http://127.0.0.1:PORT/healthz/ready and [::1] until the answer is 200;
                                       for the postStart hook of the proxy's container

Environment variables: IPNC_EXPECT, IPNC_FAMILIES, IPNC_TIMEOUT, IPNC_ANNOTATIONS, IPNC_TERMINATION_LOG.
The gate accepts all flags and environment variables of istio-iptables. It uses those that say what is captured.
It must run as the proxy's uid, and needs no capability.

Exit codes: 0 the rules are active, 126 they are not active in time, 1 invalid configuration or a failed install,
2 invalid command line, 128 + n ended by signal n.
)";

}  // namespace ipnc::gate
