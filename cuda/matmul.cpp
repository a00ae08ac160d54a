#include "matmul.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "cbtm/base/progress.h"
#include "matmul_choices.h"
#include "runtime/check.h"
#include "runtime/cublaslt.h"
#include "runtime/device_memory.h"
#include "runtime/handles.h"

namespace cbtm::cuda {
namespace {

constexpr int kProposals = 6;              ///< algorithms asked for and timed
constexpr int kTimedRuns = 5;              ///< after one that warms up
constexpr double kTimedFrom = 1ull << 26;  ///< multiply-adds: below, launches cost more than algorithms differ

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::f32: return CUDA_R_32F;
    case DType::bf16: return CUDA_R_16BF;
    case DType::f16: return CUDA_R_16F;
    default: CBTM_ASSERT(false, "matrix products take float32, bfloat16 and float16"); return CUDA_R_32F;
  }
}

/// Largest power of two up to 256 that divides the address.
uint32_t alignment_of(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return static_cast<uint32_t>(std::min<uintptr_t>(256, address == 0 ? 256 : address & (~address + 1)));
}

// cuBLASLt stores by columns, we by rows: cᵀ = op(b)ᵀ op(a)ᵀ, so its A is our b, its B our a, its rows our columns.
cublasLtEpilogue_t epilogue_of(const MatmulArguments& m) {
  if (m.a_sums) {
    CBTM_ASSERT(!m.bias && !m.relu && !m.relu_derivative_mask, "sums of a come alone");
    return CUBLASLT_EPILOGUE_BGRADB;
  }
  if (m.relu_derivative_mask) {
    CBTM_ASSERT(!m.bias && !m.relu, "a derivative comes alone");
    return CUBLASLT_EPILOGUE_DRELU;
  }
  if (m.relu && m.relu_mask) return m.bias ? CUBLASLT_EPILOGUE_RELU_AUX_BIAS : CUBLASLT_EPILOGUE_RELU_AUX;
  if (m.relu) return m.bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
  return m.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

/// All that the choice of an algorithm depends on.
struct Shape {
  int64_t m = 0, n = 0, k = 0;
  int64_t a_stride = 0, b_stride = 0, c_stride = 0;
  int64_t a_batch_stride = 0, b_batch_stride = 0, c_batch_stride = 0;
  int batch_count = 1;
  bool transpose_a = false, transpose_b = false;
  DType in = DType::f32, out = DType::f32;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  int64_t mask_stride = 0;
  bool reads_c = false;
  uint32_t a_alignment = 0, b_alignment = 0, c_alignment = 0;

  bool operator==(const Shape&) const = default;
  std::string text() const {
    return fmt::format(
        "{} {} {} strides {} {} {} batches {} {} {} {} transposed {:d}{:d} types {} {} epilogue {} {} {:d} "
        "alignment {} {} {}",
        m, n, k, a_stride, b_stride, c_stride, batch_count, a_batch_stride, b_batch_stride, c_batch_stride, transpose_a,
        transpose_b, dtype_name(in), dtype_name(out), static_cast<int>(epilogue), mask_stride, reads_c, a_alignment,
        b_alignment, c_alignment);
  }
};
struct ShapeHash {
  size_t operator()(const Shape& s) const {
    size_t hash = 0;
    for (const int64_t part :
         {s.m, s.n, s.k, s.a_stride, s.b_stride, s.c_stride, static_cast<int64_t>(s.epilogue), int64_t{s.transpose_a},
          int64_t{s.transpose_b}, static_cast<int64_t>(s.out), int64_t{s.reads_c}, int64_t{s.c_alignment}})
      hash = hash * 1'000'003 + static_cast<size_t>(part);
    return hash;
  }
};

Shape shape_of(const MatmulArguments& m) {
  Shape s;
  s.m = m.transpose_a ? m.a.columns : m.a.rows;
  s.k = m.transpose_a ? m.a.rows : m.a.columns;
  s.n = m.transpose_b ? m.b.rows : m.b.columns;
  CBTM_ASSERT((m.transpose_b ? m.b.columns : m.b.rows) == s.k, "the inner sizes of a product agree");
  CBTM_ASSERT(m.c.rows == s.m && m.c.columns == s.n, "the outer sizes of a product agree");
  CBTM_ASSERT(m.a.dtype == m.b.dtype && (m.c.dtype == m.a.dtype || m.c.dtype == DType::f32),
              "a product has one input type, and that or float32 as output type");
  CBTM_ASSERT(s.k > 0, "a product sums something");
  // A single row's stride says nothing; cuBLASLt wants at least the columns.
  s.a_stride = std::max(m.a.row_stride, m.a.columns);
  s.b_stride = std::max(m.b.row_stride, m.b.columns);
  s.c_stride = std::max(m.c.row_stride, m.c.columns);
  s.batch_count = m.batch_count;
  if (m.batch_count > 1) {
    s.a_batch_stride = m.a_batch_stride;
    s.b_batch_stride = m.b_batch_stride;
    s.c_batch_stride = m.c_batch_stride;
  }
  s.transpose_a = m.transpose_a;
  s.transpose_b = m.transpose_b;
  s.in = m.a.dtype;
  s.out = m.c.dtype;
  s.epilogue = epilogue_of(m);
  CBTM_ASSERT(s.epilogue == CUBLASLT_EPILOGUE_DEFAULT || m.batch_count == 1, "epilogues come without batches");
  CBTM_ASSERT(!m.bias || (m.bias.dtype == m.c.dtype && m.bias.columns == s.n), "a bias has c's type and columns");
  CBTM_ASSERT(!m.a_sums || (m.a_sums.dtype == m.c.dtype && m.a_sums.columns == s.m), "sums have c's type, a row each");
  if (m.relu_mask) s.mask_stride = 8 * m.relu_mask.row_stride;
  if (m.relu_derivative_mask) s.mask_stride = 8 * m.relu_derivative_mask.row_stride;
  s.reads_c = m.beta != 0;
  s.a_alignment = alignment_of(m.a.data);
  s.b_alignment = alignment_of(m.b.data);
  s.c_alignment = alignment_of(m.c.data);
  return s;
}

/// Descriptors of a shape, with the algorithm once it is chosen.
struct Plan {
  explicit Plan(const Shape& shape);
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan();

  template <typename Value>
  void set(cublasLtMatmulDescAttributes_t attribute, const Value& value) {
    CBTM_CUBLASLT(cublas_lt().matmul_desc_set_attribute(description, attribute, &value, sizeof value));
  }

  cublasLtMatmulDesc_t description = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;  ///< in cuBLASLt's roles: a is our b
  bool supported = false;
  cublasLtMatmulAlgo_t algorithm{};
};

cublasLtMatrixLayout_t make_layout(DType dtype, int64_t rows, int64_t columns, int64_t stride, int batch_count,
                                   int64_t batch_stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  CBTM_CUBLASLT(cublas_lt().matrix_layout_create(&layout, data_type(dtype), static_cast<uint64_t>(rows),
                                                 static_cast<uint64_t>(columns), stride));
  if (batch_count > 1) {
    const int32_t count = batch_count;
    CBTM_CUBLASLT(
        cublas_lt().matrix_layout_set_attribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count));
    CBTM_CUBLASLT(cublas_lt().matrix_layout_set_attribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                                          &batch_stride, sizeof batch_stride));
  }
  return layout;
}

