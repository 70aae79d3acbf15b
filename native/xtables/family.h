// The differences between ip_tables and ip6_tables, so that the other code exists only once.
#pragma once

// First: the kernel's ip_tables.h pulls <linux/if.h>, which yields to it and not the other way round.
#include <net/if.h>

#include <libiptc/libiptc.h>
#include <netinet/in.h>

#include <climits>

extern "C" {  // libip6tc.h lacks it
#include <libiptc/libip6tc.h>
}

#include "native/rule.h"

namespace ipnc::xtables {

struct V4 {
  static constexpr Family kFamily = Family::kV4;
  static constexpr const char* kName = "IPv4";
  static constexpr int kSocketLevel = SOL_IP;
  static constexpr size_t kAddressSize = 4;
  using Entry = ipt_entry;
  using Replace = ipt_replace;
  using Info = ipt_getinfo;
  using GetEntries = ipt_get_entries;

  static auto& Ip(auto& entry) { return entry.ip; }

  static xtc_handle* Init(const char* table) { return iptc_init(table); }
  static void Free(xtc_handle* h) { iptc_free(h); }
  static int Commit(xtc_handle* h) { return iptc_commit(h); }
  static int IsChain(const char* chain, xtc_handle* h) { return iptc_is_chain(chain, h); }
  static int Append(const char* chain, const Entry* entry, xtc_handle* h) { return iptc_append_entry(chain, entry, h); }
  static int CreateChain(const char* chain, xtc_handle* h) { return iptc_create_chain(chain, h); }
};

struct V6 {
  static constexpr Family kFamily = Family::kV6;
  static constexpr const char* kName = "IPv6";
  static constexpr int kSocketLevel = SOL_IPV6;
  static constexpr size_t kAddressSize = 16;
  using Entry = ip6t_entry;
  using Replace = ip6t_replace;
  using Info = ip6t_getinfo;
  using GetEntries = ip6t_get_entries;

  static auto& Ip(auto& entry) { return entry.ipv6; }

  static xtc_handle* Init(const char* table) { return ip6tc_init(table); }
  static void Free(xtc_handle* h) { ip6tc_free(h); }
  static int Commit(xtc_handle* h) { return ip6tc_commit(h); }
  static int IsChain(const char* chain, xtc_handle* h) { return ip6tc_is_chain(chain, h); }
  static int Append(const char* chain, const Entry* entry, xtc_handle* h) {
    return ip6tc_append_entry(chain, entry, h);
  }
  static int CreateChain(const char* chain, xtc_handle* h) { return ip6tc_create_chain(chain, h); }
};

}  // namespace ipnc::xtables
