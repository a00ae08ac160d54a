// Corpora as people have them, through the binary: run directories inside, logs, pipes, folders of others, signals.

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <sstream>
#include <thread>

#include "cbtm/base/error.h"
#include "tests/commands/process.h"
#include "tests/commands/tiny_run.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

void write(const fs::path& path, std::string_view text) { std::ofstream(path, std::ios::binary) << text; }

const std::vector<std::string> kCluster = {"cluster", "--vocab-size", "300", "--dimensions", "8",          "--k",
                                           "3",       "--threads",    "1",   "--json",       "found.json", "--restarts",
                                           "1"};

std::vector<std::string> clustering(const std::vector<std::string>& more) {
  std::vector<std::string> words = kCluster;
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

int64_t documents_found(const fs::path& work) {
  return read_json_file(work / "found.json")["documents"].get<int64_t>();
}

/// A shell that runs cbtm with the words as "$@".
Outcome shell(const std::string& script, const std::vector<std::string>& words, const fs::path& directory) {
  std::vector<std::string> command = {"bash", "-c", script, CBTM_BINARY};
  command.insert(command.end(), words.begin(), words.end());
  return run_program(command, directory);
}

TEST_CASE("a run directory and logs inside the corpus are no part of it") {
  const TemporaryDirectory work;
  write(work / "a.jsonl", tiny_corpus(60));
  const std::vector<std::string> words = clustering({"--corpus", "."});
  succeed(shell("\"$0\" \"$@\" > log.out 2> log.err", words, work.path()));
  CHECK(documents_found(work.path()) == 180);
  CHECK(file_contents(work / "log.err").find("run: belongs to this run, left out") != std::string::npos);
  const Outcome again = succeed(shell("\"$0\" \"$@\" 2> other.err", words, work.path()));
  CHECK(file_contents(work / "other.err").find("cluster: done already") != std::string::npos);
  CHECK(documents_found(work.path()) == 180);
  // Another run leaves the first one out, too.
  succeed(shell("rm log.* other.*; exec \"$0\" \"$@\"", clustering({"--corpus", ".", "--out", "second", "--quiet"}),
                work.path()));
  CHECK(documents_found(work.path()) == 180);
  check_error(run_cbtm(clustering({"--corpus", ".", "--out", ".", "--quiet"}), work.path()), kExitFailure,
              "is the run directory");
}

TEST_CASE("the same bytes elsewhere, or piped again, are the same corpus") {
  const TemporaryDirectory work;
  const std::string corpus = tiny_corpus(60);
  write(work / "a.jsonl", corpus);
  succeed(run_cbtm(clustering({"--corpus", "a.jsonl"}), work.path()));
  fs::create_directory(work / "b");
  fs::copy(work / "a.jsonl", work / "b/a.jsonl");
  CHECK(succeed(run_cbtm(clustering({"--corpus", "b/a.jsonl"}), work.path())).errors.find("done already") !=
        std::string::npos);

  const std::vector<std::string> piped = clustering({"--corpus", "-", "--out", "piped"});
  succeed(run_cbtm(piped, work.path(), corpus));
  for (const std::string& input : {corpus, std::string()}) {
    CHECK(succeed(run_cbtm(piped, work.path(), input)).errors.find("cluster: done already") != std::string::npos);
    CHECK(file_contents(work / "piped/stdin.jsonl") == corpus);
  }
  std::vector<std::string> quiet = piped;
  quiet.emplace_back("--quiet");
  check_error(run_cbtm(quiet, work.path(), tiny_corpus(61)), kExitFailure, "pass --redo");
  CHECK(file_contents(work / "piped/stdin.jsonl") == corpus);
  quiet.emplace_back("--redo");
  succeed(run_cbtm(quiet, work.path(), tiny_corpus(61)));
  CHECK(documents_found(work.path()) == 183);
  check_error(run_cbtm(clustering({"--corpus", "-", "--out", "none", "--quiet"}), work.path(), ""), kExitFailure,
              "standard input is empty");
}

TEST_CASE("pipes and process substitution are a corpus, also packed ones") {
  const TemporaryDirectory work;
  write(work / "a.jsonl", tiny_corpus(60));
  const std::vector<std::string> words = clustering({"--quiet"});
  succeed(shell("\"$0\" \"$@\" --corpus <(cat a.jsonl) <(gzip -c a.jsonl)", words, work.path()));
  CHECK(documents_found(work.path()) == 180);
  succeed(shell("mkfifo f.jsonl; (sleep 0.3; cat a.jsonl > f.jsonl) & exec \"$0\" \"$@\" --redo --corpus f.jsonl",
                words, work.path()));
  CHECK(documents_found(work.path()) == 180);
}

TEST_CASE("a signal ends the wait for a pipe") {
  const TemporaryDirectory work;
  REQUIRE(::mkfifo((work / "f.jsonl").c_str(), 0600) == 0);
  write(work / "model.json", "{}");
  Process waiting(cbtm_command(clustering({"--quiet", "--corpus", "f.jsonl"})), work.path());
  std::this_thread::sleep_for(std::chrono::milliseconds(800));
  CHECK_FALSE(waiting.ended());
  waiting.send(SIGTERM);
  const auto start = std::chrono::steady_clock::now();
  const Outcome outcome = waiting.wait();
  CHECK((outcome.exit_code == kExitInterrupted || outcome.exit_code == 128 + SIGTERM));
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
}

TEST_CASE("file names that are not UTF-8 go through to the shards") {
  const TemporaryDirectory work;
  fs::create_directory(work / "d");
  std::istringstream lines(tiny_corpus(60));
  int number = 0;
  for (std::string line; std::getline(lines, line);)
    write(work / "d" / ("caf\xe9 " + std::to_string(number++) + ".txt"), Json::parse(line)["text"].get<std::string>());
  succeed(run_cbtm(clustering({"--corpus", "d", "--quiet"}), work.path()));
  CHECK(documents_found(work.path()) == 180);
  std::ifstream list(work / "run/shards/000/train.documents.jsonl");
  std::string first;
  REQUIRE(std::getline(list, first));
  CHECK(Json::parse(first)["id"].get<std::string>().starts_with("caf\\xE9 "));
  write(work / "caf\xe9.jsonl", tiny_corpus(60));
  succeed(run_cbtm(clustering({"--corpus", "caf\xe9.jsonl", "--out", "other", "--quiet"}), work.path()));
}

TEST_CASE("folders of others are named, and fatal where that is asked") {
  if (::geteuid() != 0) return;  // only root can become somebody who may not read
  const TemporaryDirectory work;
  fs::create_directories(work / "c/locked");
  write(work / "c/a.jsonl", tiny_corpus(60));
  fs::permissions(work.path(), fs::perms::all);
  fs::permissions(work / "c/locked", fs::perms::none);
  const auto as_nobody = [&](std::vector<std::string> more) {
    more.insert(more.end(), {"--quiet", "--corpus", "c"});
    std::vector<std::string> command = {"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"};
    for (const std::string& word : cbtm_command(clustering(more))) command.push_back(word);
    return run_program(command, work.path());
  };
  const Outcome skipped = as_nobody({});
  if (skipped.errors.find("setpriv") != std::string::npos) return;
  succeed(skipped);
  CHECK(skipped.errors.find("c/locked: a folder that cannot be read: Permission denied") != std::string::npos);
  check_error(as_nobody({"--on-bad-document", "fail", "--out", "strict"}), kExitFailure, "c/locked: a folder");
}

TEST_CASE("a corpus that grows while it is read is an error, not a crash") {
  const TemporaryDirectory work;
  write(work / "a.jsonl", tiny_corpus(3000));
  Process clustered(cbtm_command(clustering({"--quiet", "--corpus", "a.jsonl", "--balance-shards"})), work.path());
  // Its first line of output is a while away: documents come all the time.
  for (int i = 0; !clustered.ended(); ++i) {
    std::ofstream(work / "a.jsonl", std::ios::app) << "{\"text\": \"grown ledger comet " << i << "\"}\n";
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  check_error(clustered.wait(), kExitFailure, "the corpus changed while it was read");
}

TEST_SUITE("slow") {
  TEST_CASE("a line of 500 MB does not fill the memory") {
    const TemporaryDirectory work;
    {
      std::ofstream file(work / "a.jsonl");
      file << tiny_corpus(60) << "{\"text\": \"";
      const std::string words(1 << 20, 'x');
      for (int i = 0; i < 500; ++i) file << words;
      file << "\"}\n";
    }
    const Outcome outcome = succeed(run_cbtm(clustering({"--corpus", "a.jsonl"}), work.path()));
    CHECK(outcome.errors.find("a.jsonl:181: longer than 64 MiB") != std::string::npos);
    CHECK(outcome.peak_bytes < (int64_t{400} << 20));
  }
}

}  // namespace
}  // namespace cbtm
