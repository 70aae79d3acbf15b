#include "native/gate/mark.h"

#include <errno.h>
#include <fcntl.h>

#include "native/fd.h"
#include "native/gate/stamp.h"

namespace ipnc::gate {
namespace {

constexpr std::string_view kFailed = "failed: ";

// Annotations are at most 256 KiB (k8s.io/apimachinery, TotalAnnotationSizeLimitB), and four times that where each
// byte is escaped. Memory that is not written to costs nothing.
char text[(1 << 20) + 1];

}  // namespace

Told Judge(const Marks& marks, std::string_view own_stamp) {
  const std::string_view status = marks.status.view();
  const bool ours = !own_stamp.empty() && marks.netns.view() == own_stamp;
  if (status == "initialized") return ours ? Told::kInitialized : Told::kForAnother;
  if (status.starts_with(kFailed)) return ours || marks.netns.empty() ? Told::kFailed : Told::kForAnother;
  return Told::kNothing;
}

Told MarkFile::Read() {
  marks_ = {};
  error_ = 0;
  // Whatever it is, a FIFO too, it must not hold us up.
  const Fd file(open(path_, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file) {
    error_ = errno;
    return error_ == ENOENT || error_ == ENOTDIR ? Told::kNoFile : Told::kUnreadable;
  }
  size_t length = 0;
  while (length < sizeof(text)) {
    const ssize_t got = read(file.get(), text + length, sizeof(text) - length);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      error_ = errno;
      return Told::kUnreadable;
    }
    if (got == 0) break;
    length += static_cast<size_t>(got);
  }
  if (length == sizeof(text)) {
    error_ = EFBIG;
    return Told::kUnreadable;
  }
  static const Text<96> own = OwnStamp();
  marks_ = ReadMarks({text, length});
  return Judge(marks_, own.view());
}

}  // namespace ipnc::gate
