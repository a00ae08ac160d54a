#include "cbtm/model/checkpoint.h"

#include <doctest/doctest.h>

#include <cstring>

#include "cbtm/base/error.h"
#include "cbtm/base/json.h"
#include "cbtm/model/families.h"
#include "cbtm/tensor_file/tensor_file.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

const std::filesystem::path kModels = std::filesystem::path(CBTM_TEST_DATA) / "opt/models";

std::vector<float> parameters_of(const ModelCheckpoint& checkpoint) {
  std::vector<float> flat(static_cast<size_t>(checkpoint.layout().flat_size()));
  checkpoint.read_parameters(DType::f32, flat.data());
  return flat;
}

TEST_CASE("every layout of a model gives the same parameters") {
  for (const auto& model : std::filesystem::directory_iterator(kModels)) {
    std::vector<float> reference;
    for (const auto& kind : std::filesystem::directory_iterator(model.path())) {
      if (!kind.is_directory()) continue;
      CAPTURE(kind.path().string());
      const ModelCheckpoint checkpoint = ModelCheckpoint::open(kind.path());
      if (checkpoint.stored_dtype() == DType::bf16) continue;  // rounded: compared by its logits
      const std::vector<float> parameters = parameters_of(checkpoint);
      if (reference.empty()) reference = parameters;
      CHECK(parameters == reference);
    }
    CHECK(!reference.empty());
  }
}

TEST_CASE("what is written is read back, mapped, in every dtype") {
  const ModelCheckpoint original = ModelCheckpoint::open(kModels / "tiny-preln/safetensors-f32");
  const std::vector<float> flat = parameters_of(original);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const TemporaryDirectory directory;
    write_model_checkpoint(directory.path(), original.spec(), flat, dtype);
    const ModelCheckpoint back = ModelCheckpoint::open(directory.path());
    CHECK(back.spec() == original.spec());
    CHECK(back.stored_dtype() == dtype);
    if (dtype != DType::bf16) CHECK(parameters_of(back) == flat);
    const void* mapped = back.mapped_flat(dtype);
    REQUIRE(mapped != nullptr);
    if (dtype == DType::f32) CHECK(std::memcmp(mapped, flat.data(), flat.size() * 4) == 0);
    const TensorFile file = TensorFile::open(directory.path() / "model.safetensors");
    CHECK(file.metadata().at("format") == "pt");
    CHECK(file.find("lm_head.weight") == nullptr);
    CHECK(file.find("model.decoder.embed_tokens.weight") != nullptr);
  }
}

TEST_CASE("values that float16 cannot hold are refused") {
  const ModelCheckpoint original = ModelCheckpoint::open(kModels / "tiny-preln/safetensors-f32");
  std::vector<float> flat = parameters_of(original);
  flat[5] = 70000.0f;
  const TemporaryDirectory directory;
  CHECK_THROWS_AS(write_model_checkpoint(directory.path(), original.spec(), flat, DType::f16), Error);
}

TEST_CASE("both matrices of the tied pair with different values are refused") {
  const ModelCheckpoint original = ModelCheckpoint::open(kModels / "tiny-preln/safetensors-f32");
  const std::vector<float> flat = parameters_of(original);
  const TemporaryDirectory directory;
  write_model_checkpoint(directory.path(), original.spec(), flat);
  const TensorFile file = TensorFile::open(directory.path() / "model.safetensors");
  std::vector<OutputTensor> tensors;
  for (const StoredTensor& tensor : file.tensors())
    tensors.push_back({tensor.name, tensor.type, tensor.shape, tensor.data});
  std::vector<float> other = file.at("model.decoder.embed_tokens.weight").values<float>();
  tensors.push_back(
      {"lm_head.weight", StoredType::f32, file.at("model.decoder.embed_tokens.weight").shape, other.data()});
  const TemporaryDirectory equal;
  std::filesystem::copy_file(directory.path() / "config.json", equal.path() / "config.json");
  write_safetensors(equal.path() / "model.safetensors", tensors);
  CHECK_NOTHROW(ModelCheckpoint::open(equal.path()));
  other[3] += 1;
  write_safetensors(equal.path() / "model.safetensors", tensors);
  CHECK_THROWS_AS(ModelCheckpoint::open(equal.path()), Error);
}

TEST_CASE("published sizes have the published numbers of parameters") {
  const std::pair<const char*, int64_t> kPublished[] = {
      {"125m", 125'239'296},   {"350m", 331'196'416},   {"1.3b", 1'315'758'080},
      {"2.7b", 2'651'596'800}, {"6.7b", 6'658'473'984}, {"13b", 12'853'473'280},
      {"30b", 29'974'540'288}, {"66b", 65'719'701'504}, {"175b", 174'604'468'224}};
  for (const auto& [name, count] : kPublished) {
    CAPTURE(name);
    CHECK(ParameterLayout(model_preset(name)).parameter_count() == count);
  }
  CHECK_THROWS_AS(model_preset("126m"), Error);
}

}  // namespace
}  // namespace cbtm
