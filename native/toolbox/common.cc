#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>

#include "toolbox.h"

namespace toolbox {
namespace {

void AppendQuoted(std::string& out, std::string_view text) {
  out += '"';
  for (const unsigned char byte : text) {
    if (byte == '"' || byte == '\\') {
      out += '\\';
      out += static_cast<char>(byte);
    } else if (byte < 0x20 || byte >= 0x7f) {
      // A byte above ASCII is taken as Latin-1: whatever comes in, what goes out is JSON.
      char escaped[7];
      snprintf(escaped, sizeof(escaped), "\\u%04x", byte);
      out += escaped;
    } else {
      out += static_cast<char>(byte);
    }
  }
  out += '"';
}

void SetCapabilities(unsigned permitted) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  data[0].effective = data[0].permitted = permitted;
  if (syscall(SYS_capset, &header, data) != 0) Fail("capset", "self", errno);
}

void Enter(const std::string& path, int kind) {
  const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) Fail("open", path, errno);
  if (setns(file.get(), kind) != 0) Fail("setns", path, errno);
}

bool SetgroupsDenied() {
  char text[16] = {};
  const Fd file(open("/proc/self/setgroups", O_RDONLY | O_CLOEXEC));
  return file.get() >= 0 && read(file.get(), text, sizeof(text) - 1) > 0 && strncmp(text, "deny", 4) == 0;
}

}  // namespace

void Fail(std::string_view syscall, std::string_view what, int error) {
  fprintf(stderr, "toolbox: %.*s %.*s: %s\n", static_cast<int>(syscall.size()), syscall.data(),
          static_cast<int>(what.size()), what.data(), ErrnoName(error).c_str());
  exit(1);
}

void Usage(const std::string& problem) {
  fprintf(stderr, "toolbox: %s\n", problem.c_str());
  exit(1);
}

std::string ErrnoName(int error) {
  const char* name = strerrorname_np(error);
  return name != nullptr ? name : std::to_string(error);
}

long NowMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1'000'000;
}

unsigned Number(const std::string& text, const char* what, unsigned highest) {
  unsigned value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value > highest) {
    Usage(std::string(what) + ": \"" + text + "\" is not a number from 0 to " + std::to_string(highest));
  }
  return value;
}

Fd& Fd::operator=(Fd&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Fd::~Fd() {
  if (fd_ >= 0) close(fd_);
}

const std::string& Value(const Arguments& arguments, size_t& index) {
  if (index + 1 >= arguments.size()) Usage(arguments[index] + " needs a value");
  return arguments[++index];
}

bool ParseActor(const Arguments& arguments, size_t& index, Actor& actor) {
  const std::string& flag = arguments[index];
  if (flag == "--netns") {
    actor.netns = Value(arguments, index);
  } else if (flag == "--userns") {
    actor.userns = Value(arguments, index);
  } else if (flag == "--uid") {
    actor.uid = Number(Value(arguments, index), "--uid", 0xfffffffe);
  } else if (flag == "--gid") {
    actor.gid = Number(Value(arguments, index), "--gid", 0xfffffffe);
  } else {
    return false;
  }
  return true;
}

void Become(const Actor& actor) {
  // In this order: inside the user namespace there are no capabilities over a netns that it does not own.
  if (!actor.netns.empty()) Enter(actor.netns, CLONE_NEWNET);
  if (!actor.userns.empty()) Enter(actor.userns, CLONE_NEWUSER);
  if (actor.uid || actor.gid) {
    if (setgroups(0, nullptr) != 0 && !SetgroupsDenied()) Fail("setgroups", "none", errno);
  }
  if (actor.gid && setresgid(*actor.gid, *actor.gid, *actor.gid) != 0) {
    Fail("setresgid", std::to_string(*actor.gid), errno);
  }
  if (actor.uid) {
    if (prctl(PR_SET_KEEPCAPS, 1) != 0) Fail("prctl", "PR_SET_KEEPCAPS", errno);
    if (setresuid(*actor.uid, *actor.uid, *actor.uid) != 0) Fail("setresuid", std::to_string(*actor.uid), errno);
    SetCapabilities(1u << CAP_NET_BIND_SERVICE | 1u << CAP_NET_ADMIN);
  }
}

void DropCapabilities(const Actor& actor) {
  if (actor.uid && *actor.uid != 0) SetCapabilities(0);
}

std::string Address::Text() const {
  char text[INET6_ADDRSTRLEN] = {};
  const bool v6 = family() == AF_INET6;
  const auto& in = reinterpret_cast<const sockaddr_in&>(storage);
  const auto& in6 = reinterpret_cast<const sockaddr_in6&>(storage);
  inet_ntop(family(), v6 ? static_cast<const void*>(&in6.sin6_addr) : &in.sin_addr, text, sizeof(text));
  std::string result = v6 ? "[" : "";
  result += text;
  result += v6 ? "]:" : ":";
  result += std::to_string(ntohs(v6 ? in6.sin6_port : in.sin_port));
  return result;
}

std::optional<Address> ParseAddress(const std::string& text, unsigned port) {
  Address address;
  auto& in = reinterpret_cast<sockaddr_in&>(address.storage);
  auto& in6 = reinterpret_cast<sockaddr_in6&>(address.storage);
  if (inet_pton(AF_INET, text.c_str(), &in.sin_addr) == 1) {
    in.sin_family = AF_INET;
    in.sin_port = htons(static_cast<uint16_t>(port));
    address.size = sizeof(in);
    return address;
  }
  if (inet_pton(AF_INET6, text.c_str(), &in6.sin6_addr) == 1) {
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(static_cast<uint16_t>(port));
    address.size = sizeof(in6);
    return address;
  }
  return std::nullopt;
}

void JsonLine::Name(std::string_view name) {
  if (text_.size() > 1) text_ += ',';
  AppendQuoted(text_, name);
  text_ += ':';
}

JsonLine& JsonLine::Add(std::string_view name, std::string_view value) {
  Name(name);
  AppendQuoted(text_, value);
  return *this;
}

JsonLine& JsonLine::Add(std::string_view name, long value) {
  Name(name);
  text_ += std::to_string(value);
  return *this;
}

JsonLine& JsonLine::Add(std::string_view name, bool value) {
  Name(name);
  text_ += value ? "true" : "false";
  return *this;
}

void JsonLine::Print() {
  text_ += "}\n";
  for (size_t done = 0; done < text_.size();) {
    const ssize_t wrote = write(STDOUT_FILENO, text_.data() + done, text_.size() - done);
    if (wrote < 0 && errno != EINTR) exit(1);
    if (wrote > 0) done += static_cast<size_t>(wrote);
  }
}

}  // namespace toolbox
