#include "cbtm/model/inference.h"

#include <algorithm>
#include <optional>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/model_memory.h"
#include "model/decode_pass.h"
#include "model/kv_pages.h"
#include "model/model_weights.h"
#include "model/network/pass.h"
#include "model/pass_records.h"
#include "model/read_passes.h"
#include "model/weight_image.h"

namespace cbtm {
namespace {

/// Rows that run at once, in whole sequences: enough to keep the processor busy, few enough to bound memory.
constexpr int64_t kRowsAtOnce = 4096;

class LoadedModel : public InferenceModel, private WeightSource {
 public:
  LoadedModel(Device& device, const std::filesystem::path& directory, WeightFormat weights,
              std::shared_ptr<ModelMemory> memory)
      : device_(device),
        checkpoint_(ModelCheckpoint::open(directory)),
        spec_(checkpoint_->spec()),
        layout_(checkpoint_->layout()),
        name_(directory.string()),
        identity_(checkpoint_->identity()),
        image_(spec_, layout_, weights),
        dtype_(weights != WeightFormat::f32 && device.computes_in(DType::bf16) ? DType::bf16 : DType::f32),
        memory_(std::move(memory)),
        own_pages_(device, spec_.layers(), spec_.key_value_width(), dtype_),
        pages_(memory_ != nullptr ? memory_->caches.pages(spec_.layers(), spec_.key_value_width(), dtype_)
                                  : own_pages_),
        prompts_of_(pages_.add_model()),
        scratch_(memory_ != nullptr ? memory_->scratch : own_scratch_) {
    if (spec_.has_mixtures() && !device.model_operators().has_expert_operators())
      fail("{}: {} has no operators for mixtures of experts; use --device cpu", name_, device.description());
    const int64_t vector_count = layout_.flat_size() - layout_.matrix_flat_size();
    vectors_ = device_.allocate(vector_count * 4, "biases and norms");
    std::vector<float> vectors(static_cast<size_t>(vector_count));
    checkpoint_->read_vectors(vectors.data());
    device_.copy_to_device(vectors_.data(), vectors.data(), vector_count * 4);
    weight_bytes_ = image_.bytes() + vector_count * 4;
    if (memory_ != nullptr) {
      number_ = memory_->weights.add(*this, vector_count * 4);
      checkpoint_.reset();
      return;
    }

    const void* mapped = image_.mapped(*checkpoint_);
    void* matrices = mapped != nullptr ? device_.use_host_memory(mapped) : nullptr;
    if (matrices == nullptr) {
      matrices_ = device_.allocate(image_.bytes(), name_ + ": weights");
      matrices = matrices_.data();
      if (device_.use_host_memory(matrices) != nullptr) {
        image_.write(*checkpoint_, matrices);
      } else {
        std::vector<char> staging(static_cast<size_t>(image_.bytes()));
        image_.write(*checkpoint_, staging.data());
        device_.copy_to_device(matrices, staging.data(), static_cast<int64_t>(staging.size()));
      }
      checkpoint_.reset();
    }
    tensors_.emplace(image_.tensors(matrices, vectors_.data()));
  }
  LoadedModel(const LoadedModel&) = delete;
  LoadedModel& operator=(const LoadedModel&) = delete;
  ~LoadedModel() override {
    pages_.remove_model(prompts_of_);
    if (memory_ != nullptr) memory_->weights.remove(number_);
  }

  /// The shared memory says anew where the matrices are whenever they are used.
  void need_now() override {
    if (memory_ == nullptr) return;
    void* matrices = memory_->weights.weights(number_);
    if (matrices == bound_) return;
    tensors_.emplace(image_.tensors(matrices, vectors_.data()));
    bound_ = matrices;
  }
  void need_next() override {
    if (memory_ != nullptr) memory_->weights.prefetch(number_);
  }

  int64_t vocab_size() const override { return spec_.embedding.vocab_size; }
  int64_t max_length() const override { return spec_.embedding.max_length; }
  const std::vector<int64_t>& end_tokens() const override { return spec_.eos_token_ids; }
  const std::string& identity() const override { return identity_; }
  int64_t key_value_bytes() const override {
    return 2 * spec_.layers() * spec_.key_value_width() * dtype_bytes(dtype_);
  }
  int64_t weight_bytes() const override { return weight_bytes_; }

