#include "tests/commands/recorded_bits.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "cbtm/base/hash.h"
#include "cbtm/base/json.h"
#include "tests/commands/process.h"
#include "tests/commands/tiny_run.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

using Words = std::vector<std::string>;

constexpr const char* kRecord = CBTM_TEST_DATA "/recorded_bits.json";

Words operator+(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

Json tiny_config(bool pre_norm, const std::string& activation, int64_t projection) {
  return {{"model_type", "opt"},
          {"vocab_size", 384},
          {"hidden_size", 32},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 2},
          {"ffn_dim", 64},
          {"max_position_embeddings", 64},
          {"word_embed_proj_dim", projection},
          {"do_layer_norm_before", pre_norm},
          {"activation_function", activation}};
}

/// The files below `directory` whose names end so, hashed together in the order of their names.
std::string hash_of_files(const fs::path& directory, const Words& ends) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory))
    if (std::any_of(ends.begin(), ends.end(),
                    [&](const std::string& end) { return entry.path().string().ends_with(end); }))
      files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  REQUIRE(!files.empty());
  std::string all;
  for (const fs::path& file : files) all += file.filename().string() + " " + hash_file_hex(file) + "\n";
  return hash_hex(all);
}

/// Every number of a result under these keys, in order.
void collect_numbers(const Json& json, const Words& keys, std::string& out) {
  for (const auto& [key, value] : json.items()) {
    const bool wanted = json.is_object() && std::find(keys.begin(), keys.end(), key) != keys.end();
    if (wanted && value.is_number()) out += key + " " + value.dump() + "\n";
    if (value.is_structured()) collect_numbers(value, keys, out);
  }
}

class Bits {
 public:
  explicit Bits(Words flags) : flags_(std::move(flags)) {}

  Outcome start(const Words& command) const { return succeed(run_cbtm(command + flags_, directory_.path())); }
  Json result(const Words& command) const {
    start(command + Words{"--json", "result.json"});
    return read_json_file(directory_ / "result.json");
  }
  void add(const std::string& name, const std::string& text) { hashes[name] = hash_hex(text); }
  fs::path operator/(const std::string& name) const { return directory_ / name; }

  /// Kills the training as soon as it has saved a state, and starts it again.
  void train_interrupted(const Words& command, const fs::path& model, const fs::path& states) const {
    bool resumed = false;
    for (int attempt = 0; attempt < 50 && !resumed; ++attempt) {
      fs::remove_all(directory_ / model);
      fs::remove_all(directory_ / states);
      {
        Process training(cbtm_command(command + flags_), directory_.path());
        while (!training.ended() && !fs::exists(directory_ / states / "state-00000002.safetensors"))
          std::this_thread::sleep_for(std::chrono::milliseconds(2));
        training.send(SIGKILL);
        training.wait();
      }
      resumed = start(command).errors.find("goes on after step") != std::string::npos;
    }
    REQUIRE(resumed);
  }

  std::map<std::string, std::string> hashes;

 private:
  Words flags_;
  TemporaryDirectory directory_;
};

}  // namespace

std::map<std::string, std::string> bits_of_a_run(const Words& flags, const Words& training_flags,
                                                 const Words& weights) {
  Bits bits(flags);
  std::ofstream(bits / "corpus.jsonl") << tiny_corpus(30);
  std::ofstream(bits / "model.json") << tiny_config(true, "relu", 32);
  std::ofstream(bits / "other.json") << tiny_config(false, "gelu", 16);
  bits.start(
      {"cluster", "--corpus", "corpus.jsonl", "--k", "3", "--dimensions", "8", "--vocab-size", "384", "--out", "run"});
  fs::copy(bits / "run", bits / "other", fs::copy_options::recursive);
  bits.hashes["router"] = hash_of_files(bits / "run/router", {".safetensors"});
  bits.hashes["shards"] = hash_of_files(bits / "run/shards", {".bin", ".idx", ".documents.jsonl"});

  const Words training = Words{"--sequence", "32",  "--batch-tokens", "192", "--learning-rate", "1e-2",
                               "--dropout",  "0.1", "--save-every",   "1"} +
                         training_flags;
  bits.start(Words{"train_seed", "--run", "run", "--config", "model.json", "--steps", "4"} + training);
  for (const char* shard : {"0", "2"})
    bits.start(Words{"train_expert", "--run", "run", "--shard", shard, "--steps", "4"} + training);
  bits.train_interrupted(Words{"train_expert", "--run", "run", "--shard", "1", "--steps", "40"} + training,
                         "run/experts/001", "run/training/expert-001");
  bits.start(Words{"train_seed", "--run", "other", "--config", "other.json", "--steps", "4"} + training);
  for (const char* model : {"run/seed", "run/experts/000", "run/experts/001", "run/experts/002", "other/seed"})
    bits.hashes[model] = hash_file_hex(bits / (std::string(model) + "/model.safetensors"));

  std::string numbers;
  const Words keys = {"perplexity", "loss", "log_probability"};
  collect_numbers(bits.result({"ensemble", "evaluate", "--experts", "run/experts", "--topk", "1,2", "--matrix"}), keys,
                  numbers);
  REQUIRE(std::count(numbers.begin(), numbers.end(), '\n') > 2);
  bits.add("ensemble evaluate", numbers);
  numbers.clear();
  collect_numbers(bits.result({"evaluate", "--run", "other", "--model", "other/seed"}), keys, numbers);
  REQUIRE(!numbers.empty());
  bits.add("evaluate", numbers);
  for (const std::string& type : weights) {
    const Words generation = {
        "--prompt", "comet orbit planet", "--max-new-tokens", "40", "--ignore-eos", "--seed", "5", "--weights", type};
    bits.add("ensemble generate " + type,
             bits.start(Words{"ensemble", "--experts", "run/experts"} + generation).output);
    bits.add("generate " + type, bits.start(Words{"generate", "--model", "other/seed"} + generation).output);
  }
  return bits.hashes;
}

void check_recorded_bits(const std::string& name, const std::map<std::string, std::string>& hashes) {
  Json record = fs::exists(kRecord) ? read_json_file(kRecord) : Json::object();
  if (std::getenv("CBTM_RECORD_BITS") != nullptr) {
    record[name] = hashes;
    std::ofstream(kRecord) << record.dump(2) << "\n";
    FAIL_CHECK("recorded; start the test again without CBTM_RECORD_BITS");
    return;
  }
  REQUIRE(record.contains(name));
  CHECK(record[name].size() == hashes.size());
  for (const auto& [artefact, hash] : hashes) {
    CAPTURE(artefact);
    CHECK(record[name].value(artefact, "") == hash);
  }
}

}  // namespace cbtm
