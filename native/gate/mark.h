// What the controller's marks on the pod say to this gate, as far as a file has them.
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
  kForAnother,  // a mark for another netns: an earlier sandbox of the pod's, or made up
};

// A mark counts for the netns that it names; that of a failure need not name one.
Told Judge(const Marks& marks, std::string_view own_stamp);

class MarkFile {
 public:
  explicit MarkFile(const char* path) : path_(path) {}

  // Reads the file, of which there may be 1 MiB.
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
