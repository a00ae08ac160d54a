#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "cbtm/checkpoint/tensor_file.h"
#include "cbtm/model/opt_config.h"
#include "cbtm/model/parameter_layout.h"

namespace cbtm {

/// All tensors of a checkpoint directory under the names of ParameterLayout ("layers.0.fc1.weight"), whatever prefix,
/// sharding or old spelling the files use. The files stay mapped through `files`.
struct OptTensors {
  std::vector<TensorFile> files;
  std::map<std::string, StoredTensor> by_name;
};

/// Throws Error naming file and tensor; warns of tensors that no OPT model has.
OptTensors collect_opt_tensors(const std::filesystem::path& directory, const OptConfig& config);

}  // namespace cbtm
