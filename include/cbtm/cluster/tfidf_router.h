#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/route/router.h"

namespace cbtm {

/// What is done to a text's projected tf-idf row y before it is compared (docs/method.md, 'Embeddings').
enum class EmbeddingScaling : uint8_t {
  l2,           ///< y / |y|, as in the published program
  standardised  ///< (y - mean) / deviation in each dimension, both of the fitted documents
};
/// "l2" or "standardised".
const char* embedding_scaling_name(EmbeddingScaling scaling);
/// Throws a usage Error that names --embedding-scaling.
EmbeddingScaling parse_embedding_scaling(const std::string& name);

/// Distances of a text's tf-idf embedding from the clusters' centroids (docs/method.md, 'Routing'). Holds the tf-idf
/// vocabulary, the idf, the SVD components and the centroids (docs/formats.md, 'Router').
class TfidfRouter : public Router {
 public:
  static constexpr const char* kKind = "tfidf-svd";  ///< in router.json
  struct Parts {
    std::vector<std::string> vocabulary;  ///< sorted by UTF-8 bytes; the index is the column
    std::vector<float> idf;               ///< [V]
    std::vector<float> components;        ///< [V, dimensions], row-major
    std::vector<float> centroids;         ///< [clusters, dimensions]
    EmbeddingScaling scaling = EmbeddingScaling::l2;
    std::vector<float> mean, deviation;  ///< [dimensions] each if standardised, else empty; deviations are positive
    int64_t dimensions = 0;
    int64_t clusters = 0;
    std::vector<std::string> stop_words;
    std::vector<std::vector<std::string>> top_terms;  ///< by cluster; may be empty
    Json extra = Json::object();                      ///< further keys of router.json, kept unchanged
  };

  explicit TfidfRouter(Parts parts, const Mixture& defaults = {});
  /// Reads router.json and router.safetensors. Throws Error naming file and field.
  static TfidfRouter load(const std::filesystem::path& directory);
  TfidfRouter(TfidfRouter&&) noexcept;
  ~TfidfRouter() override;

  std::string_view kind() const override { return "tfidf"; }
  int64_t clusters() const override;
  /// Over vocabulary, idf, components, centroids, stop words, and what a standardised embedding is scaled by.
  const std::string& content_hash() const override;
  /// Its distances equal those of embed() of the whole text so far, with an incomplete last character read as U+FFFD.
  std::unique_ptr<RoutingContext> context() const override;
  const Mixture& defaults() const override;
  /// Between standardised vectors, the mean squared difference in one dimension is about as large as that between
  /// vectors of length 1 in all.
  double temperature_scale() const override;
  using Router::save;
  void save(const std::filesystem::path& directory, const Mixture& defaults) const override;

  const Parts& parts() const;
  int64_t dimensions() const { return parts().dimensions; }

  /// The embedding of a text, and whether it has one: the projected row is zero for an empty text, for stop words
  /// alone, and if it is shorter than 1e-6 of the tf-idf row. The embedding is then zero (l2), or that of a zero row.
  bool embed(std::string_view text, std::span<float> embedding) const;
  /// ||embedding - centroid_j||² for each j.
  void squared_distances(std::span<const float> embedding, std::span<double> out) const;

  struct Data;
  const Data& data() const { return *data_; }

 private:
  std::unique_ptr<const Data> data_;
};

}  // namespace cbtm
