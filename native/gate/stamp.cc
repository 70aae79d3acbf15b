#include "native/gate/stamp.h"

#include <fcntl.h>
#include <sys/socket.h>

#include "native/fd.h"

#ifndef SO_NETNS_COOKIE  // asm-generic/socket.h, Linux 5.14
#define SO_NETNS_COOKIE 71
#endif

namespace ipnc::gate {

Text<96> OwnStamp() {
  char boot_id[36];
  const Fd file(open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  if (!file || read(file.get(), boot_id, sizeof(boot_id)) != sizeof(boot_id)) return {};
  const Fd any(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  uint64_t cookie = 0;
  socklen_t length = sizeof(cookie);
  if (getsockopt(any.get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length) != 0) return {};
  Text<96> stamp;
  stamp << std::string_view(boot_id, sizeof(boot_id)) << ':' << cookie;
  return stamp;
}

}  // namespace ipnc::gate
