#include "cbtm/prefix/prefix_clustering.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/philox.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/cluster/balanced_assignment.h"
#include "cbtm/device/device_matrix.h"
#include "cbtm/model/families.h"
#include "prefix/prefix_documents.h"
#include "prefix/round_state.h"
#include "prefix/round_training.h"

namespace cbtm {
namespace {

constexpr int64_t kBatchMax = 32;

/// The documents of the rounds: all of them in one random order, over and over, cut into pieces of equal size. Pieces
/// of at most half of them have none in common with the piece before.
class RoundDocuments {
 public:
  RoundDocuments(int64_t documents, int64_t per_round, uint64_t seed)
      : per_round_(per_round), order_(static_cast<size_t>(documents)) {
    constexpr uint64_t kOrderStream = 0x6f72'6465'7200'0000;
    std::iota(order_.begin(), order_.end(), 0);
    PhiloxStream random(seed, kOrderStream);
    for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random.next_below(i)]);
  }

  std::vector<int64_t> of(int64_t round) const {
    std::vector<int64_t> chosen;
    const auto count = static_cast<int64_t>(order_.size());
    for (int64_t at = round * per_round_; at < (round + 1) * per_round_; ++at)
      chosen.push_back(order_[static_cast<size_t>(at % count)]);
    return chosen;
  }

 private:
  int64_t per_round_;
  std::vector<int64_t> order_;
};

/// Rows of costs, less the least of each row: what is left keeps its digits in float32.
std::vector<float> reduced_costs(std::span<const double> costs, int64_t clusters) {
  std::vector<float> reduced(costs.size());
  for (size_t row = 0; row < costs.size(); row += static_cast<size_t>(clusters)) {
    const auto of_row = costs.subspan(row, static_cast<size_t>(clusters));
    const double least = *std::min_element(of_row.begin(), of_row.end());
    for (size_t j = 0; j < of_row.size(); ++j) reduced[row + j] = static_cast<float>(of_row[j] - least);
  }
  return reduced;
}

BalancedAssignment assign(Device& device, std::span<const double> costs, int64_t clusters, const char* purpose) {
  const std::vector<float> reduced = reduced_costs(costs, clusters);
  const auto rows = static_cast<int64_t>(reduced.size()) / clusters;
  const DeviceMatrix on_device = DeviceMatrix::reading<float>(device, reduced, rows, purpose);
  return balanced_assignment(device, on_device.view(), equal_capacities(rows, clusters));
}

class Clusterer {
 public:
  Clusterer(Device& device, const Tokenizer& tokenizer, const PrefixClusteringOptions& options,
            const std::filesystem::path& work_directory, const Json& identity)
      : device_(device),
        tokenizer_(tokenizer),
        options_(options),
        work_directory_(work_directory),
        identity_(identity) {}

  /// Reads the documents that the models learn from.
  void read(const CorpusOptions& corpus, const HeldOutSplit& split, const CorpusDigest& counted) {
    constexpr uint64_t kSampleSeed = 0x707265666978;
    const double train = static_cast<double>(counted.documents) * (1 - split.valid_fraction - split.tune_fraction);
    const double share = std::min(1.0, static_cast<double>(options_.documents_max) / std::max(1.0, train));
    Progress progress("prefixes");
    read_prefixes(
        corpus, counted, tokenizer_, options_.prefix_tokens, "the prefixes of the documents",
        [&](const Document& document) {
          return split.side(document.text) == Split::train &&
                 static_cast<double>(hash64(document.text, kSampleSeed ^ options_.seed)) * 0x1p-64 < share;
        },
        [&](const Prefixes& batch) {
          for (int64_t i = 0; i < batch.count(); ++i) documents_.add(batch.of(i));
          progress.update(fmt::format("{} documents", format_count(documents_.count())));
        });
    progress.finish(fmt::format("{} documents, {} tokens", format_count(documents_.count()),
                                format_count(static_cast<long long>(documents_.ids.size()))));
    if (documents_.count() < options_.clusters)
      fail("--k {} needs at least as many documents to train on, but there are {}", options_.clusters,
           documents_.count());
    plan();
  }

