#include <errno.h>
#include <sys/resource.h>

#include "native/gate/name.h"
#include "toolbox.h"

namespace toolbox {
namespace {

long Milliseconds(const timeval& time) {
  return time.tv_sec * 1000 + time.tv_usec / 1000;
}

}  // namespace

int Hint(const Arguments& arguments) {
  Actor actor;
  unsigned flood_ms = 0;
  for (size_t i = 0; i < arguments.size(); i++) {
    if (ParseActor(arguments, i, actor)) continue;
    if (arguments[i] == "--flood") {
      flood_ms = Number(Value(arguments, i), "--flood", 60'000);
    } else {
      Usage("hint: unknown argument " + arguments[i]);
    }
  }
  Become(actor);
  DropCapabilities(actor);
  const Fd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (fd.get() < 0) Fail("socket", "AF_UNIX", errno);
  const ipnc::gate::Address hint = ipnc::gate::HintAddress();
  long sent = 0;
  long unheard = 0;
  const long limit = NowMs() + flood_ms;
  do {
    const auto* address = reinterpret_cast<const sockaddr*>(&hint.address);
    (sendto(fd.get(), "x", 1, MSG_DONTWAIT, address, hint.length) == 1 ? sent : unheard)++;
  } while (NowMs() < limit);
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  JsonLine()
      .Add("sent", sent)
      .Add("unheard", unheard)
      .Add("cpuMs", Milliseconds(used.ru_utime) + Milliseconds(used.ru_stime))
      .Print();
  return 0;
}

}  // namespace toolbox
