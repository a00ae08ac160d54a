// Experts beside a router and a tokenizer that are as they should be: expert.json and config.json of each. The router's
// and the tokenizer's hashes stand for "ROUTER_HASH" and "TOKENIZER_HASH" in the input.

#include "cbtm/cluster/open_router.h"
#include "cbtm/cluster/tfidf_router.h"
#include "cbtm/ensemble/expert_set.h"
#include "cbtm/tokenizer/trainer.h"
#include "tests/fuzz/input_files.h"
#include "tests/fuzz/target.h"

namespace cbtm::fuzz {
namespace {

/// Two clusters and a vocabulary of bytes and special tokens.
class Surroundings {
 public:
  Surroundings() {
    TfidfRouter(TfidfRouter::Parts{.vocabulary = {"alpha", "beta"},
                                   .idf = {1, 2},
                                   .components = {1, 0, 0, 1},
                                   .centroids = {1, 0, 0, 1},
                                   .dimensions = 2,
                                   .clusters = 2})
        .save(files_ / "router");
    std::filesystem::create_directory(tokenizer());
    TokenizerTrainer().train({.vocab_size = 260}).save(tokenizer());
    router_hash_ = open_router(files_ / "router")->content_hash();
    tokenizer_hash_ = Tokenizer::load(files_ / "tokenizer").content_hash();
  }

  std::filesystem::path router() const { return files_ / "router"; }
  std::filesystem::path tokenizer() const { return files_ / "tokenizer"; }
  std::string with_hashes(std::string_view input) const {
    std::string text(input);
    replace(text, "TOKENIZER_HASH", tokenizer_hash_);
    replace(text, "ROUTER_HASH", router_hash_);
    return text;
  }

 private:
  static void replace(std::string& text, std::string_view what, const std::string& with) {
    for (size_t place = text.find(what); place != std::string::npos; place = text.find(what, place + with.size()))
      text.replace(place, what.size(), with);
  }

  InputFiles files_;
  std::string router_hash_, tokenizer_hash_;
};

void read(std::string_view input) {
  static const Surroundings surroundings;
  const InputFiles files(surroundings.with_hashes(input),
                         {"000/config.json", "000/expert.json", "001/config.json", "001/expert.json", "1/config.json",
                          "first/config.json", "second/config.json", "second/expert.json"});
  const ExpertSet experts = ExpertSet::open(
      {.experts = files.path(), .router = surroundings.router(), .tokenizer = surroundings.tokenizer(), .run = {}});
  experts.vocab_size();
  experts.trained_length();
}

const Registration kRegistration{{"ensemble", read}};

}  // namespace
}  // namespace cbtm::fuzz
