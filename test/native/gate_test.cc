// The gate's parts, of which the program itself is no more than a main(): under the sanitizers too.
#include "native/gate/gate.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <net/if.h>

#include <initializer_list>
#include <thread>
#include <vector>

#include "native/gate/name.h"
#include "native/gate/stamp.h"
#include "test/native/check.h"

namespace {

using namespace ipnc::gate;

struct Read {
  bool fine = false;
  Options options;
  Refusal refusal;
  std::string message() const { return std::string(refusal.message.view()); }
};

Read ReadAll(std::vector<const char*> words, std::vector<const char*> environment = {}) {
  words.push_back(nullptr);
  environment.push_back(nullptr);
  Read read;
  read.fine = ReadOptions(words.data(), environment.data(), read.options, read.refusal);
  return read;
}

Marks Annotations(const char* text) {
  return ReadMarks(text);
}

// Runs `body` on a thread in a netns of its own, its lo up.
void Inside(const std::function<void()>& body) {
  std::string failure;
  std::thread([&] {
    try {
      CHECK(unshare(CLONE_NEWNET) == 0);
      const ipnc::Fd any(socket(AF_INET, SOCK_DGRAM, 0));
      ifreq request{.ifr_ifrn = {"lo"}, .ifr_ifru = {}};
      request.ifr_flags = IFF_UP;
      CHECK(ioctl(any.get(), SIOCSIFFLAGS, &request) == 0);
      body();
    } catch (const std::exception& error) {
      failure = error.what();
    }
  }).join();
  if (!failure.empty()) throw std::runtime_error(failure);
}

TEST("gate, options: flags before the environment, that before the defaults") {
  const Read none = ReadAll({});
  CHECK(none.fine && none.options.inbound_port == 15006 && TimeoutMs(none.options) == 300'000);
  const Read both = ReadAll({"istio-iptables", "-z", "16006", "--redirect-dns"},
                            {"INBOUND_CAPTURE_PORT=17006", "ENVOY_PORT=17001", "PROXY_UID=", "DROP_INVALID=maybe"});
  CHECK(both.fine && both.options.inbound_port == 16006 && both.options.outbound_port == 17001);
  CHECK(both.options.uids == "1337" && both.options.captures_dns);
  const Read bad = ReadAll({}, {"ENVOY_PORT=80x"});
  CHECK(!bad.fine && bad.refusal.code == Exit::kConfiguration);
  CHECK(bad.message() == "ENVOY_PORT (environment): \"80x\": not a port; expected a number from 1 to 65535");
  const Read unknown = ReadAll({"--verbose"});
  CHECK(!unknown.fine && unknown.refusal.code == Exit::kUsage);
}

TEST("gate, options: any words at all are read to their end and no further") {
  const std::vector<const char*> words = {"-",
                                          "--",
                                          "--=",
                                          "-=",
                                          "--timeout",
                                          "--timeout=",
                                          "-p",
                                          "-p=",
                                          "-u,",
                                          "-b-",
                                          "--loopback-cidr=127.0.0.1/",
                                          "--loopback-cidr=/8",
                                          "-i/",
                                          "-i,",
                                          "-t0x",
                                          "--log_",
                                          "--log_=",
                                          "istio-iptables",
                                          "/",
                                          "",
                                          "-c,lo",
                                          "--families=,"};
  for (const char* one : words)
    for (const char* other : words) {
      const Read read = ReadAll({one, other}, {one, other, "=", "ENVOY_PORT", "ENVOY_PORT="});
      CHECK(read.fine == read.message().empty());
    }
}

TEST("gate, options: who is captured on lo") {
  const Options two = ReadAll({"-u", "1337, 1338"}).options;
  CHECK(IsCaptured(two, 1337, 1) && !IsCaptured(two, 1338, 1) && !IsCaptured(two, 1, 1337));
  const Options loopback = ReadAll({"-u", "1337,1338", "-g", "7", "-i", "10.0.0.0/8,::1/128"}).options;
  CHECK(IsCaptured(loopback, 1338, 1) && IsCaptured(loopback, 1, 7) && !IsCaptured(loopback, 1, 1337));
}

TEST("gate, annotations: as Go quotes them") {
  const Marks marks = Annotations(
      "a=\"1\"\n"
      "pod-network-controller.istio.io/netns=\"b:7\"\n"
      "pod-network-controller.istio.io/status=\"failed: \\\"x\\\" \\\\ \\t\\x00\\xff \\u00fc\\u20ac\\U0001f600 "
      "\xc3\xbc\"\n");
  CHECK(marks.netns.view() == "b:7");
  CHECK(marks.status.view() ==
        std::string_view("failed: \"x\" \\ \t\0\xff \xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80 \xc3\xbc", 30));
}

TEST("gate, annotations: what is not of that form says nothing") {
  for (const char* value : {"", "initialized", "\"", "\"initialized", "initialized\"", "\"initialized\" ", "\"a\"b\"",
                            "\"\\\"", "\"\\q\"", "\"\\x1\"", "\"\\ud800\"", "\"\\U00110000\"", " \"initialized\""}) {
    CHECK(Annotations((std::string(kStatus) + "=" + value + "\n").c_str()).status.empty());
    CHECK(Annotations((std::string("x") + std::string(kStatus) + "=\"initialized\"").c_str()).status.empty());
  }
  CHECK(Annotations((std::string(kStatus) + "=\"initialized\"").c_str()).status.view() == "initialized");
  CHECK(Annotations((std::string(kNetns) + "=\"" + std::string(97, 'x') + "\"").c_str()).netns.empty());
  CHECK(Annotations((std::string(kNetns) + "=\"" + std::string(96, 'x') + "\"").c_str()).netns.view().size() == 96);
}

TEST("gate, marks: a mark counts for its own netns") {
  const auto judge = [](std::string_view status, std::string_view netns, std::string_view own) {
    return Judge(Marks{.status = status, .netns = netns}, own);
  };
  CHECK(judge("", "", "b:7") == Told::kNothing);
  CHECK(judge("initialized", "b:7", "b:7") == Told::kInitialized);
  CHECK(judge("initialized", "b:8", "b:7") == Told::kForAnother);
  CHECK(judge("initialized", "", "") == Told::kForAnother);
  CHECK(judge("failed: x", "", "b:7") == Told::kFailed);
  CHECK(judge("failed: x", "b:7", "b:7") == Told::kFailed);
  CHECK(judge("failed: x", "b:8", "b:7") == Told::kForAnother);
  CHECK(judge("failed", "", "b:7") == Told::kNothing);
}

TEST("gate, stamp: another netns has another one") {
  const std::string here(OwnStamp().view());
  std::string there;
  Inside([&] { there = OwnStamp().view(); });
  CHECK(here.size() > 37 && here[36] == ':' && there.substr(0, 37) == here.substr(0, 37) && there != here);
  CHECK(here == OwnStamp().view());
}

TEST("gate, probe: refused where nothing redirects, silent where lo is down, never taken in by a stranger") {
  Inside([] {
    Prober prober(15006, 15002);
    const Probed probed = prober.Probe({.v4 = true, .v6 = true}, 0x7f000006);
    CHECK(!probed.captured() && probed.v4 == Dialled::kRefused);
    CHECK(probed.v6 == Dialled::kUnreachable || probed.v6 == Dialled::kRefused);
    CHECK(prober.Probe({.v4 = true}, 0).v4 == Dialled::kUnreachable);
    CHECK(!prober.Probe({}, 0x7f000006).captured());
    // What is dialled is our own listener: it arrives, with our token, and nothing has redirected it.
    Prober direct(15002, 15002);
    CHECK(direct.Probe({.v4 = true}, 0x7f000001).v4 == Dialled::kElsewhere);
    CHECK(TryPort(false, 15006) == EADDRINUSE && TryPort(false, 15007) == 0);
  });
}

TEST("gate, network: no addresses and no routes in a netns that is new") {
  Inside([] {
    Network network;
    CHECK(!network.ReadAddresses().global.any());
    CHECK(!network.HasTproxyRoutes(false, 1337, 133));
  });
}

TEST("gate, hints: a datagram wakes it once, however many there were") {
  Inside([] {
    Hints hints;
    CHECK(hints.Open() == 0);
    Hints second;
    CHECK(second.Open() == EADDRINUSE);
    CHECK(hints.Wait(1000, false) == Wake::kNone);
    const ipnc::Fd any(socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0));
    const Address hint = HintAddress();
    for (int i = 0; i < 20; ++i)
      sendto(any.get(), "xxxx", 4, 0, reinterpret_cast<const sockaddr*>(&hint.address), hint.length);
    CHECK(hints.Wait(1000, true) == Wake::kNone);
    CHECK(hints.Wait(1'000'000, false) == Wake::kDatagram);
    CHECK(hints.Wait(1000, false) == Wake::kNone);
  });
}

TEST("gate, hints: a link that is replaced in the folder wakes it, and nothing else does") {
  // The gate has one thread; here another one must not get the signal.
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGIO);
  CHECK(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
  char folder[] = "/tmp/ipnc-gate-XXXXXX";
  CHECK(mkdtemp(folder));
  const std::string file = std::string(folder) + "/pod_annotations", link = std::string(folder) + "/..data_tmp",
                    data = std::string(folder) + "/..data";
  Inside([&] {
    Hints hints;
    CHECK(hints.Open() == 0);
    CHECK(!hints.Watch((file + "/none/none").c_str()) && !hints.Watch(std::string(5000, '/').append("x").c_str()));
    CHECK(hints.Watch(file.c_str()));
    CHECK(hints.Wait(1000, false) == Wake::kNone);
    for (int i = 0; i < 3; ++i) {
      CHECK(symlink("version", link.c_str()) == 0 && rename(link.c_str(), data.c_str()) == 0);
      CHECK(hints.Wait(1000, true) == Wake::kNone);
      CHECK(hints.Wait(1'000'000, false) == Wake::kFile);
      CHECK(hints.Wait(1000, false) == Wake::kNone);
    }
  });
  CHECK(unlink(data.c_str()) == 0 && rmdir(folder) == 0);
}

}  // namespace
