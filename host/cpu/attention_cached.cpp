// Attention over a paged key-value cache. A few new queries (decoding) read keys and values where they lie, page by
// page; many (a prompt) gather them once and go the way of training. AttentionCached::row_sums may name either way.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cbtm/base/threads.h"
#include "cpu/model_operators.h"

namespace cbtm {
namespace {

constexpr int64_t kGatherQueries = 8;

/// Whether so many new queries of a sequence gather keys and values.
bool gathers(const AttentionCached& a, int64_t queries) {
  switch (a.row_sums) {
    case RowSums::decode: return false;
    case RowSums::prompt: return true;
    case RowSums::any: break;
  }
  return queries >= kGatherQueries;
}

/// First row of page `page` of sequence `sequence` within the cache.
int64_t page_row(const KeyValueCache& cache, int64_t sequence, int64_t page) {
  return cache.block_table.as<int32_t>()[sequence * cache.block_table.row_stride + page] * cache.page_size;
}

void append_rows(const AttentionCached& a, int64_t sequence, int64_t cached) {
  const auto s = static_cast<size_t>(sequence);
  const int64_t begin = a.shape.query_offsets[s];
  const int64_t count = a.shape.query_offsets[s + 1] - begin;
  const int64_t width = a.key.columns;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t token = cached - count + i;
    const int64_t row = page_row(a.cache, sequence, token / a.cache.page_size) + token % a.cache.page_size;
    std::memcpy(a.cache.keys.as<float>() + row * a.cache.keys.row_stride,
                a.key.as<float>() + (begin + i) * a.key.row_stride, static_cast<size_t>(width) * 4);
    std::memcpy(a.cache.values.as<float>() + row * a.cache.values.row_stride,
                a.value.as<float>() + (begin + i) * a.value.row_stride, static_cast<size_t>(width) * 4);
  }
}

}  // namespace

void CpuModelOperators::attention_cached(const AttentionCached& a) {
  const AttentionShape& shape = a.shape;
  const int64_t sequences = static_cast<int64_t>(a.cached_lengths.size());
  const int64_t head_dim = shape.head_dim;
  const int64_t width = shape.num_heads * head_dim;
  for (int64_t s = 0; s < sequences; ++s) append_rows(a, s, a.cached_lengths[static_cast<size_t>(s)]);

  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t begin = shape.query_offsets[static_cast<size_t>(s)];
    const int64_t count = shape.query_offsets[static_cast<size_t>(s) + 1] - begin;
    const int64_t cached = a.cached_lengths[static_cast<size_t>(s)];
    if (!gathers(a, count)) continue;
    float* keys = scratch(2, cached * width);
    float* values = scratch(3, cached * width);
    for (int64_t token = 0; token < cached; ++token) {
      const int64_t row = page_row(a.cache, s, token / a.cache.page_size) + token % a.cache.page_size;
      std::memcpy(keys + token * width, a.cache.keys.as<float>() + row * a.cache.keys.row_stride,
                  static_cast<size_t>(width) * 4);
      std::memcpy(values + token * width, a.cache.values.as<float>() + row * a.cache.values.row_stride,
                  static_cast<size_t>(width) * 4);
    }
    const int32_t query_offsets[2] = {0, static_cast<int32_t>(count)};
    const int32_t key_offsets[2] = {0, static_cast<int32_t>(cached)};
    AttentionForward whole{.shape = shape,
                           .query = a.query.row_range(begin, count),
                           .key = view_of(keys, cached, width),
                           .value = view_of(values, cached, width),
                           .output = a.output.row_range(begin, count),
                           .log_sum_exp = {}};
    whole.shape.query_offsets = query_offsets;
    whole.shape.key_offsets = key_offsets;
    attention_forward(whole);
  }

  int64_t longest = 0;
  for (const int32_t cached : a.cached_lengths) longest = std::max<int64_t>(longest, cached);
  parallel_ranges(
      sequences * shape.num_heads, static_cast<double>(longest * head_dim) * 0.2, [&](int64_t first, int64_t last) {
        std::vector<float> scores(static_cast<size_t>(longest));
        std::vector<float> scaled(static_cast<size_t>(head_dim));
        for (int64_t unit = first; unit < last; ++unit) {
          const int64_t s = unit / shape.num_heads;
          const int64_t column = unit % shape.num_heads * head_dim;
          const int64_t begin = shape.query_offsets[static_cast<size_t>(s)];
          const int64_t count = shape.query_offsets[static_cast<size_t>(s) + 1] - begin;
          if (gathers(a, count)) continue;
          const int64_t cached = a.cached_lengths[static_cast<size_t>(s)];
          for (int64_t i = 0; i < count; ++i) {
            const int64_t seen = cached - count + i + 1;
            kernels_.scale(shape.scale, a.query.as<float>() + (begin + i) * a.query.row_stride + column, head_dim,
                           scaled.data());
            for (int64_t token = 0; token < seen; token += a.cache.page_size) {
              const int64_t in_page = std::min(a.cache.page_size, seen - token);
              const float* keys = a.cache.keys.as<float>() +
                                  page_row(a.cache, s, token / a.cache.page_size) * a.cache.keys.row_stride + column;
              for (int64_t j = 0; j < in_page; ++j)
                scores[static_cast<size_t>(token + j)] =
                    kernels_.dot(scaled.data(), keys + j * a.cache.keys.row_stride, head_dim);
            }
            const float highest = kernels_.row_max(scores.data(), seen);
            const float sum = kernels_.exp_sum(scores.data(), highest, seen, scores.data());
            float* output = a.output.as<float>() + (begin + i) * a.output.row_stride + column;
            std::memset(output, 0, static_cast<size_t>(head_dim) * 4);
            for (int64_t token = 0; token < seen; token += a.cache.page_size) {
              const int64_t in_page = std::min(a.cache.page_size, seen - token);
              const float* values = a.cache.values.as<float>() +
                                    page_row(a.cache, s, token / a.cache.page_size) * a.cache.values.row_stride +
                                    column;
              kernels_.small_product({1, head_dim, in_page, scores.data() + token, 0, 1, values,
                                      a.cache.values.row_stride, output, head_dim, true});
            }
            kernels_.scale(1.0f / sum, output, head_dim, output);
          }
        }
      });
}

}  // namespace cbtm
