// Bad input through the binary: one line that names the file and says what is wrong, nothing half-done.

#include <doctest/doctest.h>
#include <zlib.h>
#include <zstd.h>

#include <fstream>

#include "cbtm/base/error.h"
#include "cbtm/tensor_file/tensor_file.h"
#include "tests/commands/process.h"
#include "tests/commands/tiny_run.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;
const fs::path kData = CBTM_TEST_DATA;
const std::string kTokenizer = (kData / "tokenizer/opt-tiny").string();
const std::string kExperts = (kData / "ensemble/experts").string();

void write(const fs::path& path, std::string_view text) { std::ofstream(path, std::ios::binary) << text; }

std::string gzip(const std::string& text) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(text.size() + 200, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

Outcome cluster(const fs::path& directory, const std::vector<std::string>& more) {
  std::vector<std::string> words = {
      "cluster", "--vocab-size", "300", "--dimensions", "8",      "--k",      "3",          "--threads",
      "1",       "--out",        "run", "--quiet",      "--json", "out.json", "--restarts", "1"};
  words.insert(words.end(), more.begin(), more.end());
  return run_cbtm(words, directory);
}

TEST_CASE("bad documents are skipped, counted and named, or fatal") {
  const TemporaryDirectory work;
  const std::string good = tiny_corpus(120);  // 360 documents
  write(work / "bad.jsonl", "{\"text\": \"\xff\"}\n{\"text\": \"\"}\n{\"text\": \"cut\n");
  write(work / "good.jsonl", good);
  const Outcome skipped = succeed(cluster(work.path(), {"--corpus", "good.jsonl", "bad.jsonl"}));
  CHECK(skipped.errors.find("3 bad documents skipped (1 empty, 1 not UTF-8, 1 broken lines") != std::string::npos);
  CHECK(skipped.errors.find("bad.jsonl:1: not UTF-8") != std::string::npos);
  const Json read = read_json_file(work / "out.json")["corpus"];
  CHECK(read["documents"] == 360);
  CHECK(read["empty"] == 1);
  CHECK(read["invalid_utf8"] == 1);
  CHECK(read["broken_lines"] == 1);
  check_error(run_cbtm({"cluster", "--quiet", "--corpus", "good.jsonl", "bad.jsonl", "--vocab-size", "300",
                        "--on-bad-document", "fail", "--out", "strict"},
                       work.path()),
              kExitFailure, "bad.jsonl:1: not UTF-8");
}

TEST_CASE("compressed files that are cut short or damaged are named") {
  const TemporaryDirectory work;
  const std::string good = tiny_corpus(120);
  for (const auto& [name, whole] : {std::pair{"corpus.jsonl.gz", gzip(good)}, {"corpus.jsonl.zst", zstd(good)}}) {
    CAPTURE(name);
    write(work / name, whole);
    succeed(cluster(work.path(), {"--corpus", name, "--redo"}));
    write(work / name, std::string_view(whole).substr(0, whole.size() - 40));
    write(work / "good.jsonl", good);
    const Outcome outcome =
        succeed(cluster(work.path(), {"--corpus", "good.jsonl", name, "--redo", "--max-bad-fraction", "0.5"}));
    CHECK(outcome.errors.find("1 damaged files") != std::string::npos);
    // Said when it is read, and again in the last line.
    CHECK(outcome.errors.find(name) != std::string::npos);
    CHECK(outcome.errors.rfind("were not read to their end") > outcome.errors.rfind("bad documents skipped"));
    std::string half = whole;
    half.replace(whole.size() / 2, whole.size() / 4, std::string(whole.size() / 4, '\x55'));
    write(work / name, half);
    check_error(cluster(work.path(), {"--corpus", "good.jsonl", name, "--redo"}), kExitFailure, "--max-bad-fraction");
    write(work / name, std::string_view(whole).substr(0, whole.size() - 40));
    check_error(cluster(work.path(), {"--corpus", name, "--redo", "--on-bad-document", "fail"}), kExitFailure, name);
    std::string damaged = whole;
    for (size_t i = whole.size() / 2; i < whole.size() / 2 + 20; ++i) damaged[i] = static_cast<char>(damaged[i] ^ 0x55);
    write(work / name, damaged);
    check_error(cluster(work.path(), {"--corpus", name, "--redo", "--on-bad-document", "fail"}), kExitFailure, name);
  }
}

TEST_CASE("a corpus that is mostly wrong is an error that says so, for every command that reads one") {
  const TemporaryDirectory work;
  std::string bad = tiny_corpus(60);
  for (int i = 0; i < 4; ++i) bad += "broken\n";
  write(work / "bad.jsonl", bad);
  write(work / "other.jsonl", "{\"body\": \"text\"}\n{\"body\": \"more\"}\n");
  const std::vector<std::vector<std::string>> commands = {
      {"cluster", "--out", "run", "--k", "3"},
      {"tokenizer", "train", "--vocab-size", "300", "--out", "tokenizer"},
      {"evaluate", "--model", kExperts + "/000", "--tokenizer", kTokenizer},
      {"ensemble", "evaluate", "--experts", kExperts, "--router", (kData / "ensemble/router").string(), "--tokenizer",
       kTokenizer}};
  for (std::vector<std::string> command : commands) {
    CAPTURE(command.front());
    command.insert(command.end(), {"--quiet", "--threads", "1", "--corpus"});
    const auto with = [&](const std::vector<std::string>& more) {
      std::vector<std::string> words = command;
      words.insert(words.end(), more.begin(), more.end());
      return run_cbtm(words, work.path());
    };
    check_error(with({"bad.jsonl"}), kExitFailure, "4 of 184 documents are bad, more than 1 %");
    check_error(with({"other.jsonl"}), kExitFailure, "no text field 'text'");
    check_error(with({"nowhere"}), kExitFailure, "nowhere: there is no such file or directory");
    check_error(with({"bad.jsonl", "--on-bad-document", "ignore"}), kExitUsage, "--on-bad-document ignore");
  }
  CHECK_FALSE(fs::exists(work / "run/shards"));
  CHECK_FALSE(fs::exists(work / "tokenizer"));
}

TEST_CASE("evaluating names and counts what it skips") {
  const TemporaryDirectory work;
  write(work / "corpus.jsonl", tiny_corpus(40) + "broken\n");
  const Outcome outcome = succeed(run_cbtm({"evaluate", "--model", kExperts + "/000", "--tokenizer", kTokenizer,
                                            "--corpus", "corpus.jsonl", "--json", "out.json", "--threads", "1"},
                                           work.path()));
  CHECK(outcome.errors.find("1 bad documents skipped") != std::string::npos);
  CHECK(read_json_file(work / "out.json")["settings"]["documents"]["read"]["broken_lines"] == 1);
}

TEST_CASE("more clusters than documents, and vocabularies out of reach") {
  const TemporaryDirectory other;
  write(other / "small.jsonl", tiny_corpus(2));
  check_error(run_cbtm({"cluster", "--quiet", "--corpus", "small.jsonl", "--k", "7", "--out", "run"}, other.path()),
              kExitFailure, "--k 7 needs at least as many documents, but the corpus holds 6");
  check_error(
      run_cbtm({"tokenizer", "train", "--corpus", "small.jsonl", "--vocab-size", "100", "--out", "t"}, other.path()),
      kExitUsage, "--vocab-size");
  check_error(run_cbtm({"tokenizer", "train", "--corpus", "small.jsonl", "--vocab-size", "99999999", "--out", "t"},
                       other.path()),
              kExitUsage, "--vocab-size");
  // A corpus that runs out of pairs gives a smaller vocabulary, and says how large.
  const Outcome outcome = succeed(run_cbtm(
      {"tokenizer", "train", "--corpus", "small.jsonl", "--vocab-size", "50000", "--out", "t", "--json", "out.json"},
      other.path()));
  CHECK(read_json_file(other / "out.json")["vocab_size"] < 1000);
  CHECK(outcome.output.find(" tokens") != std::string::npos);
}

TEST_CASE("every golden checkpoint file through inspect: read or refused in a line, fast and small") {
  const fs::path files = kData / "opt/files";
  const Json manifest = read_json_file(files / "manifest.json");
  for (const auto& [name, entry] : manifest.items()) {
    CAPTURE(name);
    const Outcome outcome = run_cbtm({"inspect", files / name, "--threads", "1"});
    CAPTURE(outcome.errors);
    const std::string expect = entry["expect"];
    if (expect == "ok") CHECK(outcome.exit_code == 0);
    if (expect == "refuse") check_error(outcome, kExitFailure, name);
    if (expect == "either" && outcome.exit_code != 0) check_error(outcome, kExitFailure, name);
    CHECK(outcome.cpu_seconds < 1);
    if (CBTM_LINKED_STATICALLY) CHECK(outcome.peak_bytes < 64 << 20);  // a sanitizer's shadow is not ours
  }
}

TEST_CASE("a damaged router is refused in a line that names the file and the field") {
  const fs::path golden = kData / "ensemble/router";
  const auto evaluate = [&](const fs::path& router) {
    return run_cbtm({"ensemble", "evaluate", "--experts", kExperts, "--router", router, "--tokenizer", kTokenizer,
                     "--corpus", kData / "ensemble/documents.jsonl", "--quiet", "--threads", "1"});
  };
  succeed(evaluate(golden));
  const auto with = [&](const auto& change) {
    const TemporaryDirectory work;
    fs::copy(golden, work / "router");
    Json json = read_json_file(work / "router/router.json");
    change(json);
    write(work / "router/router.json", json.dump());
    return evaluate(work / "router");
  };
  check_error(with([](Json& json) { json.erase("vocabulary"); }), kExitFailure, "vocabulary is missing");
  check_error(with([](Json& json) { json["vocabulary"].erase(0); }), kExitFailure, "router.safetensors: tensor 'idf'");
  check_error(with([](Json& json) { json["vocabulary"][3] = 7; }), kExitFailure, "vocabulary holds 7");
  check_error(with([](Json& json) { json["clusters"] = 0; }), kExitFailure, "clusters must be");
  check_error(with([](Json& json) { json["clusters"] = 3; }), kExitFailure, "centroids");
  check_error(with([](Json& json) { json["dimensions"] = 1e12; }), kExitFailure, "dimensions");
  check_error(with([](Json& json) { json["temperature"] = -1; }), kExitFailure, "temperature");
  check_error(with([](Json& json) { json["kind"] = "dense"; }), kExitFailure, "kind");
  check_error(with([](Json& json) { json["top_terms"] = {1, 2}; }), kExitFailure, "top_terms");
  check_error(with([](Json& json) { json = Json::array(); }), kExitFailure, "must be an object");
  const TemporaryDirectory work;
  fs::copy(golden, work / "router");
  fs::resize_file(work / "router/router.safetensors", 500);
  check_error(evaluate(work / "router"), kExitFailure, "router.safetensors");
  write(work / "router/router.json", "{\"clusters\": ");
  check_error(evaluate(work / "router"), kExitFailure, "router.json: not valid JSON");
  check_error(evaluate(work / "nowhere"), kExitUsage,
              "nowhere' is no kind of router (tfidf, prefix, posterior or uniform)");
}

TEST_CASE("token ids that are none are refused with their line") {
  const TemporaryDirectory work;
  const auto decode = [&](const std::string& line) {
    write(work / "ids.jsonl", "[2, 5]\n" + line + "\n");
    return run_cbtm({"tokenizer", "decode", "--tokenizer", kTokenizer, "--input", "ids.jsonl", "--output", "out"},
                    work.path());
  };
  for (const char* line : {"[4294967298]", "[-1]", "[1260]", "[1.5]", "[\"a\"]"})
    check_error(decode(line), kExitFailure, "ids.jsonl:2");
  check_error(decode("[1,"), kExitFailure, "ids.jsonl:2: not valid JSON");
  check_error(decode("3"), kExitFailure, "ids.jsonl:2: must be a list");
  CHECK_FALSE(fs::exists(work / "out"));
  const auto encode = [&](const std::string& lines) {
    write(work / "texts.jsonl", lines);
    return run_cbtm({"tokenizer", "encode", "--tokenizer", kTokenizer, "--input", "texts.jsonl", "--output", "out"},
                    work.path());
  };
  const std::string first = "{\"text\": \"a\"}\r\n";
  for (const std::string line : {"{\"text\": \"\\ud83d\"}", "{\"text\": \"\xff\"}", "{\"text\": 3}", "{\"text\": \"a",
                                 "{\"other\": \"a\"}", "[1]", "[[[[[["}) {
    CAPTURE(line);
    const Outcome outcome = encode(first + "\r\n \t\n" + line + "\n");
    check_error(outcome, kExitFailure, "texts.jsonl:4");
    CHECK(outcome.errors.find("json.exception") == std::string::npos);
  }
  check_error(decode("\"" + std::string(65 << 20, 'a')), kExitFailure, "ids.jsonl:2: the line is longer than 64 MiB");
  check_error(decode(std::string(1 << 20, '[')), kExitFailure, "ids.jsonl:2: nested more than");
  CHECK_FALSE(fs::exists(work / "out"));
  succeed(encode("\xef\xbb\xbf" + first + "\r\n\n   \r\n" + first));
  fs::remove(work / "out");
  check_error(
      run_cbtm({"tokenizer", "encode", "--tokenizer", kTokenizer, "--input", ".", "--output", "out"}, work.path()),
      kExitFailure, "cannot be read");
  write(work / "prompt.json", "[[5, 99999]]");
  check_error(
      run_cbtm({"generate", "--model", kExperts + "/000", "--prompt-ids", "prompt.json", "--quiet"}, work.path()),
      kExitFailure, "99999, outside the vocabulary of 1264");
  check_error(run_cbtm({"logits", "--model", kExperts + "/000", "--ids", "prompt.json", "--out", "out", "--quiet"},
                       work.path()),
              kExitFailure, "99999");
}

TEST_CASE("values out of range name flag and range") {
  const TemporaryDirectory work;
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"ensemble", "--experts", kExperts, "--router", (kData / "ensemble/router").string(), "--tokenizer", kTokenizer,
        "--prompt", "a", "--topk", "0"},
       "--topk 0"},
      {{"ensemble", "--experts", kExperts, "--router", (kData / "ensemble/router").string(), "--tokenizer", kTokenizer,
        "--prompt", "a", "--router-temperature", "0"},
       "--router-temperature 0"},
      {{"ensemble", "--experts", kExperts, "--router", (kData / "ensemble/router").string(), "--tokenizer", kTokenizer,
        "--prompt", "a", "--distance-power", "3"},
       "--distance-power 3"},
      {{"ensemble", "--experts", kExperts, "--router", (kData / "ensemble/router").string(), "--tokenizer", kTokenizer,
        "--prompt", "a", "--routing", "every:0"},
       "--routing every:0"},
      {{"ensemble", "evaluate", "--experts", kExperts, "--router", (kData / "ensemble/router").string(), "--tokenizer",
        kTokenizer},
       "--corpus"},
      {{"generate", "--model", kExperts + "/000", "--prompt-ids", "x", "--temperature", "-1"}, "--temperature"},
      {{"generate", "--model", "nothing", "--prompt-ids", "x", "--greedy", "--temperature", "0.7"},
       "leave one of them out"},
      {{"generate", "--model", "nothing", "--prompt-ids", "x", "--greedy", "--sampling-top-k", "5"},
       "leave one of them out"},
      {{"generate", "--model", "nothing", "--prompt-ids", "x", "--temperature", "0", "--sampling-top-p", "0.5"},
       "leave one of them out"},
      {{"generate", "--model", kExperts + "/000", "--prompt-ids", "x", "--weights", "f8"}, "--weights f8"},
      {{"cluster", "--corpus", kTokenizer, "--k", "0"}, "--k"},
      {{"cluster", "--corpus", kTokenizer, "--kmeans-init", "zeros"}, "--kmeans-init zeros"},
      {{"bench", "train", "--model", kExperts + "/000", "--sequence", "16", "--steps", "0"}, "--steps"}};
  for (const auto& [command, expected] : cases) {
    CAPTURE(expected);
    std::vector<std::string> words = command;
    words.emplace_back("--quiet");
    check_error(run_cbtm(words, work.path()), kExitUsage, expected);
  }
}

