#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include "toolbox.h"

namespace toolbox {

int Forge(const Arguments& arguments) {
  Actor actor;
  unsigned flood_ms = 0;
  unsigned port = 0;
  for (size_t i = 0; i < arguments.size(); i++) {
    if (ParseActor(arguments, i, actor)) continue;
    if (arguments[i] == "--flood") {
      flood_ms = Number(Value(arguments, i), "--flood", 60'000);
    } else if (arguments[i] == "--port") {
      port = Number(Value(arguments, i), "--port", 0xffffffff);
    } else {
      Usage("forge: unknown argument " + arguments[i]);
    }
  }
  Become(actor);
  const Fd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (fd.get() < 0) Fail("socket", "AF_NETLINK", errno);
  sockaddr_nl to{};
  to.nl_family = AF_NETLINK;
  to.nl_pid = port;
  struct {
    nlmsghdr header;
    ifaddrmsg address;
  } message{};
  message.header.nlmsg_len = sizeof(message);
  message.header.nlmsg_type = RTM_NEWADDR;
  message.address.ifa_family = AF_INET6;
  message.address.ifa_prefixlen = 128;
  long sent = 0;
  long refused = 0;  // a socket of that number is there, and takes nothing from anybody but the kernel
  long absent = 0;
  const long limit = NowMs() + flood_ms;
  do {
    message.header.nlmsg_seq++;
    if (sendto(fd.get(), &message, sizeof(message), MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&to), sizeof(to)) > 0) {
      sent++;
    } else if (errno == ECONNREFUSED) {
      refused++;
    } else {
      absent++;
    }
  } while (NowMs() < limit);
  JsonLine().Add("sent", sent).Add("refused", refused).Add("absent", absent).Print();
  return 0;
}

}  // namespace toolbox
