// Routers on the command line: several in one evaluation, fitting a prior, generation, what is refused.

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "cbtm/base/json.h"
#include "tests/commands/tiny_run.h"

namespace cbtm {
namespace {

const std::filesystem::path kEnsemble = std::filesystem::path(CBTM_TEST_DATA) / "ensemble";

std::vector<std::string> ensemble(const std::string& action, const std::vector<std::string>& more) {
  std::vector<std::string> words = {
      "ensemble",    action,
      "--experts",   (kEnsemble / "experts").string(),
      "--tokenizer", (std::filesystem::path(CBTM_TEST_DATA) / "tokenizer/opt-tiny").string(),
      "--threads",   "1"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

const std::vector<std::string> kOwnRouter = {"--router-directory", (kEnsemble / "router").string()};

std::vector<std::string> with_router(const std::string& action, std::vector<std::string> more) {
  more.insert(more.end(), kOwnRouter.begin(), kOwnRouter.end());
  return ensemble(action, more);
}

const std::vector<std::string> kDocuments = {"--corpus", (kEnsemble / "documents.jsonl").string(), "--keep-duplicates"};

std::vector<std::string> on_documents(std::vector<std::string> more) {
  more.insert(more.end(), kDocuments.begin(), kDocuments.end());
  return more;
}

TEST_CASE("several routers in one evaluation; a prior that was fitted; the lines of --token-log-probs") {
  const TemporaryDirectory directory;
  const std::filesystem::path& here = directory.path();
  succeed(
      run_cbtm(with_router("prior", on_documents({"--out", "prior.json", "--token-log-probs", "fit.jsonl"})), here));
  const Json prior = read_json_file(here / "prior.json");
  CHECK(prior["kind"] == "expert-prior");
  CHECK(prior["documents"] == 3);
  REQUIRE(prior["prior"].size() == 4);
  std::istringstream fitted(file_contents(here / "fit.jsonl"));
  Json last;
  for (std::string line; std::getline(fitted, line);) last = Json::parse(line);
  CHECK(last["prior_after"] == prior["prior"]);

  const Outcome outcome = succeed(
      run_cbtm(with_router("evaluate",
                           on_documents({"--router", "tfidf,posterior,posterior:last:prior=prior.json,uniform",
                                         "--topk", "1,2", "--json", "out.json", "--token-log-probs", "tokens.jsonl"})),
               here));
  CHECK(outcome.output.find("posterior:last:prior=prior.json") != std::string::npos);
  const Json result = read_json_file(here / "out.json");
  REQUIRE(result["sweep"].size() == 6);
  std::vector<std::pair<std::string, int>> names;
  for (const Json& entry : result["sweep"]) {
    names.emplace_back(entry["router"], entry["top_k"]);
    double loss = 0;
    for (const Json& document : entry["document_negative_log_likelihoods"]) loss += document.get<double>();
    CHECK(loss == doctest::Approx(entry["negative_log_likelihood"].get<double>()));
  }
  CHECK(names == std::vector<std::pair<std::string, int>>{{"tfidf", 1},
                                                          {"tfidf", 2},
                                                          {"posterior", 4},
                                                          {"posterior:last:prior=prior.json", 1},
                                                          {"posterior:last:prior=prior.json", 2},
                                                          {"uniform", 4}});
  CHECK(result["settings"]["routers"].size() == 4);
  // A line for each document and router; the weights follow from the experts' probabilities that stand there too.
  std::istringstream lines(file_contents(here / "tokens.jsonl"));
  int exact_lines = 0, count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const Json one = Json::parse(line);
    if (one["router"] != "posterior") continue;
    ++exact_lines;
    std::vector<double> evidence(4, 0.0), before;
    for (size_t t = 0; t < one["weights"].size(); ++t) {
      before = evidence;
      double sum = 0;
      for (const double value : before) sum += std::exp(value - before[0]);
      for (size_t j = 0; j < 4; ++j) {
        CHECK(one["weights"][t][j].get<double>() ==
              doctest::Approx(std::exp(before[j] - before[0]) / sum).epsilon(1e-9));
        evidence[j] += one["log_probabilities_by_expert"][t][j].get<double>();
      }
    }
  }
  CHECK(count == 12);
  CHECK(exact_lines == 3);
}

TEST_CASE("--router DIR is still a router's directory, and results without routers are as they were") {
  const TemporaryDirectory directory;
  const std::filesystem::path& here = directory.path();
  succeed(run_cbtm(
      ensemble("evaluate", on_documents({"--router", (kEnsemble / "router").string(), "--json", "a.json"})), here));
  succeed(run_cbtm(with_router("evaluate", on_documents({"--json", "b.json"})), here));
  succeed(run_cbtm(with_router("evaluate", on_documents({"--router", "tfidf", "--json", "c.json"})), here));
  const Json a = read_json_file(here / "a.json"), b = read_json_file(here / "b.json"),
             c = read_json_file(here / "c.json");
  CHECK(a["negative_log_likelihood"] == b["negative_log_likelihood"]);
  CHECK(a["negative_log_likelihood"] == c["negative_log_likelihood"]);
  CHECK(!a.contains("sweep"));
  CHECK(c["sweep"].size() == 1);
}

TEST_CASE("generation by posterior and uniform routers") {
  for (const char* router : {"posterior", "posterior:last", "uniform", "tfidf:power=4:topk=1"}) {
    CAPTURE(router);
    const Outcome outcome =
        succeed(run_cbtm(with_router("generate", {"--router", router, "--prompt", "The king", "--greedy",
                                                  "--max-new-tokens", "5", "--show-routing"})));
    CHECK(outcome.errors.find("[expert") != std::string::npos);
    CHECK(!outcome.output.empty());
  }
}

TEST_CASE("routers that are refused, before any work") {
  const TemporaryDirectory directory;
  std::ofstream(directory / "list.json") << "[1, 2]\n";
  std::ofstream(directory / "other.json")
      << Json{{"kind", "expert-prior"}, {"prior", {0.25, 0.25, 0.25, 0.25}}, {"router_hash", "of another"}}.dump(2);
  const auto refused = [&](const std::string& action, std::vector<std::string> more, int code, const char* expected) {
    more.push_back("--quiet");
    check_error(run_cbtm(with_router(action, more), directory.path()), code, expected);
  };
  refused("evaluate", on_documents({"--router", "bayes"}), 2, "no kind of router");
  refused("evaluate", on_documents({"--router", "uniform", "--topk", "2"}), 2, "--topk does nothing");
  refused("evaluate", on_documents({"--router", "posterior", "--routing", "lagged"}), 2, "--routing does nothing");
  refused("evaluate", on_documents({"--router", "posterior", "--router-temperature", "1"}), 2,
          "--router-temperature does nothing");
  refused("evaluate", on_documents({"--router", "tfidf:power=2", "--distance-power", "2"}), 2,
          "--distance-power does nothing");
  refused("evaluate", on_documents({"--router", directory.path().string()}), 2, "both name a directory");
  refused("evaluate", on_documents({"--router", "posterior:prior=none.json"}), 1, "none.json");
  refused("evaluate", on_documents({"--router", "posterior:prior=other.json"}), 1, "'router_hash' is of another");
  refused("generate", {"--router", "uniform,tfidf", "--prompt", "a"}, 2, "several are for evaluate");
  refused("generate", {"--router", "posterior:prior=updating", "--prompt", "a"}, 2, "ensemble prior");
  refused("prior", on_documents({"--out", "p.json", "--json", "p.json"}), 2, "is also what --");
  refused("generate", {"--run", "nowhere", "--prompt", "a"}, 2, "--run nowhere: is not there");
  refused("prior", on_documents({"--out", "list.json"}), 1, "is no prior of cbtm");
  refused("prior", on_documents({"--out", "p.json", "--likelihood", "all"}), 2, "use last or exact");
  CHECK(file_contents(directory / "list.json") == "[1, 2]\n");
}

}  // namespace
}  // namespace cbtm
