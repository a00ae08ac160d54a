#include <fmt/format.h>

#include "cbtm/base/philox.h"
#include "cbtm/device/cluster_operators.h"
#include "tests/operators/cases.h"

namespace cbtm {
namespace {

struct SparseSettings {
  int64_t rows, columns, length;  ///< entries of a row, about
  int64_t width = 1;              ///< of the dense operand
  bool long_row = false;          ///< the middle row has nearly all columns
};

/// A matrix with rows of random length, some empty, of counts from 1 to 9.
struct Csr {
  std::vector<double> indptr = {0}, indices, values;

  explicit Csr(const SparseSettings& s) {
    PhiloxStream random(8, 5);
    for (int64_t row = 0; row < s.rows; ++row) {
      const double share = s.long_row && row == s.rows / 2 ? 0.9
                           : row % 5 == 3                  ? 0
                                          : static_cast<double>(s.length) / static_cast<double>(s.columns);
      for (int64_t column = 0; column < s.columns; ++column) {
        if (random.next_uniform() >= share) continue;
        indices.push_back(static_cast<double>(column));
        values.push_back(1 + static_cast<double>(random.next_below(9)));
      }
      indptr.push_back(static_cast<double>(indices.size()));
    }
  }
  int64_t entries() const { return static_cast<int64_t>(indices.size()); }
  int64_t begin(int64_t row) const { return static_cast<int64_t>(indptr[static_cast<size_t>(row)]); }
  int64_t column(int64_t entry) const { return static_cast<int64_t>(indices[static_cast<size_t>(entry)]); }
};

struct SparseOperands {
  int64_t rows, columns;
  Operand indptr, indices, values;
  SparseMatrix on(const OperandsOnDevice& device) const {
    return {rows, columns, device[indptr], device[indices], device[values]};
  }
};

OperatorCase make_tfidf(const SparseSettings& s) {
  OperatorCase one;
  const Csr a(s);
  SparseOperands counts{s.rows, s.columns, {}, {}, {}};
  counts.indptr = one.input("indptr", DType::i64, 1, s.rows + 1, a.indptr);
  counts.indices = one.input("indices", DType::i32, 1, a.entries(), a.indices);
  counts.values = one.updated("values", DType::f32, 1, a.entries(), a.values);
  std::vector<double> frequencies;
  for (int64_t c = 0; c < s.columns; ++c) frequencies.push_back(1 + std::log(static_cast<double>(c) + 2));
  const Operand idf = one.input("inverse_document_frequencies", DType::f64, 1, s.columns, frequencies);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.cluster_operators().tfidf_rows({.counts = counts.on(on), .inverse_document_frequencies = on[idf]});
  };
  one.reference = [=](Expectation& e) {
    for (int64_t row = 0; row < s.rows; ++row) {
      double square = 0;
      const auto weighted = [&](int64_t entry) {
        return e[counts.values].at(0, entry) * e[idf].at(0, a.column(entry));
      };
      for (int64_t entry = a.begin(row); entry < a.begin(row + 1); ++entry) square += weighted(entry) * weighted(entry);
      // A product, and half of the error of a sum of so many squares under a root; all positive, in float64.
      const double units = static_cast<double>(a.begin(row + 1) - a.begin(row)) + 4;
      for (int64_t entry = a.begin(row); entry < a.begin(row + 1); ++entry) {
        const double want = weighted(entry) / std::sqrt(square);
        e.expect(counts.values, 0, entry, {want, units * 0x1p-53 * want});
      }
    }
  };
  return one;
}

OperatorCase make_transpose(const SparseSettings& s) {
  OperatorCase one;
  const Csr a(s);
  SparseOperands from{s.rows, s.columns, {}, {}, {}}, to{s.columns, s.rows, {}, {}, {}};
  from.indptr = one.input("indptr", DType::i64, 1, s.rows + 1, a.indptr);
  from.indices = one.input("indices", DType::i32, 1, a.entries(), a.indices);
  from.values = one.input("values", DType::f32, 1, a.entries(), a.values);
  to.indptr = one.output("transposed indptr", DType::i64, 1, s.columns + 1);
  to.indices = one.output("transposed indices", DType::i32, 1, a.entries());
  to.values = one.output("transposed values", DType::f32, 1, a.entries());
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.cluster_operators().sparse_transpose(from.on(on), to.on(on));
  };
  one.reference = [=](Expectation& e) {
    std::vector<std::vector<std::pair<int64_t, double>>> columns(static_cast<size_t>(s.columns));
    for (int64_t row = 0; row < s.rows; ++row)
      for (int64_t entry = a.begin(row); entry < a.begin(row + 1); ++entry)
        columns[static_cast<size_t>(a.column(entry))].emplace_back(row, a.values[static_cast<size_t>(entry)]);
    int64_t place = 0;
    for (int64_t column = 0; column <= s.columns; ++column) {
      e.expect_one_of(to.indptr, 0, column, {static_cast<double>(place)});
      if (column == s.columns) break;
      for (const auto& [row, value] : columns[static_cast<size_t>(column)]) {
        e.expect_one_of(to.indices, 0, place, {static_cast<double>(row)});
        e.expect_one_of(to.values, 0, place++, {value});
      }
    }
  };
  return one;
}

