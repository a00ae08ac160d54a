#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "cbtm/base/philox.h"
#include "cbtm/device/device.h"
#include "cbtm/device/device_matrix.h"
#include "cbtm/device/model_operators.h"
#include "cbtm/device/quantise.h"

namespace cbtm::row_sums {

inline std::vector<float> random_values(int64_t count, uint64_t seed) {
  PhiloxStream stream(seed, 17);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = 2 * static_cast<float>(stream.next_uniform()) - 1;
  return values;
}

/// Random values in a device's memory, as `dtype`.
inline DeviceMatrix random_matrix(Device& device, DType dtype, int64_t rows, int64_t columns, uint64_t seed) {
  const DeviceMatrix values = DeviceMatrix::copy_of<float>(device, random_values(rows * columns, seed), rows, "a test");
  if (dtype == DType::f32) {
    DeviceMatrix same(device, dtype, rows, columns, "a test");
    device.copy(same.view(), values.view());
    return same;
  }
  DeviceMatrix narrow(device, dtype, rows, columns, "a test");
  device.copy(narrow.view(), values.view());
  return narrow;
}

/// The bytes of rows of a matrix.
inline std::vector<char> bytes_of(Device& device, ConstTensorView view) {
  const auto row_bytes = static_cast<size_t>(view.columns * dtype_bytes(view.dtype));
  std::vector<char> bytes(static_cast<size_t>(view.rows) * row_bytes);
  for (int64_t row = 0; row < view.rows; ++row)
    device.copy_to_host(bytes.data() + static_cast<size_t>(row) * row_bytes, view.row_range(row, 1).data,
                        static_cast<int64_t>(row_bytes));
  return bytes;
}

struct Weights {
  DeviceMatrix matrix, scales;
};
inline Weights weights_of(Device& device, DType kind, int64_t out, int64_t in) {
  const std::vector<float> values = random_values(out * in, 3);
  Weights weights;
  if (kind == DType::i8) {
    std::vector<int8_t> codes(values.size());
    std::vector<float> scales(static_cast<size_t>(out));
    for (int64_t o = 0; o < out; ++o)
      REQUIRE(quantise_int8(values.data() + o * in, in, codes.data() + o * in, scales[static_cast<size_t>(o)]));
    weights.matrix = DeviceMatrix::copy_of<int8_t>(device, codes, out, "a test");
    weights.scales = DeviceMatrix::copy_of<float>(device, scales, 1, "a test");
  } else if (kind == DType::u8) {
    const int64_t groups = int4_groups(in);
    std::vector<uint8_t> codes(static_cast<size_t>(out * groups * kInt4GroupBytes));
    std::vector<f16> scales(static_cast<size_t>(out * groups));
    for (int64_t o = 0; o < out; ++o)
      REQUIRE(quantise_int4(values.data() + o * in, in, codes.data() + o * groups * kInt4GroupBytes,
                            scales.data() + o * groups));
    weights.matrix = DeviceMatrix::copy_of<uint8_t>(device, codes, out, "a test");
    weights.scales = DeviceMatrix::copy_of<f16>(device, scales, out, "a test");
  } else {
    weights.matrix = random_matrix(device, kind, out, in, 3);
  }
  return weights;
}

/// The same rows alone, and any rows of them together, get the same bits. `type`: of the activations.
inline void check_linear(Device& device, DType type, RowSums row_sums) {
  for (const DType kind : {type, DType::bf16, DType::i8, DType::u8})
    for (const Activation activation : {Activation::relu, Activation::gelu_tanh})
      for (const auto& [in, out] : {std::pair<int64_t, int64_t>{40, 70}, {133, 17}}) {
        if (kind == DType::bf16 && type == DType::f16) continue;
        CAPTURE(std::string(dtype_name(type)));
        CAPTURE(std::string(dtype_name(kind)));
        CAPTURE(in);
        CAPTURE(static_cast<int>(activation));
        constexpr int64_t kRows = 75;
        const DeviceMatrix input = random_matrix(device, type, kRows, in, 1);
        const Weights weights = weights_of(device, kind, out, in);
        const DeviceMatrix bias = random_matrix(device, DType::f32, 1, out, 2);
        const DeviceMatrix output(device, type, kRows, out, "a test");
        const auto run = [&](int64_t first, int64_t count) {
          device.model_operators().linear_forward({.input = input.view().row_range(first, count),
                                                   .weight = weights.matrix.view(),
                                                   .bias = bias.view(),
                                                   .activation = activation,
                                                   .output = output.view().row_range(first, count),
                                                   .weight_scales = weights.scales.view(),
                                                   .row_sums = row_sums});
          return bytes_of(device, output.view().row_range(first, count));
        };
        const std::vector<char> all = run(0, kRows);
        const auto row_bytes = static_cast<size_t>(out * dtype_bytes(type));
        for (const auto& [first, count] :
             {std::pair<int64_t, int64_t>{0, 1}, {74, 1}, {3, 2}, {10, 5}, {20, 8}, {41, 9}, {7, 33}, {1, 64}}) {
          CAPTURE(first);
          CAPTURE(count);
          const std::vector<char> some = run(first, count);
          CHECK(std::memcmp(some.data(), all.data() + static_cast<size_t>(first) * row_bytes, some.size()) == 0);
        }
      }
}

/// Sequences of a cache, and how many of their tokens are new.
struct Asked {
  int64_t sequence;
  int64_t cached;  ///< the new ones included
  int64_t fresh;
};

/// Cached attention: a token gets the same bits alone, with other sequences, and in one call with those before it.
inline void check_decoding_attention(Device& device, DType type) {
  constexpr int64_t kPageSize = 16, kPages = 64, kHeads = 3, kSequences = 4, kTokensMax = 200;
  const std::vector<int64_t> lengths = {200, 7, 33, 130};
  for (const int64_t head_dim : {8, 40}) {
    CAPTURE(head_dim);
    const int64_t width = kHeads * head_dim;
    std::vector<DeviceMatrix> queries, keys, values;
    for (uint64_t s = 0; s < kSequences; ++s) {
      queries.push_back(random_matrix(device, type, kTokensMax, width, 10 + s));
      keys.push_back(random_matrix(device, type, kTokensMax, width, 20 + s));
      values.push_back(random_matrix(device, type, kTokensMax, width, 30 + s));
    }
    const DeviceMatrix cached_keys = random_matrix(device, type, kPages * kPageSize, width, 40);
    const DeviceMatrix cached_values = random_matrix(device, type, kPages * kPageSize, width, 41);
    std::vector<int32_t> pages;
    const int64_t pages_of_one = kPages / kSequences;
    for (int64_t s = 0; s < kSequences; ++s)
      for (int64_t page = 0; page < pages_of_one; ++page)
        pages.push_back(static_cast<int32_t>((page * kSequences + s * 5) % kPages / kSequences * kSequences + s));
    /// The outputs of the new tokens, all of them in one call.
    const auto run = [&](const std::vector<Asked>& asked) {
      std::vector<int32_t> offsets = {0}, cached_lengths, table;
      for (const Asked& one : asked) {
        offsets.push_back(offsets.back() + static_cast<int32_t>(one.fresh));
        cached_lengths.push_back(static_cast<int32_t>(one.cached));
        for (int64_t page = 0; page < pages_of_one; ++page)
          table.push_back(pages[static_cast<size_t>(one.sequence * pages_of_one + page)]);
      }
      const int64_t rows = offsets.back();
      const DeviceMatrix q(device, type, rows, width, "a test"), k(device, type, rows, width, "a test");
      const DeviceMatrix v(device, type, rows, width, "a test"), output(device, type, rows, width, "a test");
      for (size_t i = 0; i < asked.size(); ++i) {
        const auto s = static_cast<size_t>(asked[i].sequence);
        const int64_t first = asked[i].cached - asked[i].fresh, fresh = asked[i].fresh;
        device.copy(q.view().row_range(offsets[i], fresh), queries[s].view().row_range(first, fresh));
        device.copy(k.view().row_range(offsets[i], fresh), keys[s].view().row_range(first, fresh));
        device.copy(v.view().row_range(offsets[i], fresh), values[s].view().row_range(first, fresh));
      }
      const DeviceMatrix block_table =
          DeviceMatrix::copy_of<int32_t>(device, table, static_cast<int64_t>(asked.size()), "a test");
      device.model_operators().attention_cached(
          {.shape =
               {.query_offsets = offsets, .key_offsets = {}, .num_heads = kHeads, .head_dim = head_dim, .scale = 0.3f},
           .cached_lengths = cached_lengths,
           .cache = {.keys = cached_keys.view(),
                     .values = cached_values.view(),
                     .page_size = kPageSize,
                     .block_table = block_table.view()},
           .query = q.view(),
           .key = k.view(),
           .value = v.view(),
           .output = output.view(),
           .row_sums = RowSums::decode});
      return bytes_of(device, output.view());
    };
    // Token by token, each sequence alone.
    std::vector<std::vector<char>> alone(kSequences);
    for (int64_t s = 0; s < kSequences; ++s) {
      const int64_t length = lengths[static_cast<size_t>(s)];
      const int64_t prompt = std::max<int64_t>(1, length - 20);
      run({{s, prompt, prompt}});
      for (int64_t token = prompt + 1; token <= length; ++token) {
        const std::vector<char> one = run({{s, token, 1}});
        alone[static_cast<size_t>(s)].insert(alone[static_cast<size_t>(s)].end(), one.begin(), one.end());
      }
    }
    // All together, the same tokens at once, or the last of each alone.
    for (const bool last_only : {false, true}) {
      std::vector<Asked> asked;
      std::vector<char> want;
      for (int64_t s = 0; s < kSequences; ++s) {
        const int64_t length = lengths[static_cast<size_t>(s)];
        const int64_t fresh = last_only ? 1 : std::min<int64_t>(length - 1, 20);
        asked.push_back({s, length, fresh});
        const std::vector<char>& of_one = alone[static_cast<size_t>(s)];
        const auto size = static_cast<std::ptrdiff_t>(fresh * width * dtype_bytes(type));
        want.insert(want.end(), of_one.end() - size, of_one.end());
      }
      CHECK(run(asked) == want);
    }
  }
}

}  // namespace cbtm::row_sums
