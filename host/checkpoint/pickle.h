#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

namespace cbtm {

/// A value built by the pickle reader. Values refer to each other by number, never own each other: shared and deep
/// structures cost what the file costs, and nothing here recurses, destruction included.
struct PickleValue {
  enum class Kind : uint8_t { none, boolean, integer, real, text, tuple, list, dict, global, storage, tensor, mark };
  Kind kind = Kind::none;
  int64_t integer = 0;
  double real = 0;
  std::string text;            ///< text; "module name" of a global
  std::vector<int32_t> items;  ///< tuple, list; dict: key, value, key, value...
  // storage: items[0] = type (global), text = key, integer = number of elements
  // tensor: items[0] = storage, integer = offset
  std::vector<int64_t> shape, strides;
};

/// What one pickle stream left: all values and the number of the top one.
struct Pickle {
  std::deque<PickleValue> values;
  int32_t top = 0;
  size_t bytes_used = 0;

  const PickleValue& operator[](int32_t number) const { return values[static_cast<size_t>(number)]; }
};

/// Interprets the operations that PyTorch's state dicts use and no other (opt-format.md section 9.3); the only things
/// it can make are plain values, OrderedDict, storages and tensors. `where` names the file in errors. `legacy` accepts
/// the six-part storage ids of files written before PyTorch 1.6. Throws Error.
Pickle read_pickle(std::string_view bytes, const std::string& where, bool legacy);

}  // namespace cbtm
