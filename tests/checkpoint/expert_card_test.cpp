#include "cbtm/model/expert_card.h"

#include <doctest/doctest.h>

#include <cmath>
#include <utility>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/content_hash.h"
#include "cbtm/base/error.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

TEST_CASE("an expert's card says what is wrong with it") {
  const TemporaryDirectory directory;
  CHECK_FALSE(read_expert_card(directory.path()).has_value());
  const ExpertCard card{.kind = "expert",
                        .settings = {{"sequence_length", 64}},
                        .inputs = {{"seed", "abc"}},
                        .tokenizer_hash = "def",
                        .router_hash = "012",
                        .cluster = 2,
                        .clusters = 4,
                        .top_terms = {"oven"}};
  write_expert_card(directory.path(), card);
  const std::optional<ExpertCard> read = read_expert_card(directory.path());
  REQUIRE(read.has_value());
  CHECK(read->cluster == 2);
  CHECK(read->inputs == card.inputs);
  CHECK(read->top_terms == card.top_terms);
  CHECK(read->sequence_length(7) == 64);
  CHECK(read->training.is_null());
  Json good = read_json_file(directory / "expert.json");
  good.erase("card_hash");  // a card of an older version: its keys are judged one by one
  for (const char* key : {"kind", "settings", "inputs", "tokenizer_hash", "cluster", "top_terms"}) {
    CAPTURE(key);
    Json bad = good;
    bad[key] = 1.5;
    write_json_file(directory / "expert.json", bad);
    CHECK_THROWS_WITH_AS(read_expert_card(directory.path()), doctest::Contains(key), Error);
  }
}

TEST_CASE("a card that was changed after it was written is refused") {
  const TemporaryDirectory directory;
  const std::filesystem::path file = directory / "expert.json";
  write_expert_card(directory.path(),
                    {.kind = "expert",
                     .settings = {{"sequence_length", 64}, {"learning_rate", 1e-5}, {"dropout", -0.0}},
                     .inputs = {{"seed", "abc"}},
                     .training = {{"loss", std::nan("")}, {"held_out_loss", 1.0 / 3}},
                     .command = "caf\xe9 \n\x7f caf\xc3\xa9",
                     .cluster = 2,
                     .clusters = 4,
                     .weights_hash = "012"});
  const Json good = read_json_file(file);
  CHECK(verify_expert_card(good, file));
  CHECK(read_expert_card(directory.path())->weights_hash == "012");

  const auto refused = [&](const Json& card) {
    write_json_file(file, card);
    CHECK_THROWS_WITH_AS(read_expert_card(directory.path()),
                         doctest::Contains("expert.json: was changed after cbtm wrote it"), Error);
    set_content_verification(false);
    CHECK(read_expert_card(directory.path()).has_value());
    CHECK_FALSE(verify_expert_card(card, file));
    set_content_verification(true);
  };
  for (const auto& [path, value] : std::vector<std::pair<std::string, Json>>{{"/settings/sequence_length", 65},
                                                                             {"/settings/dropout", 0.0},
                                                                             {"/clusters", 5},
                                                                             {"/kind", "seed"},
                                                                             {"/added", 1},
                                                                             {"/card_hash", nullptr},
                                                                             {"/card_hash", 5}}) {
    CAPTURE(path);
    Json changed = good;
    changed[Json::json_pointer(path)] = value;
    refused(changed);
  }
  Json shorter = good;
  shorter.erase("weights_hash");
  refused(shorter);

  shorter.erase("card_hash");  // of an older version
  write_json_file(file, shorter);
  CHECK_FALSE(verify_expert_card(shorter, file));
  CHECK(read_expert_card(directory.path())->clusters == 4);
  write_file_atomically(file, good.dump());  // other spaces are no change
  CHECK(read_expert_card(directory.path())->clusters == 4);
}

}  // namespace
}  // namespace cbtm
