// Tensor files made to take much time or memory: each is a line, or is read, within a second and in bounded memory.

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "cbtm/base/error.h"
#include "cbtm/base/json.h"
#include "tests/commands/process.h"
#include "tests/commands/tiny_run.h"
#include "tests/temporary_directory.h"
#include "tests/torch_archive.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;
const fs::path kModel = fs::path(CBTM_TEST_DATA) / "opt/models/tiny-preln/safetensors-f32";

void write(const fs::path& path, std::string_view contents) { std::ofstream(path, std::ios::binary) << contents; }

std::string repeated(const std::string& text, int64_t count) {
  std::string out;
  out.reserve(text.size() * static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) out += text;
  return out;
}

/// What is wanted of every hostile file.
void check_bounded(const Outcome& outcome) {
  CAPTURE(outcome.errors.substr(0, 500));
  CHECK((outcome.exit_code == 0 || outcome.exit_code == kExitFailure));
  CHECK(std::count(outcome.errors.begin(), outcome.errors.end(), '\n') <= 3);
  CHECK(outcome.errors.size() < 2000);
#ifndef __SANITIZE_ADDRESS__
  CHECK(outcome.cpu_seconds < 5);  // what these took before: 20 s and more, or all memory
  CHECK(outcome.peak_bytes < 600 << 20);
#endif
}

Outcome inspect(const fs::path& path) { return run_cbtm({"inspect", path, "--threads", "1"}); }

std::string torch_file(const std::string& operations) {
  return stored_zip({{"data.pkl", "\x80\x02" + operations + "."}, {"data/0", std::string(160, '\0')}});
}

TEST_CASE("50,000 tensors in a header, alone, in a model and in an index") {
  const TemporaryDirectory work;
  fs::copy_file(kModel / "config.json", work / "config.json");
  std::ifstream in(kModel / "model.safetensors", std::ios::binary);
  const std::string all((std::istreambuf_iterator<char>(in)), {});
  uint64_t length = 0;
  std::memcpy(&length, all.data(), 8);
  Json header = Json::parse(all.substr(8, length));
  Json index = {{"weight_map", Json::object()}};
  const size_t end = all.size() - 8 - length;
  for (const auto& [name, value] : header.items()) index["weight_map"][name] = "shard.safetensors";
  index["weight_map"].erase("__metadata__");
  for (int i = 0; i < 50'000; ++i) {
    const std::string name = "model.decoder.extra." + std::to_string(i);
    header[name] = {{"dtype", "F32"}, {"shape", {0}}, {"data_offsets", {end, end}}};
    index["weight_map"][name] = "shard.safetensors";
  }
  const std::string text = header.dump();
  write(work / "model.safetensors", bytes_of(uint64_t{text.size()}) + text + all.substr(8 + length));
  check_bounded(inspect(work / "model.safetensors"));
  const Outcome model = inspect(work.path());
  check_bounded(model);
  CHECK(model.exit_code == 0);
  CHECK(model.errors.find("50000 tensors are not part of a model with this config and left out: '") !=
        std::string::npos);
  fs::rename(work / "model.safetensors", work / "shard.safetensors");
  write(work / "model.safetensors.index.json", index.dump());
  const Outcome sharded = inspect(work.path());
  check_bounded(sharded);
  CHECK(sharded.exit_code == 0);
}

TEST_CASE("headers that are deep, wide or of many dimensions" * doctest::test_suite("slow")) {
  const TemporaryDirectory work;
  const auto header = [&](const std::string& text) {
    write(work / "f.safetensors", bytes_of(uint64_t{text.size()}) + text);
    check_bounded(inspect(work / "f.safetensors"));
  };
  header("{\"a\":" + std::string(10'000'000, '['));
  header("{" + repeated("\"a\":{},", 1) + repeated("\"b\":1,", 5'000'000));
  std::string ones = "1";
  for (int i = 0; i < 1'000'000; ++i) ones += ",1";
  header("{\"a\":{\"dtype\":\"F32\",\"shape\":[" + ones + "],\"data_offsets\":[0,0]}}");
  header("{\"a\":{\"dtype\":\"F32\",\"shape\":[0,9223372036854775807,9223372036854775807],\"data_offsets\":[0,0]}}");
  std::string keys = "{";
  for (int i = 0; i < 5'000'000; ++i) keys += "\"" + std::to_string(i) + "\":[],";
  header(keys);
}

