#pragma once

#include <cstdint>
#include <vector>

namespace cbtm {

/// Eigenvalues (descending) and eigenvectors (columns of `vectors`, row-major) of a symmetric n x n matrix, by Jacobi
/// rotations: n is the width of a sketch, a few hundred at most.
struct SymmetricEigen {
  std::vector<double> values;
  std::vector<double> vectors;
};
SymmetricEigen symmetric_eigen(std::vector<double> matrix, int64_t n);

}  // namespace cbtm
