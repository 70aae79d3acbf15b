// The error of a job. Only native code throws it: workers.cc catches it, and to_js.cc turns it into a JavaScript Error
// like those of Node.
#pragma once

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace ipnc {

// Codes that are not errno names. Otherwise `Error::code` is empty.
inline constexpr char kBudget[] = "ERR_BUDGET";
inline constexpr char kHostNetns[] = "ERR_HOST_NETNS";
inline constexpr char kNotNetns[] = "ERR_NOT_NETNS";
inline constexpr char kInvalidRule[] = "ERR_INVALID_RULE";
inline constexpr char kQueueFull[] = "ERR_QUEUE_FULL";
inline constexpr char kTableLayout[] = "ERR_TABLE_LAYOUT";
inline constexpr char kRollback[] = "ERR_ROLLBACK";
inline constexpr char kVerify[] = "ERR_VERIFY";

struct Error {
  int number = 0;            // errno; 0 if there is a `code`
  std::string code = {};     // one of the above, or empty
  std::string syscall = {};  // "setns", "setsockopt(SO_SET_REPLACE)"
  std::string detail = {};   // a sentence, or empty
  std::string path = {};
  std::string table = {};     // "IPv4 nat"
  bool uncertain = false;     // the answer was lost, so the kernel may have made the change
  std::string rollback = {};  // what this failed job left in the netns, in words; empty if it left nothing
};

// "ESTALE". Internal numbers of the kernel, such as 524, have no name.
inline std::string ErrnoName(int number) {
  const char* name = strerrorname_np(number);
  return name ? name : std::string("E").append(std::to_string(number));
}

// "EPERM, setsockopt(SO_SET_REPLACE)"
inline std::string Reason(const Error& error) {
  std::string reason = error.code.empty() ? ErrnoName(error.number) : error.code;
  for (const std::string& part : {error.syscall, error.detail})
    if (!part.empty()) reason.append(", ").append(part);
  return reason;
}

[[noreturn]] inline void ThrowErrno(int number, std::string syscall, std::string detail = {}) {
  throw Error{.number = number, .syscall = std::move(syscall), .detail = std::move(detail)};
}

[[noreturn]] inline void ThrowCode(const char* code, std::string detail) {
  throw Error{.code = code, .detail = std::move(detail)};
}

[[noreturn]] inline void InvalidRule(std::string detail) {
  ThrowCode(kInvalidRule, std::move(detail));
}

// For system calls that return -1 and set errno.
inline int Check(int result, const char* syscall) {
  if (result < 0) ThrowErrno(errno, syscall);
  return result;
}

}  // namespace ipnc
