// cbtm ensemble average: against sums of the experts' tensors, made here.

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>

#include "cbtm/base/json.h"
#include "cbtm/model/checkpoint.h"
#include "tests/commands/tiny_run.h"

namespace cbtm {
namespace {

const std::filesystem::path kExperts = std::filesystem::path(CBTM_TEST_DATA) / "ensemble/experts";

std::vector<float> parameters(const std::filesystem::path& model) {
  const ModelCheckpoint checkpoint = ModelCheckpoint::open(model);
  std::vector<float> flat(static_cast<size_t>(checkpoint.layout().flat_size()));
  checkpoint.read_parameters(DType::f32, flat.data());
  return flat;
}

std::vector<std::string> average(const std::vector<std::string>& more) {
  std::vector<std::string> words = {
      "ensemble",           "average",
      "--experts",          kExperts.string(),
      "--router-directory", (kExperts.parent_path() / "router").string(),
      "--tokenizer",        (std::filesystem::path(CBTM_TEST_DATA) / "tokenizer/opt-tiny").string(),
      "--threads",          "1"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

/// The largest difference of a model from Σ weights[j] θ_j.
double difference(const std::filesystem::path& model, const std::vector<double>& weights) {
  const std::vector<float> got = parameters(model);
  std::vector<double> want(got.size());
  for (size_t j = 0; j < weights.size(); ++j) {
    const std::vector<float> expert = parameters(kExperts / ("00" + std::to_string(j)));
    for (size_t i = 0; i < want.size(); ++i) want[i] += weights[j] * static_cast<double>(expert[i]);
  }
  double largest = 0;
  for (size_t i = 0; i < want.size(); ++i) largest = std::max(largest, std::abs(static_cast<double>(got[i]) - want[i]));
  return largest;
}

TEST_CASE("average: uniform, by given weights, by a prior, in another stored type") {
  const TemporaryDirectory directory;
  const std::filesystem::path& here = directory.path();
  const Json router = read_json_file(kExperts.parent_path() / "router/router.json");
  succeed(run_cbtm(average({"--out", "mean"}), here));
  // The parameters are below 4, so that a rounding to float32 errs by 2^-23 at most.
  constexpr double kRounding = 0x1p-23;
  CHECK(difference(here / "mean", {0.25, 0.25, 0.25, 0.25}) <= kRounding);
  succeed(run_cbtm(average({"--expert-weights", "0.5,0,0.2,0.3", "--out", "given"}), here));
  CHECK(difference(here / "given", {0.5, 0, 0.2, 0.3}) <= kRounding);
  const Json record = read_json_file(here / "given/average.json");
  REQUIRE(record["experts"].size() == 3);
  CHECK(record["experts"][1]["expert"] == "002");
  CHECK(record["experts"][1]["weight"] == 0.2);

  succeed(run_cbtm({"ensemble", "prior", "--experts", kExperts.string(), "--router-directory",
                    (kExperts.parent_path() / "router").string(), "--tokenizer",
                    (std::filesystem::path(CBTM_TEST_DATA) / "tokenizer/opt-tiny").string(), "--corpus",
                    (kExperts.parent_path() / "documents.jsonl").string(), "--out", "prior.json", "--threads", "1"},
                   here));
  const auto prior = read_json_file(here / "prior.json")["prior"].get<std::vector<double>>();
  succeed(run_cbtm(average({"--expert-weights", "posterior:prior.json", "--out", "by-prior"}), here));
  CHECK(difference(here / "by-prior", prior) <= kRounding);
  succeed(run_cbtm(average({"--expert-weights", "posterior:prior.json:topk=1", "--out", "best"}), here));
  std::vector<double> best(4, 0.0);
  best[static_cast<size_t>(std::max_element(prior.begin(), prior.end()) - prior.begin())] = 1;
  CHECK(difference(here / "best", best) <= kRounding);
  succeed(run_cbtm(average({"--stored-type", "fp16", "--out", "half"}), here));
  const double half = difference(here / "half", {0.25, 0.25, 0.25, 0.25});
  CHECK(half > kRounding);
  CHECK(half <= 0x1p-10);
}

TEST_CASE("average: what is refused") {
  const TemporaryDirectory directory;
  const auto refused = [&](std::vector<std::string> more, int code, const char* expected) {
    more.insert(more.end(), {"--out", "out", "--quiet"});
    check_error(run_cbtm(average(more), directory.path()), code, expected);
    CHECK(!std::filesystem::exists(directory / "out"));
  };
  refused({"--expert-weights", "1"}, 2, "names 1 weights, but the router has 4 clusters");
  refused({"--expert-weights", "0.5,0.5,0.5,0.5"}, 2, "their sum is 2");
  refused({"--expert-weights", "0.5,-0.5,0.5,0.5"}, 2, "use uniform, one weight per cluster");
  refused({"--expert-weights", "most"}, 2, "use uniform, one weight per cluster");
  refused({"--expert-weights", "posterior:none.json"}, 1, "none.json");
  refused({"--expert-weights", "posterior:p.json:topk=0"}, 2, "topk must be a number from 1");
  refused({"--stored-type", "int8"}, 2, "use float32, bf16 or fp16");
  refused({"--router", "uniform"}, 2, "an average has no router");
}

}  // namespace
}  // namespace cbtm
