#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cbtm/device/clustering_operands.h"
#include "cbtm/device/collectives.h"
#include "cbtm/device/tensor.h"
#include "cbtm/device/token_filter.h"

namespace cbtm {

class Device;
class UploadStream;
struct ProfileRange;

/// Memory of a device; freed with the object. Movable, not copyable: a copy is a named call of Device.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(Device* device, void* data, int64_t bytes) : device_(device), data_(data), bytes_(bytes) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceBuffer();

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  /// [rows, columns] of `dtype`, starting `byte_offset` into the buffer.
  TensorView view(DType dtype, int64_t rows, int64_t columns, int64_t byte_offset = 0) const {
    CBTM_ASSERT(byte_offset + rows * columns * dtype_bytes(dtype) <= bytes_, "a view lies inside its buffer");
    return {static_cast<char*>(data_) + byte_offset, dtype, rows, columns};
  }

 private:
  Device* device_ = nullptr;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

enum class Activation : uint8_t { none, relu, gelu };

/// Which elements a dropout zeroes: element e of site `site` in step `step` is dropped when
/// uniform_from_bits(philox({e/4 low, e/4 high, site, step}, seed).word[e % 4]) < probability, and scaled by
/// 1 / (1 - probability) otherwise. The same on every device, whatever the micro-batch, and redrawn by the backward
/// pass. probability 0 means none.
struct Dropout {
  float probability = 0;
  uint64_t seed = 0;
  uint32_t step = 0;
  uint32_t site = 0;
  int64_t first_row = 0;  ///< number of row 0 of the operands within the step's global batch
  /// int64 [1, 2] on the device, {step, first_row}: taken when the operator runs, in place of the two fields above, so
  /// that recorded operators can be run again for other steps. Or empty.
  ConstTensorView place;

