#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/base/json.h"

namespace cbtm {

/// Maps text to distances from the clusters (docs/method.md, 'Routing'). Holds the tf-idf vocabulary, the idf, the SVD
/// components and the centroids (docs/formats.md, 'Router'). Immutable, safe to share between threads.
class Router {
 public:
  struct Parts {
    std::vector<std::string> vocabulary;  ///< sorted by UTF-8 bytes; the index is the column
    std::vector<float> idf;               ///< [V]
    std::vector<float> components;        ///< [V, dimensions], row-major
    std::vector<float> centroids;         ///< [clusters, dimensions]
    int64_t dimensions = 0;
    int64_t clusters = 0;
    double temperature = 0.1;
    double distance_power = 2;
    std::vector<std::string> stop_words;
    std::vector<std::vector<std::string>> top_terms;  ///< by cluster; may be empty
    Json extra = Json::object();                      ///< further keys of router.json, kept unchanged
  };

  explicit Router(Parts parts);
  /// Reads router.json and router.safetensors. Throws Error naming file and field.
  static Router load(const std::filesystem::path& directory);
  /// Writes both files. They appear together, as a directory.
  void save(const std::filesystem::path& directory) const;
  Router(Router&&) noexcept;
  ~Router();

  const Parts& parts() const;
  int64_t clusters() const { return parts().clusters; }
  int64_t dimensions() const { return parts().dimensions; }
  /// A hash over vocabulary, idf, components, centroids and stop words, but not the temperature. Experts record it.
  const std::string& content_hash() const;

  /// The embedding of a text, of length 1. It is zero for an empty text, for stop words alone, and if it is shorter
  /// than 1e-6 of the tf-idf row.
  void embed(std::string_view text, std::span<float> embedding) const;
  /// ||embedding - centroid_j||² for each j.
  void squared_distances(std::span<const float> embedding, std::span<double> out) const;

  struct Data;
  const Data& data() const { return *data_; }

 private:
  std::unique_ptr<const Data> data_;
};

/// A text that grows. Append bytes (the cut may be inside a character) and ask for the distances of the text so far.
///
/// An append costs what its own words cost, however long the text is: the unnormalised embedding is kept, and a word is
/// added when it is complete. The last, possibly unfinished word counts as it is. The result equals Router::embed of
/// the whole text so far, with an incomplete last character read as U+FFFD.
class RoutingContext {
 public:
  explicit RoutingContext(const Router& router);
  ~RoutingContext();
  RoutingContext(RoutingContext&&) noexcept;

  void append(std::string_view bytes);
  void squared_distances(std::span<double> out) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct RoutingOptions {
  int64_t top_k = 2;          ///< experts of non-zero weight, at least 1; more than there are means all
  double temperature = 0.1;   ///< T
  double distance_power = 2;  ///< 2 or 4
};

/// Weights in proportion to exp(-distance_j^power / T) for the top_k nearest clusters (ties: lower index), 0 for the
/// others. They sum to 1. `present` marks the clusters that may be used; empty means all. The exponents are taken
/// relative to the nearest cluster, so the sum does not underflow to 0.
void routing_weights(std::span<const double> squared_distances, const RoutingOptions& options,
                     std::span<const uint8_t> present, std::span<double> weights);

}  // namespace cbtm