  void logits(const PackedTokens& tokens, std::span<float> out) override {
    CBTM_ASSERT(static_cast<int64_t>(out.size()) == tokens.rows() * spec_.embedding.vocab_size,
                "a row of logits a token");
    for_chunks(tokens, [&](const PackedTokens& chunk, int64_t first_row) {
      const Pass pass = start_pass(chunk, {});
      forward(pass);
      const TensorView hidden = project_output(pass, final_hidden(pass), pass.cut(activations_.projected));
      // Logits of a few rows at a time, so that the device never holds more than a slice of them.
      constexpr int64_t kSlice = 256;
      reserve(logits_, std::min(kSlice, chunk.rows()) * spec_.embedding.vocab_size * 4);
      for (int64_t row = 0; row < chunk.rows(); row += kSlice) {
        const int64_t count = std::min(kSlice, chunk.rows() - row);
        const TensorView slice = logits_.view(DType::f32, count, spec_.embedding.vocab_size);
        output_logits(pass, hidden.row_range(row, count), slice);
        device_.copy_to_host(out.data() + (first_row + row) * spec_.embedding.vocab_size, slice.data,
                             count * spec_.embedding.vocab_size * 4);
      }
    });
  }

  void target_log_probabilities(const PackedTokens& tokens, std::span<const int32_t> targets,
                                std::span<float> out) override {
    CBTM_ASSERT(targets.size() == tokens.ids.size() && out.size() == targets.size(), "a target a token");
    for (const int32_t target : targets)
      if (target != -100 && (target < 0 || target >= spec_.embedding.vocab_size)) fail_id(target);
    for_chunks(tokens, [&](const PackedTokens& chunk, int64_t first_row) {
      const int64_t rows = chunk.rows();
      const Pass pass = start_pass(chunk, {});
      forward(pass);
      reserve(scratch_.losses, 2 * rows * 4);
      const TensorView target_view = scratch_.losses.view(DType::i32, 1, rows, rows * 4);
      const TensorView losses = scratch_.losses.view(DType::f32, 1, rows);
      device_.copy_to_device(target_view.data, targets.data() + first_row, rows * 4);
      output_loss(pass, {.targets = target_view, .losses = losses, .loss_sum = {}});
      device_.copy_to_host(out.data() + first_row, losses.data, rows * 4);
      for (int64_t row = first_row; row < first_row + rows; ++row)
        out[static_cast<size_t>(row)] = -out[static_cast<size_t>(row)];
    });
  }

  int64_t open_sequence() override { return pages_.open(); }
  void close_sequence(int64_t handle) override { pages_.close(handle); }
  int64_t sequence_length(int64_t handle) const override { return pages_.length(handle); }
  int64_t shared_page_tokens() const override { return pages_.sharing() ? KeyValuePages::kPageTokens : 0; }
  void begin_prompt(int64_t handle, std::span<const int32_t> prompt, int64_t unit) override {
    pages_.begin_prompt(handle, prompts_of_, prompt, unit);
  }
  void share_prompt(int64_t handle, std::span<const int32_t> prompt, int64_t unit) override {
    pages_.share_prompt(handle, prompts_of_, prompt, unit);
  }

  Device& device() override { return device_; }

  void reserve(int64_t handle, int64_t tokens) override { pages_.hold(handle, tokens); }
  bool prompts_share_passes() const override { return device_.model_operators().prompt_rows_independent(); }

