// The floor of an install through legacy iptables: what a netns holds is read once, and written again into others.
#pragma once

#include <net/if.h>
#include <netinet/in.h>

#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace bench {

struct Failure {
  int number;
  std::string what;
};

inline int Check(int result, const char* what) {
  if (result < 0) throw Failure{errno, what};
  return result;
}

inline const int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

// Runs `body` in the netns at `path`.
template <typename Body>
void Inside(const std::string& path, Body body) {
  const int netns = Check(open(path.c_str(), O_RDONLY | O_CLOEXEC), "open");
  Check(setns(netns, CLONE_NEWNET), "setns");
  const int fd = Check(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
  body(fd);
  close(fd);
  Check(setns(home, CLONE_NEWNET), "setns");
  close(netns);
}

inline xt_counters discarded[8];

template <typename Replace, typename Info, typename GetEntries>
std::vector<char> ReadNat(int fd, int level) {
  Info info{};
  std::strcpy(info.name, "nat");
  socklen_t length = sizeof(info);
  Check(getsockopt(fd, level, IPT_SO_GET_INFO, &info, &length), "SO_GET_INFO");
  std::vector<char> entries(sizeof(GetEntries) + info.size);
  std::strcpy(entries.data(), "nat");
  reinterpret_cast<GetEntries*>(entries.data())->size = info.size;
  length = static_cast<socklen_t>(entries.size());
  Check(getsockopt(fd, level, IPT_SO_GET_ENTRIES, entries.data(), &length), "SO_GET_ENTRIES");
  Replace replace{};
  std::strcpy(replace.name, "nat");
  replace.valid_hooks = info.valid_hooks;
  replace.num_entries = info.num_entries;
  replace.size = info.size;
  std::memcpy(replace.hook_entry, info.hook_entry, sizeof(info.hook_entry));
  std::memcpy(replace.underflow, info.underflow, sizeof(info.underflow));
  replace.num_counters = 5;  // a pristine nat table
  replace.counters = discarded;
  std::vector<char> blob(sizeof(replace) + info.size);
  std::memcpy(blob.data(), &replace, sizeof(replace));
  std::memcpy(blob.data() + sizeof(replace), entries.data() + sizeof(GetEntries), info.size);
  return blob;
}

struct Tables {
  std::vector<char> v4, v6;
};

inline std::map<std::string, Tables> templates;

inline void Template(const std::string& name, const std::string& path) {
  Inside(path, [&name](int fd) {
    templates[name] = {ReadNat<ipt_replace, ipt_getinfo, ipt_get_entries>(fd, SOL_IP),
                       ReadNat<ip6t_replace, ip6t_getinfo, ip6t_get_entries>(fd, SOL_IPV6)};
  });
}

// What native/route.cc sends, in bytes.
inline void AddAddress() {
  struct {
    nlmsghdr header;
    ifaddrmsg address;
    rtattr local;
    in6_addr value;
    rtattr flags;
    uint32_t flag_bits;
  } request{
      .header = {.nlmsg_len = sizeof(request),
                 .nlmsg_type = RTM_NEWADDR,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
                 .nlmsg_seq = 1,
                 .nlmsg_pid = 0},
      .address = {.ifa_family = AF_INET6, .ifa_prefixlen = 128, .ifa_flags = 0, .ifa_scope = 0, .ifa_index = 1},
      .local = {.rta_len = RTA_LENGTH(sizeof(in6_addr)), .rta_type = IFA_LOCAL},
      .value = {{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6}}},
      .flags = {.rta_len = RTA_LENGTH(sizeof(uint32_t)), .rta_type = IFA_FLAGS},
      .flag_bits = IFA_F_NODAD | IFA_F_NOPREFIXROUTE,
  };
  struct {
    nlmsghdr header;
    nlmsgerr error;
    char rest[512];
  } answer{};
  const int fd = Check(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), "socket");
  Check(static_cast<int>(send(fd, &request, sizeof(request), 0)), "send");
  Check(static_cast<int>(recv(fd, &answer, sizeof(answer), 0)), "recv");
  close(fd);
  if (answer.error.error != 0) throw Failure{-answer.error.error, "address"};
}

// By `fd`, a socket of the netns that the thread is in.
inline void ReplayHere(const std::string& name, int fd) {
  const auto& [v4, v6] = templates.at(name);
  Check(setsockopt(fd, SOL_IP, IPT_SO_SET_REPLACE, v4.data(), static_cast<socklen_t>(v4.size())), "v4");
  Check(setsockopt(fd, SOL_IPV6, IP6T_SO_SET_REPLACE, v6.data(), static_cast<socklen_t>(v6.size())), "v6");
}

}  // namespace bench
