#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/cluster/clustering.h"
#include "cbtm/model/spec.h"

namespace cbtm::study {

/// Which of the study's numbers of experts and budgets a part of the grid takes.
struct Axis {
  std::vector<int64_t> k;        ///< numbers of experts, rising
  std::vector<int64_t> budgets;  ///< tokens, rising
};

/// One way to divide the corpus, and the part of the grid that it is tried in.
struct ClusteringAxis {
  Clustering kind = Clustering::balanced;
  Axis axis;  ///< k without 1, which is the dense model whatever the clustering
};

/// The model that is trained, by name: a preset, or the path of a config.json.
struct Shape {
  std::string preset;            ///< "" if `config` is given
  std::filesystem::path config;  ///< "" if `preset` is given

  bool given() const { return !preset.empty() || !config.empty(); }
  /// "nano", or the path.
  std::string name() const { return preset.empty() ? config.string() : preset; }
  /// The description, with room for this many tokens. Throws Error.
  ModelSpec spec(int64_t vocab_size) const;
};

/// A second, larger model beside the one that is studied: as a dense model, and as experts.
struct LargerAxis {
  Shape shape;
  Axis axis;  ///< k 1 is the dense one
};

/// Mixture-of-experts models that are made of the seed by sparse upcycling.
struct MixtureAxis {
  std::vector<int64_t> experts;  ///< of each mixture, rising; empty: not run
  std::vector<int64_t> budgets;  ///< tokens, rising
};

/// Few-shot tasks that dense models and k-means ensembles of the largest budget are scored on.
struct TaskAxis {
  std::vector<std::filesystem::path> files;
  int64_t test_lines = 0;  ///< the first so many; 0: all
};

/// Everything that a study's results depend on, beside the corpus (docs/study.md, 'Configuration').
struct Config {
  Axis axis{{1, 2, 4, 8, 16}, {}};
  int64_t seeds = 3;  ///< random seeds first_seed, first_seed + 1, ...
  uint64_t first_seed = 1;
  std::vector<ClusteringAxis> clusterings;  ///< each kind at most once
  std::string domain_field;                 ///< of Clustering::domains; "": the first directory below the corpus path
  std::vector<std::string> routers = {"tfidf", "posterior", "uniform"};  ///< as --router names them
  std::vector<double> learning_rates;                                    ///< tried for every system alike; rising
  Shape shape;
  LargerAxis larger;  ///< no shape: not run
  MixtureAxis mixtures;
  TaskAxis tasks;

  // The tokenizer and the embedding, one for all.
  std::filesystem::path tokenizer;  ///< "": learnt
  int64_t vocab_size = 8192;
  int64_t min_frequency = 2;
  int64_t min_df = 2;
  int64_t dimensions = 100;
  int64_t fit_documents = 200'000;
  double valid_fraction = 0.01;

  // Training, the same for every system.
  int64_t sequence = 256;       ///< tokens
  int64_t batch_tokens = 8192;  ///< of one step of a dense model
  double dropout = 0.1;
  double weight_decay = 0;
  double clip = 1;
  std::string precision = "auto";
  int64_t seed_tokens = 0;  ///< that seed models are trained on
  int64_t seed_batch_tokens = 4096;
  double seed_learning_rate = 0;  ///< 0: the lowest of learning_rates

  // Evaluation.
  int64_t documents = 1000;  ///< valid documents that are scored at most, chosen by hash; 0: all
  int64_t resamples = 1000;  ///< of the bootstrap
  uint64_t bootstrap_seed = 2303;

  /// The seeds' numbers.
  std::vector<uint64_t> seed_numbers() const;
};

/// Reads the object of a configuration file over `config`, whose values stay for keys that are not there. Throws Error
/// that names `file` and the key: one that is unknown, a value of a wrong type or that cannot be, a value twice in a
/// list.
void read_config(const Json& json, const std::string& file, Config& config);

/// What no single value shows: empty axes, budgets below one step, batches that cannot be divided among the experts,
/// axes of a clustering that are no part of the study's. Fills the axes that were left out. Throws a usage Error.
void check_config(Config& config);

/// The object that read_config() reads, complete.
Json config_json(const Config& config);

}  // namespace cbtm::study