OperatorCase make_product(const SparseSettings& s) {
  OperatorCase one;
  const Csr host(s);
  SparseOperands a{s.rows, s.columns, {}, {}, {}};
  a.indptr = one.input("indptr", DType::i64, 1, s.rows + 1, host.indptr);
  a.indices = one.input("indices", DType::i32, 1, host.entries(), host.indices);
  a.values = one.input("values", DType::f32, 1, host.entries(), host.values);
  const Operand x = one.input("x", DType::f32, s.columns, s.width, uniform_values(s.columns * s.width, 2));
  const Operand y = one.output("y", DType::f32, s.rows, s.width);
  one.flops = 2.0 * static_cast<double>(host.entries() * s.width);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.cluster_operators().sparse_times_dense(a.on(on), on[x], on[y]);
  };
  one.reference = [=](Expectation& e) {
    for (int64_t row = 0; row < s.rows; ++row)
      for (int64_t c = 0; c < s.width; ++c) {
        Sum sum;
        for (int64_t entry = host.begin(row); entry < host.begin(row + 1); ++entry)
          sum.add_product(e[a.values].at(0, entry), e[x].at(host.column(entry), c));
        e.expect(y, row, c, sum.result());
      }
  };
  return one;
}

}  // namespace

CaseList sparse_cases() {
  CaseList cases;
  const auto add = [&](const char* name, OperatorCase (*make)(const SparseSettings&), const SparseSettings& s,
                       bool large = false) {
    cases.push_back(
        {fmt::format("{} {}x{} about {} a row{}{}", name, s.rows, s.columns, s.length,
                     make == make_product ? fmt::format(" times {}", s.width) : "", s.long_row ? ", a long row" : ""),
         large, [=] { return make(s); }});
  };
  for (const auto& [rows, columns, length] :
       {std::tuple<int64_t, int64_t, int64_t>{1, 1, 1}, {7, 40, 3}, {33, 700, 350}, {300, 1031, 20}, {5, 9000, 4}}) {
    add("tfidf_rows", make_tfidf, {rows, columns, length});
    add("sparse_transpose", make_transpose, {rows, columns, length});
  }
  // Odd widths, rows that are aligned and not, empty and long rows of entries.
  for (const SparseSettings& s : {SparseSettings{1, 1, 1, 1},
                                  {9, 50, 7, 3},
                                  {40, 300, 40, 110},
                                  {21, 200, 60, 112},
                                  {20, 90, 30, 129},
                                  {10, 4000, 100, 132, true},
                                  {10, 4000, 5, 8, true},
                                  {0, 5, 1, 4}})
    add("sparse_times_dense", make_product, s);
  const SparseSettings real{2000, 20'000, 200, 110};
  add("tfidf_rows", make_tfidf, real, true);
  add("sparse_transpose", make_transpose, real, true);
  add("sparse_times_dense", make_product, real, true);
  return cases;
}

}  // namespace cbtm
