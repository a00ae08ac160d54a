// Nobody's files are lost, and nothing stale or damaged is believed: the binary on the files of a small run.

#include <doctest/doctest.h>

#include <algorithm>
#include <csignal>
#include <fstream>

#include "cbtm/base/error.h"
#include "tests/commands/process.h"
#include "tests/commands/tiny_run.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

const std::vector<std::string> kExpert = tiny_training({"train_expert", "--shard", "1"}, {"--steps", "3"});
const std::vector<std::string> kAll = tiny_training({"train_expert", "--all"}, {"--steps", "3"});
const std::vector<std::string> kCluster = {"cluster", "--corpus",     "corpus.jsonl", "--k",       "3", "--dimensions",
                                           "8",       "--vocab-size", "384",          "--threads", "1", "--out",
                                           "run"};

std::vector<std::string> with(std::vector<std::string> words, const std::vector<std::string>& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

/// The last line of what a command said.
std::string last_line(const Outcome& outcome) {
  const size_t end = outcome.errors.find_last_not_of('\n');
  const size_t begin = outcome.errors.rfind('\n', end);
  return outcome.errors.substr(begin == std::string::npos ? 0 : begin + 1);
}

void check_refused(const Outcome& outcome, int exit_code, const std::string& expected) {
  CAPTURE(outcome.errors);
  CHECK(outcome.exit_code == exit_code);
  CHECK(last_line(outcome).starts_with("cbtm: "));
  CHECK(last_line(outcome).find(expected) != std::string::npos);
}

void flip_byte(const fs::path& path, int64_t place) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  REQUIRE(file.good());
  file.seekg(place);
  const char byte = static_cast<char>(file.get() ^ 0x40);
  file.seekp(place);
  file.put(byte);
}

void write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << text;
}

std::vector<std::string> unfinished(const fs::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(directory))
    if (entry.path().filename().string().find(".partial-") != std::string::npos) names.push_back(entry.path().string());
  return names;
}

TEST_CASE("an output never replaces what cbtm did not make") {
  const TemporaryDirectory directory;
  const std::string corpus = tiny_corpus(5);
  write(directory / "data/corpus.jsonl", corpus);
  write(directory / "mine/notes.txt", "precious");
  write(directory / "file.txt", "precious");
  fs::create_symlink("mine", directory / "link");
  for (const std::string out : {"mine", "mine/", "link", "file.txt", "data", "/dev/null", "."}) {
    CAPTURE(out);
    check_refused(run_cbtm({"tokenizer", "train", "--corpus", "data", "--vocab-size", "300", "--out", out, "--quiet"},
                           directory.path()),
                  1, out);
  }
  CHECK(file_contents(directory / "mine/notes.txt") == "precious");
  CHECK(file_contents(directory / "file.txt") == "precious");
  CHECK(file_contents(directory / "data/corpus.jsonl") == corpus);
  CHECK(fs::is_character_file("/dev/null"));
  for (int twice = 0; twice < 2; ++twice)
    succeed(run_cbtm({"tokenizer", "train", "--corpus", "data", "--vocab-size", "300", "--out", "tokenizer"},
                     directory.path()));
  for (const std::string json : {"data/corpus.jsonl", "mine/notes.txt"}) {
    CAPTURE(json);
    const Outcome refused = run_cbtm({"tokenizer", "train", "--corpus", "data/corpus.jsonl", "--vocab-size", "300",
                                      "--out", "tokenizer", "--json", json},
                                     directory.path());
    CHECK(refused.exit_code != 0);
    CHECK(refused.errors.find(json) != std::string::npos);
  }
  CHECK(file_contents(directory / "data/corpus.jsonl") == corpus);
}

TEST_CASE("the places of a run that somebody uses are refused before any work") {
  const TinyRunCopy run;
  write(run / "other/seed/notes.txt", "precious");
  std::vector<std::string> command = kCluster;
  command.back() = "other";
  check_refused(run_cbtm(command, run.path()), 1, "other/seed");
  CHECK_FALSE(fs::exists(run / "other/tokenizer"));
  CHECK(file_contents(run / "other/seed/notes.txt") == "precious");
  succeed(run_cbtm(kExpert, run.path()));
  write(run / "run/experts/001/notes.txt", "precious");
  check_refused(run_cbtm(with(kExpert, {"--redo", "--dropout", "0"}), run.path()), 1, "notes.txt");
  CHECK(file_contents(run / "run/experts/001/notes.txt") == "precious");
}

