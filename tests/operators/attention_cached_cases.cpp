#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cbtm/device/model_operators.h"
#include "tests/operators/attention_reference.h"
#include "tests/operators/cases.h"

namespace cbtm {
namespace {

struct CachedSettings {
  DType dtype;
  int64_t num_heads, head_dim, page_size;
  std::vector<int32_t> new_tokens;  ///< of each sequence
  std::vector<int32_t> lengths;     ///< with the new ones
  int64_t slack = 0;

  int64_t width() const { return num_heads * head_dim; }
};

OperatorCase make_cached(const CachedSettings& s) {
  OperatorCase one{.computed = s.dtype};
  const auto sequences = static_cast<int64_t>(s.lengths.size());
  const int64_t width = s.width(), pages_max = *std::ranges::max_element(s.lengths) / s.page_size + 1;
  std::vector<int32_t> offsets{0};
  for (const int32_t count : s.new_tokens) offsets.push_back(offsets.back() + count);
  const int64_t rows = offsets.back();

  // The pages of the sequences lie in no order.
  int64_t pages = sequences * pages_max + 1;
  if (pages % 11 == 0) ++pages;  // so that no page is given twice below
  std::vector<double> table;
  for (int64_t i = 0; i < sequences * pages_max; ++i) table.push_back(static_cast<double>((i * 11 + 3) % pages));
  const auto cache_row = [=](int64_t sequence, int64_t token) {
    return static_cast<int64_t>(table[static_cast<size_t>(sequence * pages_max + token / s.page_size)]) * s.page_size +
           token % s.page_size;
  };
  // Memory that holds no token yet is not a number: it must not be read, or have no weight that multiplies it.
  const auto cached = [&](uint64_t seed) {
    std::vector<double> values(static_cast<size_t>(pages * s.page_size * width), NAN);
    for (int64_t q = 0; q < sequences; ++q)
      for (int64_t token = 0; token < s.lengths[static_cast<size_t>(q)] - s.new_tokens[static_cast<size_t>(q)];
           ++token) {
        const std::vector<double> row = uniform_values(width, seed + static_cast<uint64_t>(1000 * q + token));
        std::ranges::copy(row, values.begin() + cache_row(q, token) * width);
      }
    return values;
  };
  const Placement in_cache{s.slack, s.slack / 2};
  const Operand keys = one.updated("cached_keys", s.dtype, pages * s.page_size, width, cached(100'000), in_cache);
  const Operand values = one.updated("cached_values", s.dtype, pages * s.page_size, width, cached(200'000), in_cache);
  const Operand block_table = one.input("block_table", DType::i32, sequences, pages_max, table);
  const auto fused = [&](int64_t part) { return Placement{2 * width + s.slack, part * width + s.slack / 2}; };
  const auto new_rows = [&](const char* name, uint64_t seed, int64_t part) {
    return one.input(name, s.dtype, rows, width, uniform_values(rows * width, seed), fused(part));
  };
  const Operand query = new_rows("query", 1, 0), key = new_rows("key", 2, 1), value = new_rows("value", 3, 2);
  const Operand output = one.output("output", s.dtype, rows, width, {s.slack, 0});
  const AttentionShape heads{
      .num_heads = s.num_heads, .head_dim = s.head_dim, .scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim))};
  for (int64_t q = 0; q < sequences; ++q) {
    const double count = s.new_tokens[static_cast<size_t>(q)], length = s.lengths[static_cast<size_t>(q)];
    one.flops += 4 * count * (length - (count - 1) / 2) * static_cast<double>(width);
    if (count > 0) one.bytes += 2 * length * static_cast<double>(width * dtype_bytes(s.dtype));
  }
  one.bytes += static_cast<double>(4 * rows * width * dtype_bytes(s.dtype));
  one.run = [=](Device& device, OperandsOnDevice& on) {
    AttentionShape shape = heads;
    shape.query_offsets = offsets;
    device.model_operators().attention_cached(
        {.shape = shape,
         .cached_lengths = s.lengths,
         .cache = {.keys = on[keys], .values = on[values], .page_size = s.page_size, .block_table = on[block_table]},
         .query = on[query],
         .key = on[key],
         .value = on[value],
         .output = on[output]});
  };
  one.reference = [=](Expectation& e) {
    std::vector<double> all_keys = e[keys].values, all_values = e[values].values;
    for (int64_t q = 0; q < sequences; ++q)
      for (int64_t i = offsets[static_cast<size_t>(q)]; i < offsets[static_cast<size_t>(q) + 1]; ++i) {
        const int64_t token = s.lengths[static_cast<size_t>(q)] - (offsets[static_cast<size_t>(q) + 1] - i);
        for (int64_t c = 0; c < width; ++c) {
          all_keys[static_cast<size_t>(cache_row(q, token) * width + c)] = e[key].at(i, c);
          all_values[static_cast<size_t>(cache_row(q, token) * width + c)] = e[value].at(i, c);
        }
      }
    for (int64_t r = 0; r < pages * s.page_size; ++r)
      for (int64_t c = 0; c < width; ++c)
        for (const auto& [operand, all] : {std::pair{keys, &all_keys}, {values, &all_values}}) {
          const double kept = (*all)[static_cast<size_t>(r * width + c)];
          if (std::isnan(kept))
            e.expect(operand, r, c, kept);
          else
            e.expect_one_of(operand, r, c, {kept});
        }
    for (int64_t q = 0; q < sequences; ++q)
      for (int64_t i = offsets[static_cast<size_t>(q)]; i < offsets[static_cast<size_t>(q) + 1]; ++i)
        for (int64_t head = 0; head < s.num_heads; ++head) {
          const int64_t column = head * s.head_dim;
          const int64_t seen = s.lengths[static_cast<size_t>(q)] - (offsets[static_cast<size_t>(q) + 1] - i) + 1;
          const auto at = [&](int64_t token, int64_t c) {
            return static_cast<size_t>(cache_row(q, token) * width + column + c);
          };
          const QueryReference of_query = query_reference(
              s.dtype, static_cast<double>(heads.scale), s.head_dim, seen,
              [&](int64_t c) { return e[query].at(i, column + c); },
              [&](int64_t j, int64_t c) { return all_keys[at(j, c)]; });
          for (int64_t c = 0; c < s.head_dim; ++c) {
            Sum sum(s.dtype);
            for (int64_t j = 0; j < seen; ++j)
              sum.add_product(stored(of_query.exponentials[static_cast<size_t>(j)], s.dtype), all_values[at(j, c)]);
            e.expect(output, i, column + c, with_units(sum.result() / of_query.sum, 1));
          }
        }
  };
  return one;
}

}  // namespace

CaseList attention_cached_cases() {
  CaseList cases;
  const auto add = [&](const CachedSettings& s, bool large = false) {
    cases.push_back(
        {fmt::format("attention_cached {} {} heads of {}, pages of {}, new {} of {}", dtype_name(s.dtype), s.num_heads,
                     s.head_dim, s.page_size, fmt::join(s.new_tokens, "+"), fmt::join(s.lengths, "+")),
         large, [s] { return make_cached(s); }});
  };
  struct Heads {
    DType dtype;
    int64_t num_heads, head_dim, page_size, slack;
  };
  // Prompts, single tokens, a sequence that rests, and prompts in pieces, on both sides of where many queries are
  // treated otherwise than few.
  const std::vector<std::vector<int32_t>> steps[] = {
      {{70, 3, 0}, {70, 3, 5}}, {{1, 1, 1}, {71, 4, 1}}, {{1, 0, 1}, {16, 9, 33}}, {{7, 8, 2}, {60, 8, 150}}};
  for (const Heads& h : {Heads{DType::f32, 2, 32, 16, 0},
                         {DType::f32, 1, 20, 5, 3},
                         {DType::f32, 2, 12, 4, 0},
                         {DType::bf16, 2, 64, 16, 0},
                         {DType::f16, 1, 64, 24, 2},
                         {DType::bf16, 1, 80, 16, 0}})
    for (const auto& step : steps) add({h.dtype, h.num_heads, h.head_dim, h.page_size, step[0], step[1], h.slack});
  for (const DType dtype : kComputedTypes)
    for (const size_t sequences : {1, 8})
      add({dtype, kHeads, kHidden / kHeads, 16, std::vector<int32_t>(sequences, 1),
           std::vector<int32_t>(sequences, 500)},
          true);
  return cases;
}

}  // namespace cbtm
