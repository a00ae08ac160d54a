#include "serve/catalog.h"

#include <chrono>

#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/model/families.h"
#include "cbtm/run/run_directory.h"

namespace cbtm {

std::string Catalog::expert_id(int64_t cluster) { return "expert-" + RunDirectory::cluster_name(cluster); }

const ServedModel* Catalog::find(const std::string& id) const {
  for (const ServedModel& model : models_)
    if (model.id == id) return &model;
  return nullptr;
}

std::shared_ptr<const Catalog> Catalog::open(const ServedFiles& files, std::shared_ptr<Device> device) {
  auto catalog = std::make_shared<Catalog>();
  catalog->device_ = std::move(device);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  catalog->created_ = std::chrono::duration_cast<std::chrono::seconds>(now).count();
  if (files.model.empty())
    catalog->add_experts(files);
  else
    catalog->add_model(files);
  return catalog;
}

void Catalog::add_experts(const ServedFiles& files) {
  experts_.emplace(ExpertSet::open({.experts = files.experts,
                                    .router = files.router,
                                    .tokenizer = files.tokenizer,
                                    .run = files.run,
                                    .weights = files.weights,
                                    .device = device_.get()}));
  vocab_size_ = experts_->vocab_size();
  max_length_ = experts_->max_length();
  const ModelSpec spec = read_model_spec(model_config_file(experts_->experts().front().directory));
  end_tokens_.assign(spec.eos_token_ids.begin(), spec.eos_token_ids.end());
  const Mixture& defaults = experts_->router().defaults();
  if (files.distance_power.value_or(2) != 2 && !experts_->router().takes_distance_power())
    fail_usage(
        "--distance-power {}: the experts' router is {}, whose weights are of likelihoods, not of a distance's "
        "power",
        *files.distance_power, experts_->router().kind());
  mixing_ = {{files.top_k > 0 ? std::min(files.top_k, experts_->router().clusters()) : experts_->router().clusters(),
              files.temperature.value_or(defaults.temperature), files.distance_power.value_or(defaults.distance_power)},
             files.routing,
             experts_->present()};
  models_.push_back({.id = files.alias.empty() ? "ensemble" : files.alias});
  for (const Expert& expert : experts_->experts())
    models_.push_back({expert_id(expert.cluster), ServedModel::Kind::expert, expert.cluster, expert.directory});
  std::filesystem::path experts = std::filesystem::absolute(files.experts).lexically_normal();
  if (!experts.has_filename()) experts = experts.parent_path();
  const RunDirectory run(files.run.empty() ? experts.parent_path() : files.run);
  add_single("seed", run.seed());
  add_single("baseline", run.baseline());
  add_single("moe", run.mixture());
}

/// Adds a model that lies beside the experts, if it is there and speaks their tokens.
void Catalog::add_single(const std::string& id, const std::filesystem::path& directory) {
  if (!holds_model(directory)) return;
  const std::optional<ExpertCard> card = read_expert_card(directory);
  const ModelSpec spec = read_model_spec(model_config_file(directory));
  if (spec.embedding.vocab_size != vocab_size_ || spec.embedding.max_length < max_length_ ||
      (card && !card->tokenizer_hash.empty() && card->tokenizer_hash != tokenizer().content_hash()))
    return warn(directory.string() + ": has another tokenizer or shape than the experts, so it is not served");
  models_.push_back({.id = id, .kind = ServedModel::Kind::single, .directory = directory});
}

void Catalog::add_model(const ServedFiles& files) {
  if (!holds_model(files.model)) fail("{}: holds no model (config.json)", files.model.string());
  const std::filesystem::path tokenizer = files.tokenizer.empty() ? files.model : files.tokenizer;
  if (!Tokenizer::is_in(tokenizer))
    fail("{}: holds no tokenizer, and texts cannot be served without one; give one with --tokenizer DIR",
         tokenizer.string());
  tokenizer_.emplace(Tokenizer::load(tokenizer));
  const std::optional<ExpertCard> card = read_expert_card(files.model);
  if (card && !card->tokenizer_hash.empty() && card->tokenizer_hash != tokenizer_->content_hash())
    fail("{}: was trained with another tokenizer than that of {}; give its own with --tokenizer DIR",
         files.model.string(), tokenizer.string());
  const ModelSpec spec = read_model_spec(model_config_file(files.model));
  vocab_size_ = spec.embedding.vocab_size;
  max_length_ = spec.embedding.max_length;
  if (vocab_size_ < tokenizer_->vocab_size())
    fail("{}: its vocabulary of {} is smaller than the tokenizer's of {}; give its own with --tokenizer DIR",
         files.model.string(), vocab_size_, tokenizer_->vocab_size());
  end_tokens_.assign(spec.eos_token_ids.begin(), spec.eos_token_ids.end());
  std::filesystem::path name = std::filesystem::absolute(files.model).lexically_normal();
  if (!name.has_filename()) name = name.parent_path();
  models_.push_back({.id = files.alias.empty() ? name.filename().string() : files.alias,
                     .kind = ServedModel::Kind::single,
                     .directory = files.model});
}

}  // namespace cbtm
