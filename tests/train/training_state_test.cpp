// What a training leaves behind to go on from, and what it does when that is damaged or belongs to something else.

#include <doctest/doctest.h>

#include <fstream>
#include <functional>
#include <iterator>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/tensor_file/tensor_file.h"
#include "tests/train/tiny_training.h"
#include "train/metrics_log.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> states(const TinyTraining& tiny) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(tiny.job.work_directory))
    if (entry.path().filename().string().starts_with("state")) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

fs::path newest(const TinyTraining& tiny) { return tiny.job.work_directory / states(tiny).back(); }

void damage(const fs::path& path, int64_t offset_from_end) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekg(-offset_from_end, std::ios::end);
  const auto byte = static_cast<char>(file.get() ^ 0x10);
  file.seekp(-offset_from_end, std::ios::end);
  file.put(byte);
}

/// Writes the state again with another text of counters and the hash that fits it.
void change_text(const fs::path& path, const std::function<std::string(Json)>& changed) {
  const TensorFile file = TensorFile::open(path);
  const std::string text = changed(Json::parse(file.metadata().at("training")));
  std::vector<OutputTensor> tensors;
  StreamingHash hash;
  for (const char* name : {"weights", "first_moments", "second_moments"}) {
    const StoredTensor& tensor = file.at(name);
    tensors.push_back({name, tensor.type, tensor.shape, tensor.data});
    hash.update(tensor.data, static_cast<size_t>(tensor.size()) * 4);
  }
  hash.update(text);
  write_safetensors(path, tensors, {{"training", text}, {"hash", hash.hex()}});
}

/// A state as a cbtm before that counter would have written it.
void drop_counter(const fs::path& path, const char* key) {
  change_text(path, [&](Json json) {
    json.erase(key);
    return json.dump();
  });
}

void set_counter(const fs::path& path, const char* key, const Json& value) {
  change_text(path, [&](Json json) {
    json[key] = value;
    return json.dump();
  });
}

/// A finished training whose states are still there: training again goes on from the newest good one.
struct Finished : TinyTraining {
  Finished() {
    settings.keep = 2;
    result = train(test_device());
  }
  TrainingResult result;
};

void check_same(const TrainingResult& again, const TrainingResult& first) {
  CHECK(again.parameters == first.parameters);
  CHECK(again.steps == first.steps);
  CHECK(again.tokens == first.tokens);
  CHECK(again.loss == first.loss);
  CHECK(again.validation_loss == first.validation_loss);
}

TEST_CASE("as many states as asked for are kept") {
  const Finished tiny;
  CHECK(states(tiny) == std::vector<std::string>{"state-00000004.safetensors", "state-00000006.safetensors"});
}

TEST_CASE("a finished or half-finished training gives the same weights, losses and metrics again") {
  Finished tiny;
  const auto metrics = [&] {
    std::vector<Json> lines = tiny.step_metrics();
    for (Json& line : lines)
      for (const char* timing : {"tokens_per_second", "fraction_of_peak"}) line.erase(timing);
    return lines;
  };
  const std::vector<Json> first = metrics();
  SUBCASE("killed after the last step") {}
  SUBCASE("killed two steps before, with half a line of metrics") {
    fs::remove(newest(tiny));
    std::ofstream(tiny.job.work_directory / "metrics.jsonl", std::ios::app) << "{\"step\": 7, \"to";
  }
  SUBCASE("the newest state was cut short") { fs::resize_file(newest(tiny), fs::file_size(newest(tiny)) / 2); }
  SUBCASE("the newest state is empty") { fs::resize_file(newest(tiny), 0); }
  SUBCASE("a bit of a weight was flipped") { damage(newest(tiny), 4000); }
  SUBCASE("a bit of the header was flipped") {
    damage(newest(tiny), static_cast<int64_t>(fs::file_size(newest(tiny))) - 200);
  }
  SUBCASE("the newest state lacks what an older cbtm did not count") { drop_counter(newest(tiny), "loss_scale"); }
  SUBCASE("the newest state's counters are no JSON") {
    change_text(newest(tiny), [](const Json&) { return "{\"step\": 6"; });
  }
  SUBCASE("the newest state's counters are a number too large") {
    change_text(newest(tiny), [](const Json&) { return "1e999"; });
  }
  SUBCASE("the newest state's counters are a list") {
    change_text(newest(tiny), [](const Json&) { return "[6]"; });
  }
  SUBCASE("the newest state's step is a word") { set_counter(newest(tiny), "step", "six"); }
  SUBCASE("the newest state's step is negative") { set_counter(newest(tiny), "step", -6); }
  SUBCASE("the newest state's step is not whole") { set_counter(newest(tiny), "step", 1e300); }
  SUBCASE("the newest state's step is above 2^63") { set_counter(newest(tiny), "step", uint64_t{1} << 63); }
  SUBCASE("the newest state's seconds are null") { set_counter(newest(tiny), "seconds", nullptr); }
  SUBCASE("the newest state's loss scale is zero") { set_counter(newest(tiny), "loss_scale", 0); }
  SUBCASE("both states are damaged") {
    damage(newest(tiny), 4000);
    damage(tiny.job.work_directory / states(tiny).front(), 5000);
  }
  check_same(tiny.train(test_device()), tiny.result);
  CHECK(metrics() == first);
}