TEST_CASE("files that somebody adds to finished models are kept, and in nobody's way") {
  const TinyRunCopy run;
  succeed(run_cbtm(kExpert, run.path()));
  write(run / "run/experts/001/README.md", "precious");
  write(run / "run/shards/notes.txt", "precious");
  succeed(run_cbtm(kCluster, run.path()));
  succeed(run_cbtm(kExpert, run.path()));
  succeed(run_cbtm(tiny_training({"train_expert", "--shard", "0"}, {"--steps", "3"}), run.path()));
  check_refused(run_cbtm(with(kCluster, {"--redo", "--restarts", "1"}), run.path()), 1, "notes.txt");
  CHECK(file_contents(run / "run/experts/001/README.md") == "precious");
  CHECK(file_contents(run / "run/shards/notes.txt") == "precious");
}

TEST_CASE("results written to standard output are added to what it leads to") {
  const TinyRunCopy run;
  write(run / "log.txt", "earlier\n");
  const std::string command = CBTM_BINARY
      " generate --model run/seed --quiet --greedy --max-new-tokens 2 --threads 1 "
      "--prompt oven --json /dev/stdout >> log.txt";
  succeed(run_program({"sh", "-c", command}, run.path()));
  const std::string log = file_contents(run / "log.txt");
  CHECK(log.starts_with("earlier\n"));
  CHECK(log.find("\"finish\"") != std::string::npos);
}

TEST_CASE("a trained expert is not trained over when run.json is gone: its own record counts") {
  const TinyRunCopy run;
  succeed(run_cbtm(kExpert, run.path()));
  const std::string weights = file_contents(run / "run/experts/001/model.safetensors");
  fs::remove(run / "run/run.json");
  const Outcome again = succeed(run_cbtm(kExpert, run.path()));
  CHECK(again.errors.find("made again from its expert.json") != std::string::npos);
  CHECK(again.errors.find("done already") != std::string::npos);
  CHECK(read_json_file(run / "run/run.json")["stages"].contains("expert/001"));
  check_refused(run_cbtm(with(kExpert, {"--dropout", "0"}), run.path()), 1, "pass --redo");
  CHECK(file_contents(run / "run/experts/001/model.safetensors") == weights);
  const Outcome clustered = succeed(run_cbtm(kCluster, run.path()));
  CHECK(clustered.errors.find("cluster: done already") != std::string::npos);

  fs::remove(run / "run/experts/001/expert.json");
  check_refused(run_cbtm(kExpert, run.path()), 1, "no record of what it was trained from");
  CHECK(file_contents(run / "run/experts/001/model.safetensors") == weights);
}

TEST_CASE("an old record does not vouch for a new result") {
  const TinyRunCopy run;
  succeed(run_cbtm(kExpert, run.path()));
  const std::string old_record = file_contents(run / "run/run.json");
  succeed(run_cbtm(with(kExpert, {"--redo", "--dropout", "0"}), run.path()));
  write(run / "run/run.json", old_record);  // as if the process had died before it wrote the new one
  check_refused(run_cbtm(kExpert, run.path()), 1, "dropout was 0");
  succeed(run_cbtm(with(kExpert, {"--dropout", "0"}), run.path()));
  CHECK(read_json_file(run / "run/run.json")["stages"]["expert/001"]["settings"]["dropout"] == 0.0);
}

