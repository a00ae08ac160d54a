#pragma once

#include <filesystem>
#include <vector>

#include "cbtm/model/parameter_layout.h"
#include "cbtm/model/spec.h"
#include "cbtm/tensor_file/tensor_file.h"

namespace cbtm {

/// The parameters of a model as views into the files of a checkpoint.
struct StoredModel {
  std::vector<TensorFile> files;  ///< they stay mapped
  std::vector<StoredTensor>
      tensors;  ///< one for each parameter, in the layout's order and of its shape; named as stored
};

/// Finds every parameter of `layout`, whatever prefix, sharding or older spelling the files use. Names may have any
/// prefix before the family's anchor, and wrappers' parts ("_orig_mod.", "module.") anywhere. Throws Error naming
/// directory and tensor: missing, unreadable, of the wrong shape or type, both matrices of a tied pair with different
/// values. Tensors that no model of the family has are named in a warning, or refused where they would change results.
StoredModel find_stored_model(const std::filesystem::path& directory, const ModelSpec& spec,
                              const ParameterLayout& layout);

}  // namespace cbtm