  ConstTensorView read(std::span<const ReadPass> passes) override {
    int64_t wanted = 0, rows = 0;
    for (const ReadPass& pass : passes) {
      wanted += pass.rows_wanted();
      rows += static_cast<int64_t>(pass.ids.size());
    }
    CBTM_ASSERT(!passes.empty(), "something is read");
    const bool decodes = passes.size() == 1 && passes[0].row_sums == RowSums::decode && wanted == rows &&
                         rows == static_cast<int64_t>(passes[0].handles.size());
    if (decodes && device_.records()) return decode(passes[0]);
    TensorView last;  // the hidden state of every wanted token
    TensorView projected;
    place_last_rows(wanted, last, projected);
    int64_t filled = 0;
    std::optional<Pass> pass;
    for (const ReadPass& reading : passes) {
      const PackedTokens tokens{reading.ids, reading.offsets};
      const Device::Phase phase(device_, tokens.rows() == tokens.sequences() ? "token" : "prompt");
      check(tokens, reading.handles);
      pass.emplace(start_pass(tokens, reading.handles, reading.row_sums));
      forward(*pass);
      const TensorView hidden = final_hidden(*pass);
      if (passes.size() == 1 && hidden.rows == wanted)
        last = hidden;  // as in decoding: every row is wanted
      else
        filled += gather_last_rows(reading, hidden, last, filled);
    }
    if (wanted == 0) return {};
    reserve(logits_, wanted * spec_.embedding.vocab_size * 4);
    const TensorView out = logits_.view(DType::f32, wanted, spec_.embedding.vocab_size);
    for (const OutputRows& part : output_rows(passes, prompts_share_passes())) {
      pass->batch.row_sums = part.row_sums;
      const TensorView states = last.row_range(part.first, part.count);
      const TensorView room = projected ? projected.row_range(part.first, part.count) : projected;
      output_logits(*pass, project_output(*pass, states, room), out.row_range(part.first, part.count));
    }
    return out;
  }

 private:
  /// A token of each sequence on a device that records: the same operators again and again.
  ConstTensorView decode(const ReadPass& reading) {
    const Device::Phase phase(device_, "token");
    const PackedTokens tokens{reading.ids, reading.offsets};
    check(tokens, reading.handles);
    const Pass pass = start_pass(tokens, reading.handles, reading.row_sums, decode_rows(tokens.rows()) - tokens.rows());
    const int64_t rows = pass.batch.rows();
    TensorView last, projected;
    place_last_rows(rows, last, projected);
    reserve(logits_, rows * spec_.embedding.vocab_size * 4);
    const TensorView out = logits_.view(DType::f32, rows, spec_.embedding.vocab_size);
    const DecodeKey key{
        .rows = rows,
        .layout = device_.model_operators().lay_out_sequences(
            {.query_offsets = tokens.offsets, .key_offsets = {}, .cached_lengths = cached_lengths_}),
        .pages = pass.batch.block_table.columns,
        .row_sums = reading.row_sums,
        .places = {placed_in_, scratch_.numbers.data(), scratch_.last_rows.data(), logits_.data(), bound_,
                   pages_.layer(0, {}).keys.data, pages_.layer(spec_.layers() - 1, {}).values.data}};
    records_.run(key, [&] {
      forward(pass);
      output_logits(pass, project_output(pass, final_hidden(pass), projected), out);
    });
    return out.row_range(0, tokens.rows());
  }

  [[noreturn]] void fail_id(int32_t id) const {
    fail("{}: token id {} is outside its vocabulary of {}; the tokenizer belongs to another model", name_, id,
         spec_.embedding.vocab_size);
  }

  // Of a model in shared memory the matrices are the image.
  const std::string& name() const override { return name_; }
  int64_t image_bytes() const override { return image_.bytes(); }
  void read_image(void* image) override { image_.write(opened(), image); }
  const void* map_image() override { return image_.mapped(opened()); }
  void unmap_image() override { checkpoint_.reset(); }
  const ModelCheckpoint& opened() {
    if (checkpoint_) return *checkpoint_;
    checkpoint_.emplace(ModelCheckpoint::open(name_));
    if (checkpoint_->identity() == identity_) return *checkpoint_;
    checkpoint_.reset();
    fail("{}: holds other weights than when it was loaded; what is in use needs the old ones", name_);
  }

  void check(const PackedTokens& tokens, std::span<const int64_t> handles) const {
    for (const int32_t id : tokens.ids)
      if (id < 0 || id >= spec_.embedding.vocab_size) fail_id(id);
    for (int64_t s = 0; s < tokens.sequences(); ++s) {
      const auto at = static_cast<size_t>(s);
      const int64_t before = handles.empty() ? 0 : pages_.length(handles[at]);
      const int64_t length = before + tokens.offsets[at + 1] - tokens.offsets[at];
      CBTM_ASSERT(handles.empty() || tokens.offsets[at + 1] > tokens.offsets[at],
                  "a sequence is extended by something");
      if (length > spec_.embedding.max_length)
        fail("{}: a sequence of {} tokens is longer than its {} positions", name_, length, spec_.embedding.max_length);
    }
  }