TEST_CASE("damaged or exchanged weights and shards are named, not used") {
  const TinyRunCopy run;
  succeed(run_cbtm(kAll, run.path()));
  const std::vector<std::string> evaluate = {"ensemble", "evaluate",  "--experts", "run/experts", "--topk",
                                             "2",        "--threads", "1",         "--quiet"};
  succeed(run_cbtm(evaluate, run.path()));
  const fs::path weights = run / "run/experts/001/model.safetensors";
  const auto size = static_cast<int64_t>(fs::file_size(weights));
  for (const int64_t place : {size / 2, size - 5}) {
    flip_byte(weights, place);
    check_refused(run_cbtm(evaluate, run.path()), 1, "experts/001: damaged or replaced");
    check_refused(
        run_cbtm({"generate", "--model", "run/experts/001", "--prompt", "oven", "--threads", "1"}, run.path()), 1,
        "experts/001: damaged or replaced");
    succeed(run_cbtm(with(evaluate, {"--no-verify"}), run.path()));
    flip_byte(weights, place);
  }
  fs::rename(weights, run / "aside");
  fs::rename(run / "run/experts/000/model.safetensors", weights);
  fs::rename(run / "aside", run / "run/experts/000/model.safetensors");
  check_refused(run_cbtm(evaluate, run.path()), 1, ": damaged or replaced");
  fs::rename(weights, run / "aside");
  fs::rename(run / "run/experts/000/model.safetensors", weights);
  fs::rename(run / "aside", run / "run/experts/000/model.safetensors");
  succeed(run_cbtm(evaluate, run.path()));

  const fs::path valid = run / "run/shards/002/valid.bin";
  const std::string whole = file_contents(valid);
  write(valid, std::string(whole.size() / 2, '\0') + whole.substr(whole.size() / 2));
  check_refused(run_cbtm(evaluate, run.path()), 1, "shards/002/valid.bin: damaged or replaced");
  write(valid, whole);
  flip_byte(run / "run/shards/001/train.bin", 10);
  check_refused(run_cbtm(with(kExpert, {"--redo", "--dropout", "0"}), run.path()), 1,
                "shards/001/train.bin: damaged or replaced");
}

TEST_CASE("an expert.json that was changed after it was written is named, not believed") {
  const TinyRunCopy run;
  succeed(run_cbtm(kAll, run.path()));
  const std::vector<std::string> evaluate = {"ensemble", "evaluate",  "--experts", "run/experts", "--topk",
                                             "2",        "--threads", "1",         "--quiet"};
  const std::vector<std::vector<std::string>> readers = {
      evaluate,
      {"ensemble", "average", "--experts", "run/experts", "--out", "average", "--quiet"},
      {"generate", "--model", "run/experts/001", "--prompt", "oven", "--threads", "1", "--quiet"},
      {"evaluate", "--model", "run/experts/001", "--corpus", "corpus.jsonl", "--threads", "1", "--quiet"},
      {"inspect", "run/experts/001"},
      {"inspect", "run/experts"},
      with(kExpert, {"--quiet"})};
  const fs::path file = run / "run/experts/001/expert.json";
  const Json whole = read_json_file(file);
  REQUIRE(whole.contains("card_hash"));
  for (const auto& [place, value] : std::vector<std::pair<std::string, Json>>{
           {"/settings/sequence_length", 8}, {"/clusters", 9}, {"/kind", "seed"}, {"/weights_hash", nullptr}}) {
    CAPTURE(place);
    Json changed = whole;
    changed[Json::json_pointer(place)] = value;
    write(file, changed.dump());
    for (const std::vector<std::string>& reader : readers) {
      CAPTURE(reader);
      const Outcome outcome = run_cbtm(reader, run.path());
      check_refused(outcome, 1, "run/experts/001/expert.json: was changed after cbtm wrote it");
      CHECK(std::count(outcome.errors.begin(), outcome.errors.end(), '\n') == 1);
    }
  }
  const std::vector<std::string> inspect = {"inspect", "run/experts/001"};
  const Outcome unverified = succeed(run_cbtm(with(inspect, {"--no-verify"}), run.path()));
  CHECK(unverified.errors.find("expert.json are not verified (--no-verify)") != std::string::npos);
  CHECK(unverified.output.find("expert.json: not compared (--no-verify)") != std::string::npos);
  succeed(run_cbtm(with(evaluate, {"--no-verify"}), run.path()));
  succeed(run_cbtm(with(kExpert, {"--redo", "--quiet"}), run.path()));
  CHECK(read_json_file(file)["weights_hash"] == whole["weights_hash"]);

  Json older = whole;  // as versions before this hash wrote it
  older.erase("card_hash");
  write(file, older.dump());
  for (const std::vector<std::string>& reader : readers) succeed(run_cbtm(reader, run.path()));
  CHECK(succeed(run_cbtm(inspect, run.path())).output.find("expert.json: holds no hash of itself") !=
        std::string::npos);
}

