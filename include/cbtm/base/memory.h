#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cbtm {

/// Bytes that this process can still take: MemAvailable, but no more than its control groups (cbtm/base/cgroup.h) and
/// its own limits (RLIMIT_AS, RLIMIT_DATA) leave.
int64_t available_memory_bytes();

/// Bytes that this process has taken so far, its code included (RssAnon, VmExe). Mapped files do not count: the system
/// takes their memory back when it needs some.
int64_t own_memory_bytes();

/// The largest resident size so far (VmHWM), in bytes.
int64_t peak_resident_bytes();

/// "1.5 GiB", "320 MiB", "12 KiB", "7 B".
std::string format_bytes(int64_t bytes);

/// Reads "2G", "512M", "1.5GiB" or "1000000" (K, M, G, T are powers of 1024), at least one byte. The whole `text` must
/// be such a size. Throws a usage Error naming `flag`.
int64_t parse_bytes(std::string_view text, std::string_view flag);

}  // namespace cbtm
