#include "tensor_file/finite_values.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <vector>

#include "cbtm/base/error.h"
#include "cbtm/base/threads.h"

namespace cbtm {
namespace {

/// Whether an element's bits have an exponent of ones only.
template <typename Bits, Bits kExponent>
struct Broken {
  bool operator()(Bits bits) const { return (bits & kExponent) == kExponent; }
};
/// Whether float32 cannot hold it.
struct BrokenDouble {
  bool operator()(uint64_t bits) const {
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return !std::isfinite(static_cast<float>(value));
  }
};

template <typename Bits, typename Test>
NotFinite scan(const std::byte* data, int64_t count, const Test& broken) {
  constexpr int64_t kBlock = 4096;  // counted without a branch, so that it is vectorised
  const auto load = [&](int64_t i) {
    Bits bits;
    std::memcpy(&bits, data + i * static_cast<int64_t>(sizeof bits), sizeof bits);
    return bits;
  };
  NotFinite found;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, count);
    Bits in_block = 0;  // as wide as an element: a block has fewer elements than 2^16
    for (int64_t i = begin; i < end; ++i) in_block = static_cast<Bits>(in_block + (broken(load(i)) ? 1 : 0));
    if (in_block == 0) continue;
    if (found.count == 0)
      for (found.first = begin; !broken(load(found.first));) ++found.first;
    found.count += static_cast<int64_t>(in_block);
  }
  return found;
}

NotFinite scan_type(StoredType type, const std::byte* data, int64_t count) {
  switch (type) {
    case StoredType::f32: return scan<uint32_t>(data, count, Broken<uint32_t, 0x7f800000>());
    case StoredType::bf16: return scan<uint16_t>(data, count, Broken<uint16_t, 0x7f80>());
    case StoredType::f16: return scan<uint16_t>(data, count, Broken<uint16_t, 0x7c00>());
    case StoredType::f64: return scan<uint64_t>(data, count, BrokenDouble());
    default: CBTM_ASSERT(false, "only floating-point numbers can be NaN"); return {};
  }
}

/// Whether the elements of any column are not finite, of a matrix whose columns lie in one piece each.
bool any_column_broken(const StoredTensor& tensor) {
  std::atomic<bool> broken = false;
  parallel_ranges(tensor.shape[1], static_cast<double>(tensor.shape[0]) * 0.3, [&](int64_t begin, int64_t end) {
    for (int64_t column = begin; column < end; ++column)
      if (scan_type(tensor.type, tensor.data + column * tensor.strides[1] * stored_type_bytes(tensor.type),
                    tensor.shape[0])
              .count > 0)
        broken = true;
  });
  return broken;
}

}  // namespace

NotFinite find_not_finite(const StoredTensor& tensor) {
  if (!tensor.contiguous()) {
    const bool columns = tensor.shape.size() == 2 && tensor.strides[0] == 1;
    if (columns && !any_column_broken(tensor)) return {};
    const std::vector<float> values = tensor.values<float>();
    return scan_type(StoredType::f32, reinterpret_cast<const std::byte*>(values.data()), tensor.size());
  }
  NotFinite total;
  std::mutex lock;
  parallel_ranges(tensor.size(), 0.3, [&](int64_t begin, int64_t end) {
    NotFinite part = scan_type(tensor.type, tensor.data + begin * stored_type_bytes(tensor.type), end - begin);
    if (part.count == 0) return;
    part.first += begin;
    const std::lock_guard guard(lock);
    total.first = total.count == 0 ? part.first : std::min(total.first, part.first);
    total.count += part.count;
  });
  return total;
}

}  // namespace cbtm
