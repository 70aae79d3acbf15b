// JavaScript -> C++: the shapes of lib/ruleset/model.ts. All of it is checked again: this side runs as root.
#pragma once

#include <napi.h>

#include "native/install.h"

namespace ipnc {

// Throw Napi::TypeError, naming the property.
Ruleset RulesetFromJs(const Napi::Value& value);
std::string PathFromJs(const Napi::Value& value);
// Of four arguments: path, dev, ino, cookie.
NetnsRef NetnsFromJs(const Napi::CallbackInfo& info);

}  // namespace ipnc
