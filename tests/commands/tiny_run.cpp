#include "tests/commands/tiny_run.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "cbtm/base/philox.h"

namespace cbtm {
namespace {

const std::vector<std::vector<std::string>> kTopics = {
    {"flour",  "oven",   "butter", "knead",  "dough", "yeast", "bake",   "crust", "sugar", "whisk", "simmer",
     "garlic", "pepper", "roast",  "saucer", "broth", "onion", "tomato", "basil", "cream", "boil",  "recipe"},
    {"comet",   "orbit",    "planet",  "star",     "galaxy", "telescope", "lunar",  "eclipse",
     "nebula",  "asteroid", "solar",   "quasar",   "meteor", "cosmic",    "saturn", "jupiter",
     "equinox", "aurora",   "gravity", "spectrum", "zenith", "parallax"},
    {"ledger", "invoice", "audit",  "credit",  "debit",    "budget", "tariff", "dividend",
     "equity", "broker",  "merger", "payroll", "revenue",  "profit", "lender", "tenant",
     "escrow", "margin",  "bond",   "asset",   "treasury", "auction"}};

void copy_tree(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::filesystem::copy(from, to, std::filesystem::copy_options::recursive);
}

}  // namespace

std::string tiny_corpus(int per_topic) {
  PhiloxStream random(11, 0);
  std::string lines;
  for (int document = 0; document < per_topic; ++document)
    for (size_t topic = 0; topic < kTopics.size(); ++topic) {
      std::string text;
      const uint64_t words = 12 + random.next_below(20);
      for (uint64_t word = 0; word < words; ++word)
        text += (word == 0 ? "" : " ") + kTopics[topic][random.next_below(kTopics[topic].size())];
      lines += Json{{"text", text + "."}, {"id", std::to_string(topic) + "-" + std::to_string(document)}}.dump() + "\n";
    }
  return lines;
}

const std::filesystem::path& tiny_run() {
  static const TemporaryDirectory directory;
  static const bool made = [] {
    std::ofstream(directory / "corpus.jsonl") << tiny_corpus();
    std::ofstream(directory / "model.json")
        << Json{{"model_type", "opt"},           {"vocab_size", 384},         {"hidden_size", 16},
                {"num_hidden_layers", 2},        {"num_attention_heads", 2},  {"ffn_dim", 32},
                {"max_position_embeddings", 64}, {"word_embed_proj_dim", 16}, {"do_layer_norm_before", true},
                {"activation_function", "relu"}};
    succeed(run_cbtm({"cluster", "--corpus", "corpus.jsonl", "--k", std::to_string(kTinyClusters), "--dimensions", "8",
                      "--vocab-size", "384", "--threads", "1", "--run", "run", "--json", "cluster.json"},
                     directory.path()));
    succeed(run_cbtm(tiny_training({"train_seed", "--config", "model.json"}, {"--steps", "30", "--json", "seed.json"}),
                     directory.path()));
    return true;
  }();
  static_cast<void>(made);
  return directory.path();
}

TinyRunCopy::TinyRunCopy() {
  for (const auto& entry : std::filesystem::directory_iterator(tiny_run()))
    copy_tree(entry.path(), directory_.path() / entry.path().filename());
}

std::vector<std::string> tiny_training(const std::vector<std::string>& command, const std::vector<std::string>& more) {
  std::vector<std::string> words = command;
  const std::vector<std::string> flags = {"--run",           "run",  "--sequence", "32", "--batch-tokens", "384",
                                          "--learning-rate", "1e-2", "--threads",  "1"};
  words.insert(words.end(), flags.begin(), flags.end());
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

Outcome succeed(const Outcome& outcome) {
  CAPTURE(outcome.output);
  CAPTURE(outcome.errors);
  REQUIRE(outcome.exit_code == 0);
  return outcome;
}

void check_error(const Outcome& outcome, int exit_code, const std::string& expected) {
  CAPTURE(outcome.errors);
  CHECK(outcome.exit_code == exit_code);
  CHECK(outcome.errors.starts_with("cbtm: "));
  CHECK(std::count(outcome.errors.begin(), outcome.errors.end(), '\n') == 1);
  CHECK(outcome.errors.find(expected) != std::string::npos);
  CHECK(outcome.output.empty());
}

std::string file_contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace cbtm
