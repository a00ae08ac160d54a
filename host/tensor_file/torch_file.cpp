// PyTorch files: the zip container of today and the pickle stream of before 1.6 (docs/opt-format.md, 'PyTorch zip',
// docs/opt-format.md, 'PyTorch stream before 1.6').

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>

#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"
#include "cbtm/tensor_file/tensor_file.h"
#include "tensor_file/pickle.h"
#include "tensor_file/torch_zip.h"

namespace cbtm {
namespace {

using Kind = PickleValue::Kind;
/// Bytes of the storage with this key and element size.
using FindStorage = std::function<std::string_view(const std::string& key)>;

struct StorageType {
  StoredType type = StoredType::other;
  int64_t bytes = 0;  ///< of an element; 0 if nobody knows
};

/// The type of a storage by the name of its class.
StorageType type_of_storage(const std::string& global) {
  static const std::unordered_map<std::string, StorageType> kTypes = {
      {"torch.FloatStorage", {StoredType::f32, 4}},
      {"torch.HalfStorage", {StoredType::f16, 2}},
      {"torch.BFloat16Storage", {StoredType::bf16, 2}},
      {"torch.DoubleStorage", {StoredType::f64, 8}},
      {"torch.LongStorage", {StoredType::i64, 8}},
      {"torch.IntStorage", {StoredType::i32, 4}},
      {"torch.ShortStorage", {StoredType::i16, 2}},
      {"torch.CharStorage", {StoredType::i8, 1}},
      {"torch.ByteStorage", {StoredType::u8, 1}},
      {"torch.BoolStorage", {StoredType::boolean, 1}},
      {"torch.ComplexFloatStorage", {StoredType::other, 8}},
      {"torch.ComplexDoubleStorage", {StoredType::other, 16}},
      {"torch.QInt8Storage", {StoredType::other, 1}},
      {"torch.QUInt8Storage", {StoredType::other, 1}},
      {"torch.QInt32Storage", {StoredType::other, 4}},
      {"torch.QUInt4x2Storage", {StoredType::other, 1}},
      {"torch.QUInt2x4Storage", {StoredType::other, 1}}};
  const auto found = kTypes.find(global);
  return found == kTypes.end() ? StorageType{} : found->second;
}

std::vector<int64_t> integers(const Pickle& pickle, int32_t tuple) {
  std::vector<int64_t> out;
  for (const int32_t item : pickle.items(pickle[tuple])) out.push_back(pickle[item].integer);
  return out;
}

/// What a state dict holds.
struct StateDict {
  std::vector<StoredTensor> tensors;
  std::map<std::string, std::string, std::less<>> unreadable;  ///< name -> why
};

/// Adds the tensor `value`, or why it cannot be read; throws if it is damaged.
void add_tensor(const Pickle& pickle, const PickleValue& value, const std::string& name, const std::string& file,
                const FindStorage& find_storage, StateDict& out) {
  const std::string where = fmt::format("{}: tensor '{}'", file, shown_text(name));
  const PickleValue& storage = pickle[pickle.item(value, 0)];
  const std::string storage_class = pickle.global_name(pickle[pickle.item(storage, 0)]);
  const int64_t elements = pickle[pickle.item(storage, 2)].integer;
  const int64_t offset = pickle[pickle.item(value, 1)].integer;
  const StorageType type = type_of_storage(storage_class);
  if (type.type == StoredType::other) {
    out.unreadable.emplace(name, fmt::format("it is of the type '{}'", storage_class));
    return;
  }
  StoredTensor tensor;
  tensor.name = name;
  tensor.type = type.type;
  tensor.shape = integers(pickle, pickle.item(value, 2));
  tensor.strides = integers(pickle, pickle.item(value, 3));
  const std::string_view bytes = find_storage(std::string(pickle.text(pickle[pickle.item(storage, 1)])));
  const int64_t item = type.bytes;
  if (elements != static_cast<int64_t>(bytes.size()) / item || static_cast<int64_t>(bytes.size()) % item != 0)
    fail("{}: its storage claims {} elements, but the file holds {} bytes for it", where, elements, bytes.size());
  if (tensor.shape.size() != tensor.strides.size()) fail("{}: size and stride have different lengths", where);
  int64_t count = 1;
  int64_t last = offset;
  if (last < 0) fail("{}: negative offset", where);
  const bool empty = std::find(tensor.shape.begin(), tensor.shape.end(), 0) != tensor.shape.end();
  for (size_t axis = 0; axis < tensor.shape.size(); ++axis) {
    if (tensor.shape[axis] < 0 || tensor.strides[axis] < 0) fail("{}: negative size or stride", where);
    int64_t reach = 0;
    if (__builtin_mul_overflow(count, tensor.shape[axis], &count)) fail("{}: its element count overflows", where);
    if (empty) continue;
    if (__builtin_mul_overflow(tensor.shape[axis] - 1, tensor.strides[axis], &reach) ||
        __builtin_add_overflow(last, reach, &last))
      fail("{}: its extent overflows", where);
  }
  if (!empty && last >= elements) fail("{}: it reaches past the end of its storage", where);
  if (count > elements) {
    out.unreadable.emplace(name, "it repeats elements of its storage (stride 0), which no weight does");
    return;
  }
  tensor.data = reinterpret_cast<const std::byte*>(bytes.data()) + (empty ? 0 : offset * item);
  out.tensors.push_back(std::move(tensor));
}

/// The dict that holds the tensors: the top one, or one that training programs put into it under a known name
/// (metaseq, Lightning, DeepSpeed, scripts).
std::vector<int32_t> find_state_dict(const Pickle& pickle, const std::string& file) {
  constexpr int kNestingMax = 8;
  const PickleValue& top = pickle[pickle.top()];
  if (top.kind == Kind::opaque)
    fail("{}: its top object is made by '{}', not a dict of tensors; save model.state_dict() instead", file,
         pickle.maker(top));
  if (top.kind != Kind::dict) fail("{}: its top object is not a dict, so this is not a state dict", file);
  std::vector<int32_t> items = pickle.items(top);
  int32_t dict = pickle.top();
  for (int nesting = 0; nesting < kNestingMax; ++nesting) {
    int32_t inner = -1;
    for (const std::string_view outer : {"model_state_dict", "state_dict", "model", "module", "model_state"})
      for (size_t i = 0; inner < 0 && i + 1 < items.size(); i += 2)
        if (pickle.text(pickle[items[i]]) == outer && pickle[items[i + 1]].kind == Kind::dict &&
            pickle[items[i + 1]].count > 0)
          inner = items[i + 1];
    if (inner < 0) return items;
    if (inner == dict) break;
    dict = inner;
    items = pickle.items(pickle[dict]);
  }
  fail("{}: a dict that holds itself, or is nested too deeply", file);
}

StateDict state_dict(const Pickle& pickle, const std::string& file, const FindStorage& find_storage) {
  StateDict out;
  const std::vector<int32_t> items = find_state_dict(pickle, file);
  std::set<std::string_view> names;
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    const PickleValue& key = pickle[items[i]];
    const PickleValue& value = pickle[items[i + 1]];
    if (items[i + 1] == pickle.top()) fail("{}: a dict that holds itself", file);
    if (key.kind != Kind::text || (value.kind != Kind::tensor && value.kind != Kind::opaque)) continue;
    if (!names.insert(pickle.text(key)).second) fail("{}: names tensor '{}' twice", file, shown_text(pickle.text(key)));
    const std::string name(pickle.text(key));
    if (value.kind == Kind::tensor)
      add_tensor(pickle, value, name, file, find_storage, out);
    else
      out.unreadable.emplace(name, fmt::format("it would be made by '{}', and nothing is run", pickle.maker(value)));
  }
  if (out.tensors.empty() && !out.unreadable.empty())
    fail("{}: holds no tensor that can be read; '{}': {}", file, shown_text(out.unreadable.begin()->first),
         out.unreadable.begin()->second);
  if (out.tensors.empty()) fail("{}: holds no tensors", file);
  return out;
}

StateDict read_zip(std::string_view bytes, const std::string& file) {
  const std::map<std::string, std::string_view> members = read_zip_members(bytes, file);
  const auto pickled = members.find("data.pkl");
  if (pickled == members.end()) fail("{}: holds no data.pkl, so it was not written by torch.save", file);
  if (const auto order = members.find("byteorder"); order != members.end() && order->second != "little")
    fail("{}: its numbers are big-endian; save it again on a little-endian machine", file);
  const Pickle pickle = read_pickle(pickled->second, file, /*legacy=*/false);
  return state_dict(pickle, file, [&](const std::string& key) {
    const auto member = members.find("data/" + key);
    if (member == members.end() || key.find('/') != std::string::npos)
      fail("{}: storage '{}' is not in it", file, shown_text(key));
    return member->second;
  });
}

StateDict read_legacy(std::string_view bytes, const std::string& file) {
  constexpr std::string_view kMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);
  const auto next = [&]() {
    Pickle pickle = read_pickle(bytes, file, /*legacy=*/true);
    bytes.remove_prefix(pickle.bytes_used());
    return pickle;
  };
  const Pickle magic = next();
  if (magic.text(magic[magic.top()]) != kMagic) fail("{}: not a PyTorch file: wrong magic number", file);
  const Pickle version = next();
  if (version[version.top()].kind != Kind::integer || version[version.top()].integer != 1001)
    fail("{}: unknown version of the old PyTorch format", file);
  const Pickle system = next();
  const std::vector<int32_t> facts = system.items(system[system.top()]);
  for (size_t i = 0; i + 1 < facts.size(); i += 2)
    if (system.text(system[facts[i]]) == "little_endian" && system[facts[i + 1]].integer != 1)
      fail("{}: its numbers are big-endian; save it again on a little-endian machine", file);
  const Pickle object = next();
  const Pickle keys = next();
  // Element sizes of the storages, as the object names them.
  std::map<std::string, int64_t, std::less<>> item_bytes;
  for (int32_t number = 0; number < object.size(); ++number) {
    if (object[number].kind != Kind::storage) continue;
    const std::string storage_class = object.global_name(object[object.item(object[number], 0)]);
    const int64_t item = type_of_storage(storage_class).bytes;
    if (item == 0) fail("{}: storage type '{}' is not supported", file, storage_class);
    item_bytes.emplace(object.text(object[object.item(object[number], 1)]), item);
  }
  std::map<std::string, std::string_view> storages;
  if (keys[keys.top()].kind != Kind::list) fail("{}: its list of storages is missing", file);
  for (const int32_t item : keys.items(keys[keys.top()])) {
    const std::string key(keys.text(keys[item]));
    const auto known = item_bytes.find(key);
    if (known == item_bytes.end()) fail("{}: storage '{}' belongs to no tensor", file, shown_text(key));
    int64_t count = 0;
    if (bytes.size() < 8) fail("{}: cut off within its storages", file);
    std::memcpy(&count, bytes.data(), 8);
    bytes.remove_prefix(8);
    if (count < 0 || static_cast<uint64_t>(count) > bytes.size() / static_cast<uint64_t>(known->second))
      fail("{}: storage '{}' claims {} elements, more than the file holds", file, shown_text(key), count);
    storages[key] = bytes.substr(0, static_cast<size_t>(count * known->second));
    bytes.remove_prefix(static_cast<size_t>(count * known->second));
  }
  return state_dict(object, file, [&](const std::string& key) {
    const auto storage = storages.find(key);
    if (storage == storages.end()) fail("{}: storage '{}' is not in it", file, shown_text(key));
    return storage->second;
  });
}

}  // namespace

TensorFile read_torch_file(const std::filesystem::path& path) {
  TensorFile result;
  result.path_ = path;
  result.file_ = std::make_shared<const MappedFile>(path);
  const std::string_view bytes = result.file_->text();
  const std::string shown = path.string();
  if (const std::string foreign = foreign_content(bytes); !foreign.empty())
    fail("{}: not a PyTorch file: {}", shown, foreign);
  if (bytes.size() > 262 && bytes.substr(257, 5) == "ustar")
    fail("{}: a tar of PyTorch before 0.1.10 (2017); load and save it again with a newer PyTorch", shown);
  StateDict dict;
  if (bytes.starts_with("PK\x03\x04")) {
    dict = read_zip(bytes, shown);
  } else if (bytes.front() == '\x80') {
    dict = read_legacy(bytes, shown);
  } else if (bytes.size() > 9 && bytes[8] == '{') {
    fail("{}: not a PyTorch file, but one of safetensors; name it model.safetensors", shown);
  } else {
    fail("{}: neither a zip nor a pickle stream, so not a PyTorch file", shown);
  }
  result.set_tensors(std::move(dict.tensors));
  result.unreadable_ = std::move(dict.unreadable);
  return result;
}

}  // namespace cbtm
