// GPT-2 against transformers' own results in float64 (tests/data/families): checkpoints of both generations, logits,
// generation, training, configurations, and writing it back.
#include <algorithm>
#include <fstream>
#include <string>

#include "cbtm/base/error.h"
#include "cbtm/model/families.h"
#include "cbtm/model/inference.h"
#include "cbtm/model/training_model.h"
#include "tests/model/golden_model.h"
#include "tests/model/rounding_bound.h"
#include "tests/model/sequences.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

const std::filesystem::path kFamilies = std::filesystem::path(CBTM_TEST_DATA) / "families";
const std::filesystem::path kGpt2 = kFamilies / "models/gpt2";

std::vector<float> parameters_of(const std::filesystem::path& directory, ValueCheck check = ValueCheck::finite) {
  const ModelCheckpoint checkpoint = ModelCheckpoint::open(directory, check);
  std::vector<float> flat(static_cast<size_t>(checkpoint.layout().flat_size()));
  checkpoint.read_parameters(DType::f32, flat.data());
  return flat;
}

/// The tensors "PREFIXname" of a golden file in the layout's order, by way of a checkpoint of them.
std::vector<float> flat_golden(const TensorFile& file, const std::string& prefix) {
  std::vector<OutputTensor> tensors;
  for (const StoredTensor& tensor : file.tensors())
    if (tensor.name.starts_with(prefix))
      tensors.push_back({tensor.name.substr(prefix.size()), tensor.type, tensor.shape, tensor.data});
  REQUIRE(!tensors.empty());
  const TemporaryDirectory directory;
  write_safetensors(directory / "model.safetensors", tensors);
  std::filesystem::copy_file(kGpt2 / "hub-f32/config.json", directory / "config.json");
  return parameters_of(directory.path(), ValueCheck::none);
}

