#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cbtm/ensemble/expert_set.h"
#include "cbtm/ensemble/next_token_scorer.h"
#include "cbtm/serve/server.h"

namespace cbtm {

/// What a request can name as its model.
struct ServedModel {
  enum class Kind : uint8_t { ensemble, expert, single };
  std::string id;
  Kind kind = Kind::ensemble;
  int64_t cluster = -1;             ///< of an expert
  std::filesystem::path directory;  ///< of a single model: the seed, the baseline, or the one that is served
};

/// What is served, as the files were when it was made. Nothing in it changes; a reload makes another one. Safe to share
/// between threads.
class Catalog {
 public:
  /// Opens the experts, or the one model. Nothing is loaded to the device, but for the models of a router that has
  /// some. Throws Error.
  static std::shared_ptr<const Catalog> open(const ServedFiles& files, std::shared_ptr<Device> device);

  /// The first is what requests get that name none.
  const std::vector<ServedModel>& models() const { return models_; }
  /// The model of this name; null if there is none.
  const ServedModel* find(const std::string& id) const;
  /// The experts, or null if one model is served.
  const ExpertSet* experts() const { return experts_ ? &*experts_ : nullptr; }
  const Tokenizer& tokenizer() const { return experts_ ? experts_->tokenizer() : *tokenizer_; }
  int64_t vocab_size() const { return vocab_size_; }
  int64_t max_length() const { return max_length_; }
  const std::vector<int32_t>& end_tokens() const { return end_tokens_; }
  const SequenceMixing& mixing() const { return mixing_; }  ///< of requests that do not bring their own
  int64_t created() const { return created_; }              ///< seconds since 1970
  /// "expert-003".
  static std::string expert_id(int64_t cluster);

 private:
  void add_experts(const ServedFiles& files);
  void add_model(const ServedFiles& files);
  void add_single(const std::string& id, const std::filesystem::path& directory);

  std::shared_ptr<Device> device_;  ///< outlives the router's models
  std::optional<ExpertSet> experts_;
  std::optional<Tokenizer> tokenizer_;
  std::vector<ServedModel> models_;
  int64_t vocab_size_ = 0, max_length_ = 0;
  std::vector<int32_t> end_tokens_;
  SequenceMixing mixing_;
  int64_t created_ = 0;
};

}  // namespace cbtm
