#include "cbtm/base/json.h"

#include <doctest/doctest.h>

#include <fstream>

#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

/// The message of the Error that parsing gives, or "".
std::string refusal(std::string_view text, const JsonLimits& limits = {}) {
  try {
    static_cast<void>(parse_json(text, "f.json", limits));
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

TEST_CASE("JSON is parsed, with a byte order mark too") {
  const Json json =
      parse_json("\xef\xbb\xbf{\"a\": [1, -2, 3.5, \"x\", null, true, {\"b\": {}}], \"c\": 18446744073709551615}", "f");
  CHECK(json == Json::parse(R"({"a": [1, -2, 3.5, "x", null, true, {"b": {}}], "c": 18446744073709551615})"));
  CHECK(parse_json("7", "f") == 7);
}

TEST_CASE("what is wrong with JSON is said with its place") {
  CHECK(refusal("{\"a\": 1,\n  \"b\": x}") == "f.json: not valid JSON at line 2, column 8: 'x' does not belong there");
  CHECK(refusal("{\"a\": NaN}") == "f.json: not valid JSON at line 1, column 7: NaN is no JSON number");
  CHECK(refusal("{\"a\": -Infinity}") == "f.json: not valid JSON at line 1, column 7: -Infinity is no JSON number");
  CHECK(refusal("{\"a\": [1, 2").find("it ends in the middle, at line 1, column 12") != std::string::npos);
  CHECK(refusal("{\"a\": \"tex").find("it ends in the middle") != std::string::npos);
  CHECK(refusal("{\"a\": 1e999}").find("a number is too large") != std::string::npos);
  CHECK(refusal("{\"a\": 1} {}").find("line 1, column 10") != std::string::npos);
  CHECK(refusal("{\"a\": 1, \"a\": 2}") == "f.json: the key 'a' is there twice in one object");
  CHECK(refusal("[\"\xff\"]") == "f.json: not UTF-8 at line 1, column 3; save it as UTF-8");
  CHECK(refusal("[\"a\nb\"]").find('\n') == std::string::npos);
}

TEST_CASE("deep, wide and large JSON is refused in bounded work") {
  CHECK(refusal(std::string(10'000'000, '[')) == "f.json: nested more than 64 deep");
  std::string deep;
  for (int i = 0; i < 1'000'000; ++i) deep += "{\"a\":";
  CHECK(refusal(deep) == "f.json: nested more than 64 deep");
  std::string wide = "[";
  for (int i = 0; i < 1'000'000; ++i) wide += "{},";
  CHECK(refusal(wide, {.depth = 64, .memory_bytes = 1 << 20}).find("holds more values than are read") !=
        std::string::npos);
  const TemporaryDirectory directory;
  std::ofstream(directory.path() / "large.json") << "{}";
  std::filesystem::resize_file(directory.path() / "large.json", uintmax_t{1} << 31);
  CHECK_THROWS_WITH_AS(read_json_file(directory.path() / "large.json"), doctest::Contains("takes 2048 MiB"), Error);
}

TEST_CASE("another file in the place of a JSON file is named") {
  const TemporaryDirectory directory;
  const auto says = [&](const std::string& contents, const char* message) {
    std::ofstream(directory.path() / "config.json", std::ios::binary) << contents;
    CHECK_THROWS_WITH_AS(read_json_file(directory.path() / "config.json"), doctest::Contains(message), Error);
  };
  says("", "config.json: not valid JSON: the file is empty");
  says("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull");
  says("\n<!DOCTYPE HTML><html>", "a web page");
  says(std::string("\xff\xfe{\0", 4), "UTF-16");
  says("\x1f\x8b\x08", "gunzip");
  says(std::string(5000, '\0'), "zeros");
}

TEST_CASE("a reader says file, key, what is there and what must be") {
  const Json json = Json::parse(R"({"stages": {"seed": {"seconds": [1], "n": 3, "name": "x", "nothing": null}},
                                    "list": [1, 2, "three"], "big": 18446744073709551615, "texts": ["a", "b"]})");
  const JsonReader read(json, "run.json", "make it again");
  const JsonReader seed = read.object("stages").object("seed");
  CHECK(seed.integer("n") == 3);
  CHECK(seed.number("n") == 3.0);
  CHECK(seed.text("name") == "x");
  CHECK(seed.text_or("nothing", "y") == "y");
  CHECK(seed.integer_or("none", 5) == 5);
  CHECK(read.texts("texts") == std::vector<std::string>{"a", "b"});
  CHECK(read.list("list").item(1).as_integer() == 2);
  const auto says = [](const auto& access, const char* message) { CHECK_THROWS_WITH_AS(access(), message, Error); };
  says([&] { seed.number("seconds"); },
       "run.json: 'stages.seed.seconds' is a list, but must be a number; make it again");
  says([&] { seed.integer("n", 4, 9); },
       "run.json: 'stages.seed.n' is 3, but must be a whole number from 4 to 9; make it again");
  says([&] { seed.text("nothing"); }, "run.json: 'stages.seed' has no 'nothing'; make it again");
  says([&] { read.text("stage\n"); }, "run.json: has no 'stage\\x0a'; make it again");
  says([&] { read.integers("list"); }, "run.json: 'list[2]' is \"three\", but must be a whole number; make it again");
  says([&] { read.integer("big"); },
       "run.json: 'big' is 18446744073709551615, but must be a whole number; make it again");
  says([&] { read.list("list").item(3); }, "run.json: 'list' has 3 items, but one more is needed; make it again");
  const Json list = Json::array();
  says([&] { JsonReader(list, "f.json").has("key"); }, "f.json: it is a list, but must be an object");
}

TEST_CASE("text of a file is shown on one line and cut") {
  CHECK(shown_text("a\nb\xff") == "a\\x0ab\\xff");
  CHECK(shown_text(std::string(500, 'x')).size() < 100);
}

}  // namespace
}  // namespace cbtm
