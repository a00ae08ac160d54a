#include "cluster/symmetric_eigen.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cbtm/base/signals.h"

namespace cbtm {

SymmetricEigen symmetric_eigen(std::vector<double> matrix, int64_t n) {
  constexpr int kSweepsMax = 60;
  const auto at = [n](std::vector<double>& m, int64_t i, int64_t j) -> double& {
    return m[static_cast<size_t>(i * n + j)];
  };
  std::vector<double> vectors(static_cast<size_t>(n * n), 0.0);  // transposed: row j is eigenvector j
  for (int64_t i = 0; i < n; ++i) at(vectors, i, i) = 1;
  for (int sweep = 0; sweep < kSweepsMax; ++sweep) {
    double off = 0;
    double diagonal = 0;
    for (int64_t i = 0; i < n; ++i) {
      diagonal += at(matrix, i, i) * at(matrix, i, i);
      for (int64_t j = i + 1; j < n; ++j) off += 2 * at(matrix, i, j) * at(matrix, i, j);
    }
    if (off <= 1e-30 * (diagonal + off)) break;
    for (int64_t p = 0; p < n; ++p) {
      stop_if_requested("eigenvalues of the SVD or the map");
      for (int64_t q = p + 1; q < n; ++q) {
        const double apq = at(matrix, p, q);
        if (std::abs(apq) < 1e-300) continue;
        const double theta = (at(matrix, q, q) - at(matrix, p, p)) / (2 * apq);
        const double t = (theta >= 0 ? 1 : -1) / (std::abs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1);
        const double s = t * c;
        for (int64_t i = 0; i < n; ++i) {
          const double ip = at(matrix, i, p), iq = at(matrix, i, q);
          at(matrix, i, p) = c * ip - s * iq;
          at(matrix, i, q) = s * ip + c * iq;
        }
        for (int64_t i = 0; i < n; ++i) {
          const double pi = at(matrix, p, i), qi = at(matrix, q, i);
          at(matrix, p, i) = c * pi - s * qi;
          at(matrix, q, i) = s * pi + c * qi;
        }
        for (int64_t i = 0; i < n; ++i) {
          const double pi = at(vectors, p, i), qi = at(vectors, q, i);
          at(vectors, p, i) = c * pi - s * qi;
          at(vectors, q, i) = s * pi + c * qi;
        }
      }
    }
  }
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return at(matrix, a, a) > at(matrix, b, b); });
  SymmetricEigen result;
  result.vectors.resize(static_cast<size_t>(n * n));
  for (int64_t j = 0; j < n; ++j) {
    const int64_t from = order[static_cast<size_t>(j)];
    result.values.push_back(at(matrix, from, from));
    for (int64_t i = 0; i < n; ++i) result.vectors[static_cast<size_t>(i * n + j)] = at(vectors, from, i);
  }
  return result;
}

}  // namespace cbtm