  /// The rounds that are left to do.
  RoundState run() {
    RoundState state;
    if (std::optional<RoundState> left =
            read_round_state(work_directory_, identity_, options_.spec, options_.clusters)) {
      state = std::move(*left);
      say(fmt::format("router: goes on after round {} of {}", state.rounds, options_.rounds));
    } else {
      const std::vector<float> start = initial_parameters(options_.spec, options_.seed);
      const std::vector<float> zeros(start.size());
      state.models.assign(static_cast<size_t>(options_.clusters), {start, zeros, zeros});
    }
    if (state.rounds >= options_.rounds) return state;
    const RoundTraining training(device_, options_.spec, plan_);
    const RoundDocuments rounds(documents_.count(), per_round_, options_.seed);
    Progress progress("router");
    while (state.rounds < options_.rounds) {
      const std::vector<int64_t> chosen = rounds.of(state.rounds);
      const std::vector<int32_t> labels = assigned(chosen, state);
      for (int64_t j = 0; j < options_.clusters; ++j) {
        std::vector<int64_t> share;
        for (size_t i = 0; i < chosen.size(); ++i)
          if (labels[i] == j) share.push_back(chosen[i]);
        training.train(state.models[static_cast<size_t>(j)], state.rounds, j, documents_, share);
        progress.update(fmt::format("round {} of {}, model {} of {}{}", state.rounds + 1, options_.rounds, j + 1,
                                    options_.clusters, loss_text(state)));
      }
      ++state.rounds;
      write_round_state(work_directory_, identity_, state, options_.spec, options_.prefix_tokens, tokenizer_);
    }
    progress.finish(fmt::format("{} rounds of {} documents, {} steps of each model{}", options_.rounds,
                                format_count(per_round_), format_count(plan_.steps * options_.rounds),
                                loss_text(state)));
    return state;
  }

  /// The cluster of every document of the corpus.
  std::vector<int32_t> labels(const PrefixRouter& router, const CorpusOptions& corpus, const CorpusDigest& counted) {
    Progress progress("routing the corpus");
    std::vector<int32_t> labels;
    std::vector<double> all;  // of balanced shards
    int64_t done = 0;
    read_prefixes(
        corpus, counted, tokenizer_, options_.prefix_tokens, "routing the corpus", [](const Document&) { return true; },
        [&](const Prefixes& batch) {
          std::vector<std::span<const int32_t>> texts;
          for (int64_t i = 0; i < batch.count(); ++i) texts.push_back(batch.of(i));
          const std::vector<double> costs = router.negative_log_likelihoods(texts);
          done += batch.count();
          progress.update(fmt::format("{} of {} documents", format_count(done), format_count(counted.documents)));
          if (options_.balance_shards) {
            all.insert(all.end(), costs.begin(), costs.end());
            return;
          }
          for (auto row = costs.begin(); row != costs.end(); row += options_.clusters)
            labels.push_back(static_cast<int32_t>(std::min_element(row, row + options_.clusters) - row));
        });
    if (options_.balance_shards) labels = assign(device_, all, options_.clusters, "--balance-shards").labels;
    progress.finish(fmt::format("{} documents", format_count(done)));
    return labels;
  }

  int64_t documents() const { return documents_.count(); }

