// Whole studies of the binary on a tiny corpus: killed, stopped, divided, joined, refused.

#include <doctest/doctest.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "cbtm/base/error.h"
#include "cbtm/base/json.h"
#include "cbtm/base/philox.h"
#include "tests/commands/process.h"
#include "tests/commands/tiny_run.h"
#include "tests/report/well_formed.h"
#include "tests/study/page_check.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

Json tiny_config() {
  return {{"k", {1, 2}},
          {"budgets", {1536, 3072}},
          {"seeds", 2},
          {"model", "model.json"},
          {"learning_rates", {0.01}},
          {"clusterings",
           {"balanced", {{"kind", "random"}, {"budgets", {3072}}}, {{"kind", "domains"}, {"budgets", {3072}}}}},
          {"moe", {{"experts", {2}}, {"budgets", {3072}}}},
          {"domain_field", "topic"},
          {"sequence", 32},
          {"batch_tokens", 384},
          {"seed_tokens", 1536},
          {"seed_batch_tokens", 192},
          {"vocab_size", 384},
          {"min_df", 1},
          {"dimensions", 8},
          {"dropout", 0},
          {"documents", 40},
          {"resamples", 200}};
}

/// A directory with the tiny corpus, whose documents name their topic, a model's shape and a study's configuration.
class StudyPlace {
 public:
  StudyPlace() {
    std::ofstream corpus(directory_ / "corpus.jsonl");
    std::istringstream lines(tiny_corpus(80));
    for (std::string line; std::getline(lines, line);) {
      Json document = Json::parse(line);
      document["topic"] = document["id"].get<std::string>().substr(0, 1) == "0" ? "cooking" : "other";
      corpus << document.dump() << "\n";
    }
    fs::copy_file(tiny_run() / "model.json", directory_ / "model.json");
    write_json_file(directory_ / "tiny.json", tiny_config());
  }
  const fs::path& path() const { return directory_.path(); }
  fs::path operator/(const std::string& name) const { return directory_ / name; }

