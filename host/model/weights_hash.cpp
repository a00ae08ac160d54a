#include "model/weights_hash.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>

#include "cbtm/base/hash.h"
#include "cbtm/base/threads.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/families.h"
#include "cbtm/model/parameter_layout.h"
#include "model/stored_values.h"

namespace cbtm {
namespace {

/// What weights_hash is over: the tensors in the layout's order.
struct HashedTensor {
  std::string name;
  StoredType type;
  const void* data;
  int64_t bytes;
};

std::string hash_of(const ModelSpec& spec, const std::vector<HashedTensor>& tensors) {
  constexpr int64_t kBlockBytes = int64_t{16} << 20;
  struct Block {
    size_t tensor;
    int64_t begin, bytes;
    std::string hash;
  };
  std::vector<Block> blocks;
  for (size_t i = 0; i < tensors.size(); ++i)
    for (int64_t begin = 0; begin < tensors[i].bytes; begin += kBlockBytes)
      blocks.push_back({i, begin, std::min(kBlockBytes, tensors[i].bytes - begin), ""});
  parallel_ranges(static_cast<int64_t>(blocks.size()), 1e6, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Block& block = blocks[static_cast<size_t>(i)];
      block.hash = hash_hex(
          {static_cast<const char*>(tensors[block.tensor].data) + block.begin, static_cast<size_t>(block.bytes)});
    }
  });
  StreamingHash hash;
  hash.update(architecture_text(spec));
  size_t next = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    hash.update(fmt::format("{} {}\n", tensors[i].name, stored_type_name(tensors[i].type)));
    for (; next < blocks.size() && blocks[next].tensor == i; ++next) hash.update(blocks[next].hash);
  }
  return hash.hex();
}

}  // namespace

std::string weights_hash(const ModelSpec& spec, std::span<const float> flat) {
  const ParameterLayout layout(spec);
  std::vector<HashedTensor> tensors;
  for (const Parameter& parameter : layout.parameters())
    tensors.push_back(
        {tensor_name(spec, parameter), StoredType::f32, flat.data() + parameter.offset, parameter.size() * 4});
  return hash_of(spec, tensors);
}

std::string hash_of_stored(const ModelSpec& spec, std::span<const StoredTensor> stored) {
  const ParameterLayout layout(spec);
  std::vector<HashedTensor> tensors;
  std::deque<std::vector<float>> gathered;  // tensors that do not lie in one piece count as the float32 they stand for
  for (size_t i = 0; i < stored.size(); ++i) {
    const StoredTensor& tensor = stored[i];
    const std::string name = tensor_name(spec, layout.parameters()[i]);
    if (tensor.contiguous()) {
      tensors.push_back({name, tensor.type, tensor.data, tensor.size() * stored_type_bytes(tensor.type)});
      continue;
    }
    gathered.emplace_back(static_cast<size_t>(tensor.size()));
    read_stored_values(tensor, DType::f32, gathered.back().data());
    tensors.push_back({name, StoredType::f32, gathered.back().data(), tensor.size() * 4});
  }
  return hash_of(spec, tensors);
}

}  // namespace cbtm