TEST_CASE("a damaged copy of the router beside the experts is made again from the run's") {
  const TinyRunCopy run;
  succeed(run_cbtm(kAll, run.path()));
  const std::vector<std::string> evaluate = {"ensemble", "evaluate", "--experts", "run/experts",
                                             "--topk",   "2",        "--threads", "1"};
  const std::string before = succeed(run_cbtm(evaluate, run.path())).output;
  for (const std::string file : {"router.json", "router.safetensors"}) {
    write(run / ("run/experts/router/" + file), "damaged");
    const Outcome mended = succeed(run_cbtm(evaluate, run.path()));
    CHECK(mended.errors.find("it is put there again from") != std::string::npos);
    CHECK(mended.output.substr(0, 30) == before.substr(0, 30));
  }
  // Shards, router and clusters.json are one set: copies of it that are stale or gone are made again.
  write(run / "run/clusters.json", "{}");
  fs::remove_all(run / "run/router");
  succeed(run_cbtm(kExpert, run.path()));
  CHECK(read_json_file(run / "run/clusters.json")["clusters"] == 3);
  CHECK(fs::exists(run / "run/router/router.safetensors"));
}

TEST_CASE("a damaged original of the router does not replace a good copy; a changed tokenizer is not trained with") {
  const TinyRunCopy run;
  const std::string good = file_contents(run / "run/router/router.safetensors");
  flip_byte(run / "run/shards/router/router.safetensors", static_cast<int64_t>(good.size()) - 5);
  check_refused(run_cbtm(kExpert, run.path()), 1, "router.safetensors: damaged or replaced");
  CHECK(file_contents(run / "run/router/router.safetensors") == good);
  flip_byte(run / "run/shards/router/router.safetensors", static_cast<int64_t>(good.size()) - 5);

  const std::string merges = file_contents(run / "run/tokenizer/merges.txt");
  write(run / "run/tokenizer/merges.txt", merges.substr(0, merges.rfind('\n', merges.size() - 2) + 1));
  check_refused(run_cbtm(kExpert, run.path()), 1, "is not the tokenizer that the shards were made with");
}

TEST_CASE("a file of somebody's is not taken for what a run keeps there") {
  for (const std::string name : {"clusters.json", "run.json", "report.html", "stdin.jsonl"}) {
    CAPTURE(name);
    const TinyRunCopy run;
    const std::string precious = name == "report.html" ? "<!DOCTYPE html><title>mine</title>" : "{\"mine\": 1}\n";
    write(run / ("project/" + name), precious);
    std::vector<std::string> command = kCluster;
    command.back() = "project";
    if (name == "stdin.jsonl") command[2] = "-";
    check_refused(run_cbtm(command, run.path(), file_contents(run / "corpus.jsonl")), 1, name);
    CHECK(file_contents(run / ("project/" + name)) == precious);
  }
}

TEST_CASE("a run is clustered by one process at a time, and not while its shards are trained on") {
  const TinyRunCopy run;
  Process training(cbtm_command(tiny_training({"train_expert", "--shard", "0"}, {"--steps", "1000000"})), run.path());
  const fs::path metrics = run / "run/training/expert-000/metrics.jsonl";
  for (int i = 0; i < 600 && !training.ended() && file_contents(metrics).find("\"step\":2,") == std::string::npos; ++i)
    run_program({"sleep", "0.05"});
  REQUIRE_FALSE(training.ended());
  check_refused(run_cbtm(with(kCluster, {"--redo"}), run.path()), 1, "making or using its shards");
  training.send(SIGTERM);
  CHECK(training.wait().exit_code == kExitInterrupted);
  CHECK(unfinished(run / "run").empty());
}

TEST_CASE("a model is not read with another tokenizer than its own") {
  const TinyRunCopy run;
  succeed(run_cbtm({"tokenizer", "train", "--corpus", "corpus.jsonl", "--vocab-size", "300", "--out", "other"},
                   run.path()));
  check_refused(run_cbtm({"evaluate", "--model", "run/seed", "--tokenizer", "other", "--corpus", "corpus.jsonl",
                          "--threads", "1", "--quiet"},
                         run.path()),
                1, "was trained with another tokenizer");
  check_refused(run_cbtm({"generate", "--model", "run/seed", "--tokenizer", "other", "--prompt", "oven"}, run.path()),
                1, "was trained with another tokenizer");
}