TEST_CASE("what a killed save left half-written is removed") {
  Finished tiny;
  const fs::path partial = tiny.job.work_directory / "state-00000006.safetensors.partial-4711";
  std::ofstream(partial) << "half";
  check_same(tiny.train(test_device()), tiny.result);
  CHECK_FALSE(fs::exists(partial));
}

TEST_CASE("a directory that bears the name of an unfinished file is nobody's to remove") {
  Finished tiny;
  const fs::path directory = tiny.job.work_directory / "notes.partial-1";
  fs::create_directory(directory);
  write_file_atomically(directory / "mine", "text");
  check_same(tiny.train(test_device()), tiny.result);
  CHECK(fs::exists(directory / "mine"));
}

TEST_CASE("metrics that cannot be read are named and left, instead of written anew") {
  Finished tiny;
  const fs::path metrics = tiny.job.work_directory / "metrics.jsonl";
  fs::remove(metrics);
  fs::create_directory(metrics);
  CHECK_THROWS_WITH_AS(tiny.train(test_device()), doctest::Contains("metrics.jsonl"), Error);
  CHECK(fs::is_directory(metrics));
}

TEST_CASE("lines of metrics that no step can have are dropped, the others are kept byte by byte") {
  const TemporaryDirectory directory;
  const fs::path path = directory / "metrics.jsonl";
  const std::string good = "{\"step\": 1,  \"loss\": 2.50}\n";
  const std::string deep = "{\"step\": 2, \"x\": " + std::string(100'000, '[') + std::string(100'000, ']') + "}\n";
  std::ofstream(path) << "[1]\n" + good + "{\"step\": 9223372036854775808}\n{\"step\": -1}\n{\"step\": 1.5}\n" + deep +
                             "{\"step\": 3}\n{\"step\": 2, \"lo";
  MetricsLog log(path, /*last_step=*/2);
  CHECK(log.earlier().size() == 2);
  std::ifstream file(path);
  CHECK(std::string(std::istreambuf_iterator<char>(file), {}) == good + deep);
}

TEST_CASE("a state of other settings or another start is refused in words, and kept") {
  Finished tiny;
  const auto refusal = [&] {
    try {
      tiny.train(test_device());
      return std::string();
    } catch (const Error& error) {
      CHECK(error.exit_code() == kExitUsage);
      return std::string(error.what());
    }
  };
  const std::vector<std::string> before = states(tiny);
  tiny.settings.learning_rate = 2e-2;
  CHECK(refusal().find("learning_rate was 0.01, is 0.02") != std::string::npos);
  CHECK(refusal().find("--redo") != std::string::npos);
  CHECK(refusal().find("warmup") == std::string::npos);
  tiny.settings.learning_rate = 1e-2;
  tiny.job.identity["shard"] = "another";
  CHECK(refusal().find("shard") != std::string::npos);
  CHECK(states(tiny) == before);
  tiny.job.identity["shard"] = "hash of the shard";
  tiny.settings.save_every = 3;  // changes no result
  CHECK(refusal().empty());
}

TEST_CASE("a state of the same settings is kept for going on, one of others can be dropped") {
  Finished tiny;
  const std::vector<std::string> before = states(tiny);
  Device* const devices[] = {&test_device()};
  forget_other_training_state(devices, tiny.job, tiny.settings);
  CHECK(states(tiny) == before);
  tiny.settings.seed += 1;
  forget_other_training_state(devices, tiny.job, tiny.settings);
  CHECK_FALSE(fs::exists(tiny.job.work_directory));
}

TEST_CASE("a work directory that cannot be made or written is named") {
  TinyTraining tiny;
  write_file_atomically(tiny.directory / "file", "");
  tiny.job.work_directory = tiny.directory / "file/below";
  CHECK_THROWS_WITH_AS(tiny.train(test_device()), doctest::Contains("file/below: cannot create the directory"), Error);
}

}  // namespace
}  // namespace cbtm
