#include "cbtm/cluster/tfidf_router.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>
#include <unordered_set>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/tensor_file/tensor_file.h"
#include "cluster/tfidf_router_data.h"
#include "cluster/word_tables.h"
#include "cluster/words.h"

namespace cbtm {

namespace {

/// A projected row shorter than this fraction of its tf-idf row is rounding noise.
constexpr double kNoise = 1e-6;

std::string hash_of(const TfidfRouter::Parts& parts) {
  StreamingHash hash;
  const auto add_words = [&](const std::vector<std::string>& words) {
    for (const std::string& word : words) {
      hash.update(word);
      hash.update(std::string_view("\0", 1));
    }
    hash.update(std::string_view("\1", 1));
  };
  const auto add_floats = [&](const std::vector<float>& values) { hash.update(values.data(), values.size() * 4); };
  add_words(parts.vocabulary);
  add_words(parts.stop_words);
  add_floats(parts.idf);
  add_floats(parts.components);
  add_floats(parts.centroids);
  add_floats(parts.mean);
  add_floats(parts.deviation);
  hash.update(&parts.dimensions, sizeof parts.dimensions);
  hash.update(&parts.clusters, sizeof parts.clusters);
  return hash.hex();
}

}  // namespace

const char* embedding_scaling_name(EmbeddingScaling scaling) {
  return scaling == EmbeddingScaling::l2 ? "l2" : "standardised";
}

EmbeddingScaling parse_embedding_scaling(const std::string& name) {
  for (const EmbeddingScaling scaling : {EmbeddingScaling::l2, EmbeddingScaling::standardised})
    if (name == embedding_scaling_name(scaling)) return scaling;
  fail_usage("--embedding-scaling {}: use l2 or standardised", name);
}

TfidfRouter::TfidfRouter(Parts parts, const Mixture& defaults) {
  auto data = std::make_unique<Data>();
  data->parts = std::move(parts);
  data->defaults = defaults;
  for (size_t column = 0; column < data->parts.vocabulary.size(); ++column) {
    const std::string& term = data->parts.vocabulary[column];
    data->column_of.emplace(term, static_cast<int32_t>(column));
    data->term_bytes_max = std::max(data->term_bytes_max, term.size());
  }
  data->content_hash = hash_of(data->parts);
  data_ = std::move(data);
}
TfidfRouter::TfidfRouter(TfidfRouter&&) noexcept = default;
TfidfRouter::~TfidfRouter() = default;
const TfidfRouter::Parts& TfidfRouter::parts() const { return data_->parts; }
int64_t TfidfRouter::clusters() const { return data_->parts.clusters; }
const std::string& TfidfRouter::content_hash() const { return data_->content_hash; }
const Mixture& TfidfRouter::defaults() const { return data_->defaults; }
double TfidfRouter::temperature_scale() const {
  return data_->parts.scaling == EmbeddingScaling::l2 ? 1 : static_cast<double>(data_->parts.dimensions);
}

void TermSum::add(const TfidfRouter::Data& data, std::string_view lowered) {
  for_each_token(lowered, [&](std::string_view token) {
    const auto found = data.column_of.find(token);
    if (found != data.column_of.end()) add_term(data, found->second);
  });
}

void TermSum::add_term(const TfidfRouter::Data& data, int32_t column) {
  const TfidfRouter::Parts& parts = data.parts;
  if (sum.empty()) sum.assign(static_cast<size_t>(parts.dimensions), 0.0);
  const auto idf = static_cast<double>(parts.idf[static_cast<size_t>(column)]);
  const float* row = parts.components.data() + column * parts.dimensions;
  for (int64_t d = 0; d < parts.dimensions; ++d) sum[static_cast<size_t>(d)] += idf * static_cast<double>(row[d]);
  const int64_t count = counts[column]++;
  square += static_cast<double>(2 * count + 1) * idf * idf;
}

bool TermSum::embedding(const TfidfRouter::Parts& parts, std::span<double> out) const {
  std::fill(out.begin(), out.end(), 0.0);
  double length_square = 0;
  for (const double value : sum) length_square += value * value;
  const bool has_words = length_square != 0 && !(std::sqrt(length_square) < kNoise * std::sqrt(square));
  if (has_words) {
    const double length = parts.scaling == EmbeddingScaling::l2 ? std::sqrt(length_square) : std::sqrt(square);
    for (size_t d = 0; d < sum.size(); ++d) out[d] = sum[d] / length;
  }
  if (parts.scaling == EmbeddingScaling::standardised)
    for (size_t d = 0; d < out.size(); ++d)
      out[d] = (out[d] - static_cast<double>(parts.mean[d])) / static_cast<double>(parts.deviation[d]);
  return has_words;
}

bool TfidfRouter::embed(std::string_view text, std::span<float> embedding) const {
  CBTM_ASSERT(static_cast<int64_t>(embedding.size()) == dimensions(), "an embedding has the router's dimensions");
  TermSum terms;
  terms.add(*data_, lower_case(text));
  std::vector<double> unit(embedding.size());
  const bool has_words = terms.embedding(data_->parts, unit);
  for (size_t d = 0; d < unit.size(); ++d) embedding[d] = static_cast<float>(unit[d]);
  return has_words;
}

namespace {

template <typename Value>
void distances(const TfidfRouter::Parts& parts, std::span<const Value> embedding, std::span<double> out) {
  for (int64_t cluster = 0; cluster < parts.clusters; ++cluster) {
    const float* centroid = parts.centroids.data() + cluster * parts.dimensions;
    double sum = 0;
    for (int64_t d = 0; d < parts.dimensions; ++d) {
      const double difference =
          static_cast<double>(embedding[static_cast<size_t>(d)]) - static_cast<double>(centroid[d]);
      sum += difference * difference;
    }
    out[static_cast<size_t>(cluster)] = sum;
  }
}

}  // namespace

void TfidfRouter::squared_distances(std::span<const float> embedding, std::span<double> out) const {
  distances<float>(parts(), embedding, out);
}

void squared_distances_of(const TfidfRouter::Parts& parts, std::span<const double> embedding, std::span<double> out) {
  distances<double>(parts, embedding, out);
}

TfidfRouter TfidfRouter::load(const std::filesystem::path& directory) {
  recover_directory(directory);
  const std::filesystem::path json_path = directory / "router.json";
  const std::string shown = json_path.string();
  if (!std::filesystem::exists(json_path)) fail("{}: there is no such router", shown);
  const Json json = read_json_file(json_path);
  if (!json.is_object()) fail("{}: must be an object", shown);
  const auto positive = [&](const char* name) {
    if (!json.contains(name) || !json[name].is_number_integer() || json[name].get<int64_t>() <= 0)
      fail("{}: {} must be a positive whole number", shown, name);
    return json[name].get<int64_t>();
  };
  const auto words_of = [&](const Json& value, const char* name) {
    std::vector<std::string> list;
    if (!value.is_array()) fail("{}: {} must be a list of words", shown, name);
    for (const Json& word : value) {
      if (!word.is_string()) fail("{}: {} holds {}, which is no word", shown, name, word.dump());
      list.push_back(word.get<std::string>());
    }
    return list;
  };
  const auto words = [&](const char* name) { return words_of(json[name], name); };
  Parts parts;
  Mixture defaults;
  parts.dimensions = positive("dimensions");
  parts.clusters = positive("clusters");
  if (json.contains("kind") && json["kind"] != kKind)
    fail("{}: kind is {}, but only {} is understood", shown, json["kind"].dump(), kKind);
  if (!json.contains("vocabulary")) fail("{}: vocabulary is missing", shown);
  parts.vocabulary = words("vocabulary");
  if (json.contains("temperature")) {
    if (!json["temperature"].is_number() || json["temperature"].get<double>() <= 0)
      fail("{}: temperature must be a positive number", shown);
    defaults.temperature = json["temperature"];
  }
  if (json.contains("distance_power")) {
    if (json["distance_power"] != 2 && json["distance_power"] != 4) fail("{}: distance_power must be 2 or 4", shown);
    defaults.distance_power = json["distance_power"];
  }
  if (json.contains("embedding_scaling")) {
    const Json& scaling = json["embedding_scaling"];
    if (scaling != "l2" && scaling != "standardised") fail("{}: embedding_scaling must be l2 or standardised", shown);
    parts.scaling = scaling == "l2" ? EmbeddingScaling::l2 : EmbeddingScaling::standardised;
  }
  // The words themselves, or the name of the list.
  if (json.contains("stop_words") && json["stop_words"].is_string()) {
    if (!json["stop_words"].get<std::string>().starts_with("english"))
      fail("{}: stop_words names '{}', which is unknown; list the words instead", shown,
           json["stop_words"].get<std::string>());
    parts.stop_words = english_stop_words();
  } else if (json.contains("stop_words")) {
    parts.stop_words = words("stop_words");
  }
  if (json.contains("top_terms"))
    for (const Json& terms : json["top_terms"]) parts.top_terms.push_back(words_of(terms, "top_terms"));
  for (const auto& [key, value] : json.items())
    if (key != "vocabulary" && key != "stop_words" && key != "top_terms" && key != "dimensions" && key != "clusters" &&
        key != "temperature" && key != "distance_power" && key != "kind" && key != "content_hash" &&
        key != "embedding_scaling")
      parts.extra[key] = value;

  const TensorFile file = TensorFile::open(directory / "router.safetensors");
  const auto read = [&](const char* name, std::vector<int64_t> shape) {
    const StoredTensor& tensor = file.at(name);
    if (tensor.shape != shape || tensor.type != StoredType::f32)
      fail("{}: tensor '{}' must be float32 of the shape that router.json says", file.path().string(), name);
    std::vector<float> values = tensor.values<float>();
    for (const float value : values)
      if (!std::isfinite(value)) fail("{}: tensor '{}' holds a value that is not finite", file.path().string(), name);
    return values;
  };
  const auto terms = static_cast<int64_t>(parts.vocabulary.size());
  parts.idf = read("idf", {terms});
  parts.components = read("components", {terms, parts.dimensions});
  parts.centroids = read("centroids", {parts.clusters, parts.dimensions});
  if (parts.scaling == EmbeddingScaling::standardised) {
    parts.mean = read("embedding_mean", {parts.dimensions});
    parts.deviation = read("embedding_deviation", {parts.dimensions});
    if (std::any_of(parts.deviation.begin(), parts.deviation.end(), [](float value) { return !(value > 0); }))
      fail("{}: tensor 'embedding_deviation' holds a value that is not positive", file.path().string());
    if (!json.contains("temperature")) defaults.temperature *= static_cast<double>(parts.dimensions);
  }
  TfidfRouter router(std::move(parts), defaults);
  if (json.contains("content_hash") && json["content_hash"] != router.content_hash())
    fail("{}: content_hash does not match the router's contents; the files are damaged or were mixed up", shown);
  return router;
}

void TfidfRouter::save(const std::filesystem::path& directory, const Mixture& defaults) const {
  const Parts& p = parts();
  AtomicDirectory output(directory);
  Json json = p.extra;
  json["kind"] = kKind;
  json["format"] = 1;
  json["dimensions"] = p.dimensions;
  json["clusters"] = p.clusters;
  json["temperature"] = defaults.temperature;
  json["distance_power"] = defaults.distance_power;
  json["stop_words"] = p.stop_words;
  json["top_terms"] = p.top_terms;
  json["unicode"] = kWordTablesUnicode;
  json["vocabulary"] = p.vocabulary;
  json["content_hash"] = content_hash();
  if (p.scaling != EmbeddingScaling::l2) json["embedding_scaling"] = embedding_scaling_name(p.scaling);
  write_json_file(output.path() / "router.json", json);
  const auto terms = static_cast<int64_t>(p.vocabulary.size());
  std::vector<OutputTensor> tensors = {{"idf", StoredType::f32, {terms}, p.idf.data()},
                                       {"components", StoredType::f32, {terms, p.dimensions}, p.components.data()},
                                       {"centroids", StoredType::f32, {p.clusters, p.dimensions}, p.centroids.data()}};
  if (p.scaling == EmbeddingScaling::standardised) {
    tensors.push_back({"embedding_mean", StoredType::f32, {p.dimensions}, p.mean.data()});
    tensors.push_back({"embedding_deviation", StoredType::f32, {p.dimensions}, p.deviation.data()});
  }
  write_safetensors(output.path() / "router.safetensors", tensors);
  output.commit();
}

}  // namespace cbtm
