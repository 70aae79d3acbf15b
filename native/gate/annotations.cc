#include "native/gate/annotations.h"

#include <optional>

namespace ipnc::gate {
namespace {

// Takes a byte off the front; the text must not be empty.
char Take(std::string_view& text) {
  const char byte = text.front();
  text.remove_prefix(1);
  return byte;
}

std::optional<uint32_t> TakeHex(std::string_view& text, int digits) {
  uint32_t value = 0;
  for (int i = 0; i < digits; ++i) {
    if (text.empty()) return std::nullopt;
    const char byte = Take(text);
    const char lower = static_cast<char>(byte | 0x20);
    if (byte >= '0' && byte <= '9') {
      value = value << 4 | static_cast<uint32_t>(byte - '0');
    } else if (lower >= 'a' && lower <= 'f') {
      value = value << 4 | static_cast<uint32_t>(lower - 'a' + 10);
    } else {
      return std::nullopt;
    }
  }
  return value;
}

// A character as UTF-8 in `into`; its length, 0 if it is none.
size_t Utf8(uint32_t rune, char (&into)[4]) {
  if (rune > 0x10ffff || (rune >= 0xd800 && rune < 0xe000)) return 0;
  if (rune < 0x80) {
    into[0] = static_cast<char>(rune);
    return 1;
  }
  const size_t length = rune < 0x800 ? 2 : rune < 0x10000 ? 3 : 4;
  for (size_t i = length - 1; i > 0; --i, rune >>= 6) into[i] = static_cast<char>(0x80 | (rune & 0x3f));
  into[0] = static_cast<char>((0xf00 >> length & 0xff) | rune);
  return length;
}

// Takes the escape after a backslash off the front of `text`. Returns the length of its meaning in `into`; 0 if it is
// invalid.
size_t Unescape(std::string_view& text, char (&into)[4]) {
  constexpr std::string_view kNames = "abfnrtv\\\"";
  constexpr char kBytes[] = "\a\b\f\n\r\t\v\\\"";
  if (text.empty()) return 0;
  const char name = Take(text);
  for (size_t i = 0; i < kNames.size(); ++i)
    if (name == kNames[i]) {
      into[0] = kBytes[i];
      return 1;
    }
  const int digits = name == 'x' ? 2 : name == 'u' ? 4 : name == 'U' ? 8 : 0;
  const std::optional<uint32_t> value = digits ? TakeHex(text, digits) : std::nullopt;
  if (!value) return 0;
  if (name != 'x') return Utf8(*value, into);
  into[0] = static_cast<char>(*value);
  return 1;
}

// `quoted` from its opening quote to its closing one, which must be its last byte.
template <size_t kRoom>
bool Unquote(std::string_view quoted, Text<kRoom>& value) {
  value.clear();
  if (quoted.size() < 2 || quoted.front() != '"' || quoted.back() != '"') return false;
  quoted.remove_prefix(1);
  quoted.remove_suffix(1);
  while (!quoted.empty()) {
    char bytes[4] = {Take(quoted)};
    if (bytes[0] == '"') return false;
    const size_t length = bytes[0] == '\\' ? Unescape(quoted, bytes) : 1;
    if (length == 0 || value.view().size() + length > kRoom) return false;
    value << std::string_view(bytes, length);
  }
  return true;
}

template <size_t kRoom>
void ReadLine(std::string_view line, std::string_view key, Text<kRoom>& value) {
  if (!line.starts_with(key)) return;
  line.remove_prefix(key.size());
  if (line.empty() || line.front() != '=') return;
  line.remove_prefix(1);
  if (!Unquote(line, value)) value.clear();
}

}  // namespace

Marks ReadMarks(std::string_view text) {
  Marks marks;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const std::string_view line(text.data(), end == text.npos ? text.size() : end);
    text.remove_prefix(end == text.npos ? text.size() : end + 1);
    ReadLine(line, kStatus, marks.status);
    ReadLine(line, kNetns, marks.netns);
  }
  return marks;
}

}  // namespace ipnc::gate
