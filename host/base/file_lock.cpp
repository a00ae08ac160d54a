#include "cbtm/base/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"

namespace cbtm {

FileLock::FileLock(const std::filesystem::path& path, Wait wait) {
  make_directories(path.parent_path());
  file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (file_ < 0) fail("{}: cannot be written: {}", path.string(), errno_text());
  int status = 0;
  do status = ::flock(file_, wait == Wait::yes ? LOCK_EX : LOCK_EX | LOCK_NB);
  while (status != 0 && errno == EINTR);
  held_ = status == 0 || errno != EWOULDBLOCK;
}

FileLock::~FileLock() { ::close(file_); }

}  // namespace cbtm
