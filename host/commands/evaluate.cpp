#include <fmt/format.h>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/device/open_device.h"
#include "cbtm/model/checkpoint.h"
#include "commands/commands.h"
#include "commands/evaluation_flags.h"
#include "commands/model_tokenizer.h"
#include "commands/type_flags.h"

namespace cbtm {

int run_evaluate(int argc, char** argv) {
  CommandLine line("evaluate", "perplexity of one model",
                   {"cbtm evaluate --model run/baseline --run run/ --split valid",
                    "cbtm evaluate --model opt-125m/ --corpus held-out.jsonl --json result.json"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  check_document_flags(line);
  const WeightFormat weights = weights_flag(line);
  install_stop_signals();
  const std::filesystem::path directory = line.path("model");
  ModelCheckpoint::open(directory);  // what is wrong with the files is said first
  const std::unique_ptr<Device> device = open_device(line.common().device, line.common().profile);
  const auto model = InferenceModel::load(*device, directory, weights);
  const Tokenizer tokenizer = Tokenizer::load(line.given("tokenizer") ? line.path("tokenizer") : directory);
  const std::optional<ExpertCard> card = read_expert_card(directory);
  check_tokenizer(directory, card, tokenizer);
  int64_t length = model->max_length();
  if (card) length = std::min(length, card->sequence_length(length));
  if (line.given("max-tokens")) length = line.integer("max-tokens", 1, model->max_length());
  Json described;
  const auto documents = documents_of(line, tokenizer, {}, described);
  const Evaluation evaluation = evaluate_model(*model, documents, length);
  const Score& score = evaluation.scores.front();
  fmt::print("perplexity {:.4f} over {} tokens of {} documents, in {:.1f} s\n", score.perplexity(),
             format_count(score.tokens), format_count(static_cast<int64_t>(documents.size())), evaluation.seconds);
  warn_of_lost_files(described.value("read", Json()));
  line.write_json(evaluation_json(evaluation_result(
      evaluation, {{"model", directory.string()}, {"max_tokens", length}, {"weights", weight_format_name(weights)}},
      described)));
  return kExitSuccess;
}

}  // namespace cbtm
