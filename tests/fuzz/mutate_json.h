#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cbtm::fuzz {

/// An input of several files with one change in one value of one of its JSON files, JSON lines or safetensors headers:
/// a value of another type, an extreme number, a member removed, moved or copied. Mutations of bytes seldom leave JSON
/// well-formed. Comes back as it is if there is no JSON in it. The same seed gives the same change.
std::string mutate_json_parts(std::string_view input, uint32_t seed);

}  // namespace cbtm::fuzz
