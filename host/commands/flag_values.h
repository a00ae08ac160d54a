#pragma once

#include <cxxopts.hpp>
#include <memory>
#include <string>
#include <string_view>

#include "commands/flag_table.h"

namespace cbtm {

/// The values of a list flag are joined with this character while they pass through cxxopts.
inline constexpr char kListDelimiter = '\x1f';

/// What a number flag throws for a text that is no number of its kind. cxxopts does not tell a value the name of its
/// flag, so CommandLine looks for it.
struct WrongNumber {
  std::string text;
  const char* wanted;
};

/// The cxxopts value of a flag, with the default of its row. Numbers are read whole: "0,5", "5%" and "1e-3x" are thrown
/// as WrongNumber. Whole numbers may be written 20000, 1e6, 1.5M or 2G (K, M, G, T are powers of 1000), as long as the
/// value is whole.
std::shared_ptr<cxxopts::Value> value_of(const Flag& flag);

}  // namespace cbtm
