// A file of annotations of any bytes: never read past its end, and what is quoted comes back as it was.
#include "native/gate/annotations.h"

#include <cstdlib>
#include <string>
#include <vector>

namespace {

using namespace ipnc::gate;

// As Go's strconv.Quote does it for bytes that are no text.
std::string GoQuoted(std::string_view value) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string quoted = "\"";
  for (const char each : value) {
    const auto byte = static_cast<unsigned char>(each);
    if (byte == '"' || byte == '\\') {
      quoted += '\\';
      quoted += each;
    } else if (byte == '\n') {
      quoted += "\\n";
    } else if (byte < 0x20 || byte >= 0x7f) {
      quoted += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    } else {
      quoted += each;
    }
  }
  return quoted + "\"";
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // A copy of its own, so that a step past its end is seen.
  const std::vector<char> copy(data, data + size);
  const std::string_view text(copy.data(), copy.size());
  const Marks any = ReadMarks(text);
  if (any.status.view().size() > text.size() || any.netns.view().size() > text.size()) __builtin_trap();

  // Beside whatever else is there, before and after.
  const std::string_view status = text.substr(0, 1280), netns = text.substr(0, 96);
  const std::string lines =
      std::string(kStatus) + "=" + GoQuoted(status) + "\n" + std::string(kNetns) + "=" + GoQuoted(netns) + "\n";
  const Marks first = ReadMarks(lines + "x=" + GoQuoted(text) + "\n");
  if (first.status.view() != status || first.netns.view() != netns) __builtin_trap();
  const Marks last = ReadMarks(std::string(text) + "\n" + lines);
  if (last.status.view() != status || last.netns.view() != netns) __builtin_trap();
  return 0;
}
