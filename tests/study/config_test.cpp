// Configurations of studies: what is read, what is refused, and that nothing is lost.

#include "cbtm/study/config.h"

#include <doctest/doctest.h>

#include "cbtm/base/error.h"

namespace cbtm::study {
namespace {

Json small_config() {
  return {{"k", {1, 2, 4}},
          {"budgets", {8192, 16384}},
          {"learning_rates", {3e-3}},
          {"preset", "nano"},
          {"seed_tokens", 8192},
          {"sequence", 256},
          {"batch_tokens", 4096},
          {"seeds", 2},
          {"clusterings", {"balanced", "random"}},
          {"vocab_size", 1024}};
}

Config read(const Json& json) {
  Config config;
  read_config(json, "study.json", config);
  check_config(config);
  return config;
}

void check_refused(const Json& json, const char* expected) {
  CAPTURE(json.dump());
  CHECK_THROWS_WITH_AS(read(json), doctest::Contains(expected), Error);
}

TEST_CASE("a configuration is completed, and its object reads back as the same") {
  const Config config = read(small_config());
  CHECK(config.axis.k == std::vector<int64_t>{1, 2, 4});
  CHECK(config.seed_numbers() == std::vector<uint64_t>{1, 2});
  CHECK(config.seed_learning_rate == 3e-3);
  REQUIRE(config.clusterings.size() == 2);
  CHECK(config.clusterings[1].kind == Clustering::random);
  CHECK(config.clusterings[1].axis.k == std::vector<int64_t>{2, 4});  // 1 is the dense model
  CHECK(config.clusterings[1].axis.budgets == config.axis.budgets);
  CHECK(config_json(read(config_json(config))) == config_json(config));
}

TEST_CASE("lists come in any order and are put in theirs") {
  Json json = small_config();
  json["k"] = {4, 1, 2};
  json["budgets"] = {16384, 8192};
  CHECK(read(json).axis.k == std::vector<int64_t>{1, 2, 4});
  CHECK(read(json).axis.budgets == std::vector<int64_t>{8192, 16384});
}

TEST_CASE("a clustering may take a part of the grid, but not one that is not there") {
  Json json = small_config();
  json["clusterings"] = {"balanced", {{"kind", "random"}, {"k", {4}}, {"budgets", {16384}}}};
  const Config config = read(json);
  CHECK(config.clusterings[1].axis.k == std::vector<int64_t>{4});
  CHECK(config.clusterings[1].axis.budgets == std::vector<int64_t>{16384});
  json["clusterings"][1]["k"] = {8};
  check_refused(json, "clustering random: k 8 is not among the study's k: 1, 2, 4");
  json["clusterings"] = {{{"kind", "balanced"}, {"k", {2}}}};
  check_refused(json, "it takes the whole grid");
  json["clusterings"] = {"balanced", {{"kind", "random"}, {"k", {1}}}};
  check_refused(json, "'clusterings[1].k' has 1 alone, which is the dense model");
}

TEST_CASE("a study of dense models alone reads back, too") {
  Json json = small_config();
  json["k"] = {1};
  const Config config = read(json);
  CHECK(config.clusterings[0].axis.k.empty());
  CHECK(config_json(read(config_json(config))) == config_json(config));
}

TEST_CASE("unknown keys, wrong types and values that cannot be are refused with their place") {
  const auto with = [](const char* key, const Json& value) {
    Json json = small_config();
    json[key] = value;
    return json;
  };
  check_refused(with("kk", 3), "study.json: has the key 'kk', which means nothing here");
  check_refused(with("clusterings", {{{"kind", "random"}, {"size", 2}}}), "'clusterings[0]' has the key 'size'");
  check_refused(with("clusterings", {"balanced", "sorted"}), "'clusterings[1]' names the clustering 'sorted'");
  check_refused(with("clusterings", {"balanced", "balanced"}), "names balanced twice");
  check_refused(with("k", {1, 2, 2}), "'k' names 2 twice");
  check_refused(with("k", Json::array()), "'k' is empty");
  check_refused(with("k", "4"), "'k' is \"4\", but must be a list");
  check_refused(with("k", {1, 2.5}), "'k[1]'");
  check_refused(with("budgets", {0}), "'budgets[0]'");
  check_refused(with("seeds", "three"), "'seeds'");
  check_refused(with("dropout", 1.5), "'dropout'");
  check_refused(with("learning_rates", {3e-3, 3e-3}), "'learning_rates' names 0.003 twice");
  check_refused(with("model", "model.json"), "has both 'preset' and 'model'");
  check_refused(with("larger", Json::object()), "'larger' has neither 'preset' nor 'model'");
  check_refused(with("moe", {{"experts", {1, 4}}}), "'moe.experts' names 1, but a token goes to 2 experts");
  check_refused(with("moe", {{"budgets", {8192}}}), "'moe' has no 'experts'");
  check_refused(with("resamples", 10), "'resamples'");
  check_refused(with("first_seed", uint64_t{1} << 63),
                "'first_seed' is 9223372036854775808, but must be a whole number from 0 to");
  check_refused(with("bootstrap_seed", INT64_MAX), "'bootstrap_seed'");
}

TEST_CASE("what values together cannot be is refused") {
  const auto with = [](const char* key, const Json& value) {
    Json json = small_config();
    json[key] = value;
    return json;
  };
  check_refused(with("k", {2, 4}), "1, the dense model that everything is compared with, must be among them");
  check_refused(with("k", {1, 3}), "cannot be divided among 3 experts");
  check_refused(with("budgets", {1024}), "a budget of 1024 tokens is less than one step of 4096");
  check_refused(with("budgets", {8192, 8200}), "budgets 8192 and 8200 are the same number of steps of 4096 tokens");
  check_refused(with("batch_tokens", 4000), "batch_tokens 4000 is not a multiple of the sequence of 256 tokens");
  check_refused(with("clusterings", {"random"}), "the clusterings hold no k-means");
  check_refused(with("routers", {"uniform"}), "tfidf must be among them");
  check_refused(with("routers", {"tfidf", "nearest"}), "'nearest' is no kind of router");
  check_refused(with("routers", {"tfidf", "posterior:prior=prior.json"}), "a prior from a file is of one ensemble");
  check_refused(with("routers", {"tfidf", "prefix"}), "which have no models of prefixes");
  check_refused(with("moe", {{"experts", {4}}, {"budgets", {4096}}}), "moe: budgets 4096 is not among the study's");
  Json json = small_config();
  json.erase("budgets");
  check_refused(json, "the study has no budgets");
}

}  // namespace
}  // namespace cbtm::study