TEST_CASE("numbers on the command line are whole words, and errors name the flag") {
  const TinyRunCopy run;
  for (const std::string rate : {"0,006", "5%", "1e-3x", "0x1p-8", "", "nan"}) {
    CAPTURE(rate);
    check_refused(run_cbtm(with(kExpert, {"--learning-rate", rate}), run.path()), 2, "--learning-rate");
  }
  check_refused(run_cbtm(with(kExpert, {"--dropout", "0.001"}), run.path()), 2, "--dropout 0.001");
  check_refused(run_cbtm(with(kExpert, {"--save-every", "1.5"}), run.path()), 2, "--save-every '1.5'");
  check_refused(run_cbtm(with(kExpert, {"--k", "3"}), run.path()), 2, "--k does nothing here");
  succeed(run_cbtm(tiny_training({"train_expert", "--shard", "0"}, {"--tokens", "1.152k"}), run.path()));
  CHECK(read_json_file(run / "run/experts/000/expert.json")["settings"]["steps"] == 3);
  const Outcome greedy = succeed(run_cbtm({"generate", "--model", "run/seed", "--prompt", "oven", "--temperature", "0",
                                           "--stop", "---", "--max-new-tokens", "4", "--threads", "1", "--quiet"},
                                          run.path()));
  CHECK(greedy.output == succeed(run_cbtm({"generate", "--model", "run/seed", "--prompt", "oven", "--greedy",
                                           "--max-new-tokens", "4", "--threads", "1", "--quiet"},
                                          run.path()))
                             .output);
}

TEST_CASE("run says what is wrong with its flags before it reads the corpus") {
  const TinyRunCopy run;
  const std::vector<std::string> command = {"run", "--corpus",     "corpus.jsonl", "--k",          "3", "--out",
                                            "new", "--vocab-size", "384",          "--dimensions", "8", "--threads",
                                            "1",   "--quiet"};
  struct Mistake {
    std::vector<std::string> flags;
    int exit_code;
    std::string says;
  };
  const std::vector<Mistake> mistakes = {
      {{"--preset", "nanoo"}, 2, "nanoo"},
      {{"--init", "nowhere"}, 1, "nowhere"},
      {{"--config", "nowhere.json"}, 1, "nowhere.json"},
      {{"--preset", "nano", "--init", "run/seed"}, 2, "give one of"},
      {{"--batch-tokens", "1000"}, 2, "1000"},
      {{"--batch-tokens", "1024", "--sequence", "256"}, 2, "cannot be divided"},
      {{"--precision", "float16"}, 2, "float16"},
      {{"--precision", "bf16"}, 2, "bf16"},
      {{"--sequence", "4096"}, 2, "sequence"},
      {{"--match", "both"}, 2, "both"},
      {{"--steps", "3", "--tokens", "4000"}, 2, "--steps"},
      {{"--memory", "5%"}, 2, "5%"},
      {{"--tokenizer", "nowhere"}, 1, "nowhere"},
      {{"--kmeans-init", "best"}, 2, "best"},
      {{"--on-bad-document", "stop"}, 2, "stop"},
      {{"--json", "corpus.jsonl"}, 1, "corpus.jsonl"},
      {{"--device", "tpu"}, 2, "tpu"},
      {{"--dropout", "1"}, 2, "dropout"},
      {{"--seed-learning-rate", "fast"}, 2, "fast"},
      {{"--micro-batch", "0"}, 2, "micro-batch"},
  };
  for (const Mistake& mistake : mistakes) {
    CAPTURE(mistake.says);
    const Outcome outcome = run_cbtm(with(command, mistake.flags), run.path());
    CAPTURE(outcome.errors);
    CHECK(outcome.exit_code != 0);
    CHECK(outcome.exit_code != 75);
    CHECK(last_line(outcome).find(mistake.says) != std::string::npos);
    CHECK_FALSE(fs::exists(run / "new/tokenizer"));
  }
}

}  // namespace
}  // namespace cbtm
