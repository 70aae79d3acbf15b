// A text in a buffer of fixed size. It allocates no memory, and cuts off what does not fit.
#pragma once

#include <charconv>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace ipnc::gate {

template <size_t kRoom>
class Text {
 public:
  Text() = default;
  Text(std::string_view text) { *this << text; }

  Text& operator<<(std::string_view text) {
    const size_t length = text.size() < kRoom - length_ ? text.size() : kRoom - length_;
    if (length > 0) std::memcpy(bytes_ + length_, text.data(), length);
    length_ += length;
    return *this;
  }
  Text& operator<<(const char* text) { return *this << std::string_view(text); }
  Text& operator<<(char byte) { return *this << std::string_view(&byte, 1); }
  Text& operator<<(uint64_t number) {
    char digits[20];
    const char* end = std::to_chars(digits, digits + sizeof(digits), number).ptr;
    return *this << std::string_view(digits, static_cast<size_t>(end - digits));
  }
  Text& operator<<(int number) { return *this << static_cast<uint64_t>(number); }
  Text& operator<<(unsigned number) { return *this << static_cast<uint64_t>(number); }
  template <size_t kOther>
  Text& operator<<(const Text<kOther>& text) {
    return *this << text.view();
  }

  std::string_view view() const { return {bytes_, length_}; }
  bool empty() const { return length_ == 0; }
  void clear() { length_ = 0; }

 private:
  char bytes_[kRoom];
  size_t length_ = 0;
};

// Long enough for the longest status in our annotation, and shorter than the kubelet's limit of 4096 bytes for a
// termination message.
using Line = Text<2048>;

// In quotes and safe to print: at most 48 characters, control characters as \xNN.
inline Text<320> Quoted(std::string_view value) {
  constexpr size_t kShown = 48;
  constexpr char kHex[] = "0123456789abcdef";
  Text<320> quoted;
  quoted << '"';
  for (size_t i = 0; i < value.size() && i < kShown; ++i) {
    const auto byte = static_cast<unsigned char>(value[i]);
    if (byte == '"' || byte == '\\') {
      quoted << '\\' << value[i];
    } else if (byte < 0x20 || byte == 0x7f) {
      quoted << "\\x" << kHex[byte >> 4] << kHex[byte & 15];
    } else {
      quoted << value[i];
    }
  }
  quoted << '"';
  if (value.size() > kShown) quoted << "... (" << static_cast<uint64_t>(value.size()) << " bytes)";
  return quoted;
}

}  // namespace ipnc::gate