Plan::Plan(const Shape& s) {
  CBTM_CUBLASLT(cublas_lt().matmul_desc_create(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  set(CUBLASLT_MATMUL_DESC_TRANSA, static_cast<int32_t>(s.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N));
  set(CUBLASLT_MATMUL_DESC_TRANSB, static_cast<int32_t>(s.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N));
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(s.epilogue));
  if (s.mask_stride > 0) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, s.mask_stride);
  const auto layout = [&](DType dtype, int64_t rows, int64_t columns, int64_t stride, int64_t batch_stride) {
    return make_layout(dtype, rows, columns, stride, s.batch_count, batch_stride);
  };
  a = s.transpose_b ? layout(s.in, s.k, s.n, s.b_stride, s.b_batch_stride)
                    : layout(s.in, s.n, s.k, s.b_stride, s.b_batch_stride);
  b = s.transpose_a ? layout(s.in, s.m, s.k, s.a_stride, s.a_batch_stride)
                    : layout(s.in, s.k, s.m, s.a_stride, s.a_batch_stride);
  c = layout(s.out, s.n, s.m, s.c_stride, s.c_batch_stride);
}

Plan::~Plan() {
  for (const cublasLtMatrixLayout_t layout : {a, b, c})
    if (layout != nullptr) cublas_lt().matrix_layout_destroy(layout);
  if (description != nullptr) cublas_lt().matmul_desc_destroy(description);
}

}  // namespace

