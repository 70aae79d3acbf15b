// Reads our annotations from a file of the downward API. It has one line `key="value"` for each annotation, with the
// value as Go's strconv.Quote writes it (kubernetes/pkg/fieldpath, FormatMap).
#pragma once

#include <string_view>

#include "native/gate/text.h"

namespace ipnc::gate {

// As lib/kube/status.ts calls them.
inline constexpr std::string_view kStatus = "pod-network-controller.istio.io/status";
inline constexpr std::string_view kNetns = "pod-network-controller.istio.io/netns";

struct Marks {
  Text<1280> status;  // the controller writes at most 1024 bytes, and an ellipsis of three
  Text<96> netns;     // <boot id>:<cookie>: 36 + 1 + 20
};

// If a key occurs twice, the last one counts. Invalid lines, and values that are too long, are ignored.
Marks ReadMarks(std::string_view text);

}  // namespace ipnc::gate