  std::vector<std::string> command(const std::string& out, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words = {"study", "--corpus", "corpus.jsonl", "--config", "tiny.json",
                                      "--out", out,        "--threads",    "1"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  Outcome run(const std::string& out, const std::vector<std::string>& more = {}) const {
    return run_cbtm(command(out, more), path());
  }

 private:
  TemporaryDirectory directory_;
};

/// A study that nobody disturbed, made once.
struct Reference {
  Reference() {
    const auto start = Clock::now();
    outcome = succeed(place.run("whole"));
    seconds = std::chrono::duration<double>(Clock::now() - start).count();
    study = file_contents(place / "whole/study.json");
  }
  StudyPlace place;
  Outcome outcome;
  double seconds = 0;
  std::string study;
};
const Reference& reference() {
  static const Reference made;
  return made;
}

int64_t entries_in(const fs::path& directory) {
  int64_t count = 0;
  for (const auto& entry : fs::directory_iterator(directory)) count += entry.is_directory() ? 1 : 0;
  return count;
}

TEST_SUITE_BEGIN("slow");

TEST_CASE("a study makes its cells, shares what is the same, and leaves results without models") {
  const fs::path root = reference().place / "whole";
  // Two seeds of: dense and balanced at two budgets, random, domains and a mixture of experts at the larger one.
  CHECK(entries_in(root / "cells") == 14);
  CHECK(entries_in(root / "seeds") == 2);
  CHECK(entries_in(root / "clusterings") == 2 + 2 + 1);  // domains depend on no seed
  for (const auto& cell : fs::directory_iterator(root / "cells")) {
    CHECK(fs::exists(cell.path() / "result.json"));
    CHECK(!fs::exists(cell.path() / "experts"));
    CHECK(!fs::exists(cell.path() / "baseline"));
    CHECK(!fs::exists(cell.path() / "moe"));
    CHECK(!fs::is_symlink(cell.path() / "shards"));
  }
  for (const auto& clustering : fs::directory_iterator(root / "clusterings"))
    CHECK(!fs::exists(clustering.path() / "shards"));
  const Json study = read_json_file(root / "study.json");
  CHECK(study["missing"].empty());
  CHECK(study["cells"].size() == 14);
  CHECK(study["relations"].size() == 12);
  for (const Json& cell : study["cells"]) CHECK(cell["training_tokens"] == cell["cell"]["budget"]);
  CHECK(reference().outcome.output.find("undecided at this size") != std::string::npos);
}

TEST_CASE("every number of its page is one of its files, and computed again from the losses") {
  const fs::path root = reference().place / "whole";
  const Json study = read_json_file(root / "study.json");
  const std::string page = file_contents(root / "study.html");
  CHECK(markup_fault(page) == "");
  CHECK(study::check_page_numbers(page, study, read_json_file(root / "study-times.json")) > 200);
  study::check_study_numbers(study);
}

TEST_CASE("a study that is done does nothing, and gives the same bytes") {
  const auto start = Clock::now();
  const Outcome outcome = succeed(reference().place.run("whole"));
  CHECK(outcome.errors.find("14 of them done") != std::string::npos);
  CHECK(std::chrono::duration<double>(Clock::now() - start).count() < reference().seconds / 2);
  CHECK(file_contents(reference().place / "whole/study.json") == reference().study);
}

TEST_CASE("killed and stopped at random moments, a study ends with the same study.json") {
  const StudyPlace& place = reference().place;
  PhiloxStream random(4711, 0);
  int ended_early = 0;
  double longest = reference().seconds / 3;
  for (int attempt = 0; attempt < 40 && ended_early < 8; ++attempt) {
    Process process(cbtm_command(place.command("killed")), place.path());
    std::this_thread::sleep_for(std::chrono::duration<double>(longest * random.next_uniform()));
    const int signal = attempt % 2 == 0 ? SIGKILL : SIGTERM;
    process.send(signal);
    const Outcome outcome = process.wait();
    CAPTURE(outcome.errors);
    if (outcome.exit_code == 0) {
      fs::remove_all(place / "killed");
      longest *= 0.6;
      continue;
    }
    // A signal that comes before its handler stands ends the process as it always did.
    CHECK((outcome.exit_code == 128 + signal || (signal == SIGTERM && outcome.exit_code == kExitInterrupted)));
    CHECK(outcome.errors.find("warning") == std::string::npos);
    ++ended_early;
  }
  CHECK(ended_early == 8);
  succeed(place.run("killed"));
  CHECK(file_contents(place / "killed/study.json") == reference().study);
}

TEST_CASE("parts made apart, in one directory at once or in several, join to the whole") {
  const StudyPlace& place = reference().place;
  {
    Process first(cbtm_command(place.command("shared", {"--part", "1/2"})), place.path());
    Process second(cbtm_command(place.command("shared", {"--part", "2/2"})), place.path());
    succeed(first.wait());
    succeed(second.wait());
  }
  CHECK(!fs::exists(place / "shared/study.json"));
  succeed(run_cbtm({"study", "--join", "--out", "shared"}, place.path()));
  CHECK(file_contents(place / "shared/study.json") == reference().study);

  succeed(place.run("apart", {"--part", "1/2"}));
  const Outcome partly = succeed(run_cbtm({"study", "--join", "--out", "apart"}, place.path()));
  CHECK(partly.output.find("missing: ") != std::string::npos);
  CHECK(file_contents(place / "apart/study.html").find("What is missing") != std::string::npos);
  succeed(place.run("other", {"--part", "2/2"}));
  for (const auto& cell : fs::directory_iterator(place / "other/cells"))
    fs::copy(cell.path(), place / "apart/cells" / cell.path().filename(), fs::copy_options::recursive);
  succeed(run_cbtm({"study", "--join", "--out", "apart"}, place.path()));
  CHECK(file_contents(place / "apart/study.json") == reference().study);
}

TEST_CASE("other settings are refused with what differs, and other axes keep what is there") {
  const StudyPlace place;
  succeed(place.run("study", {"--seeds", "1"}));
  const std::string cell = "study/cells/dense-b1536-r0.01-s1/result.json";
  const std::string before = file_contents(place / cell);
  check_error(place.run("study", {"--dropout", "0.2", "--quiet"}), kExitFailure, "dropout was 0.0, is 0.2");
  CHECK(file_contents(place / cell) == before);
  succeed(run_cbtm({"study", "--join", "--out", "study"}, place.path()));  // what is there is as it was
  const auto written = fs::last_write_time(place / cell);
  succeed(place.run("study", {"--seeds", "1", "--budgets", "1536,3072,768"}));
  CHECK(fs::last_write_time(place / cell) == written);
  CHECK(fs::exists(place / "study/cells/balanced-k2-b768-r0.01-s1/result.json"));
}

TEST_CASE("with --keep-models everything stays, and an expert can be used") {
  const StudyPlace place;
  succeed(place.run("study", {"--seeds", "1", "--budgets", "1536,3072", "--clusterings", "balanced", "--keep-models"}));
  succeed(run_cbtm({"ensemble", "--experts", "study/cells/balanced-k2-b1536-r0.01-s1/experts", "--prompt", "oven",
                    "--max-new-tokens", "2", "--threads", "1"},
                   place.path()));
}

TEST_CASE("what is not the study's is never replaced or removed") {
  const StudyPlace place;
  fs::create_directories(place / "study");
  std::ofstream(place / "study/study.html") << "my own page";
  check_error(place.run("study", {"--quiet"}), kExitFailure, "study.html");
  CHECK(file_contents(place / "study/study.html") == "my own page");
  fs::remove(place / "study/study.html");
  for (const char* name : {"study/study.json", "study/configuration.json"}) {
    std::ofstream(place / name) << "{\"k\": [1, 2]}";
    check_error(place.run("study", {"--quiet"}), kExitFailure, "is there, but is not this study's");
    CHECK(file_contents(place / name) == "{\"k\": [1, 2]}");
    fs::remove(place / name);
  }
  fs::create_directories(place / "study/cells/dense-b1536-r0.01-s1/shards");
  std::ofstream(place / "study/cells/dense-b1536-r0.01-s1/shards/mine") << "mine";
  const Outcome outcome = place.run("study", {"--seeds", "1"});
  CHECK(outcome.exit_code == kExitFailure);
  CHECK(outcome.errors.find("dense-b1536-r0.01-s1: ") != std::string::npos);
  CHECK(outcome.errors.find("is there, but a link") != std::string::npos);
  CHECK(file_contents(place / "study/cells/dense-b1536-r0.01-s1/shards/mine") == "mine");
  // The other cells were made all the same.
  CHECK(fs::exists(place / "study/cells/balanced-k2-b1536-r0.01-s1/result.json"));
}

TEST_CASE("a clustering that the corpus has too few domains for is left out; the others are made") {
  const StudyPlace place;
  Json config = tiny_config();
  config["k"] = {1, 2, 4};
  config["clusterings"] = {"balanced", "domains"};
  config["budgets"] = {1536};
  config["seeds"] = 1;
  config.erase("moe");
  write_json_file(place / "tiny.json", config);
  const Outcome outcome = place.run("study", {});
  CHECK(outcome.exit_code == kExitFailure);
  CHECK(outcome.errors.find("domains, k 4: --k 4: the corpus names only 2 domains") != std::string::npos);
  CHECK(outcome.errors.find("1 of 5 cells could not be made: domains-k4-b1536-r0.01-s1") != std::string::npos);
  for (const char* made : {"dense", "balanced-k2", "balanced-k4", "domains-k2"})
    CHECK(fs::exists(place / fmt::format("study/cells/{}-b1536-r0.01-s1/result.json", made)));
  // A file of it that is damaged: what to do is said.
  std::ofstream(place / "study/cells/dense-b1536-r0.01-s1/result.json") << "{\"cell\"";
  check_error(place.run("study", {"--quiet"}), kExitFailure, "remove the file; the same command makes it again");
}

TEST_SUITE_END();

TEST_CASE("what is wrong with the command line is said before any work") {
  const StudyPlace place;
  const auto refused = [&](const std::vector<std::string>& more, int exit_code, const std::string& expected) {
    CAPTURE(expected);
    std::vector<std::string> words = more;
    words.emplace_back("--quiet");
    check_error(place.run("study", words), exit_code, expected);
    CHECK(!fs::exists(place / "study"));
  };
  refused({"--part", "3/2"}, kExitUsage, "--part 3/2: must be two numbers");
  refused({"--part", "1"}, kExitUsage, "--part 1: must be two numbers");
  refused({"--k", "1,two"}, kExitUsage, "--k 1,two: 'two' is not a whole number");
  refused({"--k", "1,2,2"}, kExitUsage, "the command line: 'k' names 2 twice");
  refused({"--k", "1,5"}, kExitUsage, "cannot be divided among 5 experts");
  refused({"--clusterings", "sorted"}, kExitUsage, "names the clustering 'sorted'");
  refused({"--join"}, kExitUsage, "--corpus does nothing with --join");
  Json config = tiny_config();
  config["tokens"] = 5;
  write_json_file(place / "tiny.json", config);
  refused({}, kExitFailure, "tiny.json: has the key 'tokens', which means nothing here");
  std::ofstream(place / "tiny.json") << "{\"k\": [1, 2], \"k\": [1, 4]}";
  refused({}, kExitFailure, "tiny.json");
  check_error(run_cbtm({"study", "--join", "--out", "nothing"}, place.path()), kExitFailure, "holds no study");
}

TEST_CASE("--dry-run prints the plan and makes nothing") {
  const StudyPlace place;
  const Outcome outcome = succeed(place.run("study", {"--dry-run"}));
  CHECK(outcome.output.find("study: 14 cells, 0 of them done") != std::string::npos);
  CHECK(outcome.output.find("random-k2-b3072") != std::string::npos);
  CHECK(outcome.output.find("time: not known before the first cell is done") != std::string::npos);
  CHECK(!fs::exists(place / "study"));
}

}  // namespace
}  // namespace cbtm
