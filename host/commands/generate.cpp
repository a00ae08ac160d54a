#include <fmt/format.h>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/device/open_device.h"
#include "cbtm/ensemble/session.h"
#include "cbtm/model/checkpoint.h"
#include "commands/commands.h"
#include "commands/generation_flags.h"
#include "commands/model_tokenizer.h"
#include "commands/type_flags.h"

namespace cbtm {

int run_generate(int argc, char** argv) {
  CommandLine line(
      "generate", "generate with one model",
      {"cbtm generate --model run/baseline --prompt \"The state is\" --max-new-tokens 50 --temperature 0.8",
       "cbtm generate --model opt-125m/ --prompt-ids prompts.json --greedy --json out.json"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  const std::filesystem::path directory = line.path("model");
  const WeightFormat weights = weights_flag(line);
  GenerationOptions options = generation_options(line);
  std::optional<Tokenizer> tokenizer;
  if (line.given("tokenizer"))
    tokenizer = Tokenizer::load(line.path("tokenizer"));
  else if (Tokenizer::is_in(directory))
    tokenizer = Tokenizer::load(directory);
  const Tokenizer* known = tokenizer ? &*tokenizer : nullptr;
  if (known != nullptr) check_tokenizer(directory, read_expert_card(directory), *known);

  ModelCheckpoint::open(directory);  // what is wrong with the files is said first
  const std::unique_ptr<Device> device = open_device(line.common().device, line.common().profile);
  std::unique_ptr<InferenceModel> model = InferenceModel::load(*device, directory, weights);
  options.eos_ids.assign(model->end_tokens().begin(), model->end_tokens().end());
  const auto prompts = read_prompts(line, known);
  if (known == nullptr) say("no tokenizer: ids only");
  const auto scorer = model_scorer(std::move(model));
  const std::vector<Generated> results = generate(*scorer, known, prompts, options, text_printer(prompts.size()));
  print_texts(results, known);
  line.write_json(generation_json(results));
  check_finished(results);
  return kExitSuccess;
}

}  // namespace cbtm