  bool active() const { return probability > 0; }
};

/// Inputs that share a scale of int4 weights; a group takes 16 bytes: byte b holds weight b of the group in its low
/// half and weight 16 + b in its high half, each as value + 8, of values -8 .. 7. A row of `in` weights takes
/// int4_groups(in) groups one after another; weights beyond `in` are value 0. Float16 scales: 4.5 bits a weight.
inline constexpr int64_t kInt4Group = 32;
inline constexpr int64_t kInt4GroupBytes = kInt4Group / 2;
constexpr int64_t int4_groups(int64_t in) { return (in + kInt4Group - 1) / kInt4Group; }

/// out[r] = token_table[ids[r]] (if given) + position_table[positions[r]] (if given) + out[r] (if accumulate).
struct EmbeddingForward {
  ConstTensorView ids;          ///< int32 [1, rows], each in [0, token_table.rows): checked by the caller on the host
  ConstTensorView token_table;  ///< [vocab_size, width], or empty
  ConstTensorView positions;    ///< int32 [1, rows]
  ConstTensorView position_table;  ///< [max_position_embeddings + 2, width], or empty
  TensorView out;                  ///< [rows, width]
  bool accumulate = false;
  /// float32 [1, vocab_size] of an int8 token_table, whose row t stands for token_table_scales[t] * token_table[t];
  /// else empty. Then no position_table: it is added by a second call.
  ConstTensorView token_table_scales = {};
};

/// Adds out_gradient[r] to token_table_gradient[ids[r]] and position_table_gradient[positions[r]], in a fixed order.
struct EmbeddingBackward {
  ConstTensorView ids;
  ConstTensorView positions;
  ConstTensorView out_gradient;
  TensorView token_table_gradient;     ///< float32, or empty
  TensorView position_table_gradient;  ///< float32, or empty
};

/// sum = residual + drop(branch); normalized = (sum - mean) * rstd * gamma + beta, mean and biased variance of each
/// row by two passes, rstd = 1 / sqrt(variance + epsilon). Empty branch: sum = residual. Empty gamma / beta: 1 / 0.
/// dropout element = (first_row + r) * width + c.
struct ResidualLayerNormForward {
  ConstTensorView residual;  ///< [rows, width]
  ConstTensorView branch;    ///< [rows, width], or empty
  Dropout dropout;
  ConstTensorView gamma;  ///< [1, width], or empty
  ConstTensorView beta;
  float epsilon = 1e-5f;
  TensorView sum;         ///< [rows, width]; may be `residual` itself; may be empty if branch is
  TensorView normalized;  ///< [rows, width], or empty: only the sum is wanted (last residual of a model without norm)
  TensorView mean;        ///< float32 [1, rows], or both empty in inference
  TensorView rstd;
};

/// From d normalized (and d sum of the later residual path, if given):
///   sum_gradient = sum_gradient_in + layernorm_backward(normalized_gradient);
///   branch_gradient = sum_gradient * dropout mask / (1 - p), if asked for; gamma and beta gradients accumulate.
struct ResidualLayerNormBackward {
  ConstTensorView normalized_gradient;  ///< [rows, width], or empty (then only the dropout mask is applied)
  ConstTensorView sum_gradient_in;      ///< [rows, width], or empty; may be the same memory as sum_gradient
  ConstTensorView sum;                  ///< as written by the forward pass
  ConstTensorView mean, rstd;
  ConstTensorView gamma;
  Dropout dropout;
  TensorView sum_gradient;     ///< [rows, width]
  TensorView branch_gradient;  ///< [rows, width], or empty; may be sum_gradient itself
  TensorView gamma_gradient;   ///< float32 [1, width], or empty
  TensorView beta_gradient;
};

/// out = activation(input weightᵀ + bias). `weight` may be float32, bfloat16 or float16, or in inference int8 with a
/// scale a row (weight[o][i] stands for weight_scales[o] * weight[o][i]), or int4 with a scale a group of kInt4Group
/// inputs (weight_scales[o][i / kInt4Group] * value): u8 [out, int4_groups(in) * kInt4GroupBytes], rows at multiples of
/// 16 bytes. The accumulation is float32.
struct LinearForward {
  ConstTensorView input;   ///< [rows, in]
  ConstTensorView weight;  ///< [out, in], or int4
  ConstTensorView bias;    ///< [1, out], or empty
  Activation activation = Activation::none;
  TensorView output;              ///< [rows, out]
  TensorView pre_activation;      ///< [rows, out], only for gelu in training
  TensorView relu_mask;           ///< u8 [rows, Device::relu_mask_columns(out)], for relu in training; or empty
  ConstTensorView weight_scales;  ///< int8: float32 [1, out]; int4: float16 [out, int4_groups(in)]; else empty

