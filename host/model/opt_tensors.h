#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "cbtm/model/opt_config.h"
#include "cbtm/model/parameter_layout.h"
#include "cbtm/tensor_file/tensor_file.h"

namespace cbtm {

/// All tensors of a checkpoint directory under the names of ParameterLayout ("layers.0.fc1.weight"), whatever prefix,
/// sharding or old spelling the files use. The files stay mapped through `files`.
struct OptTensors {
  std::vector<TensorFile> files;
  std::map<std::string, StoredTensor> by_name;    ///< those of the layout alone; types and shapes unchecked
  std::map<std::string, std::string> unreadable;  ///< name -> why it is not in by_name
};

/// Throws Error naming file and tensor; warns of tensors that no OPT model has, in one line. Names may have any prefix
/// before "embed_positions.weight", and wrappers' parts ("_orig_mod.", "module.") anywhere.
OptTensors collect_opt_tensors(const std::filesystem::path& directory, const OptConfig& config);

/// The files that hold the weights of a model directory: one, or an index and its shards in order of their names.
std::vector<std::filesystem::path> weight_files(const std::filesystem::path& directory);

}  // namespace cbtm
