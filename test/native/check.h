// The little that the native tests need: named tests, CHECK, and faults on demand.
#pragma once

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
struct Register {
  Register(const char* name, void (*run)()) { Tests().push_back({name, run}); }
};

// The calling thread's `call`-th setns from now on fails with EPERM; 0: none.
void FailSetns(int call);
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
    if (!(condition))                                                                                     \
      throw std::runtime_error(std::string(__FILE__) + ":" + std::to_string(__LINE__) + ": " #condition); \
  } while (false)
