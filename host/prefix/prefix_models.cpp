#include "prefix/prefix_models.h"

namespace cbtm {
namespace {

/// Tokens of a pass, about.
constexpr size_t kTokensAtOnce = 8192;

}  // namespace

PrefixModels::PrefixModels(Device& device, std::span<const std::filesystem::path> directories, int32_t start)
    : start_(start) {
  for (const std::filesystem::path& directory : directories) models_.push_back(InferenceModel::load(device, directory));
}

void PrefixModels::log_probabilities(int64_t model, std::span<const std::span<const int32_t>> texts,
                                     const std::function<void(size_t text, std::span<const float>)>& out) const {
  std::vector<int32_t> ids, targets, offsets = {0};
  std::vector<size_t> numbers;  // of the texts in the pass
  std::vector<float> values;
  const auto flush = [&] {
    if (numbers.empty()) return;
    values.resize(ids.size());
    models_[static_cast<size_t>(model)]->target_log_probabilities({ids, offsets}, targets, values);
    for (size_t s = 0; s < numbers.size(); ++s)
      out(numbers[s],
          std::span(values).subspan(static_cast<size_t>(offsets[s]), static_cast<size_t>(offsets[s + 1] - offsets[s])));
    ids.clear();
    targets.clear();
    numbers.clear();
    offsets = {0};
  };
  for (size_t text = 0; text < texts.size(); ++text) {
    const std::span<const int32_t> tokens = texts[text];
    if (tokens.empty()) {
      out(text, {});
      continue;
    }
    ids.push_back(start_);
    ids.insert(ids.end(), tokens.begin(), tokens.end() - 1);
    targets.insert(targets.end(), tokens.begin(), tokens.end());
    offsets.push_back(static_cast<int32_t>(ids.size()));
    numbers.push_back(text);
    if (ids.size() >= kTokensAtOnce) flush();
  }
  flush();
}

}  // namespace cbtm
