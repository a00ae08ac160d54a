#pragma once

#include <string>
#include <string_view>

namespace cbtm::fuzz {

/// A zip archive with the CRC of every member recomputed, in the directory and before the member. Anything else comes
/// back as it is.
std::string repair_zip(std::string_view bytes);

/// A safetensors file whose length field fits its JSON header and whose data is as long as the header says (if that is
/// little). Anything else comes back as it is.
std::string repair_safetensors(std::string_view bytes);

/// A gzip stream with the CRC and the length at its end recomputed. Anything else comes back as it is.
std::string repair_gzip(std::string_view bytes);

/// Each part of an input of several files (see split_parts), by what it is.
std::string repair_parts(std::string_view input);

}  // namespace cbtm::fuzz
