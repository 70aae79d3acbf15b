// The gate's parts: what it reads of its command line and of annotations, and the probe in a netns of its own.
#include "native/gate/options.h"

#include "test/native/check.h"

namespace {

using namespace ipnc::gate;

TEST("gate, options: nothing given") {
  const char* const none[] = {nullptr};
  Options options;
  Refusal refusal;
  CHECK(ReadOptions(none, none, options, refusal));
}

}  // namespace
