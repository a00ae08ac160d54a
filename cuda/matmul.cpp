#include "matmul.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "cbtm/base/progress.h"
#include "hopper/available.h"
#include "hopper/product.h"
#include "matmul_choices.h"
#include "matmul_fallback.h"
#include "matmul_shape.h"
#include "runtime/check.h"
#include "runtime/cublaslt.h"
#include "runtime/device_memory.h"
#include "runtime/handles.h"

namespace cbtm::cuda {
namespace {

constexpr int kProposals = 16;             ///< algorithms asked for and timed
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

/// What the file of choices knows a shape by: what was chosen from without our kernel says nothing about it.
std::string choice_key(const MatmulShape& shape, bool hopper_applies) {
  return shape.text() + (hopper_applies ? " or hopper" : "");
}

enum class Way : uint8_t {
  library,     ///< cuBLASLt, the epilogue in it
  unfused,     ///< the product without the epilogue, then a kernel of ours
  hopper,      ///< our kernel for compute capability 9.0, the epilogue in it
  own_kernel,  ///< cuBLASLt has no such product
};

/// Says once that what CBTM_MATMUL asks for is not here.
void say_unavailable() {
  static std::once_flag said;
  std::call_once(said, [] {
    warn(fmt::format("CBTM_MATMUL=hopper has no effect: {}",
                     hopper::is_built() ? "this GPU is not of compute capability 9.0"
                                        : "this program has no code for 90a; build with make cuda ARCH=90"));
  });
}

/// Descriptors of a shape, with the algorithm once it is chosen.
struct Plan {
  explicit Plan(const MatmulShape& shape);
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan();

  template <typename Value>
  void set(cublasLtMatmulDescAttributes_t attribute, const Value& value) {
    CBTM_CUBLASLT(cublas_lt().matmul_desc_set_attribute(description, attribute, &value, sizeof value));
  }

