#include "cbtm/accounting/best_k.h"

#include <doctest/doctest.h>

#include <vector>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

const Json kStudy = {{"results", {1, 2}},
                     {"fit",
                      {{"intercept", -18.0},
                       {"slope", 1.0},
                       {"tokens_min", 1 << 19},
                       {"tokens_max", 1 << 22},
                       {"k_min", 2},
                       {"k_max", 8},
                       {"parameters", 428'000}}}};

TEST_CASE("a study's fit chooses the nearest number of experts and says what it stands on") {
  const std::optional<StudyFit> fit = parse_study_fit(kStudy, "study.json");
  REQUIRE(fit);
  CHECK(fit->best_k(1 << 20) == doctest::Approx(4));
  CHECK(fit->best_k(int64_t{1} << 30) == 8);  // no further than was measured
  CHECK(fit->best_k(1 << 10) == 2);
  const std::vector<int64_t> ks = {2, 4, 8, 16};
  const SuggestedK inside = suggest_k(ks, 1 << 20, 428'000, fit);
  CHECK(inside.k == 4);
  CHECK(inside.reason == "the study's fit gives 4.0 experts for 1,048,576 tokens");
  const SuggestedK outside = suggest_k(ks, int64_t{1} << 30, 1'000'000, fit);
  CHECK(outside.k == 8);
  CHECK(outside.reason.find("extrapolation") != std::string::npos);
  CHECK(outside.reason.find("its experts have 428,000 parameters, these 1,000,000") != std::string::npos);
  CHECK(suggest_k(std::vector<int64_t>{3, 16}, 1 << 20, 428'000, fit).k == 3);
}

TEST_CASE("a study without a fit is none, and a damaged fit is named") {
  CHECK_FALSE(parse_study_fit({{"results", {}}}, "study.json"));
  const auto refused = [](const char* key, const Json& value, const char* expected) {
    Json study = kStudy;
    study["fit"][key] = value;
    CHECK_THROWS_WITH_AS(parse_study_fit(study, "study.json"), doctest::Contains(expected), Error);
  };
  refused("slope", "steep", "study.json: 'fit.slope' is \"steep\"");
  refused("k_min", 9, "'k_min' is above 'k_max'");
  refused("tokens_min", 1 << 23, "'tokens_min' is above 'tokens_max'");
  refused("parameters", 0, "'fit.parameters' is 0");
}

TEST_CASE("the paper's relation: more experts for more tokens, and no more than 16") {
  const std::vector<int64_t> ks = {2, 4, 8, 16, 32};
  constexpr int64_t kParameters = 1'300'000'000;
  // 16 experts at 42 billion tokens are the anchor: 2.01 tokens per parameter for each.
  CHECK(suggest_k(ks, 41'900'000'000, kParameters, std::nullopt).k == 16);
  CHECK(suggest_k(ks, 41'000'000'000, kParameters, std::nullopt).k == 8);
  CHECK(suggest_k(ks, 168'000'000'000, kParameters, std::nullopt).k == 16);
  CHECK(suggest_k(ks, 10'500'000'000, kParameters, std::nullopt).k == 4);
  int64_t last = 0;
  for (int64_t tokens = 1'000'000'000; tokens < 1'000'000'000'000; tokens *= 2) {
    const int64_t k = suggest_k(ks, tokens, kParameters, std::nullopt).k;
    CHECK(k >= last);
    last = k;
  }
  const SuggestedK little = suggest_k(ks, 1'000'000'000, kParameters, std::nullopt);
  CHECK(little.k == 2);
  CHECK(little.reason.find("a dense model may do as well") != std::string::npos);
  CHECK(suggest_k(std::vector<int64_t>{32, 64}, 168'000'000'000, kParameters, std::nullopt).k == 32);
}

}  // namespace
}  // namespace cbtm
