#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/tensor_file/tensor_file.h"
#include "model/families/family.h"

namespace cbtm {

/// "'a', 'b', 'c' and 17 more".
class NameList {
 public:
  void add(std::string_view name);
  int64_t count() const { return count_; }
  std::string text() const;

 private:
  static constexpr int64_t kShown = 3;
  int64_t count_ = 0;
  std::string text_;
};

/// A tensor's name without what wrappers of modules put into it: torch.compile, DataParallel, DeepSpeed, FSDP,
/// activation checkpointing. They may stand anywhere, once for each wrapped module.
std::string unwrapped_name(std::string_view name);

/// What stands before the names of a model's tensors. Throws Error if no tensor is the family's anchor, or the tensors
/// are of several models.
std::string find_prefix(const std::vector<TensorFile>& files, const ModelFamily& family, const std::string& where);

/// Where the output matrix stands: beside the last of the family's prefixes that ends `prefix`.
std::string output_matrix_name(const ModelFamily& family, const std::string& prefix);

}  // namespace cbtm
