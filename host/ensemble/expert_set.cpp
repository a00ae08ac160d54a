#include "cbtm/ensemble/expert_set.h"

#include <algorithm>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/cluster/open_router.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/families.h"
#include "cbtm/prefix/prefix_router.h"

namespace cbtm {
namespace {

std::vector<Expert> find_experts(const std::filesystem::path& directory) {
  if (!std::filesystem::is_directory(directory)) fail("{}: there is no such directory of experts", directory.string());
  std::vector<std::filesystem::path> entries;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) entries.push_back(entry.path());
  for (std::filesystem::path& entry : entries)
    if (entry.extension() == ".previous") {  // set aside by a process that was killed before it put the new one there
      entry.replace_extension();
      recover_directory(entry);
    }
  std::sort(entries.begin(), entries.end());
  entries.erase(std::unique(entries.begin(), entries.end()), entries.end());
  std::vector<Expert> experts;
  for (const std::filesystem::path& entry : entries) {
    const std::string name = entry.filename().string();
    if (name == "router" || name == "tokenizer" || is_unfinished_output(entry)) continue;
    if (!holds_model(entry)) continue;
    Expert expert{.directory = entry, .card = read_expert_card(entry)};
    experts.push_back(std::move(expert));
  }
  if (experts.empty()) fail("{}: holds no experts (directories with config.json)", directory.string());
  return experts;
}

/// Gives every expert its cluster.
void assign_clusters(std::vector<Expert>& experts, const Router& router, const std::string& where) {
  const auto with_card =
      std::count_if(experts.begin(), experts.end(), [](const Expert& e) { return e.card.has_value(); });
  if (with_card != 0 && with_card != static_cast<int64_t>(experts.size()))
    fail("{}: some experts have an expert.json and some have not; keep the two kinds apart", where);
  if (with_card == 0) {
    const auto numeric = [](const Expert& e) {
      const std::string name = e.directory.filename().string();
      return name.size() < 10 && std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
    };
    if (std::all_of(experts.begin(), experts.end(), numeric)) {
      for (Expert& expert : experts) expert.cluster = std::stoll(expert.directory.filename().string());
      say(fmt::format("{}: plain OPT checkpoints; each counts as the expert of the cluster that its name says", where));
    } else {
      if (static_cast<int64_t>(experts.size()) != router.clusters())
        fail(
            "{}: holds {} plain OPT checkpoints, but the router has {} clusters; name them by their cluster (000, 001, "
            "...)",
            where, experts.size(), router.clusters());
      for (size_t i = 0; i < experts.size(); ++i) experts[i].cluster = static_cast<int64_t>(i);
      say(fmt::format("{}: plain OPT checkpoints; their names in sorted order count as clusters 0 to {}", where,
                      experts.size() - 1));
    }
  } else {
    for (Expert& expert : experts) {
      const std::string shown = (expert.directory / "expert.json").string();
      if (expert.card->cluster < 0) fail("{}: says no cluster; only experts belong here", shown);
      expert.cluster = expert.card->cluster;
      if (expert.card->router_hash != router.content_hash())
        fail("{}: was trained for another router ({}) than this one ({}); give the one it belongs to (--router)", shown,
             expert.card->router_hash, router.content_hash());
    }
  }
  std::vector<const Expert*> of_cluster(static_cast<size_t>(router.clusters()), nullptr);
  for (const Expert& expert : experts) {
    if (expert.cluster < 0 || expert.cluster >= router.clusters())
      fail("{}: is the expert of cluster {}, but the router has clusters 0 to {}", expert.directory.string(),
           expert.cluster, router.clusters() - 1);
    const Expert*& place = of_cluster[static_cast<size_t>(expert.cluster)];
    if (place != nullptr)
      fail("{} and {} are both the expert of cluster {}; remove one", place->directory.string(),
           expert.directory.string(), expert.cluster);
    place = &expert;
  }
}

/// The router in `directory`, of any kind. `device`: for its models.
std::unique_ptr<Router> open_any_router(const std::filesystem::path& directory, Device* device) {
  const RouterReader readers[] = {{PrefixRouter::kKind, [device](const std::filesystem::path& place) {
                                     return PrefixRouter::load(place, device);
                                   }}};
  return open_router(directory, readers);
}

/// The router in `directory`. If it is damaged, it is the experts' copy of their run's, and may be mended, it is put
/// there again from `original`.
std::unique_ptr<Router> load_router(const std::filesystem::path& directory, const std::filesystem::path& original,
                                    bool may_mend, Device* device) {
  try {
    return open_any_router(directory, device);
  } catch (const Error& error) {
    std::error_code ignored;
    if (!may_mend || !std::filesystem::exists(original / "router.json") ||
        std::filesystem::equivalent(directory, original, ignored))
      throw;
    open_any_router(original, nullptr)->save(directory);
    warn(fmt::format("{}; it is put there again from {}", error.what(), original.string()));
    return open_any_router(directory, device);
  }
}

}  // namespace