struct MatmulPlans::State {
  State(const std::string& cache_file, cudaStream_t stream_) : stream(stream_), choices(cache_file) {
    CBTM_CUBLASLT(cublas_lt().create(&handle));
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    plans.clear();
    cublas_lt().destroy(handle);
  }

  Plan& plan(const MatmulArguments& arguments);
  std::vector<cublasLtMatmulHeuristicResult_t> proposals(const Shape& shape, Plan& plan);
  void choose(const Shape& shape, Plan& plan, const MatmulArguments& arguments);
  void set_pointers(Plan& plan, const MatmulArguments& arguments);
  cublasStatus_t run(Plan& plan, const MatmulArguments& arguments, void* output, const cublasLtMatmulAlgo_t& algorithm);
  double time_ms(Plan& plan, const MatmulArguments& arguments, void* output, const cublasLtMatmulAlgo_t& algorithm);

  cudaStream_t stream;
  MatmulChoices choices;
  cublasLtHandle_t handle = nullptr;
  DeviceMemory workspace{kWorkspaceBytes, "scratch memory of matrix products"};
  int64_t products = 0;  ///< asked for
  std::unordered_map<Shape, std::unique_ptr<Plan>, ShapeHash> plans;
};

std::vector<cublasLtMatmulHeuristicResult_t> MatmulPlans::State::proposals(const Shape& shape, Plan& plan) {
  const CublasLt& lt = cublas_lt();
  cublasLtMatmulPreference_t preference = nullptr;
  CBTM_CUBLASLT(lt.matmul_preference_create(&preference));
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    CBTM_CUBLASLT(lt.matmul_preference_set_attribute(preference, attribute, &value, sizeof value));
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspaceBytes));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, shape.b_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, shape.a_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.c_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.c_alignment);
  // Split sums only by way of scratch memory: added in a fixed order and in float32.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  std::vector<cublasLtMatmulHeuristicResult_t> results(kProposals);
  int count = 0;
  const cublasStatus_t status = lt.matmul_algo_get_heuristic(handle, plan.description, plan.a, plan.b, plan.c, plan.c,
                                                             preference, kProposals, results.data(), &count);
  lt.matmul_preference_destroy(preference);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) CBTM_CUBLASLT(status);
  results.resize(status == CUBLAS_STATUS_SUCCESS ? static_cast<size_t>(count) : 0);
  std::erase_if(results, [](const auto& result) { return result.state != CUBLAS_STATUS_SUCCESS; });
  return results;
}

void MatmulPlans::State::set_pointers(Plan& plan, const MatmulArguments& m) {
  const void* bias = m.a_sums ? m.a_sums.data : m.bias.data;
  if (bias != nullptr) plan.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  const void* mask = m.relu_mask ? m.relu_mask.data : m.relu_derivative_mask.data;
  if (mask != nullptr) plan.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, mask);
}

cublasStatus_t MatmulPlans::State::run(Plan& plan, const MatmulArguments& m, void* output,
                                       const cublasLtMatmulAlgo_t& algorithm) {
  return cublas_lt().matmul(handle, plan.description, &m.alpha, m.b.data, plan.a, m.a.data, plan.b, &m.beta, m.c.data,
                            plan.c, output, plan.c, &algorithm, workspace.data(), static_cast<size_t>(kWorkspaceBytes),
                            stream);
}

/// Shortest of some runs, or infinity if the algorithm does not run.
double MatmulPlans::State::time_ms(Plan& plan, const MatmulArguments& arguments, void* output,
                                   const cublasLtMatmulAlgo_t& algorithm) {
  if (run(plan, arguments, output, algorithm) != CUBLAS_STATUS_SUCCESS) return INFINITY;
  const Event begin(cudaEventDefault), end(cudaEventDefault);
  float best = INFINITY;
  for (int i = 0; i < kTimedRuns; ++i) {
    CBTM_CUDA(cudaEventRecord(begin, stream));
    CBTM_CUBLASLT(run(plan, arguments, output, algorithm));
    CBTM_CUDA(cudaEventRecord(end, stream));
    CBTM_CUDA(cudaEventSynchronize(end));
    float taken = 0;
    CBTM_CUDA(cudaEventElapsedTime(&taken, begin, end));
    best = std::min(best, taken);
  }
  return best;
}