TEST_CASE("zips whose entries share their bytes") {
  const TemporaryDirectory work;
  write(work / "f.bin", stored_zip({{"data/0", std::string(1 << 20, 'x')}}, 60'000));
  const Outcome outcome = inspect(work / "f.bin");
  check_bounded(outcome);
  CHECK(outcome.errors.find("overlaps") != std::string::npos);
}

TEST_CASE("pickles that ask for more than they hold" * doctest::test_suite("slow")) {
  const TemporaryDirectory work;
  using namespace pickle;
  const auto refused = [&](const std::string& operations) {
    write(work / "f.bin", torch_file(operations));
    const Outcome outcome = inspect(work / "f.bin");
    check_bounded(outcome);
    CHECK(outcome.exit_code == kExitFailure);
  };
  const std::string rebuild = global("torch._utils", "_rebuild_tensor_v2") + "q\1";
  // A shape of 100,000 dimensions that every tensor shares; one of 64, in all of a million tensors.
  for (const int64_t rank : {100'000, 64}) {
    const std::string shape = "(" + repeated("K\1", rank) + "tq\2";
    refused(rebuild + shape + storage("FloatStorage", "0", 40) + "q\3" + "]q\4" +
            repeated("h\1(h\3K\0h\2h\2\x89Nt"
                     "R"
                     "a",
                     300'000));
  }
  for (const char* operation : {"}", "]", ")", "(", "N", "K\1", "]]a", "}K\1K\1s", "(]t", "}q\1", "\x8f"})
    refused(repeated(operation, 60'000'000 / static_cast<int64_t>(std::strlen(operation))));
  std::string slots;
  for (uint32_t i = 0; i < 5'000'000; ++i) slots += "r" + bytes_of(i * 7);
  refused("}" + slots);
  refused("}" + std::string("r") + bytes_of(uint32_t{7'999'999}));
  // A text of a megabyte, named 3 million times; a long list, added to lists; a dict's key given again and again.
  refused(text(std::string(1 << 20, 'x')) + "q\1" + "]q\2" + repeated("h\1a", 3'000'000));
  refused("](" + repeated("K\1", 1'000'000) + "eq\1" + repeated("]h\1a", 2'000'000));
  refused("}" + repeated(text("w") + "K\1s", 2'000'000));
  refused(text(std::string(1 << 20, 'm')) + "q\1" + "]" +
          repeated("h\1h\1\x93"
                   "a",
                   1'000'000));
}

TEST_CASE("views that repeat their storage are not read, whatever they claim") {
  const TemporaryDirectory work;
  using namespace pickle;
  const std::string view =
      global("torch._utils", "_rebuild_tensor_v2") +
      tuple(storage("FloatStorage", "0", 40) + integer(0) + integers({1 << 30, 1 << 30}) + integers({0, 0}) + "\x89N") +
      "R";
  write(work / "f.bin", torch_file(dict(text("view") + view + text("w") + tensor("FloatStorage", "0", {40}))));
  const Outcome outcome = inspect(work / "f.bin");
  check_bounded(outcome);
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.output.find("repeats elements") != std::string::npos);
}

TEST_CASE("JSON files of absurd size, depth and width beside a model; pipes in place of files") {
  const TemporaryDirectory work;
  fs::copy_file(kModel / "model.safetensors", work / "model.safetensors");
  const auto refused = [&](const char* message) {
    const Outcome outcome = inspect(work.path());
    check_bounded(outcome);
    check_error(outcome, kExitFailure, message);
  };
  write(work / "config.json", "{}");
  fs::resize_file(work / "config.json", 1 << 30);
  refused("config.json: takes 1024 MiB");
  write(work / "config.json", std::string(10'000'000, '['));
  refused("config.json: nested more than");
  write(work / "config.json", "{\"model_type\": \"opt\", \"hidden_size\": NaN}");
  refused("config.json: not valid JSON at line 1, column 38: NaN");
  fs::remove(work / "config.json");
  REQUIRE(::mkfifo((work / "config.json").c_str(), 0600) == 0);
  refused("config.json: is not a regular file but a pipe");
  fs::remove(work / "config.json");
  fs::copy_file(kModel / "config.json", work / "config.json");
  fs::remove(work / "model.safetensors");
  REQUIRE(::mkfifo((work / "model.safetensors").c_str(), 0600) == 0);
  refused("model.safetensors: is not a regular file but a pipe");
  fs::remove(work / "model.safetensors");
  write(work / "model.safetensors.index.json", "{\"weight_map\": {\"a\": 7}}");
  refused("model.safetensors.index.json: 'weight_map.a' is 7, but must be text");
  write(work / "model.safetensors.index.json", "[]");
  refused("model.safetensors.index.json: it is a list, but must be an object");
}

TEST_CASE("inspect says what of a run's files is wrong") {
  const TemporaryDirectory work;
  const auto refused = [&](const Json& run, const Json& clusters, const char* message) {
    write(work / "run.json", run.dump());
    write(work / "clusters.json", clusters.dump());
    check_error(inspect(work.path()), kExitFailure, message);
  };
  const Json run = {{"version", "1"}, {"stages", {{"cluster", {{"finished", "now"}, {"seconds", 3}}}}}};
  const Json size = {{"train_documents", 1}, {"train_tokens", 1}, {"valid_documents", 1}, {"tune_documents", 1}};
  Json clusters = {{"sizes", {size, size}}, {"top_terms", {{"a"}, {"b"}}}, {"balance", 1}, {"objective", 1},
                   {"duality_gap", 1},      {"documents_without_words", 0}};
  write(work / "run.json", run.dump());
  write(work / "clusters.json", clusters.dump());
  succeed(inspect(work.path()));
  clusters["top_terms"] = {{"a"}};
  refused(run, clusters, "clusters.json: 'top_terms' has 1 items, but 'sizes' has 2");
  clusters["top_terms"] = {{"a"}, {1}};
  refused(run, clusters, "clusters.json: 'top_terms[1][0]' is 1, but must be text");
  clusters["sizes"][0]["train_tokens"] = "many";
  refused(run, clusters, "clusters.json: 'sizes[0].train_tokens' is \"many\"");
  clusters.erase("top_terms");
  refused(run, clusters, "clusters.json: has no 'top_terms'");
  refused({{"stages", 7}}, clusters, "run.json: 'stages' is 7, but must be an object");
  refused({{"stages", {{"a", 7}}}}, clusters, "run.json: 'stages.a' is 7, but must be an object");
  refused({{"stages", {{"a", {{"seconds", "x"}}}}}}, clusters, "run.json: 'stages.a.seconds' is \"x\"");
  refused({{"version", 7}}, clusters, "run.json: 'version' is 7, but must be text");
  refused(Json::array(), clusters, "run.json: it is a list, but must be an object");
}

}  // namespace
}  // namespace cbtm
