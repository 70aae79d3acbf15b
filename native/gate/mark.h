// Reads the controller's marks on the pod from a file, and decides whether they are for this gate.
#pragma once

#include <string_view>

#include "native/gate/annotations.h"

namespace ipnc::gate {

enum class Told : uint8_t {
  kNoFile,
  kUnreadable,  // or too large
  kNothing,     // there is no mark
  kInitialized,
  kFailed,
  kForAnother,  // a mark for another netns, such as an earlier sandbox of the pod, or a forged one
};

// A mark is valid for the netns that it names. The mark of a failure need not name one.
Told Judge(const Marks& marks, std::string_view own_stamp);

class MarkFile {
 public:
  explicit MarkFile(const char* path) : path_(path) {}

  // Reads the file, which may have 1 MiB.
  Told Read();

  // What was read last.
  const Marks& marks() const { return marks_; }
  int error() const { return error_; }  // EFBIG: it is larger

 private:
  const char* const path_;
  Marks marks_;
  int error_ = 0;
};

}  // namespace ipnc::gate
