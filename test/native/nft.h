// A netns of one's own with a channel to its nf_tables, nft beside it, and rules to put there.
#pragma once

#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>

#include <linux/netlink.h>

#include <exception>
#include <thread>

#include "native/error.h"
#include "native/fd.h"
#include "native/nftables/encode.h"
#include "native/nftables/install.h"
#include "native/nftables/message.h"
#include "test/native/check.h"

namespace check {

// On a thread of its own, in a netns that goes with it.
template <typename Body>
void InNetns(Body body) {
  std::exception_ptr failure;
  std::thread([&] {
    try {
      CHECK(unshare(CLONE_NEWNET) == 0);
      const ipnc::Fd fd = ipnc::netlink::Open(NETLINK_NETFILTER);
      ipnc::Budget budget(std::chrono::hours(1));
      ipnc::nftables::Channel channel(fd.get(), budget);
      body(channel);
    } catch (const ipnc::Error& error) {
      failure = std::make_exception_ptr(std::runtime_error("errno " + std::to_string(error.number) + " " + error.code +
                                                           " " + error.syscall + " " + error.table + " " +
                                                           error.detail + " " + error.rollback));
    } catch (...) {
      failure = std::current_exception();
    }
  }).join();
  if (failure) std::rethrow_exception(failure);
}

// What nft answers in the calling thread's netns. Throws if it fails.
inline std::string Nft(const std::string& script) {
  const std::string command = "nft -nn -f - 2>&1 <<'END'\n" + script + "\nEND\n";
  FILE* pipe = popen(command.c_str(), "re");
  CHECK(pipe);
  std::string output;
  char buffer[4096];
  for (size_t size; (size = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) output.append(buffer, size);
  if (pclose(pipe) != 0) throw std::runtime_error("nft: " + output);
  return output;
}

// Ours as the kernel tells of them, without what it keeps for itself.
inline std::vector<ipnc::nftables::Bytes> Look(ipnc::nftables::Channel& channel) {
  const auto state = ipnc::nftables::ReadState(channel);
  CHECK(state);
  std::vector<ipnc::nftables::Bytes> tables;
  for (const auto& dump : state->dumps) {
    ipnc::nftables::Writer writer;
    ipnc::nftables::PutRecreation(writer, dump);
    tables.push_back(writer.bytes());
  }
  return tables;
}

// Numbers as a field of `width` bytes has them.
inline ipnc::nftables::FieldValue Value(ipnc::nftables::Field field, uint64_t number) {
  ipnc::nftables::FieldValue value{};
  const size_t width = ipnc::nftables::Info(field).width;
  for (size_t i = 0; i < width && i < 8; ++i) value[width - 1 - i] = static_cast<uint8_t>(number >> (8 * i));
  return value;
}

inline ipnc::nftables::Interval Name(std::string_view name) {
  ipnc::nftables::FieldValue value{};
  std::copy(name.begin(), name.end(), value.begin());
  return {value, value};
}

inline ipnc::nftables::Condition Where(ipnc::nftables::Field field,
                                       std::vector<std::pair<uint64_t, uint64_t>> intervals, bool inverted = false) {
  ipnc::nftables::Condition condition{field, inverted, {}};
  for (const auto& [first, last] : intervals) condition.values.push_back({Value(field, first), Value(field, last)});
  return condition;
}

inline ipnc::nftables::Condition Where(ipnc::nftables::Field field, uint64_t number, bool inverted = false) {
  return Where(field, {{number, number}}, inverted);
}

inline ipnc::nftables::Rule Do(std::vector<ipnc::nftables::Condition> conditions, ipnc::Target target) {
  return {.conditions = std::move(conditions), .counter = true, .target = std::move(target)};
}

inline ipnc::nftables::Condition Tcp() {
  return Where(ipnc::nftables::Field::kL4proto, IPPROTO_TCP);
}
inline ipnc::nftables::Condition Ipv4() {
  return Where(ipnc::nftables::Field::kNfproto, 2);
}

inline constexpr ipnc::nftables::Hook kNatOutput{ipnc::nftables::Hook::Type::kNat, ipnc::nftables::Hook::Point::kOutput,
                                                 -100};
inline constexpr ipnc::nftables::Hook kManglePrerouting{ipnc::nftables::Hook::Type::kFilter,
                                                        ipnc::nftables::Hook::Point::kPrerouting, -150};

// A nat table, with sets of both kinds; with `tproxy` a mangle table as well.
inline std::vector<ipnc::nftables::Table> SomeTables(uint16_t port, bool tproxy) {
  using namespace ipnc;
  using nftables::Field;
  std::vector<nftables::Table> tables;
  tables.push_back({TableName::kNat,
                    {{"istio-redirect", {}, {Do({Tcp()}, Redirect{port})}},
                     {"output",
                      kNatOutput,
                      {Do({Where(Field::kUid, 1337)}, Verdict::kReturn),
                       Do({Tcp(), Where(Field::kDestinationPort, {{22, 22}, {80, 80}})}, Verdict::kReturn),
                       Do({Ipv4(), Where(Field::kDestination4, {{0x0a000000, 0x0affffff}, {0xc0a80001, 0xc0a80001}})},
                          Verdict::kReturn),
                       Do({Tcp()}, Jump{"istio-redirect"})}}}});
  if (tproxy)
    tables.push_back({TableName::kMangle, {{"prerouting", kManglePrerouting, {Do({Tcp()}, Tproxy{port, 1337})}}}});
  return tables;
}

}  // namespace check
