#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cbtm/device/tensor.h"
#include "cbtm/model/parameter_layout.h"
#include "cbtm/model/spec.h"

namespace cbtm {

struct StoredTensor;

/// A tensor of a checkpoint with elements that are NaN or infinite.
struct BrokenTensor {
  std::string name;   ///< as the file names it
  int64_t count = 0;  ///< of such elements
  int64_t first = 0;  ///< index of the first within the parameter, a matrix as [out, in], row-major
};

/// What opening a checkpoint does about NaN and infinite weights.
enum class ValueCheck : uint8_t {
  finite,  ///< refuse them: every weight is looked at once in a process, as long as the file stays the same
  none,    ///< look at nothing
};

/// A model on disk: config and tensors, in any published layout (model.safetensors, sharded, pytorch_model.bin zip or
/// legacy, sharded; metaseq's restored.pt names). Files stay memory-mapped; nothing in them is executed. Throws Error,
/// in one line naming file and tensor: missing, wrong shape, wrong dtype, damaged, not finite, both matrices of a tied
/// pair stored with different values.
class ModelCheckpoint {
 public:
  /// `path` is a directory with config.json. Unknown tensors are named in a warning on stderr. Looking for values that
  /// are not finite reads all weights once, at the speed of memory or of the disk.
  static ModelCheckpoint open(const std::filesystem::path& path, ValueCheck check = ValueCheck::finite);
  ModelCheckpoint(ModelCheckpoint&&) noexcept;
  ~ModelCheckpoint();

  const std::filesystem::path& path() const;
  const ModelSpec& spec() const;
  const ParameterLayout& layout() const;
  /// Hash of the architecture and of the weights that the model needs: names, types and values in the layout's order,
  /// whatever files and whatever names of tensors they are stored under (docs/formats.md, 'Content hashes').
  std::string weights_hash() const;
  /// The same text as long as the weights are the same: the hash that expert.json records, which open() has compared
  /// with them, or what identifies the files and when they were written last.
  std::string identity() const;
  /// Compares weights_hash() with the one that the model's expert.json records. Throws Error naming the directory if it
  /// differs. False if there is none, or if verification is off (set_content_verification).
  bool verify() const;
  /// The tensors that a model needs and that hold values that are not finite, in the layout's order.
  std::vector<BrokenTensor> broken_tensors() const;
  /// The dtype most of its tensors have.
  DType stored_dtype() const;
  /// Fills a flat buffer of layout().flat_size() elements of `dtype` (f32, bf16 or f16; widening exact, narrowing to
  /// nearest even); gaps become zero.
  void read_parameters(DType dtype, void* flat) const;
  /// One tensor of layout(), float32: parameter.size() elements.
  void read_parameter(const Parameter& parameter, float* out) const;
  /// The biases and norms alone, float32: layout().flat_size() - layout().matrix_flat_size() elements.
  void read_vectors(float* vectors) const;
  /// The file's own bytes as a flat buffer, if they lie exactly as the layout wants them (our own files do): f32, bf16
  /// or f16. Null otherwise. Valid while this object lives.
  const void* mapped_flat(DType dtype) const;

 private:
  struct State;
  explicit ModelCheckpoint(std::unique_ptr<State> state);
  const StoredTensor& stored(const Parameter& parameter) const;
  std::unique_ptr<State> state_;
};

inline constexpr int64_t kShardBytesMax = int64_t{5} << 30;

/// Writes config.json, generation_config.json and model.safetensors into `directory`, which exists and which the caller
/// renames into place. Weights above `shard_bytes_max` are written as shards of at most so many bytes (a single tensor
/// may be larger) with an index. `flat` is float32, layout order; `stored_dtype` f32, bf16 or f16 (a finite value that
/// f16 cannot hold is an Error). OPT's tensors lie in the file as in the flat buffer, so that one that is not sharded
/// can be mapped back whole.
void write_model_checkpoint(const std::filesystem::path& directory, const ModelSpec& spec, std::span<const float> flat,
                            DType stored_dtype = DType::f32, int64_t shard_bytes_max = kShardBytesMax);

/// ModelCheckpoint::weights_hash of a float32 checkpoint with these weights, in the layout's order.
std::string weights_hash(const ModelSpec& spec, std::span<const float> flat);

/// Content hash of a model's weights in whatever files they are: hash_file_hex of the one file, or a hash of the names
/// and hashes of all shards. Throws Error if files are missing.
std::string checkpoint_hash(const std::filesystem::path& directory);

}  // namespace cbtm
