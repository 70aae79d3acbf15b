// Runs every test, or those whose names begin with an argument, and prints "N passed, N failed". Linked with --wrap for
// the system calls that are made to fail. What libiptc calls is defined here, and in the build without sanitizers
// malloc.
#include <libiptc/libiptc.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <span>
#include <string_view>
#include <utility>

#include "test/native/check.h"

namespace check {
namespace {

thread_local int setns_left = 0;
thread_local bool add_counters_fails = false;
thread_local uint64_t fake_cookie = 0;
thread_local long allocations = 0;
thread_local long allocation_to_fail = 0;

thread_local long calls = 0;
thread_local long call_to_fail = 0;
thread_local int call_error = 0;
thread_local bool all_later = false;

bool CallFails() {
  ++calls;
  if (call_to_fail == 0 || (all_later ? calls < call_to_fail : calls != call_to_fail)) return false;
  errno = call_error;
  return true;
}

bool AllocationFails() {
  return ++allocations == allocation_to_fail;
}

}  // namespace

std::vector<Test>& Tests() {
  static std::vector<Test> tests;
  return tests;
}

uint32_t Seed() {
  const char* seed = std::getenv("IPNC_TEST_SEED");
  return seed ? static_cast<uint32_t>(std::strtoul(seed, nullptr, 10)) : 1337;
}

void FailSetns(int call) {
  setns_left = call;
}

long FailCall(long call, int error) {
  all_later = false;
  call_to_fail = call;
  call_error = error;
  return std::exchange(calls, 0);
}

long FailCallsFrom(long call, int error) {
  const long made = FailCall(call, error);
  all_later = true;
  return made;
}

void FailAddCounters(bool fails) {
  add_counters_fails = fails;
}

void FakeCookie(uint64_t cookie) {
  fake_cookie = cookie;
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

// Seen by the shared libraries: everything else here is built hidden.
#pragma GCC visibility push(default)

extern "C" {
int socket(int domain, int type, int protocol) noexcept {
  return check::CallFails() ? -1 : static_cast<int>(syscall(SYS_socket, domain, type, protocol));
}
int getsockopt(int fd, int level, int option, void* value, socklen_t* length) noexcept {
  if (check::fake_cookie != 0 && level == SOL_SOCKET && option == SO_NETNS_COOKIE) {
    memcpy(value, &check::fake_cookie, sizeof(check::fake_cookie));
    return 0;
  }
  return check::CallFails() ? -1 : static_cast<int>(syscall(SYS_getsockopt, fd, level, option, value, length));
}
int setsockopt(int fd, int level, int option, const void* value, socklen_t length) noexcept {
  if (check::add_counters_fails && option == IPT_SO_SET_ADD_COUNTERS) {
    errno = EINVAL;
    return -1;
  }
  return check::CallFails() ? -1 : static_cast<int>(syscall(SYS_setsockopt, fd, level, option, value, length));
}

ssize_t __real_send(int fd, const void* data, size_t size, int flags);
ssize_t __wrap_send(int fd, const void* data, size_t size, int flags) {
  return check::CallFails() ? -1 : __real_send(fd, data, size, flags);
}
ssize_t __real_recvfrom(int fd, void* data, size_t size, int flags, sockaddr* sender, socklen_t* length);
ssize_t __wrap_recvfrom(int fd, void* data, size_t size, int flags, sockaddr* sender, socklen_t* length) {
  return check::CallFails() ? -1 : __real_recvfrom(fd, data, size, flags, sender, length);
}
int __real_connect(int fd, const sockaddr* address, socklen_t length);
int __wrap_connect(int fd, const sockaddr* address, socklen_t length) {
  return check::CallFails() ? -1 : __real_connect(fd, address, length);
}
int __real_ioctl(int fd, unsigned long request, void* argument);
int __wrap_ioctl(int fd, unsigned long request, void* argument) {
  return check::CallFails() ? -1 : __real_ioctl(fd, request, argument);
}
int __real_flock(int fd, int operation);
int __wrap_flock(int fd, int operation) {
  return check::CallFails() ? -1 : __real_flock(fd, operation);
}
ssize_t __real_read(int fd, void* data, size_t size);
ssize_t __wrap_read(int fd, void* data, size_t size) {
  return check::CallFails() ? -1 : __real_read(fd, data, size);
}
int __real_open64(const char* path, int flags, ...);
int __wrap_open64(const char* path, int flags, ...) {
  return check::CallFails() ? -1 : __real_open64(path, flags);
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

#pragma GCC visibility pop

int main(int argc, char** argv) {
  const std::span<char*> prefixes(argv + 1, static_cast<size_t>(argc - 1));
  const auto wanted = [&prefixes](const check::Test& test) {
    return prefixes.empty() || std::ranges::any_of(prefixes, [&test](std::string_view prefix) {
             return std::string_view(test.name).starts_with(prefix);
           });
  };
  size_t passed = 0;
  size_t failed = 0;
  for (const check::Test& test : check::Tests()) {
    if (!wanted(test)) continue;
    std::string failure;
    const long checks = check::checks;
    try {
      test.run();
      if (check::checks == checks) failure = "makes no CHECK";
    } catch (const std::exception& error) {
      failure = error.what();
    } catch (...) {
      failure = "threw something that is no std::exception";
    }
    std::printf("%s %s%s%s\n", failure.empty() ? "ok  " : "FAIL", test.name, failure.empty() ? "" : ": ",
                failure.c_str());
    std::fflush(stdout);
    ++(failure.empty() ? passed : failed);
  }
  if (failed != 0) std::fprintf(stderr, "random input: IPNC_TEST_SEED=%u\n", check::Seed());
  std::printf("%zu passed, %zu failed\n", passed, failed);
  return failed != 0 || passed == 0;
}
