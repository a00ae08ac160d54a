#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/device/device.h"
#include "cbtm/model/spec.h"
#include "cbtm/route/router.h"
#include "cbtm/tokenizer/tokenizer.h"

namespace cbtm {

/// One small language model per cluster; the likelihood of a text's first tokens says which cluster it is of
/// (docs/method.md, 'Prefix router'; SmallTalk LM, arXiv 2410.03529). Its "squared distance" from cluster j is
/// −ln p_j(x_0 .. x_{m−1} | start token), with m the number of tokens so far, at most prefix_tokens(). So at
/// temperature 1 the weights of routing_weights() are the posterior probabilities of the clusters, all equally probable
/// beforehand.
///
/// The models run on a device, one call at a time. Special tokens are no text and are not read.
class PrefixRouter : public Router {
 public:
  static constexpr const char* kKind = "prefix";  ///< in router.json

  /// Reads router.json, the models' cards and the tokenizer (docs/formats.md, 'Prefix router'), and loads the models
  /// onto `device`. Without a device it can be saved and compared, but not asked. Throws Error naming file and field,
  /// also if a model is not the one that router.json names.
  static std::unique_ptr<PrefixRouter> load(const std::filesystem::path& directory, Device* device);
  ~PrefixRouter() override;

  std::string_view kind() const override { return kKind; }
  int64_t clusters() const override;
  /// Over the models' weights, the tokenizer, the start token and prefix_tokens().
  const std::string& content_hash() const override;
  std::unique_ptr<RoutingContext> context() const override;
  /// As the contexts give them but for rounding: several texts are read in one pass.
  void distances_along(std::span<const KnownText> texts, const std::function<std::string_view(int32_t)>& text_of,
                       const std::function<void()>& check_stop) const override;
  const Mixture& defaults() const override;
  double temperature_scale() const override { return 100; }
  bool takes_distance_power() const override { return false; }
  bool runs_models() const override { return true; }
  std::string tokenizer_hash() const override;
  using Router::save;
  void save(const std::filesystem::path& directory, const Mixture& defaults) const override;

  /// M: tokens of a text that are read at most.
  int64_t prefix_tokens() const;
  /// The model of a cluster, for people: "0.4M parameters" and the like follow from it.
  const ModelSpec& model_spec() const;
  /// −ln p_j of each text's first tokens: [texts, clusters]. Texts hold no special tokens.
  std::vector<double> negative_log_likelihoods(std::span<const std::span<const int32_t>> texts) const;

  struct Data;

 private:
  explicit PrefixRouter(std::unique_ptr<const Data> data);
  std::unique_ptr<const Data> data_;
};

/// What a prefix router is made of.
struct PrefixRouterParts {
  int64_t prefix_tokens = 256;
  const ModelSpec& spec;
  std::span<const std::vector<float>> weights;  ///< of each cluster's model, in layout order
  const Tokenizer& tokenizer;                   ///< its eos is the start token
  Json extra = Json::object();                  ///< further keys of router.json, for people
};

/// Writes a router's files into `directory`, which exists and which the caller renames into place.
void write_prefix_router(const std::filesystem::path& directory, const PrefixRouterParts& parts);

}  // namespace cbtm
