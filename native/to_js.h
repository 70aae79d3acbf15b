// C++ -> JavaScript: the shapes of lib/native/addon.ts.
#pragma once

#include <napi.h>

#include "native/error.h"
#include "native/install.h"
#include "native/workers.h"

namespace ipnc {

// The names and numbers that both sides have to agree on, in the order in which they cross (LAYOUT in the same file).
Napi::Value LayoutToJs(Napi::Env env);
Napi::Value ToJs(Napi::Env env, const ProbeResult& result);
Napi::Value ToJs(Napi::Env env, const Identity& identity, const std::string& path);
Napi::Value ToJs(Napi::Env env, const Workers::Health& health);
// Flat, since it is made for every install: lib/native/addon.ts makes the object of it (`ApplyTuple`).
Napi::Value ToJs(Napi::Env env, const ApplyResult& result, double waited);
Napi::Value ToJs(Napi::Env env, const VerifyResult& result, double waited);
// An Error shaped like Node's own: code, errno, syscall, path; and table. Where something is left in the netns: the
// code ERR_ROLLBACK, `rollback`, and as `cause` the error that the job failed with.
Napi::Value ToJs(Napi::Env env, const Error& error);

}  // namespace ipnc