  bool int8_weights() const { return weight.dtype == DType::i8; }
  bool int4_weights() const { return weight.dtype == DType::u8; }
  /// Whether `weight` and `weight_scales` have the shapes and types that go with `input` and each other.
  bool weights_fit() const {
    if (int4_weights())
      return weight.columns == int4_groups(input.columns) * kInt4GroupBytes && weight_scales.dtype == DType::f16 &&
             weight_scales.rows == weight.rows && weight_scales.columns == int4_groups(input.columns);
    if (weight.columns != input.columns) return false;
    if (!int8_weights()) return !weight_scales;
    return weight_scales.dtype == DType::f32 && weight_scales.columns == weight.rows;
  }
};

/// For out = input weightᵀ + bias:  weight_gradient += out_gradientᵀ input;  bias_gradient += column sums;
/// input_gradient = (or +=, if accumulate) out_gradient weight, then, if the input was itself the output of an
/// activation, multiplied by that activation's derivative (relu'(0) = 0; gelu needs its pre_activation).
struct LinearBackward {
  ConstTensorView input;
  ConstTensorView weight;
  ConstTensorView output_gradient;
  TensorView input_gradient;  ///< [rows, in], or empty
  bool accumulate_input_gradient = false;
  Activation input_activation = Activation::none;
  ConstTensorView input_pre_activation;
  ConstTensorView input_relu_mask;       ///< as the forward pass wrote it, in place of reading `input` again; or empty
  TensorView weight_gradient;            ///< float32 [out, in], accumulates; or empty
  TensorView bias_gradient;              ///< float32 [1, out], accumulates; or empty
  bool accumulate_bias_gradient = true;  ///< false: bias_gradient is written (Device::writes_bias_gradients)
};

/// Causal attention over packed sequences, all heads. Sequence s has the query rows
/// query_offsets[s] .. query_offsets[s+1] and the key rows key_offsets[s] .. key_offsets[s+1].
/// Its query i sees its keys j <= i + keys - queries.
///
/// The score is (scale * q) . k, softmax is in float32, and dropout is on the probabilities. Their dropout element is
/// ((first_row + query row) * num_heads + head) * dropout_columns + j, with j counted within the sequence.
/// Head h has the columns [h * head_dim, (h+1) * head_dim) of every operand.
struct AttentionShape {
  std::span<const int32_t> query_offsets;  ///< host memory, sequence_count + 1
  std::span<const int32_t> key_offsets;    ///< the same span as query_offsets in training
  int64_t num_heads = 0;
  int64_t head_dim = 0;
  float scale = 1;
  Dropout dropout;
  int64_t dropout_columns = 0;  ///< >= longest key sequence, a multiple of 4, the same in every call of a run
};
struct AttentionForward {
  AttentionShape shape;
  ConstTensorView query;       ///< [query rows, num_heads * head_dim], any row stride (a slice of a fused qkv matrix)
  ConstTensorView key, value;  ///< [key rows, num_heads * head_dim]
  TensorView output;           ///< [query rows, num_heads * head_dim]
  TensorView log_sum_exp;      ///< float32 [query rows, num_heads], natural log; or empty in inference
};
struct AttentionBackward {
  AttentionShape shape;
  ConstTensorView query, key, value, output, log_sum_exp, output_gradient;
  TensorView query_gradient, key_gradient, value_gradient;  ///< written, not accumulated; gradients of the unscaled q
};

/// A paged key-value cache of one layer: token t of a sequence lies in row
/// block_table[sequence][t / page_size] * page_size + t % page_size of `keys` and `values`.
struct KeyValueCache {
  TensorView keys;  ///< [page_count * page_size, num_heads * head_dim]
  TensorView values;
  int64_t page_size = 0;
  ConstTensorView block_table;  ///< int32 [sequence_count, pages_max]
};

/// Writes the new keys and values into the cache, then attention of the new queries over everything cached:
/// rows query_offsets[s] .. query_offsets[s+1] are the newest tokens of sequence s, which then holds
/// cached_lengths[s] tokens, the new ones included. No dropout.
struct AttentionCached {
  AttentionShape shape;                     ///< key_offsets unused
  std::span<const int32_t> cached_lengths;  ///< host memory, sequence_count
  KeyValueCache cache;
  ConstTensorView query, key, value;  ///< [new rows, num_heads * head_dim]
  TensorView output;
};

/// Output layer and cross-entropy in blocks of rows, so that never all logits exist:
/// loss[r] = -log softmax(hidden[r] tableᵀ)[targets[r]] (natural log), 0 where the target is -100.
/// With gradients: hidden_gradient = d (gradient_scale * Σ loss) / d hidden, table_gradient accumulates likewise.
struct OutputLoss {
  ConstTensorView hidden;   ///< [rows, width]
  ConstTensorView table;    ///< [vocab_size, width]
  ConstTensorView targets;  ///< int32 [1, rows]
  TensorView losses;        ///< float32 [1, rows]
  TensorView loss_sum;      ///< float64 [1, 1], accumulates in a fixed order; or empty
  float gradient_scale = 1;
  TensorView hidden_gradient;         ///< [rows, width], or empty: forward only
  TensorView table_gradient;          ///< float32 [vocab_size, width], or empty
  ConstTensorView table_scales = {};  ///< float32 [1, vocab_size] of an int8 table (forward only); else empty
};

/// AdamW as in torch (docs/numerics.md, 'Optimizer'), over flat buffers, one launch. The first `decayed_count` elements
/// (the matrices) are decayed, the rest (biases and norms) are not. Gradients are divided by loss_scale, then
/// multiplied by min(1, clip_norm / (norm + 1e-6)) (clip_norm 0: never), norm = sqrt(gradient_square_sum) / loss_scale.
/// If the norm is not finite nothing is updated. Gradients are zeroed in either case.
struct AdamW {
  TensorView weights;                        ///< float32 [1, n]
  TensorView gradients;                      ///< float32 [1, n]
  TensorView first_moments, second_moments;  ///< float32 [1, n]
  TensorView working_weights;                ///< bfloat16 or float16 [1, n]: the new weights rounded; or empty
  ConstTensorView gradient_square_sum;       ///< float64 [1, 1] of `gradients` as they are, on the device
  float loss_scale = 1;                      ///< `gradients` are those of the loss times this (float16 training)
  int64_t decayed_count = 0;
  int64_t step = 1;  ///< counts from 1
  float learning_rate = 0;
  float beta1 = 0.9f, beta2 = 0.95f;
  float epsilon = 1e-8f;
  float weight_decay = 0;
  float clip_norm = 0;
};

/// log of the mixture of the experts' next-token distributions: out[s][v] = log Σ_j weights[s][j]
/// softmax(logits_j[rows[s][j]])[v], in float32 by log-sum-exp; experts of weight 0 are not read.
struct MixtureLogProbabilities {
  std::span<const ConstTensorView> logits;  ///< one view per expert, [its rows, vocab_size]
  ConstTensorView weights;                  ///< float32 [sequences, expert count]; each row sums to 1
  TensorView log_probabilities;             ///< float32 [sequences, vocab_size]
  /// int32 [sequences, expert count]: the row of the expert's logits that belongs to the sequence. Empty: row s belongs
  /// to sequence s.
  ConstTensorView rows;
};

/// Chooses a token for each of some sequences from the mixture of the experts that it uses, without the whole
/// distributions leaving the device: log-probabilities as of MixtureLogProbabilities, then the first maximum if greedy,
/// else what `filter` leaves of them, drawn from (token_at). Equal to the host's functions but for rounding.
struct SampleMixture {
  std::span<const ConstTensorView> logits;  ///< an expert [its rows, vocab_size]
  ConstTensorView rows;      ///< int32 [sequences, expert count]: the sequence's row of the expert's logits
  ConstTensorView weights;   ///< float32 [sequences, expert count]; where 0 the row is not read
  ConstTensorView uniforms;  ///< float64 [1, sequences], each in [0, 1); not read if greedy
  bool greedy = false;
  TokenFilter filter;
  TensorView tokens;  ///< int32 [1, sequences]
};

/// What the scratch memory of a model's operators depends on.
struct WorkspaceShape {
  int64_t rows = 0;             ///< tokens of a micro-batch
  int64_t sequence_length = 0;  ///< tokens of its longest sequence
  int64_t head_dim = 0, hidden_size = 0, ffn_dim = 0, vocab_size = 0;
};

/// A copy to the host that runs beside the operators.
class HostCopy {
 public:
  virtual ~HostCopy() = default;
  /// Until it is complete; throws Error if it failed. On any thread.
  virtual void wait() = 0;
  /// The same, and the operators called from now on may write to the sources. On the thread that calls operators.
  virtual void release_sources() { wait(); }
};
struct HostCopyPiece {
  void* destination;   ///< memory of the host
  const void* source;  ///< of the device
  int64_t bytes;
};

/// Operators kept as they were called, to be run again with the same views and numbers (on a GPU: a CUDA graph).
class RecordedOperators {
 public:
  virtual ~RecordedOperators() = default;
  /// False when they cannot be run again, as the device has forgotten host numbers (sequence offsets) that they read:
  /// record anew.
  virtual bool valid() const = 0;
  virtual void run() = 0;
};

/// What any device must be able to do: memory, and operators over tensor views of its memory. Model code is written
/// once against this class. Operators run in the order of the calls; copy_to_host and synchronize wait for them.
/// Deterministic: the same calls on the same device give the same bits, whatever the number of threads.
/// Shapes are asserted (programming errors); out of memory is an Error that says what was asked for and what is free.
class Device {
 public:
  virtual ~Device() = default;

