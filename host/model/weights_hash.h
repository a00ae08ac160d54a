#pragma once

#include <span>
#include <string>

#include "cbtm/model/spec.h"
#include "cbtm/tensor_file/tensor_file.h"

namespace cbtm {

/// ModelCheckpoint::weights_hash of these tensors, one for each parameter in the layout's order.
std::string hash_of_stored(const ModelSpec& spec, std::span<const StoredTensor> stored);

}  // namespace cbtm
