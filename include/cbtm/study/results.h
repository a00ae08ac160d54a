#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cbtm/study/bootstrap.h"
#include "cbtm/study/cell_result.h"
#include "cbtm/study/config.h"
#include "cbtm/study/grid.h"

namespace cbtm::study {

/// A way to use a system, with what it came to for each random seed. All at the learning rate that was best for the
/// system on the tune documents.
struct Entry {
  System system;
  std::string router;  ///< "" for one model
  int64_t top_k = 1;
  bool is_main = false;  ///< the system's main way of use (main_router, all experts)
  double learning_rate = 0;
  double tune_loss = 0;  ///< of the system's main way of use, nats per token, mean over seeds
  std::vector<uint64_t> seeds;
  std::vector<const std::vector<double>*> losses;  ///< by seed: [documents]
  std::vector<double> temperatures;                ///< by seed; NaN where there is none
  double training_flops = 0;                       ///< of one seed's trainings
  double active_flops = 0;                         ///< forward, per token, of the experts that are mixed
  int64_t parameters = 0;                          ///< of one model

  double perplexity(const Bootstrap& bootstrap, size_t seed) const;
  /// exp of the mean loss over the seeds.
  double mean_perplexity(const Bootstrap& bootstrap) const;
};

/// A summand of a comparison: an entry's loss times a factor.
struct Term {
  double factor = 1;
  const Entry* entry = nullptr;
};

/// The results of all cells that are there, with one bootstrap for all comparisons.
class Results {
 public:
  /// The cells must be of this configuration. Throws Error if two of them were scored on different documents.
  Results(const Config& config, std::vector<CellResult> cells);
  Results(const Results&) = delete;

  const Config& config() const { return config_; }
  const std::vector<CellResult>& cells() const { return cells_; }
  bool empty() const { return cells_.empty(); }
  const std::vector<ScoredDocument>& documents() const { return cells_.front().documents; }
  const Bootstrap& bootstrap() const { return *bootstrap_; }
  const std::vector<Entry>& entries() const { return entries_; }

  /// The entry, or null if the study has none.
  const Entry* find(const System& system, const std::string& router, int64_t top_k) const;
  /// The main entry of a system, or null.
  const Entry* main(const System& system) const;
  /// The dense model with the main shape and this budget, or null.
  const Entry* dense(int64_t budget) const;
  /// The main entry of the first k-means clustering; k 1 is the dense model. Null if there is none.
  const Entry* learned(int64_t k, int64_t budget) const;
  /// That clustering, which the comparisons over k rest on.
  Clustering learned_kind() const;

  /// Tune loss, nats per token, of every learning rate of a system: mean over the seeds that all rates have; and which
  /// one was chosen.
  struct Sweep {
    System system;
    std::vector<std::pair<double, double>> losses;  ///< rate, loss
    double chosen = 0;
  };
  const std::vector<Sweep>& sweeps() const { return sweeps_; }

  /// Σ factor · loss per token, in nats, over the random seeds that all terms have. Nothing if a term has no entry, or
  /// if there is no such seed.
  std::optional<Estimate> contrast(const std::vector<Term>& terms) const;

 private:
  void choose_rates();
  void add_entries();

  Config config_;
  std::vector<CellResult> cells_;
  std::optional<Bootstrap> bootstrap_;
  std::map<System, double> rates_;  ///< chosen
  std::vector<Sweep> sweeps_;
  std::vector<Entry> entries_;
};

}  // namespace cbtm::study
