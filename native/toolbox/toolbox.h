// What the toolbox's verbs share. It serves tests, the bench and the demo; nothing of it is part of the product.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace toolbox {

using Arguments = std::vector<std::string>;

int Serve(const Arguments& arguments);
int Dial(const Arguments& arguments);
int Farm(const Arguments& arguments);
int Deny(const Arguments& arguments);
int Hint(const Arguments& arguments);
int Forge(const Arguments& arguments);

// `toolbox: setns /run/netns/x: ENOENT`, exit code 1.
[[noreturn]] void Fail(std::string_view syscall, std::string_view what, int error);
// `toolbox: <problem>`, exit code 1.
[[noreturn]] void Usage(const std::string& problem);

// ENOENT for 2.
std::string ErrnoName(int error);

// Milliseconds of a clock that never goes back.
long NowMs();

// A number of `what` in decimal, or Usage().
unsigned Number(const std::string& text, const char* what, unsigned highest);

// An open file that closes itself.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Fd& operator=(Fd&& other) noexcept;
  ~Fd();
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

// Who a verb becomes, and where.
struct Actor {
  std::string netns;
  // The user namespace that owns the netns of a pod with `hostUsers: false`; uid and gid are then those inside of it.
  std::string userns;
  std::optional<unsigned> uid;
  std::optional<unsigned> gid;
};

// Consumes --netns, --userns, --uid or --gid at `index`, which then stands on the value. False for any other flag.
bool ParseActor(const Arguments& arguments, size_t& index, Actor& actor);
// The value that follows the flag at `index`; leaves `index` on it.
const std::string& Value(const Arguments& arguments, size_t& index);

// Enters the user namespace and the netns, drops supplementary groups and becomes uid and gid. xt_owner looks at the
// credentials with which a socket's file was opened, so sockets are opened after this. The capabilities for low ports
// and for IP_TRANSPARENT stay until DropCapabilities().
void Become(const Actor& actor);
void DropCapabilities(const Actor& actor);

struct Address {
  sockaddr_storage storage{};
  socklen_t size = sizeof(storage);

  sockaddr* raw() { return reinterpret_cast<sockaddr*>(&storage); }
  const sockaddr* raw() const { return reinterpret_cast<const sockaddr*>(&storage); }
  int family() const { return storage.ss_family; }
  // `10.0.0.1:80`, `[2001:db8::1]:80`.
  std::string Text() const;
};

std::optional<Address> ParseAddress(const std::string& text, unsigned port);

// One JSON object on one line, built up member by member.
class JsonLine {
 public:
  JsonLine& Add(std::string_view name, std::string_view value);
  JsonLine& Add(std::string_view name, const char* value) { return Add(name, std::string_view(value)); }
  JsonLine& Add(std::string_view name, long value);
  JsonLine& Add(std::string_view name, bool value);
  // Writes the line to standard output in one piece.
  void Print();

 private:
  void Name(std::string_view name);
  std::string text_ = "{";
};

}  // namespace toolbox
