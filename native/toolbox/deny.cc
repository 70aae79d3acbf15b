#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "toolbox.h"

namespace toolbox {
namespace {

#if defined(__x86_64__)
constexpr unsigned kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr unsigned kArchitecture = AUDIT_ARCH_AARCH64;
#else
#error "deny knows x86_64 and aarch64"
#endif

struct Syscall {
  const char* name;
  long number;
  // Arguments before the first one that a SPEC can name.
  unsigned skipped;
};

constexpr Syscall kSyscalls[] = {
    {"setsockopt", SYS_setsockopt, 1},
    {"getsockopt", SYS_getsockopt, 1},
    {"socket", SYS_socket, 0},
    {"bind", SYS_bind, 0},
    {"connect", SYS_connect, 0},
    {"sendto", SYS_sendto, 0},
    {"sendmsg", SYS_sendmsg, 0},
    {"recvfrom", SYS_recvfrom, 0},
    {"recvmsg", SYS_recvmsg, 0},
    {"setns", SYS_setns, 0},
    {"unshare", SYS_unshare, 0},
    {"mount", SYS_mount, 0},
    {"ioctl", SYS_ioctl, 0},
    {"openat", SYS_openat, 0},
    {"mmap", SYS_mmap, 0},
    {"clone3", SYS_clone3, 0},
};

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

int ParseErrno(const std::string& name) {
  for (int error = 1; error < 134; error++) {
    const char* known = strerrorname_np(error);
    if (known != nullptr && name == known) return error;
  }
  Usage("deny: \"" + name + "\" is not an errno");
}

// A block that answers its errno when the call is the one of the SPEC, and goes on to the next block otherwise.
std::vector<sock_filter> Compile(const std::string& spec) {
  const size_t equals = spec.find('=');
  if (equals == std::string::npos) Usage("deny: \"" + spec + "\" is not SYSCALL[:ARG...]=ERRNO or =HOLD");
  const std::string answer = spec.substr(equals + 1);
  const bool hold = answer == "HOLD";
  const int error = hold ? 0 : ParseErrno(answer);
  const std::vector<std::string> parts = Split(spec.substr(0, equals), ':');
  const Syscall* syscall = nullptr;
  for (const Syscall& known : kSyscalls) {
    if (parts[0] == known.name) syscall = &known;
  }
  if (syscall == nullptr) Usage("deny: \"" + parts[0] + "\" is not a system call known here");
  if (syscall->skipped + parts.size() - 1 > 6) Usage("deny: \"" + spec + "\" has too many arguments");

  // Pairs of load and compare, then the answer.
  std::vector<sock_filter> block;
  const auto compare = [&block](size_t offset, unsigned value) {
    block.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<unsigned>(offset)));
    block.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 0));
  };
  compare(offsetof(seccomp_data, nr), static_cast<unsigned>(syscall->number));
  for (size_t i = 1; i < parts.size(); i++) {
    if (parts[i] == "*") continue;
    // The lower half: both architectures are little-endian, and these are all ints.
    const size_t argument = syscall->skipped + i - 1;
    compare(offsetof(seccomp_data, args) + argument * sizeof(__u64), Number(parts[i], "deny", 0xffffffff));
  }
  block.push_back(
      BPF_STMT(BPF_RET | BPF_K, hold ? SECCOMP_RET_USER_NOTIF : SECCOMP_RET_ERRNO | static_cast<unsigned>(error)));
  for (size_t i = 1; i + 1 < block.size(); i += 2) block[i].jf = static_cast<__u8>(block.size() - i - 1);
  return block;
}

}  // namespace

int Deny(const Arguments& arguments) {
  std::vector<sock_filter> program = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  size_t index = 0;
  for (; index < arguments.size() && arguments[index] != "--"; index++) {
    const std::vector<sock_filter> block = Compile(arguments[index]);
    program.insert(program.end(), block.begin(), block.end());
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  if (index == 0 || index + 1 >= arguments.size()) Usage("deny: expected SPEC... -- COMMAND...");

  std::vector<char*> command;
  for (size_t i = index + 1; i < arguments.size(); i++) command.push_back(const_cast<char*>(arguments[i].c_str()));
  command.push_back(nullptr);
  const sock_fprog filter = {static_cast<unsigned short>(program.size()), program.data()};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) Fail("prctl", "PR_SET_NO_NEW_PRIVS", errno);
  // The command inherits the listener, and nobody reads it: a system call that is held waits until the command ends.
  const long listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
  if (listener < 0) Fail("seccomp", "SECCOMP_SET_MODE_FILTER", errno);
  if (fcntl(static_cast<int>(listener), F_SETFD, 0) != 0) Fail("fcntl", "F_SETFD", errno);
  execvp(command[0], command.data());
  Fail("execvp", command[0], errno);
}

}  // namespace toolbox
