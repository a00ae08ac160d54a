#include <algorithm>
#include <cstring>
#include <vector>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/threads.h"
#include "cpu/model_operators.h"

namespace cbtm {
namespace {

/// Gamma and beta gradients are summed over chunks of rows first: as many as keep the threads of a large machine busy,
/// and long enough for adding up the chunks to cost little.
constexpr int64_t kChunksMax = 128;
constexpr int64_t kChunkRowsMin = 16;

int64_t chunk_rows(int64_t rows) { return std::max(kChunkRowsMin, ceil_divide(rows, kChunksMax)); }

/// Elements of the sums of gamma's and beta's gradients, two rows for each chunk of rows.
int64_t vector_sums(const ResidualLayerNormBackward& arguments) {
  if (arguments.gamma_gradient.size() == 0 && arguments.beta_gradient.size() == 0) return 0;
  const int64_t rows = arguments.sum_gradient.rows;
  return ceil_divide(rows, chunk_rows(rows)) * 2 * arguments.sum_gradient.columns;
}

/// Group of the dropout that decides about the first columns of a row.
uint64_t first_group(const Dropout& dropout, int64_t row, int64_t width) {
  return static_cast<uint64_t>((dropout.first_row + row) * ceil_divide(width, 16));
}

const float* vector_data(ConstTensorView view) { return view ? view.as<float>() : nullptr; }

template <typename View>
auto row_data(View view, int64_t row) {
  return view ? view.template as<float>() + row * view.row_stride : nullptr;
}

}  // namespace

void CpuModelOperators::residual_layernorm_forward(const ResidualLayerNormForward& arguments) {
  const ConstTensorView residual = arguments.residual;
  const int64_t width = residual.columns;
  const bool dropped = arguments.branch && arguments.dropout.active();
  CBTM_ASSERT(arguments.sum || !arguments.branch, "a new sum is written somewhere");
  parallel_ranges(residual.rows, static_cast<double>(width) * (dropped ? 2.0 : 0.7), [&](int64_t begin, int64_t end) {
    std::vector<float> multipliers(dropped ? static_cast<size_t>(width) : 0);
    float unused_mean = 0;
    float unused_rstd = 0;
    for (int64_t row = begin; row < end; ++row) {
      if (dropped)
        kernels_.dropout_multipliers(cpu::draw_of(arguments.dropout), first_group(arguments.dropout, row, width), width,
                                     multipliers.data());
      kernels_.layernorm_forward(row_data(residual, row), row_data(arguments.branch, row),
                                 dropped ? multipliers.data() : nullptr, vector_data(arguments.gamma),
                                 vector_data(arguments.beta), arguments.epsilon, width, row_data(arguments.sum, row),
                                 row_data(arguments.normalized, row),
                                 arguments.mean ? arguments.mean.as<float>() + row : &unused_mean,
                                 arguments.rstd ? arguments.rstd.as<float>() + row : &unused_rstd);
    }
  });
}

int64_t CpuModelOperators::scratch_bytes(const ResidualLayerNormBackward& arguments) const {
  return bytes_with_products(vector_sums(arguments));
}

void CpuModelOperators::residual_layernorm_backward(const ResidualLayerNormBackward& arguments) {
  const TensorView sum_gradient = arguments.sum_gradient;
  const int64_t width = sum_gradient.columns;
  const bool dropped = arguments.branch_gradient && arguments.dropout.active();
  const bool wants_gamma = static_cast<bool>(arguments.gamma_gradient);
  const bool wants_beta = static_cast<bool>(arguments.beta_gradient);
  // A sum for each chunk of rows, gamma's before beta's, added up in the order of the chunks.
  const int64_t rows = sum_gradient.rows;
  const int64_t rows_of_chunk = chunk_rows(rows);
  const int64_t chunks = ceil_divide(rows, rows_of_chunk);
  float* sums = wants_gamma || wants_beta ? scratch(0, vector_sums(arguments)) : nullptr;
  const double row_cost = static_cast<double>(width) * (dropped ? 2.5 : 1.2);
  parallel_chunks(rows, rows_of_chunk, row_cost, [&](int64_t chunk, int64_t begin, int64_t end) {
    float* gamma_sum = sums + chunk * 2 * width;
    float* beta_sum = gamma_sum + width;
    if (sums != nullptr) std::memset(gamma_sum, 0, static_cast<size_t>(2 * width) * 4);
    std::vector<float> multipliers(dropped ? static_cast<size_t>(width) : 0);
    for (int64_t row = begin; row < end; ++row) {
      float* gradient = row_data(sum_gradient, row);
      const float* incoming = row_data(arguments.sum_gradient_in, row);
      if (arguments.normalized_gradient) {
        kernels_.layernorm_backward(row_data(arguments.normalized_gradient, row), incoming,
                                    row_data(arguments.sum, row), arguments.mean.as<float>()[row],
                                    arguments.rstd.as<float>()[row], vector_data(arguments.gamma), width, gradient,
                                    wants_gamma ? gamma_sum : nullptr, wants_beta ? beta_sum : nullptr);
      } else if (incoming != gradient) {
        std::memcpy(gradient, incoming, static_cast<size_t>(width) * 4);
      }
      if (!arguments.branch_gradient) continue;
      float* branch = row_data(arguments.branch_gradient, row);
      if (dropped) {
        kernels_.dropout_multipliers(cpu::draw_of(arguments.dropout), first_group(arguments.dropout, row, width), width,
                                     multipliers.data());
        kernels_.multiply(gradient, multipliers.data(), width, branch);
      } else if (branch != gradient) {
        std::memcpy(branch, gradient, static_cast<size_t>(width) * 4);
      }
    }
  });
  if (sums == nullptr) return;
  parallel_ranges(width, static_cast<double>(chunks) * 0.4, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const float* sum = sums + chunk * 2 * width + begin;
      if (wants_gamma) kernels_.add(sum, end - begin, arguments.gamma_gradient.as<float>() + begin);
      if (wants_beta) kernels_.add(sum + width, end - begin, arguments.beta_gradient.as<float>() + begin);
    }
  });
}

}  // namespace cbtm
