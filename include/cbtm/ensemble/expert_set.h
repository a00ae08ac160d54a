#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cbtm/checkpoint/expert_card.h"
#include "cbtm/cluster/router.h"
#include "cbtm/device/device.h"
#include "cbtm/model/inference.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

/// One expert on disk.
struct Expert {
  int64_t cluster = 0;
  std::filesystem::path directory;
  std::optional<ExpertCard> card;  ///< none: a plain OPT checkpoint
};

struct ExpertSetOptions {
  std::filesystem::path experts;
  std::filesystem::path router;     ///< "": EXPERTS/router, else the run's that they lie in, else that of `run`
  std::filesystem::path tokenizer;  ///< "": the experts' own files, else as the router
  std::filesystem::path run;        ///< "": no other run than the one they lie in
  WeightFormat weights = WeightFormat::f32;
};

/// A directory of experts with the router that chooses among them. Experts of ours know their cluster and the router's
/// hash: order and renames do not matter, and a mismatch is an Error. Plain OPT checkpoints count by their names
/// (numbers are clusters, else name order is cluster order), said once. Clusters may be missing: see present().
class ExpertSet {
 public:
  static ExpertSet open(const ExpertSetOptions& options);

  const Router& router() const { return *router_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const std::vector<Expert>& experts() const { return experts_; }
  int64_t vocab_size() const { return vocab_size_; }
  int64_t max_position_embeddings() const { return max_position_embeddings_; }
  /// Longest sequence the experts were trained on, or their positions if that is not known.
  int64_t trained_length() const { return trained_length_; }
  /// By cluster: 1 if its expert is there.
  const std::vector<uint8_t>& present() const { return present_; }
  /// The expert of a cluster that is present, loaded (memory-mapped where its file allows), or as one of a group.
  std::unique_ptr<InferenceModel> load(Device& device, int64_t cluster,
                                       std::shared_ptr<ModelGroup> group = nullptr) const;
  const Expert& expert_of(int64_t cluster) const;

 private:
  std::unique_ptr<Router> router_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<Expert> experts_;
  std::vector<uint8_t> present_;
  int64_t vocab_size_ = 0;
  int64_t max_position_embeddings_ = 0;
  int64_t trained_length_ = 0;
  WeightFormat weights_ = WeightFormat::f32;
};

/// Σ weights[j] θ_j over all parameters of the experts present, by cluster (docs/method.md, 'Parameter average'). All
/// must have one shape.
std::vector<float> average_parameters(const ExpertSet& experts, const std::vector<double>& weights);

}  // namespace cbtm
