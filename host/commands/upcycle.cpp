#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/expert_card.h"
#include "cbtm/tokenizer/tokenizer.h"
#include "commands/commands.h"
#include "commands/mixture_flags.h"

namespace cbtm {
namespace {

constexpr const char* kUpcycled = "upcycled";

/// What the mixture says of itself: what the dense model's card says of its training, if it has one.
ExpertCard card_of(const std::filesystem::path& dense, const ModelCheckpoint& checkpoint, const Upcycling& upcycling,
                   const std::string& command) {
  const std::optional<ExpertCard> source = read_expert_card(dense);
  ExpertCard card{.kind = kUpcycled, .settings = Json::object(), .command = command};
  if (source) {
    card.settings = source->settings;
    card.tokenizer_hash = source->tokenizer_hash;
  }
  card.settings["mixture"] = upcycling_json(upcycling);
  card.seed_hash = checkpoint.weights_hash();
  card.inputs = {{"model", card.seed_hash}};
  return card;
}

/// Throws Error if DIR holds something that is not an upcycled model.
void check_output(const std::filesystem::path& out) {
  check_replaceable(out);
  std::error_code error;
  if (!std::filesystem::exists(out, error) || std::filesystem::is_empty(out, error)) return;
  const std::optional<ExpertCard> card = read_expert_card(out);
  if (!card || card->kind != kUpcycled)
    fail("{}: holds another result of cbtm, not an upcycled model; name another directory", out.string());
}

}  // namespace

int run_upcycle(int argc, char** argv) {
  CommandLine line("upcycle", "make a mixture of experts of a dense model, by sparse upcycling",
                   {"cbtm upcycle --model run/seed --moe-experts 8 --out run-moe/start",
                    "cbtm upcycle --model opt-125m/ --moe-experts 32 --moe-layers all --router-init normal --out moe/",
                    "(each expert begins as a copy of the layer's feed-forward; cbtm train_expert --moe trains one)"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  for (const char* flag : {"model", "out"})
    if (!line.given(flag)) fail_usage("upcycle: give --{} DIR", flag);
  const std::filesystem::path model = line.path("model"), out = line.path("out");
  check_output(out);
  const ModelCheckpoint checkpoint = ModelCheckpoint::open(model);
  const ModelSpec& dense = checkpoint.spec();
  if (dense.has_mixtures())
    fail("{}: is a mixture of experts already; give the dense model that it was made from", model.string());
  const Upcycling upcycling = upcycling_flags(line, dense);
  const ModelSpec spec = upcycled_spec(dense, upcycling);
  const ParameterLayout layout(spec);
  std::vector<float> parameters(static_cast<size_t>(checkpoint.layout().flat_size()));
  checkpoint.read_parameters(DType::f32, parameters.data());
  std::vector<float> mixture(static_cast<size_t>(layout.flat_size()));
  upcycle_parameters(dense, upcycling, parameters, mixture);
  parameters = {};

  ExpertCard card = card_of(model, checkpoint, upcycling, line.as_typed());
  card.weights_hash = weights_hash(spec, mixture);
  AtomicDirectory output(out);
  write_model_checkpoint(output.path(), spec, mixture);
  if (Tokenizer::is_in(model)) Tokenizer::load(model).save(output.path());
  write_expert_card(output.path(), card);
  output.commit();
  fmt::print("{}: {} experts in each of the layers {}: {} parameters, {} of them active for a token\n", out.string(),
             upcycling.experts, fmt::join(upcycling.layers, ", "), format_count(layout.parameter_count()),
             format_count(layout.active_parameter_count()));
  line.write_json({{"out", out.string()},
                   {"parameters", layout.parameter_count()},
                   {"active_parameters", layout.active_parameter_count()},
                   {"weights_hash", card.weights_hash},
                   {"mixture", upcycling_json(upcycling)}});
  return kExitSuccess;
}

}  // namespace cbtm
