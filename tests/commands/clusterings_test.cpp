// cbtm cluster --clustering: what each kind makes, and what is refused.

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <set>

#include "cbtm/base/json.h"
#include "cbtm/tensor_file/tensor_file.h"
#include "tests/commands/tiny_run.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

std::vector<std::string> cluster_command(const std::vector<std::string>& more) {
  std::vector<std::string> words = {"cluster",   "--corpus", "corpus.jsonl", "--dimensions", "8", "--vocab-size", "384",
                                    "--threads", "1",        "--json",       "out.json"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

/// The tiny corpus, each line with its subject as the field `topic`; the third subject is twofold.
void write_corpus(const std::filesystem::path& directory) {
  std::ofstream file(directory / "corpus.jsonl");
  std::istringstream lines(tiny_corpus(40));
  int64_t number = 0;
  for (std::string line; std::getline(lines, line); ++number) {
    Json document = Json::parse(line);
    const int64_t topic = number % 3;
    document["topic"] = topic == 0 ? "cooking" : topic == 1 ? "stars" : number % 6 == 2 ? "bonds" : "audits";
    file << document.dump() << "\n";
  }
}

int64_t documents_of(const Json& size) {
  return size["train_documents"].get<int64_t>() + size["valid_documents"].get<int64_t>() +
         size["tune_documents"].get<int64_t>();
}

TEST_CASE("random clusters: equal shards, named in the manifest, and a router with a centre for each") {
  const TemporaryDirectory directory;
  write_corpus(directory.path());
  const Outcome outcome =
      succeed(run_cbtm(cluster_command({"--clustering", "random", "--k", "7", "--run", "run"}), directory.path()));
  CHECK(outcome.output.find("clustering random; largest shard") != std::string::npos);
  const Json made = read_json_file(directory / "run/clusters.json");
  CHECK(made["clustering"] == "random");
  CHECK(made["settings"]["clustering"] == "random");
  CHECK(!made.contains("duality_gap"));
  std::set<int64_t> sizes;
  for (const Json& size : made["sizes"]) sizes.insert(documents_of(size));
  CHECK(sizes == std::set<int64_t>{17, 18});  // 120 documents
  CHECK(read_json_file(directory / "run/router/router.json")["clusters"] == 7);
  // The same command finds it done; another seed is another partition.
  CHECK(succeed(run_cbtm(cluster_command({"--clustering", "random", "--k", "7", "--run", "run"}), directory.path()))
            .errors.find("done already") != std::string::npos);
  succeed(run_cbtm(cluster_command({"--clustering", "random", "--k", "7", "--seed", "5", "--run", "other"}),
                   directory.path()));
  CHECK(file_contents(directory / "run/shards/000/train.documents.jsonl") !=
        file_contents(directory / "other/shards/000/train.documents.jsonl"));
}

TEST_CASE("domains: one expert for each; fewer clusters join the smallest; more are refused") {
  const TemporaryDirectory directory;
  write_corpus(directory.path());
  const std::vector<std::string> domains = {"--clustering", "domains", "--domain-field", "topic"};
  const auto command = [&](std::vector<std::string> more) {
    more.insert(more.end(), domains.begin(), domains.end());
    return cluster_command(more);
  };
  const Outcome outcome = succeed(run_cbtm(command({"--run", "all"}), directory.path()));
  CHECK(outcome.output.find("[audits]") != std::string::npos);
  const Json all = read_json_file(directory / "all/clusters.json");
  CHECK(all["clustering"] == "domains");
  CHECK(all["domains"] == Json{{"audits"}, {"bonds"}, {"cooking"}, {"stars"}});
  CHECK(all["settings"]["k"].is_null());
  CHECK(documents_of(all["sizes"][0]) == 20);
  CHECK(documents_of(all["sizes"][3]) == 40);
  succeed(run_cbtm(command({"--k", "3", "--run", "three"}), directory.path()));
  const Json three = read_json_file(directory / "three/clusters.json");
  CHECK(three["domains"] == Json{{"audits", "bonds"}, {"cooking"}, {"stars"}});
  CHECK(documents_of(three["sizes"][0]) == 40);
  check_error(run_cbtm(command({"--quiet", "--k", "5", "--run", "five"}), directory.path()), 1,
              "--k 5: the corpus names only 4 domains");
  CHECK(succeed(run_cbtm({"inspect", "three"}, directory.path())).output.find("[audits, bonds]") != std::string::npos);
}

TEST_CASE("clusterings: flags that contradict each other are refused before anything is read") {
  const TemporaryDirectory directory;
  write_corpus(directory.path());
  const auto refused = [&](const std::vector<std::string>& more, const std::string& expected) {
    std::vector<std::string> words = cluster_command(more);
    words.insert(words.end(), {"--run", "run", "--quiet"});
    check_error(run_cbtm(words, directory.path()), 2, expected);
  };
  refused({"--clustering", "none"}, "use balanced, unbalanced, random or domains");
  refused({"--clustering", "balanced", "--unbalanced"}, "leave one of them out");
  refused({"--clustering", "random", "--restarts", "2"}, "--restarts does nothing with --clustering random");
  refused({"--clustering", "random", "--balance-shards"}, "the shards are of equal size");
  refused({"--clustering", "domains", "--kmeans-init", "random"}, "there is no k-means");
  refused({"--domain-field", "topic"}, "--domain-field does nothing with --clustering balanced");
  refused({"--clustering", "domains", "--domain-field", "text"}, "is the field of the text");
  refused({"--clustering", "domains", "--domain-field", ""}, "needs the name of a field");
}

TEST_CASE("--unbalanced is --clustering unbalanced") {
  const TemporaryDirectory directory;
  write_corpus(directory.path());
  succeed(run_cbtm(cluster_command({"--k", "3", "--unbalanced", "--run", "run"}), directory.path()));
  CHECK(read_json_file(directory / "run/clusters.json")["clustering"] == "unbalanced");
  CHECK(succeed(run_cbtm(cluster_command({"--k", "3", "--clustering", "unbalanced", "--run", "run"}), directory.path()))
            .errors.find("done already") != std::string::npos);
}

TEST_CASE("--embedding-scaling standardised: mean 0 and variance 1, distance power 4, from the corpus to a text") {
  const TemporaryDirectory directory;
  const std::filesystem::path& here = directory.path();
  write_corpus(here);
  succeed(run_cbtm(
      cluster_command({"--k", "3", "--embedding-scaling", "standardised", "--valid-fraction", "0", "--run", "run"}),
      here));
  const Json manifest = read_json_file(here / "run/clusters.json"),
             router = read_json_file(here / "run/router/router.json");
  CHECK(manifest["settings"]["embedding_scaling"] == "standardised");
  CHECK(router["embedding_scaling"] == "standardised");
  CHECK(router["temperature"].get<double>() == doctest::Approx(0.1 * router["dimensions"].get<double>()));
  // Σ over rows and dimensions of x² is rows · dimensions, so the sum of squares within clusters is less, and the mean
  // of the centres, weighed by their rows, is 0. Clusters of the fit differ by one row at most.
  const TensorFile tensors = TensorFile::open(here / "run/router/router.safetensors");
  const std::vector<float> centres = tensors.at("centroids").values<float>();
  const auto columns = router["dimensions"].get<size_t>();
  const auto rows = manifest["fit_documents"].get<double>();
  const double share = std::floor(rows / 3);
  for (size_t d = 0; d < columns; ++d) {
    double sum = 0, most = 0;
    for (size_t j = 0; j < 3; ++j) {
      sum += share * static_cast<double>(centres[j * columns + d]);
      most = std::max(most, std::abs(static_cast<double>(centres[j * columns + d])));
    }
    CHECK(std::abs(sum) <= 2 * most + 1e-4 * rows);
  }
  CHECK(manifest["objective"].get<double>() < rows * static_cast<double>(columns));
  CHECK(manifest["objective"].get<double>() > 0);
  succeed(run_cbtm(
      {"train_seed", "--run", "run", "--preset", "nano", "--steps", "2", "--sequence", "32", "--threads", "1"}, here));
  succeed(
      run_cbtm({"train_expert", "--run", "run", "--all", "--steps", "2", "--sequence", "32", "--threads", "1"}, here));
  const std::vector<std::string> evaluate = {"ensemble",  "evaluate", "--experts", "run/experts",
                                             "--threads", "1",        "--json",    "result.json"};
  const auto loss = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words = evaluate;
    words.insert(words.end(), more.begin(), more.end());
    succeed(run_cbtm(words, here));
    return read_json_file(here / "result.json")["negative_log_likelihood"].get<double>();
  };
  const double own = loss({});
  CHECK(loss({"--distance-power", "4"}) == loss({"--router", "tfidf:power=4"}));
  CHECK(loss({"--distance-power", "4"}) != own);
  check_error(run_cbtm(cluster_command({"--embedding-scaling", "none", "--run", "x", "--quiet"}), here), 2,
              "use l2 or standardised");
}

}  // namespace
}  // namespace cbtm
