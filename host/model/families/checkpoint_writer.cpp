#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "cbtm/base/half_types.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/threads.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/families.h"
#include "model/families/family.h"
#include "model/families/weight_files.h"

namespace cbtm {
namespace {

/// `flat` in the stored dtype; f32 is used as it is.
std::vector<uint16_t> narrowed(std::span<const float> flat, DType dtype, const std::string& where) {
  std::vector<uint16_t> out;
  if (dtype == DType::f32) return out;
  out.resize(flat.size());
  int64_t overflowed = 0;
  for (size_t i = 0; i < flat.size(); ++i) {
    if (dtype == DType::bf16) {
      out[i] = to_bf16(flat[i]).bits;
    } else {
      out[i] = to_f16(flat[i]).bits;
      if (std::isfinite(flat[i]) && (out[i] & 0x7fff) == 0x7c00) ++overflowed;
    }
  }
  if (overflowed > 0)
    fail("{}: {} values are too large for float16; write float32 or bfloat16 instead", where, overflowed);
  return out;
}

void write_weights(const std::filesystem::path& directory, const std::vector<OutputTensor>& tensors,
                   int64_t shard_bytes_max) {
  std::vector<std::vector<OutputTensor>> shards(1);
  int64_t shard_bytes = 0;
  int64_t total_bytes = 0;
  for (const OutputTensor& tensor : tensors) {
    const int64_t bytes = tensor.bytes();
    if (shard_bytes > 0 && shard_bytes + bytes > shard_bytes_max) {
      shards.emplace_back();
      shard_bytes = 0;
    }
    shards.back().push_back(tensor);
    shard_bytes += bytes;
    total_bytes += bytes;
  }
  if (shards.size() == 1) return write_safetensors(directory / "model.safetensors", shards[0]);
  Json weight_map = Json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    write_safetensors(directory / name, shards[i]);
    for (const OutputTensor& tensor : shards[i]) weight_map[tensor.name] = name;
  }
  write_json_file(directory / "model.safetensors.index.json",
                  {{"metadata", {{"total_size", total_bytes}}}, {"weight_map", weight_map}});
}

/// A parameter within a tensor that holds several, or a transposed one.
struct Part {
  Parameter parameter;
  StoredPlace place;
  const std::byte* values;
};

/// Copies a matrix in squares, which stay in the cache: its rows become the tensor's columns.
void put_transposed(const Part& part, int64_t item, std::byte* tensor) {
  constexpr int64_t kSquare = 32;
  const int64_t rows = part.parameter.rows, columns = part.parameter.columns;
  parallel_ranges(ceil_divide(columns, kSquare), static_cast<double>(kSquare * rows), [&](int64_t begin, int64_t end) {
    const int64_t column_end = std::min(columns, end * kSquare);
    for (int64_t first = 0; first < rows; first += kSquare)
      for (int64_t column = begin * kSquare; column < column_end; ++column)
        for (int64_t row = first; row < std::min(rows, first + kSquare); ++row)
          std::memcpy(tensor + (column * part.place.tensor_rows + part.place.first_row + row) * item,
                      part.values + (row * columns + column) * item, static_cast<size_t>(item));
  });
}

void put(const Part& part, int64_t item, std::byte* tensor) {
  if (part.place.transposed) return put_transposed(part, item, tensor);
  const int64_t row_elements = part.parameter.is_matrix ? part.parameter.columns : 1;
  std::memcpy(tensor + part.place.first_row * row_elements * item, part.values,
              static_cast<size_t>(part.parameter.size() * item));
}

/// The tensors to store, in the layout's order. Those that do not lie in `base` as they are stored are put together
/// when they are written.
std::vector<OutputTensor> stored_tensors(const ModelSpec& spec, const ParameterLayout& layout, const std::byte* base,
                                         DType dtype) {
  const ModelFamily& family = family_of(spec);
  const std::string prefix(family.prefixes().front());
  const int64_t item = dtype_bytes(dtype);
  std::vector<OutputTensor> tensors;
  std::vector<Part> parts;  // of the last tensor, if it is put together
  for (const Parameter& parameter : layout.parameters()) {
    const StoredPlace place = family.place(spec, parameter);
    const std::string name = (parameter.role == ParameterRole::output_matrix ? "" : prefix) + place.tensor;
    const std::byte* values = base + parameter.offset * item;
    const bool whole = place.tensor_rows == (parameter.is_matrix ? parameter.rows : parameter.columns);
    if (whole && !place.transposed) {
      tensors.push_back({name, stored_type_of(dtype), place.shape(parameter), values});
      continue;
    }
    if (tensors.empty() || tensors.back().name != name) {
      tensors.push_back({name, stored_type_of(dtype), place.shape(parameter)});
      parts.clear();
    }
    parts.push_back({parameter, place, values});
    tensors.back().fill = [parts, item](std::byte* elements) {
      for (const Part& part : parts) put(part, item, elements);
    };
  }
  return tensors;
}

}  // namespace

void write_model_checkpoint(const std::filesystem::path& directory, const ModelSpec& spec, std::span<const float> flat,
                            DType stored_dtype, int64_t shard_bytes_max) {
  const ParameterLayout layout(spec);
  CBTM_ASSERT(static_cast<int64_t>(flat.size()) == layout.flat_size(), "a flat buffer has the layout's size");
  const std::vector<uint16_t> half = narrowed(flat, stored_dtype, directory.string());
  const auto* base = stored_dtype == DType::f32 ? reinterpret_cast<const std::byte*>(flat.data())
                                                : reinterpret_cast<const std::byte*>(half.data());
  write_weights(directory, stored_tensors(spec, layout, base, stored_dtype), shard_bytes_max);
  const char* dtype = stored_dtype == DType::f32 ? "float32" : stored_dtype == DType::bf16 ? "bfloat16" : "float16";
  const Json json = model_config_json(spec, dtype);
  write_json_file(model_config_file(directory), json);
  Json generation = {{"bos_token_id", spec.bos_token_id}, {"eos_token_id", json["eos_token_id"]}};
  if (spec.pad_token_id >= 0) generation["pad_token_id"] = spec.pad_token_id;
  write_json_file(directory / "generation_config.json", generation);
}

std::string checkpoint_hash(const std::filesystem::path& directory) {
  const std::vector<std::filesystem::path> files = weight_files(directory);
  for (const std::filesystem::path& file : files) {
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(file, ignored)) fail("{}: is missing, or is not a file", file.string());
  }
  if (files.size() == 1) return hash_file_hex(files.front());
  StreamingHash hash;
  for (size_t i = 1; i < files.size(); ++i)  // the first is the index, which says nothing more
    hash.update(files[i].filename().string() + "\n" + hash_file_hex(files[i]) + "\n");
  return hash.hex();
}

}  // namespace cbtm
