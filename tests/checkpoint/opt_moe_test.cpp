// Checkpoints of mixtures of experts: what is written is read back, under both names of the architecture, and what does
// not fit together is refused.

#include <doctest/doctest.h>

#include <fstream>
#include <functional>

#include "cbtm/base/error.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/families.h"
#include "cbtm/model/training_model.h"
#include "cbtm/model/upcycle.h"
#include "cbtm/tensor_file/tensor_file.h"
#include "tests/opt_shape.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

std::string refusal(const std::function<void()>& action) {
  try {
    action();
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

/// A mixture of four experts in layers 1 and 2 of three, as it is written.
struct Written {
  TemporaryDirectory directory;
  ModelSpec spec;
  std::vector<float> flat;
  Json config;

  Written() {
    const ModelSpec dense = OptShape{.num_hidden_layers = 3};
    const Upcycling upcycling{.experts = 4, .layers = {1, 2}, .seed = 3};
    spec = upcycled_spec(dense, upcycling);
    flat.resize(static_cast<size_t>(ParameterLayout(spec).flat_size()));
    upcycle_parameters(dense, upcycling, initial_parameters(dense, 1), flat);
    write_model_checkpoint(directory.path(), spec, flat);
    config = read_json_file(directory / "config.json");
  }
  void write_config(const Json& changed) const { write_json_file(directory / "config.json", changed); }
  std::string refused() const {
    return refusal([&] { ModelCheckpoint::open(directory.path()); });
  }
  /// Writes the tensors anew; `keep` says which, `rename` under which names.
  void write_tensors(const std::function<bool(const std::string&)>& keep,
                     const std::function<std::string(std::string)>& rename) const {
    const fs::path path = directory / "model.safetensors", copy = directory / "copy.safetensors";
    {
      const TensorFile file = TensorFile::open(path);
      std::vector<OutputTensor> tensors;
      for (const StoredTensor& tensor : file.tensors())
        if (keep(tensor.name)) tensors.push_back({rename(tensor.name), tensor.type, tensor.shape, tensor.data});
      write_safetensors(copy, tensors);
    }
    fs::rename(copy, path);
  }
};

TEST_CASE("a mixture is read as it was written, mapped whole, and under the name opt too") {
  const Written written;
  CHECK(written.config["model_type"] == "opt_moe");
  CHECK(written.config["num_experts"] == 4);
  CHECK(written.config["experts_per_token"] == 2);
  CHECK(written.config["moe_layers"] == Json({1, 2}));
  CHECK(written.config["router_aux_loss_coef"] == 0.01);
  const TensorFile file = TensorFile::open(written.directory / "model.safetensors");
  CHECK(file.at("model.decoder.layers.1.moe.router.weight").shape == std::vector<int64_t>{4, 16});
  CHECK(file.at("model.decoder.layers.2.moe.experts.3.fc1.weight").shape == std::vector<int64_t>{32, 16});
  CHECK(file.at("model.decoder.layers.2.moe.experts.0.fc2.bias").shape == std::vector<int64_t>{16});
  CHECK(file.find("model.decoder.layers.1.fc1.weight") == nullptr);
  CHECK(file.find("model.decoder.layers.0.fc1.weight") != nullptr);
  for (const char* model_type : {"opt_moe", "opt"}) {
    Json config = written.config;
    config["model_type"] = model_type;
    written.write_config(config);
    const ModelCheckpoint checkpoint = ModelCheckpoint::open(written.directory.path());
    CHECK(checkpoint.spec() == written.spec);
    CHECK(checkpoint.mapped_flat(DType::f32) != nullptr);
    std::vector<float> read(written.flat.size());
    checkpoint.read_parameters(DType::f32, read.data());
    CHECK(read == written.flat);
    CHECK(checkpoint.weights_hash() == weights_hash(written.spec, written.flat));
  }
}

TEST_CASE("keys that do not make a mixture are refused by name") {
  const Written written;
  struct Change {
    const char* key;
    Json value;  ///< null: the key is left out
    const char* mentions;
  };
  for (const Change& change :
       {Change{"num_experts", nullptr, "num_experts"}, Change{"num_experts", 1, "num_experts"},
        Change{"num_experts", 257, "num_experts"}, Change{"num_experts", "4", "num_experts"},
        Change{"experts_per_token", nullptr, "experts_per_token"},
        Change{"experts_per_token", 1, "experts_per_token is 1"},
        Change{"experts_per_token", 3, "experts_per_token is 3"}, Change{"moe_layers", nullptr, "moe_layers"},
        Change{"moe_layers", Json::array(), "moe_layers is empty"}, Change{"moe_layers", {2, 1}, "ascending"},
        Change{"moe_layers", {1, 1}, "ascending"}, Change{"moe_layers", {1, 3}, "layer 3"},
        Change{"moe_layers", {-1}, "layer -1"}, Change{"moe_layers", 1, "moe_layers"},
        Change{"router_aux_loss_coef", -1, "router_aux_loss_coef"}})
    for (const char* model_type : {"opt_moe", "opt"}) {
      CAPTURE(change.key);
      CAPTURE(change.value.dump());
      Json config = written.config;
      config["model_type"] = model_type;
      if (change.value.is_null())
        config.erase(change.key);
      else
        config[change.key] = change.value;
      written.write_config(config);
      CHECK(written.refused().find(change.mentions) != std::string::npos);
    }
}

TEST_CASE("tensors of a mixture without its keys, and keys without its tensors, are refused") {
  const auto all = [](const std::string&) { return true; };
  const auto same = [](std::string name) { return name; };
  {
    const Written written;
    Json config = written.config;
    config["model_type"] = "opt";
    for (const char* key : {"num_experts", "experts_per_token", "moe_layers", "router_aux_loss_coef"})
      config.erase(key);
    written.write_config(config);
    CHECK(written.refused().find("mixture of experts") != std::string::npos);
  }
  {
    const Written written;  // a layer that config.json does not name
    Json config = written.config;
    config["moe_layers"] = {1};
    written.write_config(config);
    CHECK(written.refused().find("layers.2.moe") != std::string::npos);
  }
  {
    const Written written;  // fewer and more experts than there are
    for (const int experts : {3, 5}) {
      Json config = written.config;
      config["num_experts"] = experts;
      written.write_config(config);
      CHECK(written.refused().find("moe") != std::string::npos);
    }
  }
  {
    const Written written;
    written.write_tensors([](const std::string& name) { return name.find(".moe.router.") == std::string::npos; }, same);
    CHECK(written.refused().find("layers.1.moe.router.weight' is missing") != std::string::npos);
  }
  {
    const Written written;  // a dense feed-forward in the mixture's place, as another program may have left it
    written.write_tensors(all, [](std::string name) {
      const std::string expert = "layers.1.moe.experts.0.";
      if (const size_t at = name.find(expert); at != std::string::npos) name.replace(at, expert.size(), "layers.1.");
      return name;
    });
    CHECK(written.refused().find("layers.1.fc1") != std::string::npos);
  }
}

TEST_CASE("what cannot become a mixture is refused in words") {
  const ModelSpec dense = OptShape{.num_hidden_layers = 1};
  CHECK(refusal([&] { odd_layers(dense); }).find("no odd layers") != std::string::npos);
  CHECK(refusal([&] { upcycled_spec(dense, {.experts = 1, .layers = {0}}); }).find("1 experts") != std::string::npos);
  CHECK(refusal([&] { upcycled_spec(dense, {.experts = 4, .layers = {1}}); }).find("layer 1") != std::string::npos);
  const ModelSpec mixture = upcycled_spec(dense, {.experts = 4, .layers = {0}});
  CHECK(refusal([&] { upcycled_spec(mixture, {.experts = 4, .layers = {0}}); }).find("already") != std::string::npos);
  ModelSpec other = dense;
  other.family = "gpt2";
  CHECK(refusal([&] { upcycled_spec(other, {.experts = 4, .layers = {0}}); }).find("OPT") != std::string::npos);
}

}  // namespace
}  // namespace cbtm
