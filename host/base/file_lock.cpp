#include "cbtm/base/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"

namespace cbtm {

FileLock::FileLock(const std::filesystem::path& path, Wait wait, Mode mode) {
  make_directories(path.parent_path());
  file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (file_ < 0) fail("{}: cannot be written: {}", path.string(), errno_text());
  int status = 0;
  const int operation = (mode == Mode::shared ? LOCK_SH : LOCK_EX) | (wait == Wait::yes ? 0 : LOCK_NB);
  do status = ::flock(file_, operation);
  while (status != 0 && errno == EINTR);
  held_ = status == 0 || errno != EWOULDBLOCK;
}

FileLock::~FileLock() {
  if (file_ >= 0) ::close(file_);
}

}  // namespace cbtm
