#pragma once

#include <filesystem>
#include <vector>

#include "cbtm/tensor_file/tensor_file.h"

namespace cbtm {

/// The files that hold the weights of a model directory: one, or an index and its shards in order of their names.
/// Throws Error if there are none.
std::vector<std::filesystem::path> weight_files(const std::filesystem::path& directory);

/// The same, opened, without the index. Throws Error naming the file: missing, damaged, without a tensor that the index
/// says it holds.
std::vector<TensorFile> open_weight_files(const std::filesystem::path& directory);

}  // namespace cbtm