  /// "cpu (16 threads, AVX-512)", for people.
  virtual std::string description() const = 0;
  /// Multiply-adds count as two; 0 when unknown. The CPU's are measured once a process, by a product of matrices; a
  /// GPU's are those of its tensor cores with 16-bit numbers, from its datasheet.
  virtual double peak_flops() = 0;
  /// Of the memory, from the driver; 0 when unknown.
  virtual double peak_bytes_per_second() const { return 0; }
  /// Bytes that could still be allocated.
  virtual int64_t free_bytes() const = 0;

  /// Whether the model operators take activations and weights of this type.
  virtual bool computes_in(DType dtype) const { return dtype == DType::f32; }
  /// The type that training uses unless told otherwise.
  virtual DType training_type() const { return DType::f32; }

  // Memory.
  DeviceBuffer allocate(int64_t bytes, std::string_view purpose);  ///< 64-byte aligned, not initialised
  virtual void copy_to_device(void* destination, const void* host_source, int64_t bytes) = 0;
  virtual void copy_to_host(void* host_destination, const void* source, int64_t bytes) = 0;
  virtual void copy(TensorView destination, ConstTensorView source) = 0;  ///< same shape; converts the dtype
  virtual void fill_zero(TensorView destination) = 0;
  virtual void synchronize() = 0;
  /// `data` itself if the host may read it, else null (then copy_to_host).
  virtual const void* host_readable(const void* data) const = 0;
  /// Makes memory of the host (a mapped file) usable as the device's own without copying: returns it, or null if this
  /// device cannot.
  virtual void* use_host_memory(const void* data) const = 0;
  /// Copies that run beside the operators (cbtm/device/upload.h), or null where the host's memory is the device's.
  virtual UploadStream* uploads() { return nullptr; }

