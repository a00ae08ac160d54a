#include "cbtm/study/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "cbtm/device/moe_operands.h"
#include "cbtm/model/families.h"
#include "cbtm/route/router_spec.h"
#include "study/recipe.h"

namespace cbtm::study {
namespace {

constexpr int64_t kTokensMax = int64_t{1} << 50;
constexpr int64_t kExpertsMax = 4096;
constexpr const char* kRemedy = "docs/study.md lists the keys";

void check_keys(const JsonReader& read, std::initializer_list<std::string_view> known) {
  for (const std::string& key : read.keys())
    if (std::find(known.begin(), known.end(), key) == known.end())
      read.refuse(fmt::format("has the key '{}', which means nothing here; known are {}", key, fmt::join(known, ", ")));
}

/// Rising, or refused if a value is there twice.
template <typename Value>
std::vector<Value> sorted_values(const JsonReader& list, std::vector<Value> values) {
  if (values.empty()) list.refuse("is empty");
  std::sort(values.begin(), values.end());
  if (const auto twice = std::adjacent_find(values.begin(), values.end()); twice != values.end())
    list.refuse(fmt::format("names {} twice", *twice));
  return values;
}

std::vector<int64_t> read_counts(const JsonReader& read, const char* key, int64_t high) {
  return sorted_values(read.list(key), read.integers(key, 1, high));
}

std::vector<double> read_rates(const JsonReader& list) {
  std::vector<double> rates;
  for (size_t i = 0; i < list.size(); ++i) rates.push_back(list.item(i).as_number(1e-12, 10));
  return sorted_values(list, rates);
}

std::vector<std::string> read_names(const JsonReader& list) {
  const std::vector<std::string> names = list.as_texts();
  sorted_values(list, names);
  return names;
}

void read_axis(const JsonReader& read, Axis& axis) {
  if (read.has("k")) axis.k = read_counts(read, "k", kExpertsMax);
  if (read.has("budgets")) axis.budgets = read_counts(read, "budgets", kTokensMax);
}

/// Numbers from which cells count up, and which files hold.
uint64_t read_seed(const JsonReader& read, const char* key, uint64_t otherwise) {
  constexpr int64_t kSeedMax = int64_t{1} << 62;
  return static_cast<uint64_t>(read.integer_or(key, static_cast<int64_t>(otherwise), 0, kSeedMax));
}

/// "balanced", or {"kind": "balanced", "k": [...], "budgets": [...]}.
ClusteringAxis read_clustering(const JsonReader& read) {
  ClusteringAxis clustering;
  const bool named = read.json().is_string();
  if (!named) {
    check_keys(read.as_object(), {"kind", "k", "budgets"});
    read_axis(read, clustering.axis);
    if (clustering.axis.k == std::vector<int64_t>{1})
      read.list("k").refuse("has 1 alone, which is the dense model; leave the clustering out");
  }
  const std::string& name = named ? read.as_text() : read.text("kind");
  try {
    clustering.kind = parse_clustering(name);
  } catch (const Error&) {
    read.refuse(fmt::format("names the clustering '{}'; use balanced, unbalanced, random or domains", name));
  }
  return clustering;
}

std::vector<ClusteringAxis> read_clusterings(const JsonReader& list) {
  std::vector<ClusteringAxis> clusterings;
  if (list.size() == 0) list.refuse("is empty");
  for (size_t i = 0; i < list.size(); ++i) {
    clusterings.push_back(read_clustering(list.item(i)));
    for (size_t before = 0; before < i; ++before)
      if (clusterings[before].kind == clusterings[i].kind)
        list.refuse(fmt::format("names {} twice", clustering_name(clusterings[i].kind)));
  }
  return clusterings;
}

void read_shape(const JsonReader& read, Shape& shape) {
  if (!read.has("preset") && !read.has("model")) return;
  if (read.has("preset") && read.has("model")) read.refuse("has both 'preset' and 'model'; leave one of them out");
  shape = {};
  if (read.has("preset"))
    shape.preset = read.text("preset");
  else
    shape.config = read.text("model");
}

/// Every part of `axis` is in `whole`; what it does not say is what `whole` has, but for k 1 if `experts_only`.
void complete_axis(const std::string& name, const Axis& whole, bool experts_only, Axis& axis) {
  const auto complete = [&](const char* what, const std::vector<int64_t>& all, std::vector<int64_t>& part) {
    if (part.empty()) part = all;
    for (const int64_t value : part)
      if (std::find(all.begin(), all.end(), value) == all.end())
        fail_usage("{}: {} {} is not among the study's {}: {}", name, what, value, what, fmt::join(all, ", "));
  };
  complete("k", whole.k, axis.k);
  complete("budgets", whole.budgets, axis.budgets);
  if (experts_only) std::erase(axis.k, 1);
}

void check_batch(const Config& config, const std::vector<int64_t>& numbers) {
  const int64_t sequences = config.batch_tokens / config.sequence;
  for (const int64_t k : numbers)
    if (sequences % k != 0)
      fail_usage(
          "k {}: a step of {} sequences of {} tokens cannot be divided among {} experts; make batch_tokens a multiple "
          "of {}",
          k, sequences, config.sequence, k, config.sequence * k);
}

void read_mixtures(const JsonReader& read, MixtureAxis& mixtures) {
  check_keys(read, {"experts", "budgets"});
  mixtures = {.experts = read_counts(read, "experts", kMaxExperts)};
  if (mixtures.experts.front() < kExpertsPerToken)
    read.list("experts").refuse(
        fmt::format("names {}, but a token goes to {} experts", mixtures.experts.front(), kExpertsPerToken));
  if (read.has("budgets")) mixtures.budgets = read_counts(read, "budgets", kTokensMax);
}

/// A clustering of a study with dense models alone has no k, and takes the study's again.
Json axis_json(const Axis& axis) {
  Json json = {{"budgets", axis.budgets}};
  if (!axis.k.empty()) json["k"] = axis.k;
  return json;
}

void put_shape(Json& json, const Shape& shape) { json[shape.preset.empty() ? "model" : "preset"] = shape.name(); }

}  // namespace

ModelSpec Shape::spec(int64_t vocab_size) const {
  constexpr int64_t kVocabMultiple = 16;  // rows beyond the tokenizer's are never a target; they keep matrices aligned
  ModelSpec spec = preset.empty() ? read_model_spec(config) : model_preset(preset);
  spec.embedding.vocab_size = round_up(vocab_size, kVocabMultiple);
  return spec;
}

std::vector<uint64_t> Config::seed_numbers() const {
  std::vector<uint64_t> numbers;
  for (int64_t i = 0; i < seeds; ++i) numbers.push_back(first_seed + static_cast<uint64_t>(i));
  return numbers;
}

void read_config(const Json& json, const std::string& file, Config& config) {
  const JsonReader read(json, file, kRemedy);
  check_keys(read.as_object(), {"k",
                                "budgets",
                                "seeds",
                                "first_seed",
                                "clusterings",
                                "domain_field",
                                "routers",
                                "learning_rates",
                                "preset",
                                "model",
                                "larger",
                                "tasks",
                                "test_lines",
                                "moe",
                                "tokenizer",
                                "vocab_size",
                                "min_frequency",
                                "min_df",
                                "dimensions",
                                "fit_documents",
                                "valid_fraction",
                                "sequence",
                                "batch_tokens",
                                "dropout",
                                "weight_decay",
                                "clip",
                                "precision",
                                "seed_tokens",
                                "seed_batch_tokens",
                                "seed_learning_rate",
                                "documents",
                                "resamples",
                                "bootstrap_seed"});
  read_axis(read, config.axis);
  config.seeds = read.integer_or("seeds", config.seeds, 1, 1000);
  config.first_seed = read_seed(read, "first_seed", config.first_seed);
  if (read.has("clusterings")) config.clusterings = read_clusterings(read.list("clusterings"));
  config.domain_field = read.text_or("domain_field", config.domain_field);
  if (read.has("routers")) config.routers = read_names(read.list("routers"));
  if (read.has("learning_rates")) config.learning_rates = read_rates(read.list("learning_rates"));
  read_shape(read, config.shape);
  if (read.has("larger")) {
    const JsonReader larger = read.object("larger");
    check_keys(larger, {"preset", "model", "k", "budgets"});
    config.larger = {};
    config.larger.axis.k = {1};
    read_shape(larger, config.larger.shape);
    if (!config.larger.shape.given()) larger.refuse("has neither 'preset' nor 'model'");
    read_axis(larger, config.larger.axis);
  }
  if (read.has("moe")) read_mixtures(read.object("moe"), config.mixtures);
  if (read.has("tasks")) {
    config.tasks.files.clear();
    for (const std::string& name : read_names(read.list("tasks"))) config.tasks.files.emplace_back(name);
  }
  config.tasks.test_lines = read.integer_or("test_lines", config.tasks.test_lines, 0);
  config.tokenizer = read.text_or("tokenizer", config.tokenizer.string());
  config.vocab_size = read.integer_or("vocab_size", config.vocab_size, 260, 1 << 24);
  config.min_frequency = read.integer_or("min_frequency", config.min_frequency, 0);
  config.min_df = read.integer_or("min_df", config.min_df, 1);
  config.dimensions = read.integer_or("dimensions", config.dimensions, 1, 4096);
  config.fit_documents = read.integer_or("fit_documents", config.fit_documents, 1);
  config.valid_fraction = read.number_or("valid_fraction", config.valid_fraction, 0, 0.25);
  config.sequence = read.integer_or("sequence", config.sequence, 8, 1 << 20);
  config.batch_tokens = read.integer_or("batch_tokens", config.batch_tokens, 1, kTokensMax);
  config.dropout = read.number_or("dropout", config.dropout, 0, 0.99);
  config.weight_decay = read.number_or("weight_decay", config.weight_decay, 0, 10);
  config.clip = read.number_or("clip", config.clip, 0, 1e9);
  config.precision = read.text_or("precision", config.precision);
  config.seed_tokens = read.integer_or("seed_tokens", config.seed_tokens, 1, kTokensMax);
  config.seed_batch_tokens = read.integer_or("seed_batch_tokens", config.seed_batch_tokens, 1, kTokensMax);
  config.seed_learning_rate = read.number_or("seed_learning_rate", config.seed_learning_rate, 0, 10);
  config.documents = read.integer_or("documents", config.documents, 0);
  config.resamples = read.integer_or("resamples", config.resamples, 100, 1'000'000);
  config.bootstrap_seed = read_seed(read, "bootstrap_seed", config.bootstrap_seed);
}

void check_config(Config& config) {
  if (config.axis.budgets.empty()) fail_usage("the study has no budgets; name some (--budgets 4M,8M,16M)");
  if (config.learning_rates.empty()) fail_usage("the study has no learning rate (--learning-rates 3e-3)");
  if (!config.shape.given()) fail_usage("the study has no model (--preset nano)");
  if (config.seed_tokens < 1) fail_usage("the study does not say how long seed models are trained (--seed-tokens 6M)");
  if (config.seed_learning_rate == 0) config.seed_learning_rate = config.learning_rates.front();
  if (config.clusterings.empty()) config.clusterings = {{.kind = Clustering::balanced}};
  for (ClusteringAxis& clustering : config.clusterings)
    complete_axis(fmt::format("clustering {}", clustering_name(clustering.kind)), config.axis, true, clustering.axis);
  if (config.axis.k.front() != 1)
    fail_usage("k is {}; 1, the dense model that everything is compared with, must be among them",
               fmt::join(config.axis.k, ", "));
  if (config.axis.k.back() > kExpertsMax) fail_usage("k {}: at most {}", config.axis.k.back(), kExpertsMax);
  const auto learned = std::find_if(config.clusterings.begin(), config.clusterings.end(),
                                    [](const ClusteringAxis& clustering) { return is_kmeans(clustering.kind); });
  if (learned == config.clusterings.end())
    fail_usage(
        "the clusterings hold no k-means; balanced or unbalanced must be among them, as the curves over k are its");
  if (learned->axis.k.size() + 1 != config.axis.k.size() || learned->axis.budgets != config.axis.budgets)
    fail_usage(
        "clustering {}: is the first k-means, whose curves over k and budget are drawn; it takes the whole grid, so "
        "leave its k and budgets out",
        clustering_name(learned->kind));
  if (!config.mixtures.experts.empty()) {
    Axis axis{.k = config.axis.k, .budgets = config.mixtures.budgets};
    complete_axis("moe", config.axis, false, axis);
    config.mixtures.budgets = axis.budgets;
    for (const int64_t experts : config.mixtures.experts)
      upcycled_spec(config.shape.spec(config.vocab_size),
                    upcycling_of(config.shape.spec(config.vocab_size), experts, 0));
  }
  if (config.larger.shape.given()) complete_axis("larger", config.axis, false, config.larger.axis);
  if (config.batch_tokens % config.sequence != 0)
    fail_usage("batch_tokens {} is not a multiple of the sequence of {} tokens", config.batch_tokens, config.sequence);
  if (config.seed_batch_tokens % config.sequence != 0)
    fail_usage("seed_batch_tokens {} is not a multiple of the sequence of {} tokens", config.seed_batch_tokens,
               config.sequence);
  if (config.seed_tokens < config.seed_batch_tokens)
    fail_usage("seed_tokens {} are less than one step of {}", config.seed_tokens, config.seed_batch_tokens);
  for (const int64_t budget : config.axis.budgets)
    if (budget < config.batch_tokens)
      fail_usage("a budget of {} tokens is less than one step of {}", budget, config.batch_tokens);
  for (size_t i = 1; i < config.axis.budgets.size(); ++i)
    if (config.axis.budgets[i] / config.batch_tokens == config.axis.budgets[i - 1] / config.batch_tokens)
      fail_usage("budgets {} and {} are the same number of steps of {} tokens; leave one of them out",
                 config.axis.budgets[i - 1], config.axis.budgets[i], config.batch_tokens);
  check_batch(config, config.axis.k);
  std::string routers;
  for (const std::string& router : config.routers) routers += (routers.empty() ? "" : ",") + router;
  bool has_tfidf = false;
  for (const RouterSpec& router : parse_router_specs(routers)) {
    has_tfidf = has_tfidf || router.text == "tfidf";
    if (!router.prior.empty())
      fail_usage("router {}: a prior from a file is of one ensemble, but a study has many", router.text);
    if (router.kind == RouterKind::prefix)
      fail_usage("router {}: the clusters of a study are those of tf-idf, which have no models of prefixes",
                 router.text);
  }
  if (!has_tfidf) fail_usage("the routers are {}; tfidf must be among them, as all comparisons rest on it", routers);
  for (const Shape* shape : {&config.shape, &config.larger.shape}) {
    if (!shape->given()) continue;
    if (const int64_t positions = shape->spec(config.vocab_size).embedding.max_length; config.sequence > positions)
      fail_usage("a sequence of {} tokens is longer than the {} positions of {}", config.sequence, positions,
                 shape->name());
  }
}

Json config_json(const Config& config) {
  Json json = {{"k", config.axis.k},
               {"budgets", config.axis.budgets},
               {"seeds", config.seeds},
               {"first_seed", config.first_seed},
               {"clusterings", Json::array()},
               {"domain_field", config.domain_field},
               {"routers", config.routers},
               {"learning_rates", config.learning_rates},
               {"vocab_size", config.vocab_size},
               {"min_frequency", config.min_frequency},
               {"min_df", config.min_df},
               {"dimensions", config.dimensions},
               {"fit_documents", config.fit_documents},
               {"valid_fraction", config.valid_fraction},
               {"sequence", config.sequence},
               {"batch_tokens", config.batch_tokens},
               {"dropout", config.dropout},
               {"weight_decay", config.weight_decay},
               {"clip", config.clip},
               {"precision", config.precision},
               {"seed_tokens", config.seed_tokens},
               {"seed_batch_tokens", config.seed_batch_tokens},
               {"seed_learning_rate", config.seed_learning_rate},
               {"documents", config.documents},
               {"resamples", config.resamples},
               {"bootstrap_seed", config.bootstrap_seed}};
  put_shape(json, config.shape);
  for (const ClusteringAxis& clustering : config.clusterings) {
    json["clusterings"].push_back(axis_json(clustering.axis));
    json["clusterings"].back()["kind"] = clustering_name(clustering.kind);
  }
  if (config.larger.shape.given()) {
    json["larger"] = axis_json(config.larger.axis);
    put_shape(json["larger"], config.larger.shape);
  }
  if (!config.mixtures.experts.empty())
    json["moe"] = {{"experts", config.mixtures.experts}, {"budgets", config.mixtures.budgets}};
  if (!config.tasks.files.empty()) {
    for (const std::filesystem::path& file : config.tasks.files) json["tasks"].push_back(file.string());
    json["test_lines"] = config.tasks.test_lines;
  }
  if (!config.tokenizer.empty()) json["tokenizer"] = config.tokenizer.string();
  return json;
}

}  // namespace cbtm::study
