// Which files hold JSON lines, an array, or one text; and what is said of lines that are wrong.

#include <doctest/doctest.h>

#include "cbtm/base/error.h"
#include "corpus/json_line.h"
#include "tests/corpus/reading.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

TEST_CASE("JSON lines are told by their content, whatever the name") {
  const TemporaryDirectory work;
  const std::string lines = json_lines(400);
  for (const char* name : {"B.JSONL", "b.jsonlines", "b.ndjson", "b.json", "b.jl", "wiki_00", "b.txt", "b.log",
                           "part-1", "RC_2010-01", "B.Json"}) {
    CAPTURE(name);
    write(work / name, lines);
    const Read got = read(work / name);
    CHECK(got.documents.size() == 400);
    CHECK(got.statistics.bad() == 0);
    CHECK(got.documents[1].id == std::string(name) + ":2");
  }
  write(work / "RC_2010-01.zst", zstd(lines));
  write(work / "b.jsonl.GZ", gzip(lines));
  write(work / "plain", gzip(lines));
  for (const char* name : {"RC_2010-01.zst", "b.jsonl.GZ", "plain"}) CHECK(read(work / name).documents.size() == 400);
  write(work / "long_line",
        "{\"title\": \"" + std::string(3 << 20, 'x') + "\", \"text\": \"one\"}\n{\"text\": \"two\"}\n");
  CHECK(read(work / "long_line").texts() == std::vector<std::string>{"one", "two"});
  // A few wrong lines do not make it another kind of file.
  write(work / "wiki_01", "{broken\n" + lines);
  CHECK(read(work / "wiki_01").documents.size() == 400);
  write(work / "broken.json", "broken\n" + lines);
  CHECK(read(work / "broken.json").statistics.broken_lines == 1);
}

TEST_CASE("a wrong --text-field is said of files without an extension, too") {
  const TemporaryDirectory work;
  write(work / "RC_2010-01", "{\"body\": \"one\", \"author\": \"a\"}\n{\"body\": \"two\", \"author\": \"b\"}\n");
  CHECK_THROWS_WITH_AS(read(work / "RC_2010-01"), doctest::Contains("no text field 'text' (there are: body, author)"),
                       Error);
}

TEST_CASE("texts that begin with a bracket stay texts") {
  const TemporaryDirectory work;
  const std::pair<const char*, const char*> cases[] = {
      {"package.json", "{\n  \"name\": \"web\",\n  \"files\": [\n    {\"a\": 1},\n    {\"a\": 2}\n  ]\n}\n"},
      {"one-line.json", "{\"name\": \"web\"}\n"},
      {"commented.json", "// settings\n{\n  \"a\": 1,\n}\n"},
      {"numbers.json", "[1, 2, 3]\n"},
      {"a.py", "{\n  1: 2\n}\n"},
      {"b.py", "{'text': 'one'}\n{'text': 'two'}\n"},
      {"a.md", "{\"text\": \"an example\"}\n\nThe line above is an example.\n"},
      {"b.md", "[link](to/somewhere) and more\n"},
      {"a.txt", "{}\n"},
      {"b.txt", "{\"level\": \"info\"}\n{\"level\": \"debug\"}\n"},
      {"c.txt", "{braces} are used here\n"},
      {"empty_array.json", "[]\n"},
  };
  for (const auto& [name, text] : cases) {
    CAPTURE(name);
    write(work / "d" / name, text);
    CHECK(read(work / "d" / name).texts() == std::vector<std::string>{text});
  }
  const Read all = read(work / "d");
  CHECK(all.statistics.bad() == 0);
  CHECK(all.statistics.json_texts == 5);
  CHECK(all.statistics.json_text_first.ends_with("commented.json"));
}

TEST_CASE("one object over several lines is a document if it has the text field") {
  const TemporaryDirectory work;
  write(work / "a.json", "{\n  \"id\": \"x\",\n  \"text\": \"one\"\n}\n");
  const Read got = read(work / "a.json");
  CHECK(got.texts() == std::vector<std::string>{"one"});
  CHECK(got.ids() == std::vector<std::string>{"x"});
}

