#include "commands/training_flags.h"

#include <algorithm>
#include <cmath>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/families.h"
#include "commands/expert_weights.h"
#include "commands/type_flags.h"

namespace cbtm {

double default_learning_rate(int64_t hidden_size) {
  return 6e-4 * std::pow(768.0 / static_cast<double>(hidden_size), 0.67);
}

namespace {

AverageSource average_source(const CommandLine& line) {
  AverageSource source;
  source.experts = std::make_shared<const ExpertSet>(ExpertSet::open({.experts = line.path("init-average")}));
  source.weights = expert_weights(line.text("expert-weights"), *source.experts);
  source.description = {{"weights", source.weights},
                        {"experts", averaged_experts_json(*source.experts, source.weights)}};
  return source;
}

}  // namespace

bool match_batch(const CommandLine& line) {
  const std::string match = line.text("match");
  if (match != "steps" && match != "batch") fail_usage("--match {}: use steps or batch", match);
  return match == "batch";
}

TrainingSettings sized_settings(const CommandLine& line, const ModelSpec& config, int64_t corpus_tokens,
                                int64_t batch_multiple) {
  constexpr int64_t kDefaultBatchTokens = 32'768;
  TrainingSettings s;
  s.sequence_length = line.integer("sequence", 8, config.embedding.max_length);
  if (line.given("batch-tokens")) {
    const int64_t tokens = line.integer("batch-tokens", 1);
    if (tokens % s.sequence_length != 0)
      fail_usage("--batch-tokens {} is not a multiple of --sequence {}", tokens, s.sequence_length);
    s.batch_sequences = tokens / s.sequence_length;
  } else {
    s.batch_sequences = std::max<int64_t>(1, kDefaultBatchTokens / s.sequence_length / batch_multiple) * batch_multiple;
  }
  const int64_t batch_tokens = s.batch_sequences * s.sequence_length;
  if (line.given("steps") && line.given("tokens")) fail_usage("--steps and --tokens say the same; give one of them");
  if (line.given("steps")) {
    s.steps = line.integer("steps", 0);
  } else {
    const int64_t tokens = line.given("tokens") ? line.integer("tokens", 1) : corpus_tokens;
    s.steps = std::max<int64_t>(1, tokens / batch_tokens);
  }
  s.dropout = dropout_flag(line);
  s.precision = precision_flag(line);
  s.seed = line.common().seed;
  if (line.given("micro-batch")) s.micro_batch_sequences = line.integer("micro-batch", 1);
  s.keep = line.integer("keep", 1, 1000);
  if (line.takes("snapshots")) s.snapshots = line.integer("snapshots", 0, 1000);
  s.memory_bytes = memory_flag(line);
  return s;
}

TrainingSettings dense_settings(const CommandLine& line, const ModelSpec& config, int64_t corpus_tokens,
                                int64_t batch_multiple) {
  TrainingSettings s = sized_settings(line, config, corpus_tokens, batch_multiple);
  s.learning_rate =
      line.given("learning-rate") ? line.number("learning-rate", 0, 10) : default_learning_rate(config.hidden_size);
  s.warmup_steps = line.integer("warmup", 0);
  s.final_learning_rate = line.number("final-learning-rate", 0, 1);
  s.weight_decay = line.number("weight-decay", 0, 10);
  s.clip_norm = line.number("clip", 0, 1e9);
  s.attention_within_document = line.get<bool>("attention-within-document");
  s.save_every = line.integer("save-every", 1);
  s.record_passes = !line.get<bool>("no-cuda-graph");
  if (line.given("validate-every")) s.validate_every = line.integer("validate-every", 1);
  return s;
}

TrainingSettings seed_settings(const CommandLine& line, const TrainingSettings& dense, const SeedSource& source,
                               int64_t corpus_tokens) {
  TrainingSettings seed = dense;
  seed.snapshots = 0;
  const int64_t batch = line.given("seed-batch-tokens") ? line.integer("seed-batch-tokens", dense.sequence_length)
                                                        : dense.batch_sequences * dense.sequence_length / 2;
  seed.batch_sequences = std::max<int64_t>(1, batch / dense.sequence_length);
  const int64_t tokens =
      line.given("seed-tokens") ? line.integer("seed-tokens", 0) : (source.init.empty() ? corpus_tokens / 2 : 0);
  seed.steps = tokens / (seed.batch_sequences * seed.sequence_length);
  seed.learning_rate = line.given("seed-learning-rate") ? line.number("seed-learning-rate", 0, 10)
                                                        : default_learning_rate(source_spec(source).hidden_size);
  seed.warmup_steps = std::max(dense.warmup_steps, seed.steps / 20);
  return seed;
}

SeedSource seed_source(const CommandLine& line, int64_t vocab_size) {
  const bool may_average = line.takes("init-average");
  int given = 0;
  for (const char* flag : {"preset", "config", "init"}) given += line.given(flag) ? 1 : 0;
  if (may_average && line.given("init-average")) ++given;
  if (given != 1)
    fail_usage("give one of --preset NAME, --config FILE{} and --init DIR: what the experts are to branch from",
               may_average ? ", --init-average DIR" : "");
  SeedSource source;
  if (may_average && line.given("init-average")) {
    source.average = average_source(line);
    return source;
  }
  if (may_average && line.given("expert-weights"))
    fail_usage("--expert-weights is of --init-average, which is not given");
  if (line.given("init")) {
    source.init = line.path("init");
    return source;
  }
  if (line.given("preset")) return preset_source(line.text("preset"), vocab_size);
  source.spec = read_model_spec(line.path("config"));
  return source;
}

SeedSource preset_source(const std::string& preset, int64_t vocab_size) {
  constexpr int64_t kVocabMultiple = 16;  // rows beyond the tokenizer's are never a target; they keep matrices aligned
  SeedSource source;
  source.spec = model_preset(preset);
  source.spec->embedding.vocab_size = round_up(vocab_size, kVocabMultiple);
  return source;
}

ModelSpec source_spec(const SeedSource& source) {
  if (source.average) return average_spec(*source.average);
  return source.is_new() ? *source.spec : ModelCheckpoint::open(source.init).spec();
}

}  // namespace cbtm
