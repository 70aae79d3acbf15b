// Converts the types of lib/ruleset/model.ts and lib/ruleset/nftables/model.ts from JavaScript to C++. Checks all of it
// again, because this side runs as root.
#pragma once

#include <napi.h>

#include "native/install.h"

namespace ipnc {

// Throw Napi::TypeError, naming the property.
struct Forms {
  Ruleset ruleset;                        // without tables where they are nftables'
  std::vector<nftables::Table> nftables;  // empty where they are legacy iptables'
};
Forms FormsFromJs(const Napi::Value& ruleset, const Napi::Value& backend);
std::string PathFromJs(const Napi::Value& value);
// Reads four arguments: path, dev, ino, cookie.
NetnsRef NetnsFromJs(const Napi::CallbackInfo& info);

}  // namespace ipnc