TEST_CASE("what cannot be written is said, before the work where it can be known") {
  const TemporaryDirectory work;
  write(work / "file", "");
  write(work / "corpus.jsonl", tiny_corpus(60));
  const std::string router = (kData / "ensemble/router").string();
  check_error(run_cbtm({"cluster", "--corpus", "corpus.jsonl", "--out", "file/run", "--quiet"}, work.path()),
              kExitFailure, "file/run: cannot create the directory: Not a directory");
  check_error(
      run_cbtm({"tokenizer", "train", "--corpus", "corpus.jsonl", "--vocab-size", "300", "--out", "file/t", "--quiet"},
               work.path()),
      kExitFailure, "file/t: cannot be written");
  check_error(run_cbtm({"devices", "--json", "file/out.json"}, work.path()), kExitFailure, "file");
  check_error(run_cbtm({"ensemble", "evaluate", "--experts", kExperts, "--router", router, "--tokenizer", kTokenizer,
                        "--corpus", "corpus.jsonl", "--token-log-probs", "file/tokens", "--quiet"},
                       work.path()),
              kExitFailure, "file");
  const Outcome full = run_program({"bash", "-c", "\"$0\" --help > /dev/full", CBTM_BINARY});
  CHECK(full.exit_code == kExitFailure);
  CHECK(full.errors.find("standard output cannot be written") != std::string::npos);
  const Outcome json = run_cbtm({"devices", "--json", "/dev/stdout"}, work.path());
  CHECK(json.output.find("\"devices\"") != std::string::npos);
}

}  // namespace
}  // namespace cbtm
