// Operators of clustering against plain loops in float64.

#include <limits>

#include "cbtm/device/cluster_operators.h"
#include "tests/device/operands.h"

namespace cbtm {
namespace {

Device& device() { return device_under_test(); }

/// Three rows of four columns, one of them empty.
struct Sparse {
  std::vector<int64_t> indptr = {0, 2, 2, 5};
  std::vector<int32_t> indices = {0, 3, 1, 2, 3};
  std::vector<float> values = {2, -1, 0.5f, 4, 3};
  SparseMatrix matrix(int64_t rows, int64_t columns) {
    return {rows, columns, view_of(indptr.data(), 1, rows + 1), as_matrix(indices), as_matrix(values)};
  }
  template <typename Element>
  static TensorView as_matrix(std::vector<Element>& elements) {
    return view_of(elements.data(), 1, static_cast<int64_t>(elements.size()));
  }
};

TEST_CASE("sparse product and transposed copy") {
  Sparse a;
  auto x = random_values(4 * 21, 1);
  std::vector<float> y(3 * 21), want(y.size());
  device().cluster_operators().sparse_times_dense(a.matrix(3, 4), as_matrix(x, 4), as_matrix(y, 3));
  for (size_t r = 0; r < 3; ++r)
    for (auto e = static_cast<size_t>(a.indptr[r]); e < static_cast<size_t>(a.indptr[r + 1]); ++e)
      for (size_t c = 0; c < 21; ++c) want[r * 21 + c] += a.values[e] * x[static_cast<size_t>(a.indices[e]) * 21 + c];
  CHECK(relative_error(y, want) <= 1e-6);

  Sparse transposed{std::vector<int64_t>(5), std::vector<int32_t>(5), std::vector<float>(5)};
  device().cluster_operators().sparse_transpose(a.matrix(3, 4), transposed.matrix(4, 3));
  CHECK(transposed.indptr == std::vector<int64_t>{0, 1, 2, 3, 5});
  CHECK(transposed.indices == std::vector<int32_t>{0, 2, 2, 0, 2});
  CHECK(transposed.values == std::vector<float>{2, 0.5f, 4, -1, 3});
}

TEST_CASE("tf-idf rows have length 1 and the shape of counts times idf; empty rows stay") {
  Sparse a;
  a.values = {2, 1, 1, 4, 3};
  std::vector<double> idf = {1.5, 1, 2.25, 3};
  device().cluster_operators().tfidf_rows({a.matrix(3, 4), Sparse::as_matrix(idf)});
  const double first = std::sqrt(9.0 + 9), third = std::sqrt(1 + 81.0 + 81);
  const std::vector<double> want = {3 / first, 3 / first, 1 / third, 9 / third, 9 / third};
  for (size_t i = 0; i < want.size(); ++i) CHECK(a.values[i] == static_cast<float>(want[i]));
}

TEST_CASE("Gram matrix, and a triangle divided out of the right") {
  const int64_t rows = 9000;
  auto tall = random_values(rows * 5, 2);
  std::vector<double> product(25), expected(25);
  device().cluster_operators().gram(as_matrix(tall, rows), view_of(product.data(), 5, 5));
  for (int64_t r = 0; r < rows; ++r)
    for (size_t i = 0; i < 5; ++i)
      for (size_t j = 0; j < 5; ++j)
        expected[i * 5 + j] += static_cast<double>(tall[static_cast<size_t>(r) * 5 + i]) *
                               static_cast<double>(tall[static_cast<size_t>(r) * 5 + j]);
  CHECK(relative_error(product, expected) <= 1e-6);

  std::vector<double> upper = {2, 1, -1, 0, 0.5, 3, 0, 0, -4};
  auto y = random_values(7 * 3, 3);
  const std::vector<float> before = y;
  device().cluster_operators().solve_upper(view_of(upper.data(), 3, 3), as_matrix(y, 7));
  std::vector<double> back(21);
  for (size_t r = 0; r < 7; ++r)
    for (size_t j = 0; j < 3; ++j)
      for (size_t i = 0; i <= j; ++i) back[r * 3 + j] += static_cast<double>(y[r * 3 + i]) * upper[i * 3 + j];
  CHECK(relative_error(back, before) <= 1e-6);
  upper[4] = 0;  // a dependent column
  device().cluster_operators().solve_upper(view_of(upper.data(), 3, 3), as_matrix(y, 7));
  for (size_t r = 0; r < 7; ++r) CHECK(y[r * 3 + 1] == 0);
}

TEST_CASE("distances, nearest and second nearest centre, sums of clusters") {
  auto points = random_values(10 * 33, 3), centroids = random_values(4 * 33, 4);
  std::copy_n(centroids.begin() + 33, 33, centroids.begin() + 99);  // centre 3 equals centre 1: the first wins
  std::vector<float> distances(40), nearest(10), second(10);
  std::vector<double> reference(40);
  std::vector<int32_t> labels(10);
  device().cluster_operators().squared_distances(as_matrix(points, 10), as_matrix(centroids, 4),
                                                 as_matrix(distances, 10));
  device().cluster_operators().nearest_centres({as_matrix(points, 10), as_matrix(centroids, 4),
                                                Sparse::as_matrix(labels), as_matrix(nearest, 1),
                                                as_matrix(second, 1)});
  for (size_t r = 0; r < 10; ++r) {
    for (size_t c = 0; c < 4; ++c)
      for (size_t d = 0; d < 33; ++d)
        reference[r * 4 + c] +=
            std::pow(static_cast<double>(points[r * 33 + d]) - static_cast<double>(centroids[c * 33 + d]), 2);
    const auto row = distances.begin() + static_cast<int64_t>(r) * 4;
    std::vector<float> sorted(row, row + 4);
    std::sort(sorted.begin(), sorted.end());
    CHECK(labels[r] == std::min_element(row, row + 4) - row);
    CHECK(nearest[r] == sorted[0]);
    CHECK(second[r] == sorted[1]);
  }
  CHECK(relative_error(distances, reference) <= 1e-6);
  device().cluster_operators().nearest_centres({as_matrix(points, 10), as_matrix(centroids, 4).row_range(0, 1),
                                                Sparse::as_matrix(labels), as_matrix(nearest, 1),
                                                as_matrix(second, 1)});
  CHECK(second[3] == std::numeric_limits<float>::infinity());

  std::vector<int32_t> of = {1, 0, 1, 3, 3, 3, 0, 1, 1, 3};
  std::vector<double> sums(4 * 33, 7.0), want(4 * 33);
  std::vector<int64_t> counts(4, 7);
  device().cluster_operators().cluster_sums(
      {as_matrix(points, 10), Sparse::as_matrix(of), view_of(sums.data(), 4, 33), view_of(counts.data(), 1, 4)});
  for (size_t r = 0; r < 10; ++r)
    for (size_t d = 0; d < 33; ++d)
      want[static_cast<size_t>(of[r]) * 33 + d] += static_cast<double>(points[r * 33 + d]);
  CHECK(counts == std::vector<int64_t>{2, 4, 0, 4});
  CHECK(relative_error(sums, want) <= 1e-14);
}

TEST_CASE("prices let each cluster's share of the points prefer it; assignment, margins and dual at prices") {
  constexpr int64_t n = 600, k = 5;
  auto costs = random_values(n * k, 6);
  std::vector<double> prices(k, 0.0);
  const std::vector<int64_t> ranks(k, n / k - 1);
  for (int sweep = 0; sweep < 20; ++sweep)
    device().cluster_operators().price_sweep({as_matrix(costs, n), ranks, view_of(prices.data(), 1, k)});
  std::vector<int32_t> labels(n);
  std::vector<float> margins(n);
  std::vector<int64_t> counts(k);
  double dual = 0;
  device().cluster_operators().assign_at_prices({as_matrix(costs, n), view_of(prices.data(), 1, k),
                                                 Sparse::as_matrix(labels), as_matrix(margins, 1),
                                                 view_of(counts.data(), 1, k), view_of(&dual, 1, 1)});
  double want_dual = 0;
  std::vector<int64_t> want_counts(k, 0);
  for (size_t i = 0; i < n; ++i) {
    std::vector<double> priced(k);
    for (size_t j = 0; j < k; ++j) priced[j] = static_cast<double>(costs[i * k + j]) + prices[j];
    const auto best = std::min_element(priced.begin(), priced.end()) - priced.begin();
    CHECK(labels[i] == best);
    ++want_counts[static_cast<size_t>(best)];
    std::sort(priced.begin(), priced.end());
    want_dual += priced[0];
    CHECK(margins[i] == static_cast<float>(priced[1] - priced[0]));
  }
  CHECK(counts == want_counts);
  CHECK(dual == doctest::Approx(want_dual).epsilon(1e-13));
  for (const int64_t count : counts) CHECK(std::abs(count - n / k) <= 2);
}

}  // namespace
}  // namespace cbtm
