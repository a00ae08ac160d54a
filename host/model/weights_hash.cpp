#include "model/weights_hash.h"

#include <fmt/format.h>

#include <algorithm>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/threads.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/families.h"
#include "cbtm/model/parameter_layout.h"
#include "model/stored_values.h"

namespace cbtm {
namespace {

constexpr int64_t kBlockBytes = int64_t{16} << 20;

/// What the hash is over: the tensors in the layout's order.
struct HashedTensor {
  std::string name;
  StoredType type;
  std::vector<std::string> block_hashes;
};

/// A run of bytes whose block hashes go to a tensor.
struct HashedBytes {
  const std::byte* data;
  int64_t bytes;
  HashedTensor* tensor;
};

/// Hashes all blocks on all threads.
void hash_blocks(const std::vector<HashedBytes>& runs) {
  struct Block {
    const HashedBytes* run;
    int64_t number;
  };
  std::vector<Block> blocks;
  for (const HashedBytes& run : runs) {
    run.tensor->block_hashes.resize(static_cast<size_t>(ceil_divide(run.bytes, kBlockBytes)));
    for (int64_t number = 0; number * kBlockBytes < run.bytes; ++number) blocks.push_back({&run, number});
  }
  parallel_ranges(static_cast<int64_t>(blocks.size()), 1e6, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto& [run, number] = blocks[static_cast<size_t>(i)];
      const int64_t first = number * kBlockBytes;
      run->tensor->block_hashes[static_cast<size_t>(number)] =
          hash_hex({reinterpret_cast<const char*>(run->data) + first,
                    static_cast<size_t>(std::min(kBlockBytes, run->bytes - first))});
    }
  });
}

std::string hash_of(const ModelSpec& spec, const std::vector<HashedTensor>& tensors) {
  StreamingHash hash;
  hash.update(architecture_text(spec));
  for (const HashedTensor& tensor : tensors) {
    hash.update(fmt::format("{} {}\n", tensor.name, stored_type_name(tensor.type)));
    for (const std::string& block : tensor.block_hashes) hash.update(block);
  }
  return hash.hex();
}

}  // namespace

std::string weights_hash(const ModelSpec& spec, std::span<const float> flat) {
  const ParameterLayout layout(spec);
  std::vector<HashedTensor> tensors(layout.parameters().size());
  std::vector<HashedBytes> runs;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Parameter& parameter = layout.parameters()[i];
    tensors[i] = {tensor_name(spec, parameter), StoredType::f32, {}};
    runs.push_back(
        {reinterpret_cast<const std::byte*>(flat.data() + parameter.offset), parameter.size() * 4, &tensors[i]});
  }
  hash_blocks(runs);
  return hash_of(spec, tensors);
}

// A tensor that does not lie in one piece counts as the float32 it stands for; one of them at a time is in memory.
std::string hash_of_stored(const ModelSpec& spec, std::span<const StoredTensor> stored) {
  const ParameterLayout layout(spec);
  std::vector<HashedTensor> tensors(stored.size());
  std::vector<HashedBytes> runs;
  std::vector<float> gathered;
  for (size_t i = 0; i < stored.size(); ++i) {
    const StoredTensor& tensor = stored[i];
    const bool whole = tensor.contiguous();
    tensors[i] = {tensor_name(spec, layout.parameters()[i]), whole ? tensor.type : StoredType::f32, {}};
    if (whole) {
      runs.push_back({tensor.data, tensor.size() * stored_type_bytes(tensor.type), &tensors[i]});
      continue;
    }
    gathered.resize(static_cast<size_t>(tensor.size()));
    read_stored_values(tensor, DType::f32, gathered.data());
    hash_blocks({{reinterpret_cast<const std::byte*>(gathered.data()), tensor.size() * 4, &tensors[i]}});
  }
  hash_blocks(runs);
  return hash_of(spec, tensors);
}

}  // namespace cbtm
