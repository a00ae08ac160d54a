// Checkpoints as other programs leave them: wrappers' prefixes, nested dicts, tensors of other types, things that only
// running code could make; and what is refused, by name.

#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <limits>

#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/json.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/tensor_file/tensor_file.h"
#include "tests/temporary_directory.h"
#include "tests/torch_archive.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;
const fs::path kModel = fs::path(CBTM_TEST_DATA) / "opt/models/tiny-preln/safetensors-f32";

std::vector<float> parameters_of(const ModelCheckpoint& checkpoint) {
  std::vector<float> flat(static_cast<size_t>(checkpoint.layout().flat_size()));
  checkpoint.read_parameters(DType::f32, flat.data());
  return flat;
}

std::string refusal(const std::function<void()>& action) {
  try {
    action();
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

/// A copy of the small model whose tensors can be changed.
class ChangedModel {
 public:
  ChangedModel() : file_(TensorFile::open(kModel / "model.safetensors")) {
    fs::copy_file(kModel / "config.json", directory_ / "config.json");
    for (const StoredTensor& tensor : file_.tensors()) {
      std::string& bytes = kept_.emplace_back(reinterpret_cast<const char*>(tensor.data),
                                              static_cast<size_t>(tensor.size() * stored_type_bytes(tensor.type)));
      tensors.push_back({tensor.name, tensor.type, tensor.shape, bytes.data()});
    }
  }
  void rename(const std::function<std::string(std::string)>& change) {
    for (OutputTensor& tensor : tensors) tensor.name = change(tensor.name);
  }
  /// Writes model.safetensors; `change` may alter header and data.
  void write(const std::function<void(Json& header, std::string& data)>& change = nullptr) const {
    const fs::path path = directory_ / "model.safetensors";
    write_safetensors(path, tensors);
    if (!change) return;
    std::ifstream in(path, std::ios::binary);
    const std::string all((std::istreambuf_iterator<char>(in)), {});
    uint64_t length = 0;
    std::memcpy(&length, all.data(), 8);
    Json header = Json::parse(all.substr(8, length));
    std::string data = all.substr(8 + length);
    change(header, data);
    const std::string text = header.dump();
    std::ofstream(path, std::ios::binary) << bytes_of(uint64_t{text.size()}) << text << data;
  }
  /// Writes pytorch_model.bin: `outer` gets the pickled state dict, with `more` entries at its end.
  void write_torch(const std::string& more, const std::function<std::string(std::string)>& outer) const {
    std::vector<std::pair<std::string, std::string>> members = {{"data.pkl", ""}};
    std::string items;
    for (size_t i = 0; i < tensors.size(); ++i) {
      std::vector<int32_t> shape(tensors[i].shape.begin(), tensors[i].shape.end());
      const std::string key = std::to_string(i);
      items += pickle::text(tensors[i].name) + pickle::tensor("FloatStorage", key, shape);
      members.emplace_back("data/" + key, kept_[i]);
    }
    members.front().second = pickle::stream(outer(pickle::dict(items + more)));
    std::ofstream(directory_ / "pytorch_model.bin", std::ios::binary) << stored_zip(members);
  }
  const fs::path& path() const { return directory_.path(); }
  std::string refused() const {
    return refusal([&] { ModelCheckpoint::open(path()); });
  }
  std::vector<float> parameters() const { return parameters_of(ModelCheckpoint::open(path())); }

  std::vector<OutputTensor> tensors;

 private:
  TemporaryDirectory directory_;
  TensorFile file_;
  std::vector<std::string> kept_ = [] {
    std::vector<std::string> kept;
    kept.reserve(1000);
    return kept;
  }();
};

const std::vector<float>& reference() {
  static const std::vector<float> parameters = parameters_of(ModelCheckpoint::open(kModel));
  return parameters;
}

constexpr std::string_view kUsual = "model.decoder.";

TEST_CASE("wrappers' prefixes, in any combination and place") {
  for (const std::string prefix :
       {"", "decoder.", "model.decoder.", "_orig_mod.model.decoder.", "module.model.decoder.",
        "module._orig_mod.model.decoder.", "_orig_mod.module.model.decoder.", "model.model.decoder.",
        "model._orig_mod.model.decoder.", "_forward_module.model.model.decoder.", "student.opt.decoder."}) {
    CAPTURE(prefix);
    ChangedModel model;
    const std::string root = prefix.ends_with("model.decoder.") ? prefix.substr(0, prefix.size() - 14)
                             : prefix.ends_with("decoder.")     ? prefix.substr(0, prefix.size() - 8)
                                                                : "";
    model.rename([&](const std::string& name) {
      return name.starts_with(kUsual) ? prefix + name.substr(kUsual.size()) : root + name;
    });
    model.write();
    CHECK(model.parameters() == reference());
  }
  ChangedModel inner;
  inner.rename([](std::string name) {
    if (const size_t place = name.find("layers.0."); place != std::string::npos) name.insert(place + 9, "_orig_mod.");
    if (const size_t place = name.find("fc1."); place != std::string::npos)
      name.insert(place + 4, "_checkpoint_wrapped_module.");
    return name;
  });
  inner.write();
  CHECK(inner.parameters() == reference());
}

TEST_CASE("two models in one file are refused by their prefixes") {
  ChangedModel model;
  model.rename([](const std::string& name) { return "teacher." + name; });
  const std::vector<OutputTensor> first = model.tensors;
  for (OutputTensor tensor : first) {
    tensor.name.replace(0, 8, "student.");
    model.tensors.push_back(tensor);
  }
  model.write();
  CHECK(model.refused().find("holds 2 models ('student.model.decoder.' and 'teacher.model.decoder.')") !=
        std::string::npos);
}

TEST_CASE("a nested state dict is read, beside an optimizer that only running code could make") {
  using namespace pickle;
  const std::string numpy = global("numpy.core.multiarray", "scalar") +
                            tuple(global("numpy", "dtype") + tuple(text("f8")) + "R" + text("12345678")) + "R";
  const std::string arguments = global("argparse", "Namespace") + ")\x81" + dict(text("lr") + integer(1)) + "b";
  const std::string optimizer =
      dict(text("state") + dict(integer(0) + dict(text("step") + integer(5))) + text("scheduler") + numpy);
  const std::string others = text("args") + arguments + text("optimizer") + optimizer;
  for (const char* key : {"state_dict", "model", "model_state_dict", "module"}) {
    CAPTURE(key);
    ChangedModel model;
    model.write_torch("", [&](const std::string& state) { return dict(others + text(key) + state); });
    CHECK(model.parameters() == reference());
  }
  ChangedModel twice;
  twice.rename([](const std::string& name) { return "module." + name; });
  twice.write_torch(text("extra") + numpy, [&](const std::string& state) {
    return dict(text("epoch") + integer(3) + text("model") + dict(text("state_dict") + state) + others);
  });
  CHECK(twice.parameters() == reference());
  ChangedModel whole;
  whole.write_torch("", [&](const std::string& state) {
    return global("transformers.models.opt.modeling_opt", "OPTForCausalLM") + ")\x81" + state + "b";
  });
  CHECK(whole.refused().find("made by 'transformers.models.opt.modeling_opt.OPTForCausalLM'") != std::string::npos);
}

TEST_CASE("only a tensor that is needed refuses a PyTorch file when running code would make it") {
  using namespace pickle;
  const std::string call = global("os", "system") + tuple(text("touch /tmp/cbtm-was-here")) + "R";
  const auto plain = [](const std::string& state) { return state; };
  ChangedModel unneeded;
  unneeded.write_torch(text("extra") + call + text("quantised") + tensor("QInt8Storage", "0", {3}), plain);
  CHECK(unneeded.parameters() == reference());
  ChangedModel needed;
  const std::string name = needed.tensors.back().name;
  needed.tensors.pop_back();
  needed.write_torch(text(name) + call, plain);
  CHECK(needed.refused().find(name.substr(kUsual.size())) != std::string::npos);
  CHECK(needed.refused().find("would be made by 'os.system', and nothing is run") != std::string::npos);
  CHECK_FALSE(fs::exists("/tmp/cbtm-was-here"));
}

TEST_CASE("tensors of other types refuse a file only where they are needed") {
  ChangedModel model;
  const std::vector<int64_t> ids = {1, 2, 3};
  model.tensors.push_back({"model.decoder.position_ids", StoredType::i64, {3}, ids.data()});
  model.tensors.push_back({"mask", StoredType::boolean, {24}, ids.data()});
  const auto add = [](Json& header, std::string& data, const char* type, int64_t bytes) {
    header[std::string("extra.") + type] = {
        {"dtype", type}, {"shape", {4}}, {"data_offsets", {data.size(), data.size() + static_cast<size_t>(bytes)}}};
    data += std::string(static_cast<size_t>(bytes), '\1');
  };
  model.write([&](Json& header, std::string& data) {
    add(header, data, "F8_E4M3", 4);
    add(header, data, "U16", 8);
    add(header, data, "C64", 32);
    add(header, data, "F4", 2);
    add(header, data, "NEW_TYPE", 7);
  });
  CHECK(model.parameters() == reference());

  ChangedModel needed;
  needed.write([&](Json& header, std::string&) {
    Json& entry = header["model.decoder.layers.0.fc1.weight"];
    entry["dtype"] = "U32";
  });
  CHECK(needed.refused().find("tensor 'model.decoder.layers.0.fc1.weight' holds U32, but weights are F64") !=
        std::string::npos);
  ChangedModel size;
  size.write([&](Json& header, std::string&) { header["model.decoder.layers.0.fc1.weight"]["dtype"] = "C64"; });
  CHECK(size.refused().find("fc1.weight' its shape needs") != std::string::npos);
}

TEST_CASE("what is no OPT model, or no weights at all, says what it is") {
  ChangedModel model;
  const auto with_config = [&](const Json& config) {
    std::ofstream(model.path() / "config.json") << config;
    return model.refused();
  };
  model.write();
  CHECK(with_config({{"model_type", "llama"}, {"architectures", {"LlamaForCausalLM"}}})
            .find("model_type is 'llama' (LlamaForCausalLM), but only 'opt'") != std::string::npos);
  CHECK(with_config({{"hidden_size", 8}}).find("model_type is missing") != std::string::npos);
  CHECK(with_config({{"model_type", "opt"}, {"hidden_size", "8"}})
            .find("config.json: 'hidden_size' is \"8\", but must be a whole number from 1 to") != std::string::npos);
  CHECK(with_config({{"model_type", "opt"}, {"hidden_size", int64_t{1} << 40}}).find("hidden_size") !=
        std::string::npos);
  fs::copy_file(kModel / "config.json", model.path() / "config.json", fs::copy_options::overwrite_existing);
  model.rename([](const std::string& name) { return "transformer.h." + name + ".w"; });
  model.write();
  CHECK(model.refused().find("these are not the weights of an OPT model; they hold 'transformer.h.") !=
        std::string::npos);
  const auto with_weights = [&](const std::string& contents) {
    std::ofstream(model.path() / "model.safetensors", std::ios::binary) << contents;
    const std::string message = model.refused();
    CHECK(message.find("model.safetensors") != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
    return message;
  };
  CHECK(with_weights("version https://git-lfs.github.com/spec/v1\noid sha256:4d\n").find("git lfs pull") !=
        std::string::npos);
  CHECK(with_weights("<!DOCTYPE html><html>").find("a web page") != std::string::npos);
  CHECK(with_weights("").find("the file is empty") != std::string::npos);
  CHECK(with_weights("PK\x03\x04 something").find("pytorch_model.bin") != std::string::npos);
  fs::remove(model.path() / "model.safetensors");
  fs::create_directory(model.path() / "model.safetensors");
  CHECK(model.refused().find("model.safetensors: is not a regular file but a directory") != std::string::npos);
}

TEST_CASE("weights that are NaN or infinite are named, in every type") {
  const float kNan = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();
  for (const StoredType type : {StoredType::f32, StoredType::f16, StoredType::bf16, StoredType::f64}) {
    CAPTURE(stored_type_name(type));
    ChangedModel model;
    OutputTensor* target = nullptr;
    for (OutputTensor& tensor : model.tensors)
      if (tensor.name == "model.decoder.layers.1.fc2.weight") target = &tensor;
    REQUIRE(target != nullptr);
    const auto count = static_cast<size_t>(target->shape[0] * target->shape[1]);
    std::string bytes;
    for (size_t i = 0; i < count; ++i) {
      const float value = i == 17 ? kNan : i == 40 ? -kInfinity : 0.5f;
      if (type == StoredType::f32) bytes += bytes_of(value);
      if (type == StoredType::f64) bytes += bytes_of(i == 40 ? 1e300 : static_cast<double>(value));
      if (type == StoredType::f16) bytes += bytes_of(to_f16(value));
      if (type == StoredType::bf16) bytes += bytes_of(to_bf16(value));
    }
    target->type = type;
    target->data = bytes.data();
    model.write();
    CHECK(model.refused().find("tensor 'model.decoder.layers.1.fc2.weight' holds 2 NaN or infinite values, the first "
                               "at index 17;") != std::string::npos);
    const ModelCheckpoint unchecked = ModelCheckpoint::open(model.path(), ValueCheck::none);
    const std::vector<BrokenTensor> broken = unchecked.broken_tensors();
    REQUIRE(broken.size() == 1);
    CHECK(broken[0].count == 2);
    CHECK(broken[0].first == 17);
  }
}

TEST_CASE("a model in shards is written, opened and hashed like the one in one file") {
  const ModelCheckpoint original = ModelCheckpoint::open(kModel);
  const TemporaryDirectory one, shards;
  write_model_checkpoint(one.path(), original.spec(), reference());
  write_model_checkpoint(shards.path(), original.spec(), reference(), DType::f32, 2000);
  CHECK_FALSE(fs::exists(shards / "model.safetensors"));
  CHECK(fs::exists(shards / "model.safetensors.index.json"));
  const ModelCheckpoint opened = ModelCheckpoint::open(shards.path());
  CHECK(parameters_of(opened) == reference());
  CHECK(opened.mapped_flat(DType::f32) == nullptr);
  CHECK(checkpoint_hash(one.path()) == hash_file_hex(one / "model.safetensors"));
  const std::string hash = checkpoint_hash(shards.path());
  CHECK(hash.size() == 32);
  CHECK(hash != checkpoint_hash(one.path()));
  std::vector<float> changed = reference();
  changed[3] += 1;
  write_model_checkpoint(shards.path(), original.spec(), changed, DType::f32, 2000);
  CHECK(checkpoint_hash(shards.path()) != hash);
  for (const auto& entry : fs::directory_iterator(shards.path()))
    if (entry.path().filename().string().starts_with("model-00002-")) fs::remove(entry.path());
  CHECK(refusal([&] {
          ModelCheckpoint::open(shards.path());
        }).find("is missing, though model.safetensors.index.json") != std::string::npos);
  CHECK(refusal([&] { checkpoint_hash(shards.path()); }).find("model-00002-") != std::string::npos);
}

}  // namespace
}  // namespace cbtm