 private:
  /// How many documents a round takes, and how many steps. A round takes at most half of the documents, so that none
  /// is assigned by models that have just been trained on it; to read more tokens than these have, it reads them again.
  void plan() {
    const int64_t count = documents_.count(), k = options_.clusters;
    const auto all = static_cast<double>(documents_.ids.size());
    const double tokens =
        options_.tokens > 0 ? static_cast<double>(options_.tokens) : PrefixClusteringOptions::kPasses * all;
    const double mean = std::max(1.0, all / static_cast<double>(count));
    const double wanted =
        tokens / static_cast<double>(options_.rounds) / mean;  // documents of a round, with repetition
    per_round_ =
        std::clamp(std::llround(wanted), static_cast<long long>(k), static_cast<long long>(std::max(k, count / 2)));
    const auto read = std::max<int64_t>(per_round_, std::llround(wanted));
    const int64_t share = ceil_divide(read, k);
    constexpr int64_t kStepsWanted = 16;
    plan_ = {.batch = std::clamp<int64_t>(share / kStepsWanted, 1, kBatchMax),
             .rounds = options_.rounds,
             .prefix_tokens = options_.prefix_tokens,
             .learning_rate = options_.learning_rate,
             .start = tokenizer_.eos_id(),
             .seed = options_.seed};
    plan_.steps = ceil_divide(share, plan_.batch);
  }

  /// The clusters of a round's documents. In the first round all models are alike, and the documents, whose order is
  /// random, are dealt to them in turn.
  std::vector<int32_t> assigned(const std::vector<int64_t>& chosen, RoundState& state) const {
    std::vector<int32_t> labels(chosen.size());
    if (state.rounds == 0) {
      for (size_t i = 0; i < labels.size(); ++i)
        labels[i] = static_cast<int32_t>(static_cast<int64_t>(i) % options_.clusters);
      return labels;
    }
    stop_if_requested("the router's rounds");
    std::vector<std::span<const int32_t>> texts;
    int64_t tokens = 0;
    for (const int64_t document : chosen) {
      texts.push_back(documents_.of(document));
      tokens += static_cast<int64_t>(texts.back().size());
    }
    const std::vector<double> costs =
        PrefixRouter::load(round_directory(work_directory_), &device_)->negative_log_likelihoods(texts);
    const BalancedAssignment assignment = assign(device_, costs, options_.clusters, "assignment of the router's round");
    double sum = 0;
    for (size_t i = 0; i < chosen.size(); ++i)
      sum += costs[i * static_cast<size_t>(options_.clusters) + static_cast<size_t>(assignment.labels[i])];
    state.losses.push_back(sum / static_cast<double>(std::max<int64_t>(1, tokens)));
    state.relative_gap = assignment.relative_gap();
    return assignment.labels;
  }

  static std::string loss_text(const RoundState& state) {
    return state.losses.empty() ? "" : fmt::format(", loss {:.3f} as assigned", state.losses.back());
  }

  Device& device_;
  const Tokenizer& tokenizer_;
  const PrefixClusteringOptions& options_;
  const std::filesystem::path& work_directory_;
  const Json& identity_;
  Prefixes documents_;
  int64_t per_round_ = 0;
  RoundPlan plan_;
};

}  // namespace

Json prefix_clustering_json(const PrefixClusteringOptions& options) {
  return {{"prefix_tokens", options.prefix_tokens},
          {"rounds", options.rounds},
          {"tokens", options.tokens > 0 ? Json(options.tokens) : Json()},
          {"learning_rate", options.learning_rate},
          {"model", model_config_json(options.spec, "float32")}};
}

PrefixClustering cluster_by_prefix(Device& device, const Tokenizer& tokenizer, const CorpusOptions& corpus,
                                   const HeldOutSplit& split, const CorpusDigest& counted,
                                   const PrefixClusteringOptions& options, const std::filesystem::path& work_directory,
                                   const Json& identity) {
  Clusterer clusterer(device, tokenizer, options, work_directory, identity);
  clusterer.read(corpus, split, counted);
  RoundState state = clusterer.run();
  state.models.clear();
  PrefixClustering result{.router = PrefixRouter::load(round_directory(work_directory), &device),
                          .documents = clusterer.documents(),
                          .losses = std::move(state.losses),
                          .relative_gap = state.relative_gap};
  result.labels = clusterer.labels(*result.router, corpus, counted);
  return result;
}

}  // namespace cbtm
