#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "cbtm/accounting/run_cost.h"
#include "cbtm/base/content_hash.h"
#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"
#include "cbtm/base/json.h"
#include "cbtm/base/memory.h"
#include "cbtm/base/progress.h"
#include "cbtm/cluster/tfidf_router.h"
#include "cbtm/dataset/indexed_dataset.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/expert_card.h"
#include "cbtm/model/families.h"
#include "cbtm/prefix/prefix_router.h"
#include "cbtm/run/cluster_manifest.h"
#include "cbtm/run/stage_summary.h"
#include "cbtm/tensor_file/tensor_file.h"
#include "cbtm/tokenizer/tokenizer.h"
#include "commands/command_line.h"
#include "commands/commands.h"
#include "commands/print_results.h"
#include "commands/run_cost_text.h"

namespace cbtm {
namespace {

/// False too where a directory cannot be looked into: what is read then says why.
bool is_there(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

Json inspect_file(const std::filesystem::path& path) {
  const TensorFile file = TensorFile::open(path);
  Json tensors = Json::array();
  for (const StoredTensor& tensor : file.tensors()) {
    std::string shape;
    for (const int64_t extent : tensor.shape) shape += (shape.empty() ? "" : " x ") + std::to_string(extent);
    fmt::print("{:<5} {:<20} {}\n", tensor.type_name(), shape.empty() ? "scalar" : shape, shown_text(tensor.name));
    tensors.push_back({{"name", tensor.name}, {"dtype", tensor.type_name()}, {"shape", tensor.shape}});
  }
  for (const auto& [name, reason] : file.unreadable())
    fmt::print("{:<26} {}: {}\n", "not read", shown_text(name), reason);
  return {{"kind", "tensors"}, {"tensors", tensors}};
}

/// Says what of the weights is not finite; gives the number of such values.
int64_t print_health(const std::vector<BrokenTensor>& broken) {
  constexpr size_t kShown = 5;
  int64_t count = 0;
  for (const BrokenTensor& tensor : broken) count += tensor.count;
  fmt::print("health: {}\n", count == 0 ? "all values finite" : fmt::format("{} values are not finite", count));
  for (size_t i = 0; i < std::min(kShown, broken.size()); ++i)
    fmt::print("  {}: {}, the first at index {}\n", broken[i].name, broken[i].count, broken[i].first);
  if (broken.size() > kShown) fmt::print("  and {} more tensors\n", broken.size() - kShown);
  return count;
}

/// What is said of something that was not verified, if it holds no hash.
std::string unverified(const char* without_hash) {
  return content_verification() ? without_hash : "not compared (--no-verify)";
}

std::string card_line(const JsonReader& card) {
  const Json none = Json::object();
  const JsonReader training = card.has("training") ? card.object("training") : JsonReader(none, "");
  return fmt::format("{} {}: {} tokens in {} steps, loss {:.4f}, held out {:.4f}\n",
                     shown_text(card.text_or("kind", "model")),
                     card.has("cluster") ? fmt::format("of cluster {}", card.integer("cluster", 0)) : "",
                     training.integer_or("tokens", 0, 0), training.integer_or("steps", 0, 0),
                     training.number_or("loss", 0.0), training.number_or("held_out_loss", 0.0));
}

Json inspect_checkpoint(const std::filesystem::path& path) {
  const ModelCheckpoint checkpoint = ModelCheckpoint::open(path, ValueCheck::none);
  Json card;
  std::string line;
  bool card_verified = false;
  if (const std::filesystem::path file = path / "expert.json"; is_there(file)) {
    card = read_json_file(file);
    card_verified = verify_expert_card(card, file);
    line = card_line(JsonReader(card, file.string(), "the model can be used without this file, or trained again"));
  }
  const ModelSpec& c = checkpoint.spec();
  fmt::print(
      "{} model: {} parameters{} ({}), {} layers, hidden size {}, {} heads, feed-forward {}, vocabulary {}, {} "
      "positions, {}\n",
      family_title(c), format_count(checkpoint.layout().parameter_count()),
      c.has_mixtures()
          ? fmt::format(", {} of them active for a token", format_count(checkpoint.layout().active_parameter_count()))
          : "",
      dtype_name(checkpoint.stored_dtype()), c.layers(), c.hidden_size, c.block(0).attention.heads,
      c.block(0).feed_forward.width, c.embedding.vocab_size, c.embedding.max_length,
      c.pre_norm() ? "pre-norm" : "post-norm");
  if (c.has_mixtures())
    fmt::print("mixtures of {} experts in the layers {}\n", c.experts(), fmt::join(c.mixture_layers(), ", "));
  const std::vector<BrokenTensor> broken = checkpoint.broken_tensors();
  Json tensors = Json::array();
  for (const BrokenTensor& tensor : broken)
    tensors.push_back({{"name", tensor.name}, {"count", tensor.count}, {"first", tensor.first}});
  Json json = {{"kind", "checkpoint"},
               {"parameters", checkpoint.layout().parameter_count()},
               {"active_parameters", checkpoint.layout().active_parameter_count()},
               {"dtype", dtype_name(checkpoint.stored_dtype())},
               {"config", model_config_json(c, dtype_name(checkpoint.stored_dtype()))},
               {"values_not_finite", print_health(broken)},
               {"tensors_not_finite", tensors}};
  if (!card.is_null()) json["expert"] = card;
  const bool verified = checkpoint.verify();
  json["verified"] = verified;
  fmt::print("content hashes: {}\n",
             verified ? "verified" : unverified("none recorded, so the weights are not verified"));
  if (!card.is_null()) {
    json["card_verified"] = card_verified;
    if (!card_verified) fmt::print("expert.json: {}\n", unverified("holds no hash of itself, so it is not verified"));
  }
  fmt::print("{}", line);
  return json;
}

Json inspect_prefix_router(const std::filesystem::path& path) {
  const std::unique_ptr<PrefixRouter> router = PrefixRouter::load(path, nullptr);
  const int64_t parameters = ParameterLayout(router->model_spec()).parameter_count();
  fmt::print("router: prefix, {} clusters, {} tokens of a text, models of {} parameters, temperature {}, hash {}\n",
             router->clusters(), router->prefix_tokens(), format_count(parameters), router->defaults().temperature,
             router->content_hash());
  return {{"kind", "router"},
          {"router", router->kind()},
          {"clusters", router->clusters()},
          {"prefix_tokens", router->prefix_tokens()},
          {"parameters", parameters},
          {"temperature", router->defaults().temperature},
          {"content_hash", router->content_hash()}};
}

Json inspect_router(const std::filesystem::path& path) {
  if (const Json json = read_json_file(path / "router.json");
      json.is_object() && json.value("kind", Json()) == PrefixRouter::kKind)
    return inspect_prefix_router(path);
  const TfidfRouter router = TfidfRouter::load(path);
  const TfidfRouter::Parts& p = router.parts();
  const Mixture& defaults = router.defaults();
  fmt::print("router: {} clusters, {} terms, {} dimensions, temperature {}, distance power {}, hash {}\n", p.clusters,
             format_count(static_cast<int64_t>(p.vocabulary.size())), p.dimensions, defaults.temperature,
             defaults.distance_power, router.content_hash());
  for (size_t j = 0; j < p.top_terms.size(); ++j) {
    fmt::print("{}", RunDirectory::cluster_name(static_cast<int64_t>(j)));
    for (const std::string& term : p.top_terms[j]) fmt::print(" {}", term);
    fmt::print("\n");
  }
  return {{"kind", "router"},
          {"clusters", p.clusters},
          {"terms", p.vocabulary.size()},
          {"dimensions", p.dimensions},
          {"temperature", defaults.temperature},
          {"distance_power", defaults.distance_power},
          {"content_hash", router.content_hash()},
          {"top_terms", p.top_terms}};
}

Json inspect_dataset(const std::filesystem::path& prefix) {
  const IndexedDataset dataset(prefix);
  int64_t longest = 0;
  for (int64_t s = 0; s < dataset.sequences(); ++s) longest = std::max(longest, dataset.length(s));
  fmt::print("{}: {} documents, {} tokens, longest {}\n", prefix.filename().string(), format_count(dataset.sequences()),
             format_count(dataset.tokens()), format_count(longest));
  return {{"kind", "dataset"}, {"documents", dataset.sequences()}, {"tokens", dataset.tokens()}, {"longest", longest}};
}

Json inspect_shard(const std::filesystem::path& path) {
  Json json = {{"kind", "shard"}};
  for (const char* split : {"train", "valid", "tune"})
    if (is_there(path / (std::string(split) + ".idx"))) json[split] = inspect_dataset(path / split);
  return json;
}

Json inspect_tokenizer(const std::filesystem::path& path) {
  const Tokenizer tokenizer = Tokenizer::load(path);
  fmt::print("tokenizer: {} tokens, bos {}, eos {}, pad {}, hash {}\n", format_count(tokenizer.vocab_size()),
             tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id(), tokenizer.content_hash());
  return {{"kind", "tokenizer"},          {"vocab_size", tokenizer.vocab_size()},
          {"bos_id", tokenizer.bos_id()}, {"eos_id", tokenizer.eos_id()},
          {"pad_id", tokenizer.pad_id()}, {"content_hash", tokenizer.content_hash()}};
}

Json inspect_run(const std::filesystem::path& path) {
  const RunDirectory run(path);
  const Json json = read_json_file(run.run_json());
  const RunSummary summary = parse_run_summary(json, run.run_json().string());
  const auto shown = [](const std::string& text) { return text.empty() ? "?" : shown_text(text); };
  std::string text = fmt::format("run of cbtm {}\n", shown(summary.version));
  for (const StageSummary& stage : summary.stages)
    text += fmt::format("  {:<14} finished {}, {}\n", shown_text(stage.name), shown(stage.finished),
                        format_duration(stage.seconds));
  std::optional<ClusterManifest> clusters;
  if (is_there(run.clusters_json()))
    clusters = parse_cluster_manifest(read_json_file(run.clusters_json()), run.clusters_json().string());
  std::optional<ModelSpec> model;
  if (holds_model(run.seed())) model = read_model_spec(model_config_file(run.seed()));
  const RunCost cost = run_cost(summary, model);
  const std::vector<int64_t> devices = doubling_devices(clusters ? std::max<int64_t>(1, clusters->clusters) : 1);
  text += run_cost_text(cost, devices);
  fmt::print("{}", text);
  if (clusters) print_clusters(*clusters);
  return {{"kind", "run"}, {"run", json}, {"cost", run_cost_json(cost, devices)}};
}

Json inspect_experts(const std::filesystem::path& path) {
  Json experts = Json::object();
  std::vector<std::filesystem::path> directories;
  std::error_code error;
  for (auto entry = std::filesystem::directory_iterator(path, error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
    if (holds_model(entry->path())) directories.push_back(entry->path());
  if (error) fail("{}: cannot be read: {}", path.string(), error.message());
  std::sort(directories.begin(), directories.end());
  for (const std::filesystem::path& directory : directories) {
    fmt::print("{}: ", directory.filename().string());
    experts[directory.filename().string()] = inspect_checkpoint(directory);
  }
  if (experts.empty())
    fail("{}: holds nothing that cbtm knows (a run, router, shard, tokenizer, checkpoint or experts)", path.string());
  return {{"kind", "experts"}, {"experts", experts}};
}

Json inspect(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_type type = std::filesystem::status(path, error).type();
  if (type == std::filesystem::file_type::not_found) {
    if (is_there(path.string() + ".idx")) return inspect_dataset(path);
    fail("{}: there is no such file or directory", path.string());
  }
  if (type == std::filesystem::file_type::none) fail("{}: cannot be read: {}", path.string(), error.message());
  if (type != std::filesystem::file_type::directory) {
    if (path.extension() == ".idx" ||
        (path.extension() == ".bin" && is_there(std::filesystem::path(path).replace_extension(".idx"))))
      return inspect_dataset(std::filesystem::path(path).replace_extension());
    return inspect_file(path);
  }
  if (is_there(path / "run.json")) return inspect_run(path);
  if (is_there(path / "router.json")) return inspect_router(path);
  if (holds_model(path)) return inspect_checkpoint(path);
  if (Tokenizer::is_in(path)) return inspect_tokenizer(path);
  if (is_there(path / "train.idx")) return inspect_shard(path);
  return inspect_experts(path);
}

}  // namespace

int run_inspect(int argc, char** argv) {
  CommandLine line("inspect", "say what a run, router, shard, tokenizer or checkpoint holds",
                   {"cbtm inspect run/", "cbtm inspect run/router", "cbtm inspect pytorch_model.bin"});
  if (!line.parse(argc, argv)) return kExitSuccess;
  line.write_json(inspect(line.path("path")));
  return kExitSuccess;
}

}  // namespace cbtm