TEST_CASE("an array of objects is read element by element") {
  const TemporaryDirectory work;
  const std::string compact = R"([{"text":"a, ]\"}"},{"text":"b","x":[{}]} , {"id":7,"text":"c"}])";
  const std::string spread =
      "[\n  {\n    \"text\": \"a, ]\\\"}\"\n  },\n  {\"text\": \"b\"},\n  {\"id\": 7, \"text\": \"c\"}\n]\n";
  for (const char* name : {"a.json", "a.jsonl", "a", "a.txt", "a.json.gz"})
    for (const std::string& text : {compact, spread, "\xef\xbb\xbf" + spread}) {
      CAPTURE(name);
      write(work / name, std::string(name).ends_with(".gz") ? gzip(text) : text);
      const Read got = read(work / name);
      CHECK(got.texts() == std::vector<std::string>{"a, ]\"}", "b", "c"});
      CHECK(got.ids() == std::vector<std::string>{std::string(name) + ":1", std::string(name) + ":2", "7"});
      CHECK(got.statistics.bad() == 0);
    }
  std::string large = "[";
  for (int i = 0; i < 30'000; ++i)
    large += (i == 0 ? "" : ",\n") + std::string("{\"text\": \"text ") + std::to_string(i) + "\"}";
  write(work / "large.json", large + "]");
  CHECK(read(work / "large.json").documents.size() == 30'000);
  write(work / "cut.json", large);
  const Read cut = read(work / "cut.json");
  CHECK(cut.documents.size() == 30'000);
  CHECK(cut.statistics.lost_places.front().find("cut.json: the JSON array ends early") != std::string::npos);
  write(work / "bad.json", R"([{"text":"a"}, {"text":3}, 5, {"text":"b"}])");
  const Read bad = read(work / "bad.json");
  CHECK(bad.documents.size() == 2);
  CHECK(bad.statistics.broken_lines == 2);
  CHECK(bad.statistics.bad_places[1].find("bad.json:3: not a JSON object but a number") != std::string::npos);
  write(work / "strings.json", R"(["one", "two"])");
  CHECK_THROWS_WITH_AS(read(work / "strings.json"), doctest::Contains("not a JSON object but a string"), Error);
  write(work / "broken.json", R"([{"text":"a"} {"text":"b"}])");
  CHECK(read(work / "broken.json").statistics.bad_places.front().find("neither a comma nor ]") != std::string::npos);
  // A line that holds an array is a line.
  write(work / "lines.jsonl", "[1, 2]\n" + json_lines(200));
  CHECK(
      read(work / "lines.jsonl").statistics.bad_places.front().find("lines.jsonl:1: not a JSON object but an array") !=
      std::string::npos);
}

TEST_CASE("byte order marks are passed over, and UTF-16 is named") {
  const TemporaryDirectory work;
  write(work / "a.jsonl", "\xef\xbb\xbf" + json_lines(3) + "\xef\xbb\xbf" + json_lines(3, "joined"));
  CHECK(read(CorpusOptions{.paths = {work / "a.jsonl"}, .on_bad_document = OnBadDocument::fail}).documents.size() == 6);
  write(work / "a.txt", "\xef\xbb\xbftext");
  CHECK(read(work / "a.txt").texts() == std::vector<std::string>{"text"});
  const std::string_view with_mark("\xff\xfe{\0\"\0t\0e\0x\0t\0", 14);
  for (const std::string_view bytes : {with_mark, with_mark.substr(2)}) {
    write(work / "wide.jsonl", bytes);
    CHECK_THROWS_WITH_AS(read(work / "wide.jsonl"), doctest::Contains("UTF-16"), Error);
  }
}

TEST_CASE("each mistake of a line has its own message") {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"text": "a\ud83d"})", "a lone surrogate \\ud83d, which is no character, at byte 12"},
      {R"({"text": "\ude00 b"})", "a lone surrogate \\ude00"},
      {R"({"text": "\ud83d\ud83d"})", "a lone surrogate \\ud83d"},
      {R"({"text": "a", "score": NaN})", "NaN, which is not JSON"},
      {R"({"text": "a", "score": -Infinity})", "Infinity, which is not JSON"},
      {R"([{"text": "a"}])", "not a JSON object but an array"},
      {R"("text")", "not a JSON object but a string"},
      {R"(null)", "not a JSON object but null"},
      {R"(plain text)", "not a JSON object"},
      {R"({"text": 3})", "the text field 'text' is a number, not a string"},
      {R"({"text": null})", "the text field 'text' is null, not a string"},
      {R"({"text": ["a"]})", "the text field 'text' is a list, not a string"},
      {R"({"body": "a", "id": 1})", "no text field 'text' (there are: body, id)"},
      {R"({"text": "a"}{"text": "b"})", "a second object on the line"},
      {R"({"text": "a"} x)", "more text after the JSON object at byte 15"},
      {R"({"text": "a)", "JSON that ends early"},
      {R"({"text": "a",)", "JSON that ends early"},
      {R"({'text': 'a'})", "single quotes at byte 2"},
      {R"({"text": True})", "a word of Python"},
      {"{\"text\": \"a\tb\"}", "a control character within a string at byte 12"},
      {"{\"text\": \"\xe9\"}", "not UTF-8 at byte 11"},
  };
  for (const auto& [line, expected] : cases) {
    CAPTURE(line);
    JsonLineFields fields;
    const std::string problem = parse_json_line(line, "text", fields);
    CAPTURE(problem);
    CHECK(problem.find(expected) != std::string::npos);
  }
  JsonLineFields fields;
  CHECK(parse_json_line("{\"text\": \"a\", \"x\": " + std::string(10'000, '[') + "}", "text", fields)
            .find("nested more than 512 deep") != std::string::npos);
}

}  // namespace
}  // namespace cbtm
