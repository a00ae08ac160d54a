#include "tests/operators/operator_case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "cbtm/base/error.h"
#include "cbtm/base/half_types.h"
#include "cbtm/base/philox.h"

namespace cbtm {
namespace {

/// Bytes before and after a matrix that nobody may write to. They keep the matrix at a multiple of 64.
constexpr int64_t kGuardBytes = 64;
/// What lies between and around rows, and in what an operator is to write: NaN in every floating type, -1 as an
/// integer.
constexpr char kCanary = static_cast<char>(0xff);

/// Calls visit with a value of the C++ type that `dtype` names.
template <typename Visit>
void with_element(DType dtype, const Visit& visit) {
  switch (dtype) {
    case DType::f32: return visit(float());
    case DType::f64: return visit(double());
    case DType::bf16: return visit(bf16());
    case DType::f16: return visit(f16());
    case DType::i64: return visit(int64_t());
    case DType::i32: return visit(int32_t());
    case DType::i8: return visit(int8_t());
    case DType::u8: return visit(uint8_t());
  }
}

template <typename Element>
Element encoded(double value) {
  if constexpr (std::is_same_v<Element, bf16>)
    return to_bf16(static_cast<float>(value));
  else if constexpr (std::is_same_v<Element, f16>)
    return to_f16(static_cast<float>(value));
  else
    return static_cast<Element>(value);
}
template <typename Element>
double decoded(Element element) {
  if constexpr (std::is_same_v<Element, bf16> || std::is_same_v<Element, f16>)
    return static_cast<double>(to_float(element));
  else
    return static_cast<double>(element);
}

/// Place of an element in the memory of its matrix.
int64_t byte_offset(const HostMatrix& matrix, int64_t row, int64_t column) {
  return kGuardBytes + (row * matrix.row_stride() + matrix.placement.first_column + column) * dtype_bytes(matrix.dtype);
}

int64_t image_bytes(const HostMatrix& matrix) { return byte_offset(matrix, matrix.rows, 0) + kGuardBytes; }

std::vector<char> encoded_image(const HostMatrix& matrix) {
  std::vector<char> image(static_cast<size_t>(image_bytes(matrix)), kCanary);
  if (!matrix.read) return image;
  with_element(matrix.dtype, [&]<typename Element>(Element) {
    for (int64_t row = 0; row < matrix.rows; ++row)
      for (int64_t column = 0; column < matrix.columns; ++column) {
        const Element element = encoded<Element>(matrix.at(row, column));
        std::memcpy(image.data() + byte_offset(matrix, row, column), &element, sizeof(element));
      }
  });
  return image;
}

}  // namespace

OperandsOnDevice::OperandsOnDevice(Device& device, const std::deque<HostMatrix>& matrices)
    : device_(device), matrices_(matrices) {
  for (const HostMatrix& matrix : matrices) {
    Memory memory{encoded_image(matrix), device.allocate(image_bytes(matrix), "a test's operand"), {}};
    memory.view = {static_cast<char*>(memory.buffer.data()) + byte_offset(matrix, 0, 0), matrix.dtype, matrix.rows,
                   matrix.columns, matrix.row_stride()};
    memory_.push_back(std::move(memory));
  }
  reset();
}

void OperandsOnDevice::reset() {
  for (const Memory& memory : memory_)
    device_.copy_to_device(memory.buffer.data(), memory.initial.data(), static_cast<int64_t>(memory.initial.size()));
}

TensorView OperandsOnDevice::operator[](Operand operand) const {
  return operand.index < 0 ? TensorView() : memory_[static_cast<size_t>(operand.index)].view;
}

TensorView OperandsOnDevice::opaque(int64_t rows, int64_t columns) {
  if (rows * columns == 0) return {};
  if (opaque_.bytes() == 0) opaque_ = device_.allocate(rows * columns, "what an operator saves");
  return opaque_.view(DType::u8, rows, columns);
}

std::vector<char> OperandsOnDevice::image(Operand operand) const {
  const Memory& memory = memory_[static_cast<size_t>(operand.index)];
  std::vector<char> image(memory.initial.size());
  device_.copy_to_host(image.data(), memory.buffer.data(), static_cast<int64_t>(image.size()));
  return image;
}

const std::vector<char>& OperandsOnDevice::initial_image(Operand operand) const {
  return memory_[static_cast<size_t>(operand.index)].initial;
}

std::vector<double> OperandsOnDevice::values(Operand operand) const {
  const HostMatrix& matrix = matrices_[static_cast<size_t>(operand.index)];
  const std::vector<char> bytes = image(operand);
  std::vector<double> values;
  values.reserve(static_cast<size_t>(matrix.rows * matrix.columns));
  with_element(matrix.dtype, [&]<typename Element>(Element element) {
    for (int64_t row = 0; row < matrix.rows; ++row)
      for (int64_t column = 0; column < matrix.columns; ++column) {
        std::memcpy(&element, bytes.data() + byte_offset(matrix, row, column), sizeof(element));
        values.push_back(decoded(element));
      }
  });
  return values;
}

Expectation::Expectation(const std::deque<HostMatrix>& matrices) : matrices_(matrices), expected_(matrices.size()) {
  for (size_t i = 0; i < matrices.size(); ++i)
    if (matrices[i].written) expected_[i].elements.resize(static_cast<size_t>(matrices[i].rows * matrices[i].columns));
}

int64_t Expectation::place(Operand operand, int64_t row, int64_t column) const {
  const HostMatrix& matrix = (*this)[operand];
  CBTM_ASSERT(matrix.written && row < matrix.rows && column < matrix.columns, "what is written is expected");
  return row * matrix.columns + column;
}

void Expectation::expect(Operand operand, int64_t row, int64_t column, Bounded want) {
  CBTM_ASSERT(!std::isfinite(want.value) || (want.error >= 0 && want.error < INFINITY),
              "the operands are so well conditioned that a bound says something");
  const Bounded written = stored(want, (*this)[operand].dtype);
  expected_[static_cast<size_t>(operand.index)].elements[static_cast<size_t>(place(operand, row, column))] = {
      .set = true, .value = written.value, .error = written.error};
}

void Expectation::expect_one_of(Operand operand, int64_t row, int64_t column, std::vector<double> candidates) {
  CBTM_ASSERT(!candidates.empty(), "something is expected");
  Matrix& matrix = expected_[static_cast<size_t>(operand.index)];
  const int64_t index = place(operand, row, column);
  matrix.elements[static_cast<size_t>(index)] = {.set = true, .value = candidates.front(), .error = 0};
  if (candidates.size() > 1) matrix.candidates[index] = std::move(candidates);
}

const Expectation::Element& Expectation::element(Operand operand, int64_t index) const {
  return expected_[static_cast<size_t>(operand.index)].elements[static_cast<size_t>(index)];
}

bool Expectation::met(Operand operand, int64_t index, double got) const {
  const Element& want = element(operand, index);
  if (!want.set) return false;
  const auto& candidates = expected_[static_cast<size_t>(operand.index)].candidates;
  if (const auto several = candidates.find(index); several != candidates.end())
    return std::ranges::find(several->second, got) != several->second.end();
  if (std::isnan(want.value)) return std::isnan(got);
  if (std::isinf(want.value)) return got == want.value;
  return std::abs(got - want.value) <= want.error;  // false if it is NaN
}

Operand OperatorCase::input(std::string name, DType dtype, int64_t rows, int64_t columns, std::vector<double> values,
                            Placement placement) {
  CBTM_ASSERT(static_cast<int64_t>(values.size()) == rows * columns, "a value for each element");
  matrices.push_back({.name = std::move(name),
                      .dtype = dtype,
                      .rows = rows,
                      .columns = columns,
                      .placement = placement,
                      .read = true,
                      .values = rounded_to(std::move(values), dtype)});
  return {static_cast<int>(matrices.size()) - 1};
}

Operand OperatorCase::output(std::string name, DType dtype, int64_t rows, int64_t columns, Placement placement) {
  matrices.push_back({.name = std::move(name),
                      .dtype = dtype,
                      .rows = rows,
                      .columns = columns,
                      .placement = placement,
                      .written = true});
  return {static_cast<int>(matrices.size()) - 1};
}

Operand OperatorCase::updated(std::string name, DType dtype, int64_t rows, int64_t columns, std::vector<double> values,
                              Placement placement) {
  const Operand operand = input(std::move(name), dtype, rows, columns, std::move(values), placement);
  matrices.back().written = true;
  return operand;
}

double OperatorCase::bytes_moved() const {
  if (bytes > 0) return bytes;
  double sum = 0;
  for (const HostMatrix& matrix : matrices)
    sum += static_cast<double>(matrix.rows * matrix.columns * dtype_bytes(matrix.dtype)) *
           ((matrix.read ? 1 : 0) + (matrix.written ? 1 : 0));
  return sum;
}

std::vector<double> uniform_values(int64_t count, uint64_t seed, double scale) {
  PhiloxStream stream(seed, 99);
  std::vector<double> values(static_cast<size_t>(count));
  for (double& value : values) value = scale * (2 * stream.next_uniform() - 1);
  return values;
}

std::vector<double> uniform_ids(int64_t count, int64_t below, uint64_t seed) {
  PhiloxStream stream(seed, 98);
  std::vector<double> ids(static_cast<size_t>(count));
  for (double& id : ids) id = static_cast<double>(stream.next_below(static_cast<uint64_t>(below)));
  return ids;
}

std::vector<double> rounded_to(std::vector<double> values, DType dtype) {
  with_element(dtype, [&]<typename Element>(Element) {
    for (double& value : values) value = decoded(encoded<Element>(value));
  });
  return values;
}

}  // namespace cbtm
