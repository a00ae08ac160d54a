// What parts hand each other: each record is read as it was written, and a damaged one is refused by its key.

#include <doctest/doctest.h>

#include <cmath>

#include "cbtm/base/error.h"
#include "cbtm/run/cluster_manifest.h"
#include "cbtm/run/evaluation_result.h"
#include "cbtm/run/stage_summary.h"
#include "cbtm/run/training_summary.h"

namespace cbtm {
namespace {

Json size(int64_t tokens) {
  return {{"train_documents", 3}, {"train_tokens", tokens}, {"valid_documents", 1},
          {"valid_tokens", 9},    {"tune_documents", 2},    {"tune_tokens", 8}};
}

TEST_CASE("clusters.json is written as it was read, and says which key is wrong") {
  const Json json = {{"format", 1},
                     {"clusters", 2},
                     {"vocab_size", 300},
                     {"router_hash", "r"},
                     {"tokenizer_hash", "t"},
                     {"sizes", {size(10), size(30)}},
                     {"top_terms", {{"oven"}, {"comet", "orbit"}}},
                     {"documents", 9},
                     {"clustering", "balanced"},
                     {"router", "tfidf"},
                     {"documents_without_words", 0},
                     {"label_objective", 1.5},
                     {"balance", 1.5},
                     {"valid_fraction", 0.01},
                     {"tune_fraction", 0.02},
                     {"fit_documents", 6},
                     {"fit_documents_without_words", 1},
                     {"terms", 40},
                     {"dimensions", 8},
                     {"svd_iterations", 4},
                     {"objective", 2.5},
                     {"objectives", {3.0, 2.5}},
                     {"duality_gap", -1e-9},
                     {"map", {{0.25, -1.5, 1}}},
                     {"corpus", {{"documents", 9}}},
                     {"files", {{"000/train.bin", {{"bytes", 1}, {"hash", "h"}}}}},
                     {"settings", {{"k", 2}}},
                     {"inputs", {{"corpus", "c"}}},
                     {"command", "cbtm cluster"}};
  const ClusterManifest manifest = parse_cluster_manifest(json, "clusters.json");
  CHECK(cluster_manifest_json(manifest).dump() == json.dump());
  CHECK(manifest.train_tokens() == 40);
  CHECK(manifest.top_terms[1][1] == "orbit");
  const auto refused = [&](const char* key, const Json& value, const char* message) {
    Json damaged = json;
    damaged[key] = value;
    CHECK_THROWS_WITH_AS(parse_cluster_manifest(damaged, "clusters.json"), doctest::Contains(message), Error);
  };
  refused("clusters", 3, "clusters.json: 'sizes'");
  refused("clusters", "two", "'clusters' is \"two\"");
  refused("top_terms", {{"oven"}}, "'top_terms' has 1 items, but 'sizes' has 2");
  refused("map", {{1, 2}}, "'map[0]'");
  refused("router_hash", 7, "'router_hash' is 7");
}

TEST_CASE("results of evaluations are written as they were read") {
  const Json json = {
      {"perplexity", 12.5},
      {"negative_log_likelihood", 100.25},
      {"tokens", 40},
      {"documents",
       {{{"id", "a"},
         {"tokens", 0},
         {"negative_log_likelihood", 0.0},
         {"perplexity", nullptr},
         {"expert_weights", {0.25, 0.75}}}}},
      {"seconds", 1.5},
      {"tokens_read_by_experts", 80},
      {"settings",
       {{"top_k", {1, 2}},
        {"router_temperature", 0.1},
        {"router_hash", "r"},
        {"experts_present", {0, 1}},
        {"documents", {{"split", "valid"}}},
        {"command", "cbtm ensemble"}}},
      {"sweep", {{{"top_k", 1}, {"perplexity", 13.0}, {"negative_log_likelihood", 101.0}, {"tokens", 40}}}},
      {"matrix", {{1.5, nullptr}}}};
  const EvaluationResult result = parse_evaluation(json, "ensemble.json");
  CHECK(evaluation_json(result).dump() == json.dump());
  CHECK(result.settings.top_k == std::vector<int64_t>{1, 2});
  CHECK(result.settings.split == "valid");
  CHECK(result.settings.experts_present == 2);
  CHECK(std::isnan(result.matrix[0][1]));
  CHECK(parse_evaluation({{"settings", {{"top_k", 4}}}}, "one.json").settings.top_k == std::vector<int64_t>{4});
  CHECK_THROWS_WITH_AS(parse_evaluation({{"sweep", "no"}}, "e.json"), doctest::Contains("e.json: 'sweep' is"), Error);

  const Json curve = {
      {"points", {{{"step", 2}, {"tokens", 64}, {"dense", 9.5}, {"top_1", 9.0}, {"top_2", 8.5}, {"all", 8.0}}}}};
  CHECK(gain_curve_json(parse_gain_curve(curve, "curve.json")).dump() == curve.dump());
  const Json summary = {{"documents", 3},
                        {"tokens", 40},
                        {"clusters", 2},
                        {"router_temperature", 0.05},
                        {"seed", 20.5},
                        {"dense", 12.25},
                        {"top_k", {{1, 13.0}, {2, 12.5}}}};
  CHECK(evaluation_summary_json(parse_evaluation_summary(summary, "run.json")).dump() == summary.dump());
}

TEST_CASE("numbers that no run can hold are not there") {
  CHECK(std::isnan(parse_evaluation({{"perplexity", 1e300}}, "e.json").perplexity));
  CHECK(std::isnan(parse_evaluation({{"perplexity", nullptr}}, "e.json").perplexity));
  CHECK(parse_training_summary(nullptr, "expert.json").tokens == -1);
}

TEST_CASE("trainings and stages are written as they were read") {
  const Json training = {{"steps", 4},
                         {"tokens", 512},
                         {"skipped_steps", 0},
                         {"loss", 2.5},
                         {"held_out_loss", nullptr},
                         {"training_seconds", 1.25}};
  CHECK(training_summary_json(parse_training_summary(training, "expert.json")).dump() == training.dump());
  const Json stage = {{"settings", {{"k", 2}}},    {"inputs", {{"corpus", "c"}}},
                      {"command", "cbtm cluster"}, {"seconds", 1.5},
                      {"summary", {{"a", 1}}},     {"result", "hash"},
                      {"version", "0.1.0"},        {"finished", "now"}};
  const RunSummary run = parse_run_summary({{"version", "0.1.0"}, {"stages", {{"cluster", stage}}}}, "run.json");
  REQUIRE(run.stages.size() == 1);
  CHECK(run.stages[0].name == "cluster");
  CHECK(stage_json(run.stages[0]).dump() == stage.dump());
}

}  // namespace
}  // namespace cbtm
