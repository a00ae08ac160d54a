#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace cbtm {

/// A value built by the pickle reader, 16 bytes. Values refer to each other by number and to text by its place in the
/// file, never own or copy anything: shared and deep structures cost what the file costs.
struct PickleValue {
  enum class Kind : uint8_t { none, boolean, integer, real, text, tuple, list, dict, global, storage, tensor, opaque };
  Kind kind = Kind::none;
  uint32_t count = 0;   ///< bytes of a text; items of the others
  int64_t integer = 0;  ///< integer, boolean; else where text, items or the first link are
};

/// What one pickle stream left: all values and the number of the top one. The bytes it was read from must outlive it.
///
/// Items: of a tuple and a list their values; of a dict key, value, key, value...; of a global module and name (texts);
/// of a storage its type (a global), key (text) and number of elements (integer); of a tensor its storage, offset
/// (integer), sizes and strides (tuples). Opaque is what only running foreign code could make; its item, if it has one,
/// is the global that it would be made by.
class Pickle {
 public:
  const PickleValue& operator[](int32_t number) const { return values_[static_cast<size_t>(number)]; }
  int32_t top() const { return top_; }
  int32_t size() const { return static_cast<int32_t>(values_.size()); }
  size_t bytes_used() const { return bytes_used_; }

  std::string_view text(const PickleValue& value) const;         ///< of a text; else empty
  std::vector<int32_t> items(const PickleValue& value) const;    ///< numbers of the items; costs their count
  int32_t item(const PickleValue& value, uint32_t index) const;  ///< not of a list or dict
  std::string global_name(const PickleValue& value) const;       ///< "module.name" of a global, for messages too
  /// "posix.getcwd" for what an opaque value would be made by, or "an unknown object".
  std::string maker(const PickleValue& value) const;

 private:
  friend class PickleReader;
  struct Link {
    int32_t value;
    int32_t next;
  };

  std::string_view bytes_;
  std::vector<PickleValue> values_;
  std::vector<int32_t> pool_;  ///< items of everything that cannot change
  std::vector<Link> links_;    ///< items of lists and dicts, one after the other; heads and tails in `integer`
  int32_t top_ = 0;
  size_t bytes_used_ = 0;
};

/// Interprets pickle streams of protocols 2 to 5 as far as state dicts need it (docs/opt-format.md, 'PyTorch zip'). The
/// only things it makes are plain values, dicts, storages and tensors; whatever else the stream would have made by
/// calling something becomes an opaque value: nothing is ever run. Memory and time are bounded by a limit on the number
/// of values. `where` names the file in errors. `legacy` accepts the six-part storage ids of files written before
/// PyTorch 1.6. Throws Error.
Pickle read_pickle(std::string_view bytes, const std::string& where, bool legacy);

}  // namespace cbtm
