// Words, tf-idf, SVD, k-means, assignment and routing against the goldens.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "cbtm/base/json.h"
#include "cbtm/cluster/balanced_assignment.h"
#include "cbtm/cluster/kmeans.h"
#include "cbtm/cluster/open_router.h"
#include "cbtm/cluster/tfidf_router.h"
#include "cbtm/device/cluster_operators.h"
#include "cbtm/tensor_file/tensor_file.h"
#include "cluster/sparse_rows.h"
#include "cluster/svd.h"
#include "cluster/symmetric_eigen.h"
#include "cluster/tfidf.h"
#include "cluster/words.h"
#include "tests/largest_difference.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

const std::filesystem::path kGolden = std::filesystem::path(CBTM_TEST_DATA) / "cluster";

Device& device() {
  static const std::unique_ptr<Device> cpu = make_cpu_device();
  return *cpu;
}

std::vector<Json> json_lines(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::vector<Json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(Json::parse(line));
  REQUIRE(!lines.empty());
  return lines;
}

std::vector<std::string> corpus_texts() {
  std::vector<std::string> texts;
  for (const Json& line : json_lines(kGolden / "corpus.jsonl")) texts.push_back(line["text"]);
  return texts;
}

TEST_CASE("lower case, tokens and terms of every golden text") {
  const std::vector<std::string>& stop = english_stop_words();
  CHECK(stop.size() == 318);
  for (const Json& line : json_lines(kGolden / "tokens.jsonl")) {
    const auto text = line["text"].get<std::string>();
    CAPTURE(text);
    const std::string lowered = lower_case(text);
    CHECK(lowered == line["lower"].get<std::string>());
    std::vector<std::string> tokens, terms;
    for_each_token(lowered, [&](std::string_view token) {
      tokens.emplace_back(is_number(token) ? "#NUMBER" : token);
      if (!is_number(token) && std::find(stop.begin(), stop.end(), token) == stop.end()) terms.emplace_back(token);
    });
    CHECK(tokens == line["tokens"].get<std::vector<std::string>>());
    CHECK(terms == line["terms"].get<std::vector<std::string>>());
  }
}

TEST_CASE("every character's class and lower case is the golden's") {
  const Json golden = read_json_file(kGolden / "character_classes.json");
  const auto check_ranges = [&](const char* name, uint8_t bit) {
    std::vector<uint8_t> want(0x110000, 0);
    for (const Json& range : golden[name])
      for (uint32_t c = range[0]; c <= range[1].get<uint32_t>(); ++c) want[c] = 1;
    int64_t wrong = 0;
    for (char32_t c = 0; c < 0x110000; ++c) wrong += ((character_bits(c) & bit) != 0) != (want[c] != 0) ? 1 : 0;
    CHECK(wrong == 0);
  };
  check_ranges("word", kWordBit);
  check_ranges("digit", kDigitBit);
  for (const auto& [from, to] : golden["lower"].items()) CHECK(lower_case(from) == to.get<std::string>());
}

TfIdf golden_tfidf() {
  TfIdfBuilder builder(english_stop_words());
  const std::vector<std::string> texts = corpus_texts();
  builder.add({texts.begin(), texts.begin() + 100});
  builder.add({texts.begin() + 100, texts.end()});
  return builder.finish(1);
}

TEST_CASE("tf-idf equals the golden") {
  const TfIdf got = golden_tfidf();
  std::vector<std::string> vocabulary;
  std::ifstream file(kGolden / "vocabulary.txt");
  for (std::string line; std::getline(file, line);) vocabulary.push_back(line);
  CHECK(got.vocabulary == vocabulary);
  const TensorFile golden = TensorFile::open(kGolden / "tfidf.safetensors");
  CHECK(largest_difference(got.idf, golden.at("idf").values<double>()) <= 1e-12);
  CHECK(got.indptr == golden.at("indptr").values<int64_t>());
  CHECK(got.indices == golden.at("indices").values<int32_t>());
  CHECK(largest_difference(SparseRows(device(), got).values(), golden.at("values").values<double>()) <= 1e-6);
}