  cublasLtMatmulDesc_t description = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;  ///< in cuBLASLt's roles: a is our b
  Way way = Way::library;
  bool provisional = false;  ///< not timed, though it is large
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

Plan::Plan(const MatmulShape& s) {
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

  Plan& plan(Context& context, const MatmulArguments& arguments);
  std::vector<cublasLtMatmulHeuristicResult_t> proposals(const MatmulShape& shape, Plan& plan);
  void choose(Context& context, const MatmulShape& shape, Plan& plan, const MatmulArguments& arguments);
  bool take_kept(const MatmulShape& shape, Plan& plan, bool hopper_applies);
  void time_ways(Context& context, const MatmulShape& shape, Plan& plan, const MatmulArguments& arguments,
                 const std::vector<cublasLtMatmulHeuristicResult_t>& proposed, bool hopper_applies);
  void set_pointers(Plan& plan, const MatmulArguments& arguments);
  void run(Context& context, const MatmulArguments& arguments, Plan& plan);
  cublasStatus_t run_library(Plan& plan, const MatmulArguments& arguments, const cublasLtMatmulAlgo_t& algorithm);
  template <typename Run>
  double time_ms(const Run& run);
  bool is_capturing() const;

  cudaStream_t stream;
  MatmulChoices choices;
  cublasLtHandle_t handle = nullptr;
  DeviceMemory workspace{kWorkspaceBytes, "scratch memory of matrix products"};
  int64_t products = 0;  ///< asked for
  int64_t hopper_products = 0;
  const ForcedWay forced = forced_way();
  bool tuning = false;
  bool grouped = false;
  std::unordered_map<MatmulShape, std::unique_ptr<Plan>, MatmulShapeHash> plans;
};

std::vector<cublasLtMatmulHeuristicResult_t> MatmulPlans::State::proposals(const MatmulShape& shape, Plan& plan) {
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
  if (const void* vector = epilogue_vector(m); vector != nullptr) plan.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, vector);
  if (const void* mask = epilogue_mask(m); mask != nullptr) plan.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, mask);
}

cublasStatus_t MatmulPlans::State::run_library(Plan& plan, const MatmulArguments& m,
                                               const cublasLtMatmulAlgo_t& algorithm) {
  return cublas_lt().matmul(handle, plan.description, &m.alpha, m.b.data, plan.a, m.a.data, plan.b, &m.beta, m.c.data,
                            plan.c, m.c.data, plan.c, &algorithm, workspace.data(),
                            static_cast<size_t>(kWorkspaceBytes), stream);
}

/// The product in the way of the plan, whose pointers are set.
void MatmulPlans::State::run(Context& context, const MatmulArguments& arguments, Plan& plan) {
  switch (plan.way) {
    case Way::library: CBTM_CUBLASLT(run_library(plan, arguments, plan.algorithm)); break;
    case Way::hopper: hopper::product(context, arguments, workspace.data()); break;
    case Way::own_kernel: plain_product(context, without_epilogue(arguments)); break;
    case Way::unfused: {
      const MatmulArguments product = without_epilogue(arguments);
      run(context, product, this->plan(context, product));
      apply_epilogue(context, arguments);
    }
  }
}

bool MatmulPlans::State::is_capturing() const {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  CBTM_CUDA(cudaStreamIsCapturing(stream, &capture));
  return capture != cudaStreamCaptureStatusNone;
}

/// Shortest of some runs after one that warms up; infinity if `run` returns false.
template <typename Run>
double MatmulPlans::State::time_ms(const Run& run) {
  if (!run()) return INFINITY;
  const Event begin(cudaEventDefault), end(cudaEventDefault);
  float best = INFINITY;
  for (int i = 0; i < kTimedRuns; ++i) {
    CBTM_CUDA(cudaEventRecord(begin, stream));
    run();
    CBTM_CUDA(cudaEventRecord(end, stream));
    CBTM_CUDA(cudaEventSynchronize(end));
    float taken = 0;
    CBTM_CUDA(cudaEventElapsedTime(&taken, begin, end));
    best = std::min(best, taken);
  }
  return best;
}

/// The choice that the file holds, if it still runs.
bool MatmulPlans::State::take_kept(const MatmulShape& shape, Plan& plan, bool hopper_applies) {
  const auto kept = choices.find(choice_key(shape, hopper_applies));
  if (!kept) return false;
  if (is_hopper(*kept)) {
    if (!hopper_applies) return false;  // a damaged line
    plan.way = Way::hopper;
    return true;
  }
  if (is_unfused(*kept)) {
    if (shape.epilogue == CUBLASLT_EPILOGUE_DEFAULT) return false;  // a damaged line
    plan.way = Way::unfused;
    return true;
  }
  cublasLtMatmulHeuristicResult_t result{};
  if (cublas_lt().matmul_algo_check(handle, plan.description, plan.a, plan.b, plan.c, plan.c, &*kept, &result) !=
          CUBLAS_STATUS_SUCCESS ||
      result.workspaceSize > static_cast<size_t>(kWorkspaceBytes))
    return false;
  plan.algorithm = *kept;
  return true;
}

void MatmulPlans::State::choose(Context& context, const MatmulShape& shape, Plan& plan,
                                const MatmulArguments& arguments) {
  const bool hopper_applies = forced != ForcedWay::library && hopper::product_applies(context, arguments);
  if (forced == ForcedWay::hopper && !hopper::is_available(context)) say_unavailable();
  if (hopper_applies && forced == ForcedWay::hopper) {
    plan.way = Way::hopper;
    return;
  }
  plan.way = Way::library;
  const double products =
      static_cast<double>(shape.m) * static_cast<double>(shape.n) * static_cast<double>(shape.k) * shape.batch_count;
  const bool large = products >= kTimedFrom;
  const bool timed = large && (tuning || (!grouped && !shape.reads_c)) && !is_capturing();
  plan.provisional = large && !timed;
  // GPUs of one process choose one after another, so that all come to the first one's choice, by way of the file.
  static std::recursive_mutex choosing;
  const std::unique_lock lock = timed ? std::unique_lock(choosing) : std::unique_lock<std::recursive_mutex>();
  if (large && take_kept(shape, plan, hopper_applies)) {
    plan.provisional = false;
    return;
  }
  const std::vector<cublasLtMatmulHeuristicResult_t> proposed = proposals(shape, plan);
  const bool has_epilogue = shape.epilogue != CUBLASLT_EPILOGUE_DEFAULT;
  if (proposed.empty() && !hopper_applies) {
    plan.way = has_epilogue ? Way::unfused : Way::own_kernel;
    say_missing(arguments);
    return;
  }
  plan.way = proposed.empty() ? Way::hopper : Way::library;
  plan.algorithm = proposed.empty() ? hopper_algorithm() : proposed.front().algo;
  CBTM_ASSERT(!is_capturing(), "a step is captured after its shapes have been met");
  if (!timed || (proposed.size() < 2 && !has_epilogue && !hopper_applies)) return;
  time_ways(context, shape, plan, arguments, proposed, hopper_applies);
}

/// The fastest way into the plan, and into the file.
void MatmulPlans::State::time_ways(Context& context, const MatmulShape& shape, Plan& plan,
                                   const MatmulArguments& arguments,
                                   const std::vector<cublasLtMatmulHeuristicResult_t>& proposed, bool hopper_applies) {
  double best = INFINITY;
  for (const cublasLtMatmulHeuristicResult_t& result : proposed) {
    const double taken = time_ms([&] { return run_library(plan, arguments, result.algo) == CUBLAS_STATUS_SUCCESS; });
    if (taken >= best) continue;
    best = taken;
    plan.way = Way::library;
    plan.algorithm = result.algo;
  }
  // A bias apart rounds a result of 16 bits once more: that is done only where it must be.
  if (shape.epilogue != CUBLASLT_EPILOGUE_DEFAULT && (!arguments.bias || shape.out == DType::f32)) {
    Plan apart(shape);
    apart.way = Way::unfused;
    const double taken = time_ms([&] {
      run(context, arguments, apart);
      return true;
    });
    if (taken < best) {
      best = taken;
      plan.way = Way::unfused;
      plan.algorithm = {};
    }
  }
  if (hopper_applies) {
    const double taken = time_ms([&] {
      hopper::product(context, arguments, workspace.data());
      return true;
    });
    if (taken < best) {
      plan.way = Way::hopper;
      plan.algorithm = hopper_algorithm();
    }
  }
  choices.add(choice_key(shape, hopper_applies), plan.algorithm);
}

Plan& MatmulPlans::State::plan(Context& context, const MatmulArguments& arguments) {
  const MatmulShape shape = shape_of(arguments);
  const auto [place, is_new] = plans.try_emplace(shape);
  if (is_new) place->second = std::make_unique<Plan>(shape);
  Plan& plan = *place->second;
  set_pointers(plan, arguments);
  if (!is_new && !(plan.provisional && tuning)) return plan;
  try {
    choose(context, shape, plan, arguments);
  } catch (...) {
    plans.erase(place);  // the next product of the shape chooses again
    throw;
  }
  return plan;
}

MatmulPlans::MatmulPlans(const std::string& cache_file, cudaStream_t stream)
    : state_(std::make_unique<State>(cache_file, stream)) {}
MatmulPlans::~MatmulPlans() = default;
int64_t MatmulPlans::products() const { return state_->products; }
int64_t MatmulPlans::hopper_products() const { return state_->hopper_products; }
void MatmulPlans::tune(bool on) { state_->tuning = on; }
void MatmulPlans::join_group() { state_->grouped = true; }

void matmul(Context& context, const MatmulArguments& arguments) {
  if (arguments.c.size() == 0) return;
  MatmulPlans::State& state = context.matmul_plans().state();
  Plan& plan = state.plan(context, arguments);
  state.run(context, arguments, plan);
  ++state.products;
  if (plan.way == Way::hopper) ++state.hopper_products;
}

}  // namespace cbtm::cuda
