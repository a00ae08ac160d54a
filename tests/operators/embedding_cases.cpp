#include <fmt/format.h>

#include "cbtm/device/model_operators.h"
#include "tests/operators/cases.h"
#include "tests/operators/weights.h"

namespace cbtm {
namespace {

enum class Tables { both, tokens, positions, positions_added };

const char* tables_name(Tables tables) {
  switch (tables) {
    case Tables::both: return "both tables";
    case Tables::tokens: return "tokens";
    case Tables::positions: return "positions";
    case Tables::positions_added: return "positions added";
  }
  return "";
}

struct EmbeddingSettings {
  int64_t rows, width, vocab;
  DType out = DType::f32, table = DType::f32;
  Tables tables = Tables::both;
  Placement placement = {};
  int64_t positions = 40;
};

/// Every second id is the same, as frequent words are; the rest are anywhere.
std::vector<double> drawn_ids(int64_t rows, int64_t vocab) {
  std::vector<double> ids = uniform_ids(rows, vocab, 3);
  for (size_t r = 0; r < ids.size(); r += 2) ids[r] = static_cast<double>(vocab / 2);
  return ids;
}

std::vector<double> repeated_positions(int64_t rows, int64_t positions) {
  std::vector<double> values;
  for (int64_t r = 0; r < rows; ++r) values.push_back(static_cast<double>(r % positions));
  return values;
}

OperatorCase make_embedding_forward(const EmbeddingSettings& s) {
  OperatorCase one{.computed = s.out};
  const Operand ids = one.input("ids", DType::i32, 1, s.rows, drawn_ids(s.rows, s.vocab));
  const Operand positions = one.input("positions", DType::i32, 1, s.rows, repeated_positions(s.rows, s.positions));
  const bool with_tokens = s.tables == Tables::both || s.tables == Tables::tokens;
  const bool with_positions = s.tables != Tables::tokens, accumulate = s.tables == Tables::positions_added;
  WeightOperands tokens;
  if (with_tokens) tokens = add_weights(one, s.table, s.vocab, s.width, 1, 1, s.placement);
  const Operand position_table = with_positions ? one.input("position_table", s.table, s.positions, s.width,
                                                            uniform_values(s.positions * s.width, 2), s.placement)
                                                : Operand();
  const Operand out = accumulate
                          ? one.updated("out", s.out, s.rows, s.width, uniform_values(s.rows * s.width, 3), s.placement)
                          : one.output("out", s.out, s.rows, s.width, s.placement);
  const int64_t row_bytes =
      s.width * ((with_tokens + with_positions) * dtype_bytes(s.table) + (1 + accumulate) * dtype_bytes(s.out));
  one.bytes = static_cast<double>(s.rows * (row_bytes + 4 * (with_tokens + with_positions)));
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.model_operators().embedding_forward({.ids = on[ids],
                                                .token_table = on[tokens.matrix],
                                                .positions = on[positions],
                                                .position_table = on[position_table],
                                                .out = on[out],
                                                .accumulate = accumulate,
                                                .token_table_scales = on[tokens.scales]});
  };
  one.reference = [=](Expectation& e) {
    for (int64_t r = 0; r < s.rows; ++r)
      for (int64_t c = 0; c < s.width; ++c) {
        // Two numbers at most are added, so there is one result: their sum in float32, rounded to the type of `out`.
        double sum = 0;
        if (with_tokens) {
          const auto id = static_cast<int64_t>(e[ids].at(0, r));
          sum = tokens.meant[static_cast<size_t>(id * s.width + c)];
        }
        if (with_positions) sum += e[position_table].at(static_cast<int64_t>(e[positions].at(0, r)), c);
        if (accumulate) sum += e[out].at(r, c);
        e.expect_one_of(out, r, c, rounded_to(rounded_to({sum}, DType::f32), s.out));
      }
  };
  return one;
}

OperatorCase make_embedding_backward(const EmbeddingSettings& s) {
  OperatorCase one{.computed = s.out};
  const Operand ids = one.input("ids", DType::i32, 1, s.rows, drawn_ids(s.rows, s.vocab));
  const Operand positions = one.input("positions", DType::i32, 1, s.rows, repeated_positions(s.rows, s.positions));
  const Operand gradient =
      one.input("out_gradient", s.out, s.rows, s.width, uniform_values(s.rows * s.width, 1), s.placement);
  Operand token_gradient, position_gradient;
  if (s.tables != Tables::positions)
    token_gradient = one.updated("token_table_gradient", DType::f32, s.vocab, s.width,
                                 uniform_values(s.vocab * s.width, 2), s.placement);
  if (s.tables != Tables::tokens)
    position_gradient = one.updated("position_table_gradient", DType::f32, s.positions, s.width,
                                    uniform_values(s.positions * s.width, 3), s.placement);
  // Each row that is named is read and written once.
  one.bytes = static_cast<double>(s.rows * s.width * dtype_bytes(s.out)) +
              8.0 * static_cast<double>(s.width * (std::min(s.rows, s.vocab) + std::min(s.rows, s.positions)));
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.model_operators().embedding_backward({.ids = on[ids],
                                                 .positions = on[positions],
                                                 .out_gradient = on[gradient],
                                                 .token_table_gradient = on[token_gradient],
                                                 .position_table_gradient = on[position_gradient]});
  };
  one.reference = [=](Expectation& e) {
    for (const auto& [table, numbers] : {std::pair{token_gradient, ids}, {position_gradient, positions}}) {
      if (!table) continue;
      const int64_t table_rows = e[table].rows;
      std::vector<Sum> sums(static_cast<size_t>(table_rows * s.width));
      for (int64_t row = 0; row < table_rows; ++row)
        for (int64_t c = 0; c < s.width; ++c) sums[static_cast<size_t>(row * s.width + c)].add(e[table].at(row, c));
      for (int64_t r = 0; r < s.rows; ++r)
        for (int64_t c = 0; c < s.width; ++c)
          sums[static_cast<size_t>(static_cast<int64_t>(e[numbers].at(0, r)) * s.width + c)].add(e[gradient].at(r, c));
      for (int64_t row = 0; row < table_rows; ++row)
        for (int64_t c = 0; c < s.width; ++c)
          e.expect(table, row, c, sums[static_cast<size_t>(row * s.width + c)].result());
    }
  };
  if (s.rows * s.width > 5'000) return one;
  // Σ out_gradient * out as a function of one of the tables.
  const std::vector<double> g = one.matrix(gradient).values;
  for (const auto& [table, numbers] : {std::pair{token_gradient, ids}, {position_gradient, positions}}) {
    if (!table) continue;
    const std::vector<double> rows = one.matrix(numbers).values;
    one.gradients.push_back(
        {table, std::vector<double>(one.matrix(table).values.size()), [=](const std::vector<double>& point) {
           Objective sum;
           for (int64_t r = 0; r < s.rows; ++r)
             for (int64_t c = 0; c < s.width; ++c)
               sum.add(g[static_cast<size_t>(r * s.width + c)] *
                       point[static_cast<size_t>(static_cast<int64_t>(rows[static_cast<size_t>(r)]) * s.width + c)]);
           return sum;
         }});
  }
  return one;
}

std::string name_of(const char* name, const EmbeddingSettings& s) {
  return fmt::format("{} {} of {} {}x{} of {} {}", name, dtype_name(s.out), dtype_name(s.table), s.rows, s.width,
                     s.vocab, tables_name(s.tables));
}

}  // namespace

