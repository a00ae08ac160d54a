#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

namespace cbtm {

/// A place in the device's memory that is filled again and again, beside the operators. Per filling, in this order:
/// release (if operators have read the place), start, finish; only start may be called by another thread than the
/// operators'.
class Upload {
 public:
  virtual ~Upload() = default;
  /// The operators called so far are the last that read what lies there now.
  virtual void release() = 0;
  /// Copies, once those operators are done, beside later ones. `host_source` is of UploadStream::allocate_host and
  /// stays as it is until the copy is done. Does not wait.
  virtual void start(void* destination, const void* host_source, int64_t bytes) = 0;
  /// Operators called from now on run after the copy. Does not wait.
  virtual void finish() = 0;
};

/// Copies from the host that run beside the operators of a device, one after another in the order of their start.
class UploadStream {
 public:
  virtual ~UploadStream() = default;
  virtual std::unique_ptr<Upload> make_upload() = 0;
  /// Memory of the host that copies read at full speed while the host does something else (pinned), 64-byte aligned;
  /// null if the host does not give so much. On any thread.
  virtual std::shared_ptr<void> allocate_host(int64_t bytes) = 0;
  /// Waits until every copy that was started is done. On any thread.
  virtual void synchronize() = 0;
};

}  // namespace cbtm
