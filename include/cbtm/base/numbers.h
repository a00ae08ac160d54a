#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace cbtm {

/// Numbers as people write them on a command line; nothing if the text as a whole is no such number.

/// A finite decimal number: "0.006", "-1", "1e-3". Not "0,006", "5%", "0x1p-8", "inf", "nan" or " 1".
std::optional<double> parse_number(std::string_view text);

/// A whole number: "2048", "1e6", "1.5M", "2G" (K, M, G, T: powers of 1000, in either case).
std::optional<int64_t> parse_integer(std::string_view text);

/// A whole number from 0 to 2^64 - 1, digits only.
std::optional<uint64_t> parse_unsigned(std::string_view text);

}  // namespace cbtm
