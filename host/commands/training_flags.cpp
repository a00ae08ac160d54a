#include "commands/training_flags.h"

#include <algorithm>
#include <cmath>

#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/families.h"

namespace cbtm {

double default_learning_rate(int64_t hidden_size) {
  return 6e-4 * std::pow(768.0 / static_cast<double>(hidden_size), 0.67);
}

void add_training_flags(CommandLine& line) {
  line.group("Training")("steps", "optimizer steps", integer_flag(), "N")(
      "tokens", "of the dense model, instead of --steps (default: once over the corpus); experts share them",
      integer_flag(),
      "N")("batch-tokens", "tokens of one step of the dense model (default about 32768)", integer_flag(), "N")(
      "micro-batch",
      "sequences at a time; changes memory and speed, the result by the rounding of sums only (default: about 4096 "
      "tokens)",
      integer_flag(), "N")("sequence", "tokens of a training sequence", integer_flag(256), "N")(
      "learning-rate", "peak (default: by the model's width)", number_flag(), "R")("warmup", "steps of linear warm-up",
                                                                                   integer_flag(0), "N")(
      "final-learning-rate", "fraction of the peak that the linear decay ends at", number_flag("0"), "P")(
      "dropout", "of attention probabilities and residual branches", number_flag("0.1"), "P")(
      "weight-decay", "of matrices", number_flag("0"), "R")(
      "clip", "gradient norm above which gradients are scaled down; 0 is never", number_flag("1"), "R")(
      "attention-within-document", "tokens see only their own document", switch_flag())(
      "save-every", "steps between saved states", integer_flag(200), "N")("keep", "saved states to keep",
                                                                          integer_flag(2), "N")(
      "validate-every", "steps between held-out losses (default: ten times a run)", integer_flag(), "N")(
      "snapshots", "models kept along the way, in RUN/snapshots: what the report draws gain against budget from",
      integer_flag(0),
      "N")("precision", "of activations and working weights: float32, bf16, fp16 or auto (bf16 on a GPU that has it)",
           text_flag("auto"),
           "TYPE")("memory", "memory that may be used, for example 8G (default: what is free)", text_flag(), "SIZE")(
      "no-cuda-graph", "launch a step's kernels one by one (same results; on a GPU only, for debugging and profiling)",
      switch_flag())("redo", "train again what was trained with other settings", switch_flag());
}

void add_match_flag(CommandLine& line) {
  line.group("Training")(
      "match",
      "equal compute by: steps (an expert takes as many steps with 1/k of the batch) or batch (1/k of the steps)",
      text_flag("steps"), "WHAT");
}

void add_model_source_flags(CommandLine& line) {
  line.group("Model")("preset", "a new model: nano, micro, mini, small, 125m ... 175b", text_flag(), "NAME")(
      "config", "a new model of this config.json's shape", text_flag(), "FILE")(
      "init", "start from this OPT checkpoint", text_flag(), "DIR");
}

bool match_batch(const CommandLine& line) {
  const std::string match = line.text("match");
  if (match != "steps" && match != "batch") fail_usage("--match {}: use steps or batch", match);
  return match == "batch";
}

TrainingSettings dense_settings(const CommandLine& line, const ModelSpec& config, int64_t corpus_tokens,
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
  s.learning_rate =
      line.given("learning-rate") ? line.number("learning-rate", 0, 10) : default_learning_rate(config.hidden_size);
  s.warmup_steps = line.integer("warmup", 0);
  s.final_learning_rate = line.number("final-learning-rate", 0, 1);
  s.dropout = line.number("dropout", 0, 0.99);
  s.weight_decay = line.number("weight-decay", 0, 10);
  s.clip_norm = line.number("clip", 0, 1e9);
  s.attention_within_document = line.get<bool>("attention-within-document");
  s.precision = line.text("precision");
  s.seed = line.common().seed;
  if (line.given("micro-batch")) s.micro_batch_sequences = line.integer("micro-batch", 1);
  s.save_every = line.integer("save-every", 1);
  s.record_passes = !line.get<bool>("no-cuda-graph");
  s.keep = line.integer("keep", 1, 1000);
  if (line.given("validate-every")) s.validate_every = line.integer("validate-every", 1);
  s.snapshots = line.integer("snapshots", 0, 1000);
  if (line.given("memory")) s.memory_bytes = parse_bytes(line.text("memory"), "--memory");
  return s;
}

SeedSource seed_source(const CommandLine& line, int64_t vocab_size) {
  const int given = (line.given("preset") ? 1 : 0) + (line.given("config") ? 1 : 0) + (line.given("init") ? 1 : 0);
  if (given != 1)
    fail_usage("give one of --preset NAME, --config FILE and --init DIR: what the experts are to branch from");
  SeedSource source;
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
  source.spec->embedding.vocab_size = (vocab_size + kVocabMultiple - 1) / kVocabMultiple * kVocabMultiple;
  return source;
}

ModelSpec source_spec(const SeedSource& source) {
  return source.init.empty() ? *source.spec : ModelCheckpoint::open(source.init).spec();
}

}  // namespace cbtm
