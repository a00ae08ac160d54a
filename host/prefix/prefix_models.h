#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "cbtm/model/inference.h"

namespace cbtm {

/// The models of a prefix router on a device. Not thread-safe.
class PrefixModels {
 public:
  /// `start`: the token before the first of every text.
  PrefixModels(Device& device, std::span<const std::filesystem::path> directories, int32_t start);

  int64_t count() const { return static_cast<int64_t>(models_.size()); }
  /// Calls `out` with the text's number and ln p(token | start token and the tokens before it) for each token of each
  /// text, by one model. Texts are read several in a pass, in their order; empty texts are called for at once.
  void log_probabilities(int64_t model, std::span<const std::span<const int32_t>> texts,
                         const std::function<void(size_t text, std::span<const float>)>& out) const;

 private:
  std::vector<std::unique_ptr<InferenceModel>> models_;
  int32_t start_;
};

}  // namespace cbtm
