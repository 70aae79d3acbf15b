// The little that the native tests need: named tests, CHECK, and faults on demand.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace check {

struct Test {
  const char* name;
  void (*run)();
};
std::vector<Test>& Tests();
// How many CHECKs were made, on any thread: main() fails a test that makes none.
inline std::atomic<long> checks = 0;
struct Register {
  Register(const char* name, void (*run)()) { Tests().push_back({name, run}); }
};

// Of all random input: IPNC_TEST_SEED, or always the same. A failure prints it.
uint32_t Seed();

// The calling thread's `call`-th setns from now on fails with EPERM; 0: none.
void FailSetns(int call);
// The calling thread's `call`-th system call from now on fails with `error`; 0: none. Counts what has a socket, ioctl,
// open, read and flock. Returns how many were made since the last call of this.
long FailCall(long call, int error = 0);
// As FailCall, but every call from the `call`-th on fails.
long FailCallsFrom(long call, int error = 0);
// Whether the kernel has for the calling thread's counters of a table the answer it has when somebody else has changed
// the table meanwhile: EINVAL.
void FailAddCounters(bool fails);
// SO_NETNS_COOKIE answers the calling thread with `cookie`; 0: with what the kernel says.
void FakeCookie(uint64_t cookie);
// The calling thread's `call`-th allocation from now on fails; 0: none. Returns how many were made since the last call.
long FailAllocation(long call);

}  // namespace check

#define CHECK_CONCAT2(a, b) a##b
#define CHECK_CONCAT(a, b) CHECK_CONCAT2(a, b)
#define TEST(name)                                                                                    \
  static void CHECK_CONCAT(Test, __LINE__)();                                                         \
  static const check::Register CHECK_CONCAT(register_, __LINE__)(name, CHECK_CONCAT(Test, __LINE__)); \
  static void CHECK_CONCAT(Test, __LINE__)()
#define CHECK(condition)                                                                                  \
  do {                                                                                                    \
    ++check::checks;                                                                                      \
    if (!(condition))                                                                                     \
      throw std::runtime_error(std::string(__FILE__) + ":" + std::to_string(__LINE__) + ": " #condition); \
  } while (false)
