#pragma once

namespace cbtm::cuda {

/// Bytes of dynamic shared memory that this kernel has been allowed on the current GPU; 0 before the first
/// allow_shared_bytes.
int shared_bytes_allowed(const void* kernel);

/// Allows the kernel, on the current GPU, dynamic shared memory above what every kernel may have. Asks the runtime the
/// first time, and again only for more. On any thread.
void allow_shared_bytes(const void* kernel, int bytes);

}  // namespace cbtm::cuda