TEST_CASE("the SVD spans the golden subspace") {
  const TfIdf tfidf = golden_tfidf();
  const TensorFile golden = TensorFile::open(kGolden / "svd.safetensors");
  const auto components = golden.at("components").values<float>();
  const auto values = golden.at("singular_values").values<double>();
  constexpr int64_t kDimensions = 14;
  const TruncatedSvd got = truncated_svd(device(), SparseRows(device(), tfidf),
                                         {.dimensions = kDimensions, .iterations_max = 200, .tolerance = 0});
  REQUIRE(got.dimensions == kDimensions);
  for (size_t j = 0; j < kDimensions; ++j) CHECK(got.singular_values[j] == doctest::Approx(values[j]).epsilon(1e-5));
  // Cosines of the principal angles are the singular values of VᵀW.
  const auto terms = static_cast<int64_t>(tfidf.vocabulary.size());
  std::vector<double> cross(kDimensions * kDimensions, 0.0), square(cross);
  for (int64_t row = 0; row < terms; ++row)
    for (int64_t i = 0; i < kDimensions; ++i)
      for (int64_t j = 0; j < kDimensions; ++j)
        cross[static_cast<size_t>(i * kDimensions + j)] +=
            static_cast<double>(got.components[static_cast<size_t>(row * kDimensions + i)]) *
            static_cast<double>(components[static_cast<size_t>(row * kDimensions + j)]);
  for (int64_t i = 0; i < kDimensions; ++i)
    for (int64_t j = 0; j < kDimensions; ++j)
      for (int64_t l = 0; l < kDimensions; ++l)
        square[static_cast<size_t>(i * kDimensions + j)] +=
            cross[static_cast<size_t>(l * kDimensions + i)] * cross[static_cast<size_t>(l * kDimensions + j)];
  const SymmetricEigen eigen = symmetric_eigen(square, kDimensions);
  CHECK(std::sqrt(std::max(0.0, 1 - eigen.values.back())) <= 1e-3);
  for (int64_t j = 0; j < kDimensions; ++j) {
    float extreme = 0;
    for (int64_t row = 0; row < terms; ++row)
      if (const float value = got.components[static_cast<size_t>(row * kDimensions + j)];
          std::abs(value) > std::abs(extreme))
        extreme = value;
    CHECK(extreme > 0);
  }
}

TEST_CASE("k-means, plain and balanced, goes through the golden iterations") {
  const TensorFile golden = TensorFile::open(kGolden / "kmeans.safetensors");
  const auto embedding = TensorFile::open(kGolden / "svd.safetensors").at("embedding").values<float>();
  constexpr int64_t kDimensions = 14;
  const Json manifest = read_json_file(kGolden / "manifest.json");
  for (const Json& entry : manifest["kmeans"]) {
    const std::string name = entry["name"];
    CAPTURE(name);
    std::vector<float> rows, initial;
    for (const int64_t row : golden.at(name + ".rows").values<int64_t>())
      rows.insert(rows.end(), embedding.begin() + row * kDimensions, embedding.begin() + (row + 1) * kDimensions);
    for (const int64_t row : golden.at(name + ".initial").values<int64_t>())
      initial.insert(initial.end(), rows.begin() + row * kDimensions, rows.begin() + (row + 1) * kDimensions);
    KMeansOptions options{.clusters = entry["k"], .balanced = false, .iterations_max = 100};
    const KMeansResult plain = kmeans_from(device(), rows, kDimensions, initial, options, /*keep_history=*/true);
    const auto want_plain = golden.at(name + ".plain.assignment").values<int32_t>();
    std::vector<int32_t> history;
    for (const auto& labels : plain.label_history) history.insert(history.end(), labels.begin(), labels.end());
    CHECK(history == want_plain);
    CHECK(largest_difference(plain.objectives, golden.at(name + ".plain.objective").values<double>()) <= 1e-3);
    CHECK(largest_difference(plain.centroids, golden.at(name + ".plain.centroids").values<float>()) <= 1e-5);

    options.balanced = true;
    options.capacities = golden.at(name + ".capacity").values<int64_t>();
    options.iterations_max = entry["balanced_iterations"];
    const KMeansResult balanced = kmeans_from(device(), rows, kDimensions, initial, options, true);
    CHECK(balanced.label_history.front() == golden.at(name + ".balanced.first_assignment").values<int32_t>());
    CHECK(balanced.labels == golden.at(name + ".balanced.last_assignment").values<int32_t>());
    const auto want = golden.at(name + ".balanced.objective").values<double>();
    REQUIRE(balanced.objectives.size() == want.size());
    for (size_t i = 0; i < want.size(); ++i) CHECK(balanced.objectives[i] == doctest::Approx(want[i]).epsilon(1e-6));
    CHECK(std::abs(balanced.relative_gap) <= 1e-9);
  }
}

