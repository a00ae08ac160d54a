#include "cbtm/model/expert_card.h"

#include <doctest/doctest.h>

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
  const Json good = read_json_file(directory / "expert.json");
  for (const char* key : {"kind", "settings", "inputs", "tokenizer_hash", "cluster", "top_terms"}) {
    CAPTURE(key);
    Json bad = good;
    bad[key] = 1.5;
    write_json_file(directory / "expert.json", bad);
    CHECK_THROWS_WITH_AS(read_expert_card(directory.path()), doctest::Contains(key), Error);
  }
}

}  // namespace
}  // namespace cbtm
