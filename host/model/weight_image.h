#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cbtm/model/checkpoint.h"
#include "cbtm/model/weight_format.h"
#include "model/model_weights.h"

namespace cbtm {

/// A model's matrices for inference as one run of bytes, which goes to a device whole. f32 and bf16: the flat buffer of
/// the layout (the place of the vectors at its end is not used), so that a file of ours is such an image. int8 and
/// int4: each matrix's values, then its scales, at multiples of 64 bytes.
class WeightImage {
 public:
  WeightImage(const ModelSpec& spec, const ParameterLayout& layout, WeightFormat format);
  WeightImage(const WeightImage&) = delete;
  WeightImage& operator=(const WeightImage&) = delete;

  int64_t bytes() const { return bytes_; }
  /// Writes the image into memory of the host. Throws Error if a matrix to be quantised holds a value that is not
  /// finite, or one too large for its scale.
  void write(const ModelCheckpoint& checkpoint, void* image) const;
  /// The image within the checkpoint's mapped file, or null.
  const void* mapped(const ModelCheckpoint& checkpoint) const;
  /// Views into an image; `vectors` as ModelTensors takes them.
  ModelTensors tensors(void* image, void* vectors) const;

 private:
  struct Matrix {
    std::vector<const Parameter*> parameters;  ///< one, and those that join it
    WeightFormat format;                       ///< f32, int8 or int4
    int64_t rows, columns;                     ///< of values, all parameters together
    int64_t values, scales;                    ///< where they begin, in bytes
  };
  bool quantised() const { return format_ == WeightFormat::int8 || format_ == WeightFormat::int4; }
  DType flat_type() const { return format_ == WeightFormat::bf16 ? DType::bf16 : DType::f32; }
  void lay_out();
  void write_matrix(const Matrix& matrix, const ModelCheckpoint& checkpoint, char* image) const;

  ModelSpec spec_;
  ParameterLayout layout_;
  WeightFormat format_;
  std::vector<Matrix> matrices_;  ///< if quantised; by the name of the first parameter
  int64_t bytes_ = 0;
};

}  // namespace cbtm