void MatmulPlans::State::choose(const Shape& shape, Plan& plan, const MatmulArguments& arguments) {
  const double products =
      static_cast<double>(shape.m) * static_cast<double>(shape.n) * static_cast<double>(shape.k) * shape.batch_count;
  const bool timed = products >= kTimedFrom;
  // GPUs of one process choose one after another, so that all come to the first one's choice.
  static std::mutex choosing;
  const std::unique_lock lock = timed ? std::unique_lock(choosing) : std::unique_lock<std::mutex>();
  if (timed)
    if (const auto kept = choices.find(shape.text())) {
      cublasLtMatmulHeuristicResult_t result{};
      if (cublas_lt().matmul_algo_check(handle, plan.description, plan.a, plan.b, plan.c, plan.c, &*kept, &result) ==
              CUBLAS_STATUS_SUCCESS &&
          result.workspaceSize <= static_cast<size_t>(kWorkspaceBytes)) {
        plan.algorithm = *kept;
        plan.supported = true;
        return;
      }
    }
  const std::vector<cublasLtMatmulHeuristicResult_t> proposed = proposals(shape, plan);
  plan.supported = !proposed.empty();
  if (!plan.supported) return;
  plan.algorithm = proposed.front().algo;
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  CBTM_CUDA(cudaStreamIsCapturing(stream, &capture));
  CBTM_ASSERT(capture == cudaStreamCaptureStatusNone, "a step is captured after its shapes have been met");
  if (!timed || proposed.size() < 2) return;
  // Into memory of its own: with beta the true output would be added to. Freed again: this happens once a shape.
  const auto last_batch = static_cast<int64_t>(shape.batch_count - 1) * shape.c_batch_stride;
  const int64_t bytes = (last_batch + (shape.m - 1) * shape.c_stride + shape.n) * dtype_bytes(shape.out);
  const DeviceMemory output = DeviceMemory::if_there_is_room(bytes);
  if (!output) {  // the first proposal stays, and is not kept in the file
    warn(fmt::format("cuBLASLt's algorithms for {} are not timed: there is no room for the result; the first is taken",
                     shape.text()));
    return;
  }
  double best = INFINITY;
  for (const cublasLtMatmulHeuristicResult_t& result : proposed)
    if (const double taken = time_ms(plan, arguments, output.data(), result.algo); taken < best) {
      best = taken;
      plan.algorithm = result.algo;
    }
  choices.add(shape.text(), plan.algorithm);
}

Plan& MatmulPlans::State::plan(const MatmulArguments& arguments) {
  const Shape shape = shape_of(arguments);
  const auto [place, is_new] = plans.try_emplace(shape);
  if (is_new) place->second = std::make_unique<Plan>(shape);
  Plan& plan = *place->second;
  set_pointers(plan, arguments);
  if (is_new) choose(shape, plan, arguments);
  return plan;
}

MatmulPlans::MatmulPlans(const std::string& cache_file, cudaStream_t stream)
    : state_(std::make_unique<State>(cache_file, stream)) {}
MatmulPlans::~MatmulPlans() = default;
int64_t MatmulPlans::products() const { return state_->products; }

bool matmul_supported(Context& context, const MatmulArguments& arguments) {
  return context.matmul_plans().state().plan(arguments).supported;
}

void matmul(Context& context, const MatmulArguments& arguments) {
  if (arguments.c.size() == 0) return;
  MatmulPlans::State& state = context.matmul_plans().state();
  Plan& plan = state.plan(arguments);
  if (!plan.supported) fail("cuBLASLt has no algorithm for the product {}", shape_of(arguments).text());
  CBTM_CUBLASLT(state.run(plan, arguments, arguments.c.data, plan.algorithm));
  ++state.products;
}

}  // namespace cbtm::cuda