CaseList embedding_cases() {
  CaseList cases;
  const auto add = [&](const char* name, OperatorCase (*make)(const EmbeddingSettings&), const EmbeddingSettings& s,
                       bool large = false) {
    cases.push_back({name_of(name, s), large, [=] { return make(s); }});
  };
  const std::vector<EmbeddingSettings> shapes = {{.rows = 1, .width = 1, .vocab = 1},
                                                 {.rows = 31, .width = 7, .vocab = 5, .placement = {2, 1}},
                                                 {.rows = 32, .width = 64, .vocab = 1200},
                                                 {.rows = 33, .width = 768, .vocab = 17},
                                                 {.rows = 97, .width = 36, .vocab = 3, .placement = {5, 3}},
                                                 {.rows = 300, .width = 600, .vocab = 90},
                                                 {.rows = 32, .width = 16, .vocab = kVocabSize},
                                                 {.rows = 0, .width = 8, .vocab = 4}};
  for (EmbeddingSettings s : shapes) {
    for (const Tables tables : {Tables::both, Tables::tokens, Tables::positions, Tables::positions_added}) {
      s.tables = tables;
      for (const auto& [out, table] : {std::pair{DType::f32, DType::f32},
                                       {DType::f32, DType::bf16},
                                       {DType::f32, DType::f16},
                                       {DType::bf16, DType::f32},
                                       {DType::bf16, DType::bf16},
                                       {DType::f16, DType::f16},
                                       {DType::f16, DType::f32}}) {
        s.out = out;
        s.table = table;
        add("embedding_forward", make_embedding_forward, s);
      }
    }
    s.table = DType::f32;
    for (const DType dtype : kComputedTypes)
      for (const Tables tables : {Tables::both, Tables::tokens, Tables::positions}) {
        s.out = dtype;
        s.tables = tables;
        add("embedding_backward", make_embedding_backward, s);
      }
  }
  for (const DType dtype : kComputedTypes)
    add("embedding_forward", make_embedding_forward,
        {.rows = 5, .width = 21, .vocab = 37, .out = dtype, .table = DType::i8, .tables = Tables::tokens});
  for (const DType dtype : kComputedTypes) {
    const EmbeddingSettings real = {
        .rows = kTrainingRows, .width = kHidden, .vocab = kVocabSize, .out = dtype, .table = dtype, .positions = 2050};
    add("embedding_forward", make_embedding_forward, real, true);
    add("embedding_backward", make_embedding_backward, real, true);
  }
  return cases;
}

}  // namespace cbtm
