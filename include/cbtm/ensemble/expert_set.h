#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/device/device.h"
#include "cbtm/model/expert_card.h"
#include "cbtm/model/inference.h"
#include "cbtm/route/router.h"
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
  std::filesystem::path router;     ///< "": EXPERTS/router, else the router of the run that they lie in, else of `run`
  std::filesystem::path tokenizer;  ///< "": the files of the experts, else as for the router
  std::filesystem::path run;        ///< "": only the run that they lie in
  WeightFormat weights = WeightFormat::f32;
  /// For routers that run models. Null: such a router only says what its clusters are.
  Device* device = nullptr;
};

/// A directory of experts with the router that chooses among them (docs/formats.md, 'Directory of experts').
///
/// Experts that cbtm trained record their cluster and the router's hash, so their order and names do not matter, and a
/// mismatch is an Error. Plain OPT checkpoints are ordered by name: numbers are clusters, otherwise the order of names
/// is the order of clusters. A message says so once. Clusters may be missing: see present().
class ExpertSet {
 public:
  static ExpertSet open(const ExpertSetOptions& options);

  const Router& router() const { return *router_; }
  /// The router of a kind ("tfidf", "prefix"): the experts' own, or one of the same clusters that lies in its
  /// directory. Throws Error that says what there is.
  const Router& router_of(std::string_view kind) const;
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const std::vector<Expert>& experts() const { return experts_; }
  int64_t vocab_size() const { return vocab_size_; }
  int64_t max_length() const { return max_length_; }
  /// The longest sequence that the experts were trained on, or their positions if that is not known.
  int64_t trained_length() const { return trained_length_; }
  /// One entry per cluster: 1 if its expert is there.
  const std::vector<uint8_t>& present() const { return present_; }
  /// Loads the expert of a cluster that is present. Its file is memory-mapped if possible, or it joins `memory`.
  std::unique_ptr<InferenceModel> load(Device& device, int64_t cluster,
                                       std::shared_ptr<ModelMemory> memory = nullptr) const;
  const Expert& expert_of(int64_t cluster) const;

 private:
  std::unique_ptr<Router> router_;
  std::unique_ptr<Router> beside_;  ///< of the same clusters; may be null
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<Expert> experts_;
  std::vector<uint8_t> present_;
  int64_t vocab_size_ = 0;
  int64_t max_length_ = 0;
  int64_t trained_length_ = 0;
  WeightFormat weights_ = WeightFormat::f32;
};

/// Σ weights[j] θ_j over the experts that are present (docs/method.md, 'Parameter average'). There is one weight per
/// cluster. All experts must have one shape.
std::vector<float> average_parameters(const ExpertSet& experts, const std::vector<double>& weights);

}  // namespace cbtm
