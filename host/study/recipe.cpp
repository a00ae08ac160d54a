#include "study/recipe.h"

#include <algorithm>

#include "cbtm/accounting/model_cost.h"
#include "cbtm/base/hash.h"
#include "cbtm/model/families.h"
#include "cbtm/pipeline/router_temperature.h"
#include "cbtm/tokenizer/tokenizer.h"
#include "cbtm/train/expert_settings.h"

namespace cbtm::study {
namespace {

/// What all trainings share.
TrainingSettings common_settings(const Config& config, uint64_t seed) {
  TrainingSettings settings{.sequence_length = config.sequence,
                            .dropout = config.dropout,
                            .weight_decay = config.weight_decay,
                            .clip_norm = config.clip,
                            .precision = config.precision,
                            .seed = seed};
  return settings;
}

Json embedding_recipe(const Config& config) {
  return {{"dimensions", config.dimensions},
          {"min_df", config.min_df},
          {"fit_documents", config.fit_documents},
          {"valid_fraction", config.valid_fraction},
          {"seed", config.first_seed}};
}

Json shape_recipe(const Shape& shape, int64_t vocab_size) {
  return {{"name", shape.preset.empty() ? "model" : shape.preset},
          {"hash", hash_hex(model_config_json(shape.spec(vocab_size), "float32").dump())}};
}

/// The files of a task, in whatever directory they lie.
Json task_recipe(const std::filesystem::path& file) {
  const Json json = read_json_file(file);
  Json recipe = {{"task", hash_file_hex(file)}};
  for (const char* key : {"train", "test"})
    if (json.is_object() && json.contains(key) && json[key].is_string())
      recipe[key] = hash_file_hex(file.parent_path() / json[key].get<std::string>());
  return recipe;
}

}  // namespace

TokenizerSource tokenizer_source(const Config& config) {
  return {.given = config.tokenizer, .vocab_size = config.vocab_size, .min_frequency = config.min_frequency};
}

ClusterOptions corpus_options(const Config& config, const CorpusOptions& corpus) {
  return {.corpus = corpus,
          .clusters = 1,
          .dimensions = config.dimensions,
          .min_df = config.min_df,
          .fit_documents = config.fit_documents,
          .restarts = 1,
          .valid_fraction = config.valid_fraction,
          .seed = config.first_seed};
}

ClusterOptions clustering_options(const Config& config, const CorpusOptions& corpus, const System& system,
                                  uint64_t seed, const std::filesystem::path& embedding) {
  ClusterOptions options = corpus_options(config, corpus);
  options.clustering = system.clustering;
  options.domain_field = system.clustering == Clustering::domains ? config.domain_field : "";
  options.embedding = embedding;
  options.clusters = system.k;
  options.restarts = 3;
  options.seed = system.clustering == Clustering::domains ? config.first_seed : seed;
  return options;
}

const Shape& shape_of(const Config& config, bool larger) { return larger ? config.larger.shape : config.shape; }

Upcycling upcycling_of(const ModelSpec& dense, int64_t experts, uint64_t seed) {
  return {.experts = experts, .layers = odd_layers(dense), .seed = seed};
}

ModelSpec model_of(const Config& config, const System& system, int64_t vocab_size) {
  const ModelSpec dense = shape_of(config, system.larger).spec(vocab_size);
  return system.kind == SystemKind::moe ? upcycled_spec(dense, upcycling_of(dense, system.k, 0)) : dense;
}

TrainingSettings seed_settings(const Config& config, uint64_t seed) {
  TrainingSettings settings = common_settings(config, seed);
  settings.batch_sequences = config.seed_batch_tokens / config.sequence;
  settings.steps = config.seed_tokens / config.seed_batch_tokens;
  settings.learning_rate = config.seed_learning_rate;
  settings.warmup_steps = settings.steps / 20;  // a new model needs one
  settings.validate_every = settings.steps;
  return settings;
}

TrainingSettings branch_settings(const Config& config, const Cell& cell) {
  TrainingSettings settings = common_settings(config, cell.seed);
  settings.batch_sequences = config.batch_tokens / config.sequence;
  settings.steps = cell.system.budget / config.batch_tokens;
  settings.learning_rate = cell.learning_rate;
  settings.validate_every = settings.steps;
  return cell.system.kind == SystemKind::ensemble ? expert_settings(settings, cell.system.k, false) : settings;
}

bool scores_tasks(const Config& config, const System& system) {
  if (config.tasks.files.empty() || system.larger || system.budget != config.axis.budgets.back()) return false;
  if (system.kind != SystemKind::ensemble) return true;
  const auto first = std::find_if(config.clusterings.begin(), config.clusterings.end(),
                                  [](const ClusteringAxis& clustering) { return is_kmeans(clustering.kind); });
  return first != config.clusterings.end() && system.clustering == first->kind;
}

Json recipe_of(const Config& config, const Cell& cell, const std::string& corpus) {
  const TokenizerSource tokenizer = tokenizer_source(config);
  int64_t vocab_size = config.vocab_size;
  Json recipe = {{"corpus", corpus}};
  if (tokenizer.given.empty()) {
    recipe["tokenizer"] = {{"vocab_size", config.vocab_size}, {"min_frequency", config.min_frequency}};
  } else {
    const Tokenizer given = Tokenizer::load(tokenizer.given);
    recipe["tokenizer"] = given.content_hash();
    vocab_size = given.vocab_size();
  }
  recipe["embedding"] = embedding_recipe(config);
  if (cell.system.kind == SystemKind::ensemble) {
    const ClusterOptions options = clustering_options(config, {}, cell.system, cell.seed, "");
    recipe["clustering"] = {
        {"kind", clustering_name(options.clustering)}, {"k", options.clusters}, {"seed", options.seed}};
    if (!options.domain_field.empty()) recipe["clustering"]["domain_field"] = options.domain_field;
  }
  recipe["shape"] = shape_recipe(shape_of(config, cell.system.larger), vocab_size);
  recipe["seed"] = training_settings_json(seed_settings(config, cell.seed));
  recipe["training"] = training_settings_json(branch_settings(config, cell));
  if (cell.system.kind == SystemKind::moe)
    recipe["mixture"] =
        upcycling_json(upcycling_of(shape_of(config, cell.system.larger).spec(vocab_size), cell.system.k, cell.seed));
  recipe["evaluation"] = {{"documents", config.documents}};
  if (cell.system.kind == SystemKind::ensemble) {
    recipe["evaluation"]["routers"] = config.routers;
    recipe["evaluation"]["temperatures"] = temperature_candidates(1);
  }
  if (scores_tasks(config, cell.system)) {
    for (const std::filesystem::path& file : config.tasks.files) recipe["tasks"].push_back(task_recipe(file));
    recipe["test_lines"] = config.tasks.test_lines;
  }
  return recipe;
}

double forward_flops(const ModelSpec& spec, int64_t sequence) {
  return cbtm::forward_flops(spec, static_cast<double>(sequence) / 2);
}

double training_flops(const ModelSpec& spec, int64_t sequence, int64_t tokens) {
  return cbtm::training_flops(spec, sequence) * static_cast<double>(tokens);
}

int64_t training_tokens(const Config& config, const System& system) {
  return system.budget / config.batch_tokens * config.batch_tokens;
}

double cell_flops(const Config& config, const System& system) {
  return training_flops(model_of(config, system, config.vocab_size), config.sequence, training_tokens(config, system));
}

}  // namespace cbtm::study
