// Checkpoint files as others write them, the hostile and the damaged included: each is read right or refused in a line.

#include <doctest/doctest.h>

#include "cbtm/base/error.h"
#include "cbtm/base/json.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/tensor_file/tensor_file.h"

namespace cbtm {
namespace {

const std::filesystem::path kFiles = std::filesystem::path(CBTM_TEST_DATA) / "opt/files";

/// The message of the Error that opening gives, or "" if it opens.
std::string refusal(const std::filesystem::path& path) {
  try {
    if (std::filesystem::is_directory(path)) {
      const ModelCheckpoint checkpoint = ModelCheckpoint::open(path);
      std::vector<float> flat(static_cast<size_t>(checkpoint.layout().flat_size()));
      checkpoint.read_parameters(DType::f32, flat.data());
    } else {
      const TensorFile file = TensorFile::open(path);
      for (const StoredTensor& tensor : file.tensors()) static_cast<void>(tensor.values<double>());
    }
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

TEST_CASE("every golden file is read or refused as it should be") {
  const Json manifest = read_json_file(kFiles / "manifest.json");
  for (const auto& [name, entry] : manifest.items()) {
    CAPTURE(name);
    const std::string message = refusal(kFiles / name);
    CAPTURE(message);
    const std::string expect = entry["expect"].get<std::string>();
    if (expect == "ok") CHECK(message.empty());
    if (expect == "refuse") CHECK(!message.empty());
    CHECK(message.find('\n') == std::string::npos);
    if (!message.empty()) CHECK(message.find(name) != std::string::npos);
    if (!message.empty() || !entry.contains("equals")) continue;
    const TensorFile got = TensorFile::open(kFiles / name);
    const TensorFile want = TensorFile::open(kFiles / entry["equals"].get<std::string>());
    for (const StoredTensor& tensor : want.tensors()) {
      const StoredTensor& other = got.at(tensor.name);
      CHECK(other.type == tensor.type);
      CHECK(other.shape == tensor.shape);
      CHECK(other.values<double>() == tensor.values<double>());
    }
  }
}

TEST_CASE("a nested state dict is found under its key and views share their storage") {
  CHECK(TensorFile::open(kFiles / "nested.bin").tensors().size() >= 1);
  const TensorFile tied = TensorFile::open(kFiles / "tied_half.bin");
  CHECK(tied.at("w").data == tied.at("tied").data);
  CHECK_FALSE(tied.at("view").contiguous());
  const std::vector<float> w = tied.at("w").values<float>();
  const std::vector<float> view = tied.at("view").values<float>();
  const int64_t rows = tied.at("w").shape[0];
  const int64_t columns = tied.at("w").shape[1];
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c)
      CHECK(view[static_cast<size_t>(c * rows + r)] == w[static_cast<size_t>(r * columns + c)]);
}

}  // namespace
}  // namespace cbtm