  /// Starts copies that read what the operators called so far write. Operators may write to the sources again after
  /// HostCopy::release_sources(). By default the copies are complete on return.
  virtual std::unique_ptr<HostCopy> start_copy_to_host(std::vector<HostCopyPiece> pieces);
  /// Takes memory for the following allocations now, in one piece, so that they cannot fail; freed with the last of
  /// them. Throws Error like allocate. Where memory comes by the page this does nothing.
  virtual void reserve(int64_t bytes, std::string_view purpose) {
    static_cast<void>(bytes);
    static_cast<void>(purpose);
  }

  /// What the operators called up to end_phase() belong to, for a profiler's timeline. Phases nest.
  virtual void begin_phase(const char* name) { static_cast<void>(name); }
  virtual void end_phase() {}
  /// Has a profiler that waits for it (cudaProfilerStart) capture only these phases.
  virtual void profile(const ProfileRange& range);
  class Phase {
   public:
    Phase(Device& device, const char* name) : device_(device) { device_.begin_phase(name); }
    Phase(const Phase&) = delete;
    Phase& operator=(const Phase&) = delete;
    ~Phase() { device_.end_phase(); }

   private:
    Device& device_;
  };

  /// Whether record() works here.
  virtual bool records() const { return false; }
  /// Records the operators that `calls` calls, without running them. The same calls must have been made before, so
  /// that scratch memory, algorithms and host numbers are there; null if some are not: run them once more first.
  virtual std::unique_ptr<RecordedOperators> record(const std::function<void()>& calls);

  /// Before a thread's first call, on threads other than the one that opened the device, and on that one when it has
  /// opened another device since.
  virtual void bind_thread() {}
  /// Makes `devices`, of which this is the first, a group that works together: one object each, in their order. Throws
  /// Error if they cannot be one.
  virtual std::vector<std::unique_ptr<Collectives>> connect(std::span<Device* const> devices);

