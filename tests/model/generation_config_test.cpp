// Which tokens end a generation: those of generation_config.json before those of config.json.

#include <doctest/doctest.h>

#include <fstream>

#include "cbtm/base/error.h"
#include "cbtm/model/families.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

TEST_CASE("end tokens of generation_config.json, one or a list") {
  const TemporaryDirectory directory;
  const auto write = [&](const char* name, const std::string& text) { std::ofstream(directory.path() / name) << text; };
  const auto ends = [&] { return read_model_spec(directory.path() / "config.json").eos_token_ids; };
  using Ids = std::vector<int64_t>;
  write("config.json", R"({"model_type": "opt", "eos_token_id": [2, 7]})");
  CHECK(ends() == Ids{2, 7});
  write("generation_config.json", R"({"eos_token_id": [2, 5, 9]})");
  CHECK(ends() == Ids{2, 5, 9});
  write("generation_config.json", R"({"eos_token_id": 5})");
  CHECK(ends() == Ids{5});
  for (const char* nothing : {"{}", R"({"eos_token_id": null})"}) {
    write("generation_config.json", nothing);
    CHECK(ends() == Ids{2, 7});
  }
  for (const char* wrong : {R"({"eos_token_id": ["</s>"]})", R"({"eos_token_id": "</s>"})", "[2]"}) {
    write("generation_config.json", wrong);
    CHECK_THROWS_WITH_AS(ends(), doctest::Contains("generation_config.json"), Error);
  }
}

}  // namespace
}  // namespace cbtm