TEST_CASE("hard balanced assignments reach the optimal cost, with their capacities and a certificate") {
  const TensorFile golden = TensorFile::open(kGolden / "assignment.safetensors");
  const Json cases = read_json_file(kGolden / "assignment.json");
  for (const auto& [name, entry] : cases.items()) {
    CAPTURE(name);
    const auto points = golden.at(name + ".points").values<float>(),
               centroids = golden.at(name + ".centroids").values<float>();
    const auto capacity = golden.at(name + ".capacity").values<int64_t>();
    const auto n = entry["n"].get<int64_t>(), k = entry["k"].get<int64_t>();
    const int64_t d = static_cast<int64_t>(points.size()) / n;
    std::vector<float> costs(static_cast<size_t>(n * k));
    device().cluster_operators().squared_distances(view_of(points.data(), n, d), view_of(centroids.data(), k, d),
                                                   view_of(costs.data(), n, k));
    const BalancedAssignment got = balanced_assignment(device(), view_of(costs.data(), n, k), capacity);
    double cost = 0;
    std::vector<int64_t> sizes(static_cast<size_t>(k), 0);
    for (int64_t i = 0; i < n; ++i) {
      const int32_t label = got.labels[static_cast<size_t>(i)];
      ++sizes[static_cast<size_t>(label)];
      for (int64_t c = 0; c < d; ++c)
        cost += std::pow(static_cast<double>(points[static_cast<size_t>(i * d + c)]) -
                             static_cast<double>(centroids[static_cast<size_t>(label * d + c)]),
                         2);
    }
    CHECK(sizes == capacity);
    CHECK(cost == doctest::Approx(entry["optimal_cost"].get<double>()).epsilon(1e-6));
    CHECK(got.dual <= got.cost + 1e-6 * std::abs(got.cost));
    CHECK(std::abs(got.relative_gap()) <= 1e-6);
  }
}

TEST_CASE("routing of every golden context, whole and byte by byte") {
  const TfidfRouter router = TfidfRouter::load(kGolden / "router");
  const TensorFile golden = TensorFile::open(kGolden / "routing.safetensors");
  const auto embeddings = golden.at("embedding").values<float>();
  const auto distances = golden.at("squared_distance").values<double>();
  const Json contexts = read_json_file(kGolden / "contexts.json");
  const auto d = static_cast<size_t>(router.dimensions()), k = static_cast<size_t>(router.clusters());
  for (size_t i = 0; i < contexts.size(); ++i) {
    const auto text = contexts[i].get<std::string>();
    CAPTURE(text);
    std::vector<float> embedding(d);
    router.embed(text, embedding);
    CHECK(largest_difference(embedding, std::vector<float>(embeddings.begin() + static_cast<int64_t>(i * d),
                                                           embeddings.begin() + static_cast<int64_t>((i + 1) * d))) <=
          1e-5);
    std::vector<double> got(k), stepwise(k);
    router.squared_distances(embedding, got);
    const std::vector<double> want(distances.begin() + static_cast<int64_t>(i * k),
                                   distances.begin() + static_cast<int64_t>((i + 1) * k));
    CHECK(largest_difference(got, want) <= 1e-5);
    const std::unique_ptr<RoutingContext> context = router.context();
    for (const char byte : text) {
      context->append({&byte, 1});
      context->squared_distances(stepwise);
    }
    context->squared_distances(stepwise);
    CHECK(largest_difference(stepwise, want) <= 1e-5);
    for (const int power : {2, 4})
      for (const int top : {1, 2, 4, 8}) {
        std::vector<double> weights(k);
        routing_weights(want, {.top_k = top, .temperature = 0.1, .distance_power = static_cast<double>(power)}, {},
                        weights);
        const auto all =
            golden.at("weights.power" + std::to_string(power) + ".top" + std::to_string(top)).values<double>();
        CHECK(largest_difference(weights, std::vector<double>(all.begin() + static_cast<int64_t>(i * k),
                                                              all.begin() + static_cast<int64_t>((i + 1) * k))) <=
              1e-5);
      }
  }
  const TemporaryDirectory directory;
  router.save(directory.path() / "router");
  const std::unique_ptr<Router> saved = open_router(directory.path() / "router");
  CHECK(saved->content_hash() == router.content_hash());
  CHECK(saved->defaults().temperature == router.defaults().temperature);
  // Other defaults are other words in router.json, and the same router.
  router.save(directory.path() / "router", {.temperature = 0.25, .distance_power = 4});
  const std::unique_ptr<Router> tuned = open_router(directory.path() / "router");
  CHECK(tuned->content_hash() == router.content_hash());
  CHECK(tuned->defaults().temperature == 0.25);
  CHECK(tuned->defaults().distance_power == 4);

  const std::filesystem::path json_path = directory.path() / "router/router.json";
  Json json = read_json_file(json_path);
  json.erase("kind");
  write_json_file(json_path, json);
  CHECK(open_router(directory.path() / "router")->content_hash() == router.content_hash());
  json["kind"] = "oracle";
  write_json_file(json_path, json);
  CHECK_THROWS_WITH_AS(open_router(directory.path() / "router"),
                       doctest::Contains("kind is \"oracle\", but only tfidf-svd is understood"), Error);
}

}  // namespace
}  // namespace cbtm