  void reserve(DeviceBuffer& buffer, int64_t bytes) {
    if (buffer.bytes() < bytes) {
      buffer = {};
      buffer = device_.allocate(bytes, name_ + ": activations");
    }
  }

  template <typename Body>
  void for_chunks(const PackedTokens& tokens, const Body& body) {
    check(tokens, {});
    int64_t first = 0;
    while (first < tokens.sequences()) {
      const int32_t begin = tokens.offsets[static_cast<size_t>(first)];
      int64_t last = first + 1;
      while (last < tokens.sequences() && tokens.offsets[static_cast<size_t>(last) + 1] - begin <= kRowsAtOnce) ++last;
      std::vector<int32_t> offsets;
      for (int64_t s = first; s <= last; ++s) offsets.push_back(tokens.offsets[static_cast<size_t>(s)] - begin);
      const PackedTokens chunk{tokens.ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(offsets.back())),
                               offsets};
      if (chunk.rows() > 0) body(chunk, begin);
      first = last;
    }
  }

  /// Memory for the hidden states of `count` tokens, what the output projection makes of them, and their rows in a
  /// pass.
  void place_last_rows(int64_t count, TensorView& last, TensorView& projected) {
    const int64_t item = dtype_bytes(dtype_);
    const int64_t projected_width = spec_.has_projections() ? spec_.embedding.width : 0;
    const int64_t hidden_bytes = round_up(count * spec_.hidden_size * item, 64);
    last_row_numbers_at_ = hidden_bytes + round_up(count * projected_width * item, 64);
    reserve(scratch_.last_rows, last_row_numbers_at_ + count * 4);
    last = scratch_.last_rows.view(dtype_, count, spec_.hidden_size);
    if (projected_width > 0) projected = scratch_.last_rows.view(dtype_, count, projected_width, hidden_bytes);
  }

  /// Gathers the wanted rows of a pass into rows `first`, ... of `last`, and says how many.
  int64_t gather_last_rows(const ReadPass& reading, TensorView hidden, TensorView last, int64_t first) {
    const std::vector<int32_t> rows = wanted_rows(reading);
    if (rows.empty()) return 0;
    const auto count = static_cast<int64_t>(rows.size());
    const TensorView row_view = scratch_.last_rows.view(DType::i32, 1, count, last_row_numbers_at_ + first * 4);
    device_.copy_to_device(row_view.data, rows.data(), count * 4);
    device_.model_operators().gather_rows({.source = hidden, .rows = row_view, .out = last.row_range(first, count)});
    return count;
  }

  /// Lays the activations of so many rows into the scratch memory, unless they lie there already: decoding keeps its
  /// rows from step to step.
  void place(int64_t rows, bool padded) {
    ModelOperators& operators = device_.model_operators();
    if (rows != placed_rows_) placed_bytes_ = activation_bytes(operators, spec_, rows, Keep::nothing, dtype_);
    reserve(scratch_.activations, placed_bytes_);
    void* const memory = scratch_.activations.data();
    if (rows == placed_rows_ && memory == placed_in_) return;
    activations_ = place_activations(memory, operators, spec_, rows, Keep::nothing, dtype_);
    placed_in_ = memory;
    placed_rows_ = rows;
    // Attention writes no padding, which the operators behind it read.
    if (padded) device_.fill_zero(activations_.blocks.front().attention);
  }

