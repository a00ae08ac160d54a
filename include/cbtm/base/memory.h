#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cbtm {

/// Bytes this process could still take: MemAvailable, bounded by what the cgroup leaves.
int64_t available_memory_bytes();

/// Largest resident size so far (VmHWM), in bytes.
int64_t peak_resident_bytes();

/// "1.5 GiB", "320 MiB", "12 KiB", "7 B".
std::string format_bytes(int64_t bytes);

/// Reads "2G", "512M", "1.5GiB", "1000000" (K, M, G, T are powers of 1024). Throws a usage Error naming `flag`.
int64_t parse_bytes(std::string_view text, std::string_view flag);

}  // namespace cbtm