ExpertSet ExpertSet::open(const ExpertSetOptions& options) {
  ExpertSet set;
  set.weights_ = options.weights;
  set.experts_ = find_experts(options.experts);
  std::filesystem::path absolute = std::filesystem::absolute(options.experts).lexically_normal();
  if (!absolute.has_filename()) absolute = absolute.parent_path();
  std::vector<std::filesystem::path> runs = {absolute.parent_path()};
  if (!options.run.empty()) runs.push_back(options.run);
  const auto find = [&](std::vector<std::filesystem::path> candidates, const char* name, const auto& holds) {
    for (const std::filesystem::path& run : runs) candidates.push_back(run / name);
    const auto found = std::find_if(candidates.begin(), candidates.end(), holds);
    return found == candidates.end() ? std::filesystem::path() : *found;
  };
  const auto has_router = [](const std::filesystem::path& path) {
    return std::filesystem::exists(path / "router.json");
  };
  const std::filesystem::path router =
      !options.router.empty() ? options.router : find({options.experts / "router"}, "router", has_router);
  if (router.empty()) fail("{}: holds no router; give one with --router DIR", options.experts.string());
  set.router_ = load_router(router, absolute.parent_path() / "router", options.router.empty(), options.device);
  if (std::filesystem::exists(router / "tfidf/router.json")) {
    set.beside_ = open_router(router / "tfidf");
    if (set.beside_->clusters() != set.router_->clusters())
      fail("{}: has {} clusters, but the router that it lies in has {}; restore it, or cluster again with --redo",
           (router / "tfidf").string(), set.beside_->clusters(), set.router_->clusters());
  }
  assign_clusters(set.experts_, *set.router_, options.experts.string());
  const std::filesystem::path tokenizer =
      !options.tokenizer.empty()
          ? options.tokenizer
          : find({options.experts / "tokenizer", set.experts_.front().directory}, "tokenizer", Tokenizer::is_in);
  if (tokenizer.empty())
    fail("{}: no tokenizer was found there; give one with --tokenizer DIR", options.experts.string());
  set.tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::load(tokenizer));

  if (const std::string own = set.router_->tokenizer_hash(); !own.empty() && own != set.tokenizer_->content_hash())
    fail("{}: its models were made with another tokenizer than that of {}; give its own with --tokenizer DIR",
         router.string(), tokenizer.string());

  set.present_.assign(static_cast<size_t>(set.router_->clusters()), 0);
  for (const Expert& expert : set.experts_) {
    set.present_[static_cast<size_t>(expert.cluster)] = 1;
    const ModelSpec config = read_model_spec(model_config_file(expert.directory));
    const std::string where = model_config_file(expert.directory).string();
    if (set.vocab_size_ != 0 && config.embedding.vocab_size != set.vocab_size_)
      fail("{}: vocab_size is {}, but other experts' is {}; all must share one vocabulary", where,
           config.embedding.vocab_size, set.vocab_size_);
    set.vocab_size_ = config.embedding.vocab_size;
    if (config.embedding.vocab_size < set.tokenizer_->vocab_size())
      fail(
          "{}: vocab_size {} is smaller than the tokenizer's {}; give the tokenizer that belongs to the experts "
          "(--tokenizer)",
          where, config.embedding.vocab_size, set.tokenizer_->vocab_size());
    const auto shorter = [](int64_t& value, int64_t other) { value = value == 0 ? other : std::min(value, other); };
    shorter(set.max_length_, config.embedding.max_length);
    int64_t trained = config.embedding.max_length;
    if (expert.card) {
      if (expert.card->tokenizer_hash != set.tokenizer_->content_hash())
        fail("{}: was trained with another tokenizer than that of {}; give its own with --tokenizer DIR",
             expert.directory.string(), tokenizer.string());
      trained = std::min(trained, expert.card->sequence_length(trained));
    }
    shorter(set.trained_length_, trained);
  }
  if (static_cast<int64_t>(set.experts_.size()) < set.router_->clusters())
    say(fmt::format("{} of {} experts are present; weights are shared among those", set.experts_.size(),
                    set.router_->clusters()));
  return set;
}

const Router& ExpertSet::router_of(std::string_view kind) const {
  for (const Router* router : {router_.get(), beside_.get()})
    if (router != nullptr && router->kind() == kind) return *router;
  fail("--router {}: these experts have no such router; theirs is {}{}{}", kind, router_->kind(),
       beside_ != nullptr ? fmt::format(" (with {} beside it)", beside_->kind()) : "",
       fmt::format("; 'cbtm cluster --router {}' makes experts with one", kind));
}

const Expert& ExpertSet::expert_of(int64_t cluster) const {
  for (const Expert& expert : experts_)
    if (expert.cluster == cluster) return expert;
  CBTM_ASSERT(false, "only experts that are present are asked for");
  return experts_.front();
}

std::unique_ptr<InferenceModel> ExpertSet::load(Device& device, int64_t cluster,
                                                std::shared_ptr<ModelMemory> memory) const {
  return InferenceModel::load(device, expert_of(cluster).directory, weights_, std::move(memory));
}

std::vector<float> average_parameters(const ExpertSet& experts, const std::vector<double>& weights) {
  std::vector<double> sum;
  ModelSpec shape;
  for (const Expert& expert : experts.experts()) {
    const double weight = weights[static_cast<size_t>(expert.cluster)];
    if (weight == 0) continue;
    stop_if_requested("averaging experts");
    const ModelCheckpoint checkpoint = ModelCheckpoint::open(expert.directory);
    if (sum.empty()) {
      shape = checkpoint.spec();
      sum.assign(static_cast<size_t>(checkpoint.layout().flat_size()), 0.0);
    } else if (architecture_text(shape) != architecture_text(checkpoint.spec())) {
      fail("{}: has another architecture than the other experts (config.json), so they cannot be averaged",
           expert.directory.string());
    }
    std::vector<float> flat(sum.size());
    checkpoint.read_parameters(DType::f32, flat.data());
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += weight * static_cast<double>(flat[i]);
  }
  CBTM_ASSERT(!sum.empty(), "some expert has a weight");
  return {sum.begin(), sum.end()};
}

}  // namespace cbtm
