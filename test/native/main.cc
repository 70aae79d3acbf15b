// Runs every test and prints "N passed, N failed". Linked with --wrap=setns; in the build without sanitizers malloc is
// ours as well, so that libiptc's allocations can be made to fail.
#include <cerrno>
#include <cstdlib>
#include <new>
#include <utility>

#include "test/native/check.h"

namespace check {
namespace {

thread_local int setns_left = 0;
thread_local long allocations = 0;
thread_local long allocation_to_fail = 0;

bool AllocationFails() {
  return ++allocations == allocation_to_fail;
}

}  // namespace

std::vector<Test>& Tests() {
  static std::vector<Test> tests;
  return tests;
}

void FailSetns(int call) {
  setns_left = call;
}

long FailAllocation(long call) {
  allocation_to_fail = call;
  return std::exchange(allocations, 0);
}

}  // namespace check

extern "C" {
int __real_setns(int fd, int type);
int __wrap_setns(int fd, int type) {
  if (check::setns_left > 0 && --check::setns_left == 0) {
    errno = EPERM;
    return -1;
  }
  return __real_setns(fd, type);
}
}

#ifdef __SANITIZE_ADDRESS__
void* operator new(size_t size) {
  void* memory = check::AllocationFails() ? nullptr : malloc(size);
  if (!memory) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept {
  free(memory);
}
void operator delete(void* memory, size_t) noexcept {
  free(memory);
}
#else
extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* memory, size_t size);
void* malloc(size_t size) {
  if (!check::AllocationFails()) return __libc_malloc(size);
  errno = ENOMEM;
  return nullptr;
}
void* calloc(size_t count, size_t size) {
  if (!check::AllocationFails()) return __libc_calloc(count, size);
  errno = ENOMEM;
  return nullptr;
}
void* realloc(void* memory, size_t size) {
  if (!check::AllocationFails()) return __libc_realloc(memory, size);
  errno = ENOMEM;
  return nullptr;
}
}
#endif

int main() {
  int failed = 0;
  for (const check::Test& test : check::Tests()) {
    std::string failure;
    try {
      test.run();
    } catch (const std::exception& error) {
      failure = error.what();
    } catch (...) {
      failure = "threw something that is no std::exception";
    }
    std::printf("%s %s%s%s\n", failure.empty() ? "ok  " : "FAIL", test.name, failure.empty() ? "" : ": ",
                failure.c_str());
    std::fflush(stdout);
    failed += !failure.empty();
  }
  std::printf("%zu passed, %d failed\n", check::Tests().size() - static_cast<size_t>(failed), failed);
  return failed != 0;
}