  /// Tokens as they go through the model; with handles they extend those sequences. Valid until the next one.
  Pass start_pass(const PackedTokens& tokens, std::span<const int64_t> handles, RowSums row_sums = RowSums::any,
                  int64_t padding = 0) {
    need_now();
    const int64_t rows = tokens.rows() + padding;
    place(rows, padding > 0);
    if (!handles.empty()) pages_.reserve(handles, tokens.offsets);
    cached_lengths_.clear();
    numbers_.assign(tokens.ids.begin(), tokens.ids.end());
    numbers_.resize(static_cast<size_t>(rows), 0);
    for (size_t s = 0; s + 1 < tokens.offsets.size(); ++s) {
      const int64_t before = handles.empty() ? 0 : pages_.length(handles[s]);
      for (int32_t row = tokens.offsets[s]; row < tokens.offsets[s + 1]; ++row)
        numbers_.push_back(static_cast<int32_t>(before + row - tokens.offsets[s] + spec_.embedding.position_offset));
      if (handles.empty()) continue;
      pages_.extend(handles[s], tokens.offsets[s + 1] - tokens.offsets[s]);
      cached_lengths_.push_back(static_cast<int32_t>(pages_.length(handles[s])));
    }
    numbers_.resize(static_cast<size_t>(2 * rows), 0);
    int64_t pages_max = 0;
    if (!handles.empty()) {
      const std::vector<int32_t> table = pages_.block_table(handles, pages_max);
      // Wide enough for some more tokens, so that recorded passes can be run again.
      const int64_t columns = device_.records() ? round_up(pages_max, kDecodeTableColumns) : pages_max;
      for (size_t s = 0; s < handles.size(); ++s) {
        const auto row = table.begin() + static_cast<int64_t>(s) * pages_max;
        numbers_.insert(numbers_.end(), row, row + pages_max);
        numbers_.resize(numbers_.size() + static_cast<size_t>(columns - pages_max), 0);
      }
      pages_max = columns;
    }
    // Ids, positions and the block table, in one copy.
    const auto bytes = static_cast<int64_t>(numbers_.size()) * 4;
    reserve(scratch_.numbers, bytes);
    device_.copy_to_device(scratch_.numbers.data(), numbers_.data(), bytes);
    Batch batch{.offsets = tokens.offsets,
                .ids = scratch_.numbers.view(DType::i32, 1, rows),
                .positions = scratch_.numbers.view(DType::i32, 1, rows, rows * 4),
                .dropout = {}};
    if (!handles.empty()) {
      batch.cache = &pages_;
      batch.block_table =
          scratch_.numbers.view(DType::i32, static_cast<int64_t>(handles.size()), pages_max, 2 * rows * 4);
      batch.cached_lengths = cached_lengths_;
    }
    batch.row_sums = row_sums;
    batch.padding = padding;
    return {.device = device_, .spec = spec_, .weights = *tensors_, .activations = activations_, .batch = batch};
  }

  Device& device_;
  std::optional<ModelCheckpoint> checkpoint_;  ///< kept only while its mapped file holds the weights
  ModelSpec spec_;
  ParameterLayout layout_;
  std::string name_;
  std::string identity_;
  WeightImage image_;
  DType dtype_;                          ///< of activations and cache: narrow with narrow weights, if the device can
  std::shared_ptr<ModelMemory> memory_;  ///< or null: then all that follows is its own
  int64_t number_ = 0;                   ///< in the shared memory
  KeyValuePages own_pages_;
  KeyValuePages& pages_;
  int64_t prompts_of_;  ///< this model's number in pages_
  ModelScratch own_scratch_;
  ModelScratch& scratch_;
  const void* bound_ = nullptr;  ///< where `tensors_` are views of
  DeviceBuffer matrices_, vectors_;
  std::optional<ModelTensors> tensors_;
  Activations activations_;  ///< in scratch_.activations
  const void* placed_in_ = nullptr;
  int64_t placed_rows_ = 0;
  int64_t placed_bytes_ = 0;
  PassRecords<DecodeKey> records_{device_, kDecodesRecorded};
  std::vector<int32_t> cached_lengths_;
  std::vector<int32_t> numbers_;     ///< of a pass, on their way to the device
  int64_t last_row_numbers_at_ = 0;  ///< in scratch_.last_rows
  int64_t weight_bytes_ = 0;
  DeviceBuffer logits_;
};

}  // namespace

std::unique_ptr<InferenceModel> InferenceModel::load(Device& device, const std::filesystem::path& directory,
                                                     WeightFormat weights, std::shared_ptr<ModelMemory> memory) {
  return std::make_unique<LoadedModel>(device, directory, weights, std::move(memory));
}

}  // namespace cbtm
