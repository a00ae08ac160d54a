#include "model/weight_image.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "cbtm/base/threads.h"
#include "cbtm/device/device.h"
#include "cbtm/device/model_operators.h"
#include "cbtm/device/quantise.h"
#include "cbtm/model/families.h"

namespace cbtm {
namespace {

constexpr int64_t kAlignment = 64;  // bytes

int64_t scale_bytes_a_row(WeightFormat format, int64_t columns) {
  switch (format) {
    case WeightFormat::int8: return 4;
    case WeightFormat::int4: return int4_groups(columns) * 2;
    default: return 0;
  }
}
int64_t value_bytes_a_row(WeightFormat format, int64_t columns) {
  switch (format) {
    case WeightFormat::int8: return columns;
    case WeightFormat::int4: return int4_groups(columns) * kInt4GroupBytes;
    default: return columns * 4;
  }
}

}  // namespace

WeightImage::WeightImage(const ModelSpec& spec, const ParameterLayout& layout, WeightFormat format)
    : spec_(spec), layout_(layout), format_(format) {
  if (quantised())
    lay_out();
  else
    bytes_ = layout_.flat_size() * dtype_bytes(flat_type());
}

void WeightImage::lay_out() {
  for (const Parameter& parameter : layout_.parameters()) {
    if (!parameter.is_matrix) continue;
    if (parameter.joined == 0) {
      matrices_.back().parameters.push_back(&parameter);
      matrices_.back().rows += parameter.rows;
      continue;
    }
    WeightFormat format = format_;
    if (parameter.role == ParameterRole::token_embedding || parameter.role == ParameterRole::output_matrix)
      format = WeightFormat::int8;
    // A router is small, and the choice of experts hangs on its last bits.
    if (parameter.role == ParameterRole::position_embedding || parameter.role == ParameterRole::router)
      format = WeightFormat::f32;
    matrices_.push_back({.parameters = {&parameter},
                         .format = format,
                         .rows = parameter.rows,
                         .columns = parameter.columns,
                         .values = 0,
                         .scales = 0});
  }
  const auto take = [this](int64_t bytes) {
    const int64_t place = bytes_;
    bytes_ += round_up(bytes, kAlignment);
    return place;
  };
  for (Matrix& matrix : matrices_) {
    matrix.values = take(matrix.rows * value_bytes_a_row(matrix.format, matrix.columns));
    matrix.scales = take(matrix.rows * scale_bytes_a_row(matrix.format, matrix.columns));
  }
}

void WeightImage::write(const ModelCheckpoint& checkpoint, void* image) const {
  if (!quantised()) return checkpoint.read_parameters(flat_type(), image);
  std::memset(image, 0, static_cast<size_t>(bytes_));
  for (const Matrix& matrix : matrices_) write_matrix(matrix, checkpoint, static_cast<char*>(image));
}

void WeightImage::write_matrix(const Matrix& matrix, const ModelCheckpoint& checkpoint, char* image) const {
  const int64_t value_bytes = value_bytes_a_row(matrix.format, matrix.columns);
  const int64_t scale_bytes = scale_bytes_a_row(matrix.format, matrix.columns);
  char* values = image + matrix.values;
  char* scales = image + matrix.scales;
  std::vector<float> wide;
  for (const Parameter* parameter : matrix.parameters) {
    if (matrix.format == WeightFormat::f32) {
      checkpoint.read_parameter(*parameter, reinterpret_cast<float*>(values));
      continue;
    }
    wide.resize(static_cast<size_t>(parameter->size()));
    checkpoint.read_parameter(*parameter, wide.data());
    std::atomic<int64_t> bad_row = -1;
    parallel_ranges(parameter->rows, static_cast<double>(matrix.columns) * 4, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const float* source = wide.data() + row * matrix.columns;
        char* row_values = values + row * value_bytes;
        char* row_scales = scales + row * scale_bytes;
        const bool good = matrix.format == WeightFormat::int8
                              ? quantise_int8(source, matrix.columns, reinterpret_cast<int8_t*>(row_values),
                                              *reinterpret_cast<float*>(row_scales))
                              : quantise_int4(source, matrix.columns, reinterpret_cast<uint8_t*>(row_values),
                                              reinterpret_cast<f16*>(row_scales));
        if (!good) bad_row = row;
      }
    });
    if (bad_row >= 0)
      fail("{}: tensor '{}', row {}: a value that is not finite, or too large, cannot be quantised; use --weights bf16",
           checkpoint.path().string(), tensor_name(spec_, *parameter), bad_row.load());
    values += parameter->rows * value_bytes;
    scales += parameter->rows * scale_bytes;
  }
}

const void* WeightImage::mapped(const ModelCheckpoint& checkpoint) const {
  return quantised() ? nullptr : checkpoint.mapped_flat(flat_type());
}

ModelTensors WeightImage::tensors(void* image, void* vectors) const {
  if (!quantised()) return {spec_, layout_, image, flat_type(), vectors};
  return {spec_, layout_, vectors, [&](const Parameter& parameter) -> MatrixTensors {
            const auto found = std::find_if(matrices_.begin(), matrices_.end(), [&](const Matrix& matrix) {
              return matrix.parameters.front()->offset == parameter.offset;
            });
            CBTM_ASSERT(found != matrices_.end(), "every matrix that joins no other begins one of the image");
            char* values = static_cast<char*>(image) + found->values;
            char* scales = static_cast<char*>(image) + found->scales;
            switch (found->format) {
              case WeightFormat::int8:
                return {{values, DType::i8, found->rows, found->columns}, {scales, DType::f32, 1, found->rows}};
              case WeightFormat::int4:
                return {{values, DType::u8, found->rows, int4_groups(found->columns) * kInt4GroupBytes},
                        {scales, DType::f16, found->rows, int4_groups(found->columns)}};
              default: return {{values, DType::f32, found->rows, found->columns}, {}};
            }
          }};
}

}  // namespace cbtm