std::string refusal(const std::filesystem::path& directory) {
  try {
    ModelCheckpoint::open(directory);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("gpt2: both generations of checkpoints hold the same parameters and give the golden logits") {
  const TensorFile golden = TensorFile::open(kGpt2 / "forward.safetensors");
  CHECK(parameters_of(kGpt2 / "hub-f32") == parameters_of(kGpt2 / "today-bf16"));
  for (const char* folder : {"hub-f32", "today-bf16"}) {
    CAPTURE(folder);
    const auto model = InferenceModel::load(test_device(), kGpt2 / folder);
    const ModelSpec spec = read_model_spec(kGpt2 / folder / "config.json");
    CHECK(model->vocab_size() == 288);
    CHECK(model->max_length() == 32);
    for (const char* length : {"len1", "len8", "len24"}) {
      CAPTURE(length);
      Sequences sequences;
      sequences.add(golden.at(std::string(length) + ".ids").values<int32_t>());
      const std::vector<float> want = golden.at(std::string(length) + ".logits").values<float>();
      CHECK(largest_difference(logits_of(*model, sequences.packed()), want) <= logit_tolerance(spec, 24, want));
    }
    for (const std::string side : {"pad_left", "pad_right"}) {  // padding has no place in packed sequences
      const StoredTensor& stored = golden.at(side + ".ids");
      const std::vector<int32_t> ids = stored.values<int32_t>(), mask = golden.at(side + ".mask").values<int32_t>();
      Sequences sequences;
      for (int64_t row = 0; row < stored.shape[0]; ++row) {
        std::vector<int32_t> real;
        for (auto at = static_cast<size_t>(row * stored.shape[1]);
             at < static_cast<size_t>((row + 1) * stored.shape[1]); ++at)
          if (mask[at] != 0) real.push_back(ids[at]);
        sequences.add(real);
      }
      const std::vector<float> want = golden.at("pad.logits_where_mask").values<float>();
      CHECK(largest_difference(logits_of(*model, sequences.packed()), want) <= logit_tolerance(spec, 24, want));
    }
  }
}

TEST_CASE("gpt2: greedy generation gives the golden tokens") {
  const TensorFile golden = TensorFile::open(kGpt2 / "generate.safetensors");
  const auto model = InferenceModel::load(test_device(), kGpt2 / "today-bf16");
  for (int i = 0; i < 3; ++i) {
    const std::vector<int32_t> prompt = golden.at(std::to_string(i) + ".prompt").values<int32_t>();
    const std::vector<int32_t> tokens = golden.at(std::to_string(i) + ".tokens").values<int32_t>();
    for (const size_t piece : {1, 3, 100})
      CHECK(continue_greedily(*model, {prompt}, tokens.size(), piece)[0] == tokens);
  }
}

TEST_CASE("gpt2: losses, gradients and three AdamW steps equal the goldens, whatever is recomputed") {
  const Json train = read_json_file(kGpt2 / "manifest.json")["goldens"]["train"];
  const Json& optimizer = train["optimizer"];
  const TensorFile ids_file = TensorFile::open(kGpt2 / "train_ids.safetensors");
  const StoredTensor& stored_ids = ids_file.at("ids");
  const std::vector<int32_t> all_ids = stored_ids.values<int32_t>();
  const int64_t batch = stored_ids.shape[1], length = stored_ids.shape[2];
  const std::vector<float> gradients = flat_golden(TensorFile::open(kGpt2 / "grads_step1.safetensors"), "");
  const TensorFile updates = TensorFile::open(kGpt2 / "updates.safetensors");
  const std::vector<float> start = parameters_of(kGpt2 / "hub-f32");
  const ModelSpec spec = read_model_spec(kGpt2 / "hub-f32/config.json");
  const auto rate = optimizer["lr"].get<float>();
  for (const Keep keep : {Keep::everything, Keep::all_but_feed_forward, Keep::block_inputs}) {
    CAPTURE(static_cast<int>(keep));
    TrainingModel model(test_device(), spec, start, batch * length, keep);
    const auto check_updates = [&](const std::string& prefix) {
      const std::vector<float> want = flat_golden(updates, prefix);
      int64_t compared = 0, off = 0;
      for (const Parameter& parameter : model.layout().parameters()) {
        // A key's bias changes nothing: its gradient is noise, which Adam turns into steps.
        if (parameter.role == ParameterRole::key && parameter.part == ParameterPart::bias) continue;
        for (int64_t i = parameter.offset; i < parameter.offset + parameter.size(); ++i) {
          const auto at = static_cast<size_t>(i);
          const double difference =
              std::abs(static_cast<double>(model.weights().as<float>()[i]) -
                       (static_cast<double>(start[at]) + static_cast<double>(rate) * static_cast<double>(want[at])));
          if (!(difference <= 5e-4)) FAIL_CHECK(tensor_name(spec, parameter) << " is off by " << difference);
          off += difference > 3e-6 ? 1 : 0;
          ++compared;
        }
      }
      CHECK(off * 1000 <= compared);
    };
    for (int64_t step = 0; step < stored_ids.shape[0]; ++step) {
      const std::span<const int32_t> ids =
          std::span(all_ids).subspan(static_cast<size_t>(step * batch * length), static_cast<size_t>(batch * length));
      std::vector<int32_t> targets(ids.begin() + 1, ids.end());
      targets.push_back(-100);
      for (int64_t row = 1; row <= batch; ++row) targets[static_cast<size_t>(row * length - 1)] = -100;
      const double scored = static_cast<double>(batch * (length - 1));
      const double loss = model.accumulate_gradients({ids, equal_offsets(batch, length)}, targets,
                                                     {.gradient_scale = static_cast<float>(1 / scored)});
      CHECK(std::abs(loss / scored - train["loss"][static_cast<size_t>(step)].get<double>()) <= 1e-5);
      if (step == 0)
        for (const Parameter& parameter : model.layout().parameters()) {
          if (parameter.role == ParameterRole::key && parameter.part == ParameterPart::bias) continue;
          CAPTURE(tensor_name(spec, parameter));
          const auto begin = gradients.begin() + parameter.offset;
          const std::vector<float> want(begin, begin + parameter.size());
          const float* got = model.gradients().as<float>() + parameter.offset;
          double largest = 0;
          for (const float value : want) largest = std::max(largest, std::abs(static_cast<double>(value)));
          CHECK(largest_difference({got, got + parameter.size()}, want) <= 1e-6 + 3e-5 * largest);
        }
      const double norm = model.optimizer_step({.step = step + 1,
                                                .learning_rate = rate,
                                                .beta1 = optimizer["betas"][0],
                                                .beta2 = optimizer["betas"][1],
                                                .epsilon = optimizer["eps"],
                                                .weight_decay = optimizer["weight_decay"],
                                                .clip_norm = optimizer["clip_norm"]});
      CHECK(norm == doctest::Approx(train["grad_norm"][static_cast<size_t>(step)].get<double>()).epsilon(5e-5));
      if (step == 0) check_updates("after1.");
    }
    check_updates("after3.");
  }
}

TEST_CASE("gpt2: what is written is read back, in every dtype, whole and in shards") {
  const ModelCheckpoint original = ModelCheckpoint::open(kGpt2 / "hub-f32");
  const std::vector<float> flat = parameters_of(kGpt2 / "hub-f32");
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (const int64_t shard_bytes : {kShardBytesMax, int64_t{5000}}) {
      const TemporaryDirectory directory;
      write_model_checkpoint(directory.path(), original.spec(), flat, dtype, shard_bytes);
      CHECK(parameters_of(directory.path()) == flat);  // the golden's weights are on the grid of all three types
      const ModelCheckpoint back = ModelCheckpoint::open(directory.path());
      CHECK(back.spec().blocks == original.spec().blocks);
      if (dtype == DType::f32) CHECK(back.weights_hash() == weights_hash(original.spec(), flat));
      std::vector<std::string> names;  // with the prefix that transformers writes
      for (const auto& entry : std::filesystem::directory_iterator(directory.path()))
        if (entry.path().extension() == ".safetensors") {
          const TensorFile file = TensorFile::open(entry.path());
          for (const StoredTensor& tensor : file.tensors()) names.push_back(tensor.name);
        }
      CHECK(std::find(names.begin(), names.end(), "transformer.h.1.attn.c_attn.weight") != names.end());
      CHECK(names.size() == 28);
    }
}

TEST_CASE("gpt2: a model whose output matrix is its own trains and is read back") {
  Json config = read_json_file(kGpt2 / "hub-f32/config.json");
  config["tie_word_embeddings"] = false;
  const ModelSpec spec = parse_model_spec(config, "the test");
  const ParameterLayout layout(spec);
  const std::vector<float> flat = initial_parameters(spec, 3);
  TrainingModel model(test_device(), spec, flat, 6, Keep::block_inputs);
  const std::vector<int32_t> ids = {5, 9, 3, 8, 7, 2}, targets = {9, 3, 8, 7, 2, -100}, offsets = {0, 6};
  const BackwardOptions options{.gradient_scale = 0.2f, .dropout_columns = 16};
  model.accumulate_gradients({ids, offsets}, targets, options);
  for (const ParameterRole role : {ParameterRole::output_matrix, ParameterRole::token_embedding}) {
    const Parameter& parameter = *layout.find(role);
    const float* first = model.gradients().as<float>() + parameter.offset;
    const std::vector<float> gradient(first, first + parameter.size());
    double square = 0;
    for (const float value : gradient) square += static_cast<double>(value) * static_cast<double>(value);
    REQUIRE(square > 1e-10);
    const double step = 2e-3 / std::sqrt(square);
    const auto loss_at = [&](double factor) {
      for (int64_t i = 0; i < parameter.size(); ++i)
        model.weights().as<float>()[parameter.offset + i] =
            flat[static_cast<size_t>(parameter.offset + i)] +
            static_cast<float>(factor * static_cast<double>(gradient[static_cast<size_t>(i)]));
      const double loss = model.loss_sum({ids, offsets}, targets);
      std::copy_n(flat.begin() + parameter.offset, parameter.size(), model.weights().as<float>() + parameter.offset);
      return 0.2 * loss;
    };
    CHECK((loss_at(step) - loss_at(-step)) / (2 * step) == doctest::Approx(square).epsilon(0.02));
  }
  const TemporaryDirectory directory;
  write_model_checkpoint(directory.path(), spec, flat);
  CHECK(TensorFile::open(directory / "model.safetensors").find("lm_head.weight") != nullptr);
  CHECK(parameters_of(directory.path()) == flat);
}

TEST_CASE("gpt2: a value that is not finite is found in a transposed matrix, by its place in the parameter") {
  const ModelSpec spec = read_model_spec(kGpt2 / "hub-f32/config.json");
  const ParameterLayout layout(spec);
  std::vector<float> flat = parameters_of(kGpt2 / "hub-f32");
  const Parameter& key = *layout.find(ParameterRole::key, ParameterPart::weight, 1);
  for (const int64_t index : {int64_t{70}, int64_t{3}}) flat[static_cast<size_t>(key.offset + index)] = NAN;
  const TemporaryDirectory directory;
  write_model_checkpoint(directory.path(), spec, flat);
  const ModelCheckpoint checkpoint = ModelCheckpoint::open(directory.path(), ValueCheck::none);
  const std::vector<BrokenTensor> broken = checkpoint.broken_tensors();
  REQUIRE(broken.size() == 1);
  CHECK(broken[0].name == "transformer.h.1.attn.c_attn.weight");
  CHECK(broken[0].count == 2);
  CHECK(broken[0].first == 3);
  CHECK(refusal(directory.path()).find("c_attn.weight' holds 2 NaN") != std::string::npos);
}

TEST_CASE("gpt2: published layouts are read, and broken ones refused by name") {
  const std::filesystem::path files = kFamilies / "files";
  CHECK(parameters_of(files / "gpt2") == parameters_of(files / "gpt2_hub"));
  CHECK(refusal(files / "bad_gpt2_positions").find("wpe.weight") != std::string::npos);
  CHECK(refusal(files / "bad_gpt2_transposed").find("c_attn.weight") != std::string::npos);
}

TEST_CASE("gpt2: a tensor that the configuration does not explain refuses the checkpoint") {
  const TensorFile original = TensorFile::open(kFamilies / "files/gpt2/model.safetensors");
  const TemporaryDirectory directory;
  std::vector<OutputTensor> tensors;
  for (const StoredTensor& tensor : original.tensors())
    tensors.push_back({tensor.name, tensor.type, tensor.shape, tensor.data});
  const std::vector<float> extra(8, 0.5f);
  tensors.push_back({"transformer.h.0.attn.q_norm.weight", StoredType::f32, {8}, extra.data()});
  write_safetensors(directory / "model.safetensors", tensors);
  std::filesystem::copy_file(kFamilies / "files/gpt2/config.json", directory / "config.json");
  CHECK(refusal(directory.path()).find("q_norm.weight") != std::string::npos);
}

TEST_CASE("gpt2: configurations of published models, and those that are refused") {
  std::ifstream lines(kFamilies / "gpt2_configs.jsonl");
  int64_t read = 0;
  for (std::string line; std::getline(lines, line); ++read) {
    const Json entry = Json::parse(line);
    CAPTURE(entry["name"].get<std::string>());
    if (entry["expect"] == "refuse") {
      std::string message;
      try {
        parse_model_spec(entry["config"], "config.json");
      } catch (const Error& error) {
        message = error.what();
      }
      CHECK(message.find(entry["mentions"].get<std::string>()) != std::string::npos);
      continue;
    }
    const ModelSpec spec = parse_model_spec(entry["config"], "config.json");
    const Json& want = entry["resolved"];
    CHECK(spec.layers() == want["layers"].get<int64_t>());
    CHECK(spec.hidden_size == want["hidden_size"].get<int64_t>());
    CHECK(spec.block(0).attention.heads == want["heads"].get<int64_t>());
    CHECK(spec.block(0).attention.head_dim == want["head_dim"].get<int64_t>());
    CHECK(spec.block(0).feed_forward.width == want["intermediate_size"].get<int64_t>());
    CHECK(spec.embedding.vocab_size == want["vocab_size"].get<int64_t>());
    CHECK(spec.embedding.max_length == want["max_position_embeddings"].get<int64_t>());
    CHECK(spec.block(0).attention_norm.epsilon == want["eps"].get<double>());
    CHECK((spec.block(0).feed_forward.activation == Activation::gelu_tanh) == (want["activation"] == "gelu_tanh"));
    CHECK(spec.tied_output == want["tied"].get<bool>());
    CHECK(ParameterLayout(spec).parameter_count() == want["num_parameters"].get<int64_t>());
    CHECK(parse_model_spec(model_config_json(spec, "float32"), "again") == spec);
  }
  CHECK(read == 5);
}

}  // namespace
}  // namespace cbtm