  // Model operators.
  virtual void embedding_forward(const EmbeddingForward& arguments) = 0;
  virtual void embedding_backward(const EmbeddingBackward& arguments) = 0;
  virtual void residual_layernorm_forward(const ResidualLayerNormForward& arguments) = 0;
  virtual void residual_layernorm_backward(const ResidualLayerNormBackward& arguments) = 0;
  virtual void linear_forward(const LinearForward& arguments) = 0;
  virtual void linear_backward(const LinearBackward& arguments) = 0;
  virtual void attention_forward(const AttentionForward& arguments) = 0;
  virtual void attention_backward(const AttentionBackward& arguments) = 0;
  virtual void attention_cached(const AttentionCached& arguments) = 0;
  virtual void output_loss(const OutputLoss& arguments) = 0;
  virtual void mixture_log_probabilities(const MixtureLogProbabilities& arguments) = 0;
  virtual void sample_mixture(const SampleMixture& arguments) = 0;

  // Optimizer.
  /// square_sum (float64 [1, 1]) = Σ gradients², in a fixed order; NaN or Inf shows in it.
  virtual void gradient_square_sum(ConstTensorView gradients, TensorView square_sum) = 0;
  virtual void adamw(const AdamW& arguments) = 0;
  /// result (float64 [1, 1]) becomes NaN if any of `values` (float64 [1, n]) is not finite, and stays as it is
  /// otherwise.
  virtual void require_finite(ConstTensorView values, TensorView result) = 0;

  // Clustering. Dense operands float32, row-major, unless it is said.
  virtual void tfidf_rows(const TfIdfRows& arguments) = 0;
  /// transposed = aᵀ, which holds as many entries; the entries of its rows by ascending column.
  virtual void sparse_transpose(const SparseMatrix& a, const SparseMatrix& transposed) = 0;
  virtual void sparse_times_dense(const SparseMatrix& a, ConstTensorView x, TensorView y) = 0;  ///< y = A x
  /// float64 [columns, columns] = xᵀ x; float32 within pieces of at most 1024 rows.
  virtual void gram(ConstTensorView x, TensorView product) = 0;
  /// y := y R⁻¹ for an upper triangular R, float64 [columns, columns]; columns whose diagonal element is 0 become 0.
  virtual void solve_upper(ConstTensorView upper, TensorView y) = 0;
  /// squared_distances[i][j] = ||rows_i - centroids_j||², float32 differences summed, never by expanding the square.
  virtual void squared_distances(ConstTensorView rows, ConstTensorView centroids, TensorView squared_distances) = 0;
  virtual void nearest_centres(const NearestCentres& arguments) = 0;
  virtual void cluster_sums(const ClusterSums& arguments) = 0;
  virtual void price_sweep(const PriceSweep& arguments) = 0;
  virtual void assign_at_prices(const AssignAtPrices& arguments) = 0;

  /// Whether linear_backward would rather write bias gradients than add to them, so that one `add` of all of them costs
  /// less than an addition each.
  virtual bool writes_bias_gradients() const { return false; }
  /// target += source, float32 [rows, columns].
  virtual void add(ConstTensorView source, TensorView target) = 0;

  /// Rows that many kernels gather are read with the least waste where each starts at a multiple of so many bytes.
  virtual int64_t row_alignment_bytes() const { return 1; }
  /// Bytes a row of the mask that a ReLU over `columns` leaves for its backward pass; 0: this device wants none.
  virtual int64_t relu_mask_columns(int64_t columns) const {
    static_cast<void>(columns);
    return 0;
  }

  /// Scratch memory the operators need at most for these shapes; the planner counts it. Operators take it from
  /// the device's own arena, which grows outside of steps only.
  virtual int64_t workspace_bytes(const WorkspaceShape& shape) const = 0;
  /// Takes that much scratch memory now, so that none is asked for later. Throws Error like allocate.
  virtual void reserve_workspace(int64_t bytes) { static_cast<void>(bytes); }

 protected:
  friend class DeviceBuffer;
  virtual void* allocate_bytes(int64_t bytes, std::string_view purpose) = 0;
  virtual void release_bytes(void* data, int64_t bytes) noexcept = 0;
};

/// The CPU device (host/cpu). open_device.h opens any by its name.
std::unique_ptr<Device> make_cpu_device();

}  // namespace cbtm
