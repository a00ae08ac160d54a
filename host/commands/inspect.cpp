#include <fmt/format.h>

#include <algorithm>

#include "cbtm/base/error.h"
#include "cbtm/base/memory.h"
#include "cbtm/base/progress.h"
#include "cbtm/checkpoint/checkpoint.h"
#include "cbtm/checkpoint/tensor_file.h"
#include "cbtm/cluster/router.h"
#include "cbtm/dataset/indexed_dataset.h"
#include "cbtm/run/run_directory.h"
#include "cbtm/tokenizer/tokenizer.h"
#include "commands/commands.h"
#include "commands/stages.h"

namespace cbtm {
namespace {

Json inspect_file(const std::filesystem::path& path) {
  const TensorFile file = TensorFile::open(path);
  Json tensors = Json::array();
  for (const StoredTensor& tensor : file.tensors()) {
    std::string shape;
    for (const int64_t extent : tensor.shape) shape += (shape.empty() ? "" : " x ") + std::to_string(extent);
    fmt::print("{:<5} {:<20} {}\n", stored_type_name(tensor.type), shape.empty() ? "scalar" : shape, tensor.name);
    tensors.push_back({{"name", tensor.name}, {"dtype", stored_type_name(tensor.type)}, {"shape", tensor.shape}});
  }
  return {{"kind", "tensors"}, {"tensors", tensors}};
}

Json inspect_checkpoint(const std::filesystem::path& path) {
  const OptCheckpoint checkpoint = OptCheckpoint::open(path);
  const OptConfig& c = checkpoint.config();
  std::vector<float> flat(static_cast<size_t>(checkpoint.layout().flat_size()));
  checkpoint.read_parameters(DType::f32, flat.data());
  const auto broken = std::count_if(flat.begin(), flat.end(), [](float value) { return !(value - value == 0); });
  fmt::print(
      "OPT model: {} parameters ({}), {} layers, hidden size {}, {} heads, feed-forward {}, vocabulary {}, {} "
      "positions, {}\n",
      format_count(checkpoint.layout().parameter_count()), dtype_name(checkpoint.stored_dtype()), c.num_hidden_layers,
      c.hidden_size, c.num_attention_heads, c.ffn_dim, c.vocab_size, c.max_position_embeddings,
      c.do_layer_norm_before ? "pre-norm" : "post-norm");
  fmt::print("health: {}\n", broken == 0 ? "all values finite" : fmt::format("{} values are not finite", broken));
  Json json = {{"kind", "checkpoint"},
               {"parameters", checkpoint.layout().parameter_count()},
               {"dtype", dtype_name(checkpoint.stored_dtype())},
               {"config", opt_config_json(c, dtype_name(checkpoint.stored_dtype()))},
               {"values_not_finite", broken}};
  if (std::filesystem::exists(path / "expert.json")) {
    json["expert"] = read_json_file(path / "expert.json");
    const Json& training = json["expert"].value("training", Json::object());
    fmt::print("{} {}: {} tokens in {} steps, loss {:.4f}, held out {:.4f}\n", json["expert"].value("kind", "model"),
               json["expert"].contains("cluster") ? "of cluster " + json["expert"]["cluster"].dump() : "",
               training.value("tokens", int64_t{0}), training.value("steps", int64_t{0}), training.value("loss", 0.0),
               training.value("held_out_loss", 0.0));
  }
  return json;
}

Json inspect_router(const std::filesystem::path& path) {
  const Router router = Router::load(path);
  const Router::Parts& p = router.parts();
  fmt::print("router: {} clusters, {} terms, {} dimensions, temperature {}, distance power {}, hash {}\n", p.clusters,
             format_count(static_cast<int64_t>(p.vocabulary.size())), p.dimensions, p.temperature, p.distance_power,
             router.content_hash());
  for (size_t j = 0; j < p.top_terms.size(); ++j) {
    fmt::print("{}", RunDirectory::cluster_name(static_cast<int64_t>(j)));
    for (const std::string& term : p.top_terms[j]) fmt::print(" {}", term);
    fmt::print("\n");
  }
  return {{"kind", "router"},
          {"clusters", p.clusters},
          {"terms", p.vocabulary.size()},
          {"dimensions", p.dimensions},
          {"temperature", p.temperature},
          {"distance_power", p.distance_power},
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
    if (std::filesystem::exists(path / (std::string(split) + ".idx"))) json[split] = inspect_dataset(path / split);
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
  fmt::print("run of cbtm {}\n", json.value("version", "?"));
  const Json stages = json.value("stages", Json::object());  // a loop over the items of a temporary would outlive it
  for (const auto& [name, stage] : stages.items())
    fmt::print("  {:<14} finished {}, {}\n", name, stage.value("finished", "?"),
               format_duration(stage.value("seconds", 0.0)));
  if (std::filesystem::exists(run.clusters_json())) print_clusters(read_json_file(run.clusters_json()));
  return {{"kind", "run"}, {"run", json}};
}

Json inspect_experts(const std::filesystem::path& path) {
  Json experts = Json::object();
  std::vector<std::filesystem::path> directories;
  for (const auto& entry : std::filesystem::directory_iterator(path))
    if (std::filesystem::exists(entry.path() / "config.json")) directories.push_back(entry.path());
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
  if (!std::filesystem::exists(path)) {
    if (std::filesystem::exists(path.string() + ".idx")) return inspect_dataset(path);
    fail("{}: there is no such file or directory", path.string());
  }
  if (!std::filesystem::is_directory(path)) {
    if (path.extension() == ".idx" ||
        (path.extension() == ".bin" && std::filesystem::exists(std::filesystem::path(path).replace_extension(".idx"))))
      return inspect_dataset(std::filesystem::path(path).replace_extension());
    return inspect_file(path);
  }
  if (std::filesystem::exists(path / "run.json")) return inspect_run(path);
  if (std::filesystem::exists(path / "router.json")) return inspect_router(path);
  if (std::filesystem::exists(path / "config.json")) return inspect_checkpoint(path);
  if (Tokenizer::is_in(path)) return inspect_tokenizer(path);
  if (std::filesystem::exists(path / "train.idx")) return inspect_shard(path);
  return inspect_experts(path);
}

}  // namespace

int run_inspect(int argc, char** argv) {
  CommandLine line("inspect", "say what a run, router, shard, tokenizer or checkpoint holds",
                   {"cbtm inspect run/", "cbtm inspect run/router", "cbtm inspect pytorch_model.bin"});
  line.group("What")("path", "a directory or file of any kind that cbtm reads or writes", text_flag(), "PATH");
  line.positional({"path"}, "PATH");
  if (!line.parse(argc, argv)) return kExitSuccess;
  line.write_json(inspect(line.path("path")));
  return kExitSuccess;
}

}  // namespace cbtm
