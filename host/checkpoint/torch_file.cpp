// PyTorch files: the zip container of today and the pickle stream of before 1.6 (opt-format.md sections 9.3 and 9.4).

#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <unordered_map>

#include "cbtm/base/error.h"
#include "cbtm/checkpoint/tensor_file.h"
#include "checkpoint/pickle.h"
#include "checkpoint/torch_zip.h"

namespace cbtm {
namespace {

using Kind = PickleValue::Kind;
/// Bytes of the storage with this key and element size.
using FindStorage = std::function<std::string_view(const std::string& key)>;

StoredType type_of_storage(const std::string& global, const std::string& where) {
  static const std::unordered_map<std::string, StoredType> kTypes = {
      {"torch FloatStorage", StoredType::f32},     {"torch HalfStorage", StoredType::f16},
      {"torch BFloat16Storage", StoredType::bf16}, {"torch DoubleStorage", StoredType::f64},
      {"torch LongStorage", StoredType::i64},      {"torch IntStorage", StoredType::i32},
      {"torch ShortStorage", StoredType::i16},     {"torch CharStorage", StoredType::i8},
      {"torch ByteStorage", StoredType::u8},       {"torch BoolStorage", StoredType::boolean}};
  const auto found = kTypes.find(global);
  if (found == kTypes.end()) fail("{}: storage type '{}' is not supported", where, global);
  return found->second;
}

StoredTensor tensor_of(const Pickle& pickle, const PickleValue& value, const std::string& name, const std::string& file,
                       const FindStorage& find_storage) {
  const std::string where = fmt::format("{}: tensor '{}'", file, name);
  const PickleValue& storage = pickle[value.items[0]];
  StoredTensor tensor;
  tensor.name = name;
  tensor.type = type_of_storage(pickle[storage.items[0]].text, where);
  tensor.shape = value.shape;
  tensor.strides = value.strides;
  const std::string_view bytes = find_storage(storage.text);
  const int64_t item = stored_type_bytes(tensor.type);
  if (storage.integer != static_cast<int64_t>(bytes.size()) / item || static_cast<int64_t>(bytes.size()) % item != 0)
    fail("{}: its storage claims {} elements, but the file holds {} bytes for it", where, storage.integer,
         bytes.size());
  if (tensor.shape.size() != tensor.strides.size()) fail("{}: size and stride have different lengths", where);
  int64_t count = 1;
  int64_t last = value.integer;
  if (last < 0) fail("{}: negative offset", where);
  bool empty = false;
  for (const int64_t extent : tensor.shape) empty |= extent == 0;
  for (size_t axis = 0; axis < tensor.shape.size(); ++axis) {
    if (tensor.shape[axis] < 0 || tensor.strides[axis] < 0) fail("{}: negative size or stride", where);
    int64_t reach = 0;
    if (__builtin_mul_overflow(count, tensor.shape[axis], &count)) fail("{}: its element count overflows", where);
    if (empty) continue;
    if (__builtin_mul_overflow(tensor.shape[axis] - 1, tensor.strides[axis], &reach) ||
        __builtin_add_overflow(last, reach, &last))
      fail("{}: its extent overflows", where);
  }
  if (!empty && last >= storage.integer) fail("{}: it reaches past the end of its storage", where);
  if (count > storage.integer) fail("{}: it repeats elements of its storage (stride 0), which no weight does", where);
  tensor.data = reinterpret_cast<const std::byte*>(bytes.data()) + (empty ? 0 : value.integer * item);
  return tensor;
}

/// The state dict: the top dict, or the one under "model" (metaseq) or "state_dict"; entries that are no tensors are
/// left out.
std::vector<StoredTensor> state_dict(const Pickle& pickle, const std::string& file, const FindStorage& find_storage) {
  const PickleValue* dict = &pickle[pickle.top];
  if (dict->kind != Kind::dict) fail("{}: its top object is not a dict, so this is not a state dict", file);
  for (const char* outer : {"model", "state_dict"})
    for (size_t i = 0; i + 1 < dict->items.size(); i += 2)
      if (pickle[dict->items[i]].kind == Kind::text && pickle[dict->items[i]].text == outer &&
          pickle[dict->items[i + 1]].kind == Kind::dict) {
        dict = &pickle[dict->items[i + 1]];
        break;
      }
  std::vector<StoredTensor> tensors;
  std::set<std::string> names;
  for (size_t i = 0; i + 1 < dict->items.size(); i += 2) {
    const PickleValue& key = pickle[dict->items[i]];
    const PickleValue& value = pickle[dict->items[i + 1]];
    if (&value == dict) fail("{}: a dict that holds itself", file);
    if (key.kind != Kind::text || value.kind != Kind::tensor) continue;
    if (!names.insert(key.text).second) fail("{}: names tensor '{}' twice", file, key.text);
    tensors.push_back(tensor_of(pickle, value, key.text, file, find_storage));
  }
  if (tensors.empty()) fail("{}: holds no tensors", file);
  return tensors;
}

std::vector<StoredTensor> read_zip(std::string_view bytes, const std::string& file) {
  const std::map<std::string, std::string_view> members = read_zip_members(bytes, file);
  const auto pickled = members.find("data.pkl");
  if (pickled == members.end()) fail("{}: holds no data.pkl, so it was not written by torch.save", file);
  if (const auto order = members.find("byteorder"); order != members.end() && order->second != "little")
    fail("{}: its numbers are big-endian; save it again on a little-endian machine", file);
  const Pickle pickle = read_pickle(pickled->second, file, /*legacy=*/false);
  return state_dict(pickle, file, [&](const std::string& key) {
    const auto member = members.find("data/" + key);
    if (member == members.end() || key.find('/') != std::string::npos) fail("{}: storage '{}' is not in it", file, key);
    return member->second;
  });
}

std::vector<StoredTensor> read_legacy(std::string_view bytes, const std::string& file) {
  constexpr std::string_view kMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);
  const auto next = [&]() {
    Pickle pickle = read_pickle(bytes, file, /*legacy=*/true);
    bytes.remove_prefix(pickle.bytes_used);
    return pickle;
  };
  const Pickle magic = next();
  if (magic[magic.top].kind != Kind::text || magic[magic.top].text != kMagic)
    fail("{}: not a PyTorch file: wrong magic number", file);
  const Pickle version = next();
  if (version[version.top].integer != 1001) fail("{}: unknown version of the old PyTorch format", file);
  const Pickle system = next();
  const PickleValue& system_dict = system[system.top];
  for (size_t i = 0; i + 1 < system_dict.items.size(); i += 2)
    if (system[system_dict.items[i]].text == "little_endian" && system[system_dict.items[i + 1]].integer != 1)
      fail("{}: its numbers are big-endian; save it again on a little-endian machine", file);
  const Pickle object = next();
  const Pickle keys = next();
  // Element sizes of the storages, as the object names them.
  std::map<std::string, int64_t> item_bytes;
  for (const PickleValue& value : object.values)
    if (value.kind == Kind::storage)
      item_bytes[value.text] = stored_type_bytes(type_of_storage(object[value.items[0]].text, file));
  std::map<std::string, std::string_view> storages;
  if (keys[keys.top].kind != Kind::list) fail("{}: its list of storages is missing", file);
  for (const int32_t item : keys[keys.top].items) {
    const std::string& key = keys[item].text;
    const auto known = item_bytes.find(key);
    if (known == item_bytes.end()) fail("{}: storage '{}' belongs to no tensor", file, key);
    int64_t count = 0;
    if (bytes.size() < 8) fail("{}: cut off within its storages", file);
    std::memcpy(&count, bytes.data(), 8);
    bytes.remove_prefix(8);
    if (count < 0 || static_cast<uint64_t>(count) > bytes.size() / static_cast<uint64_t>(known->second))
      fail("{}: storage '{}' claims {} elements, more than the file holds", file, key, count);
    storages[key] = bytes.substr(0, static_cast<size_t>(count * known->second));
    bytes.remove_prefix(static_cast<size_t>(count * known->second));
  }
  return state_dict(object, file, [&](const std::string& key) {
    const auto storage = storages.find(key);
    if (storage == storages.end()) fail("{}: storage '{}' is not in it", file, key);
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
  if (bytes.empty()) fail("{}: the file is empty", shown);
  if (bytes.starts_with("version https://git-lfs"))
    fail("{}: a Git LFS pointer, not the file itself; fetch it with git lfs pull", shown);
  if (bytes.size() > 262 && bytes.substr(257, 5) == "ustar")
    fail("{}: a tar of PyTorch before 0.1.10 (2017); load and save it again with a newer PyTorch", shown);
  if (bytes.starts_with("PK\x03\x04")) {
    result.tensors_ = read_zip(bytes, shown);
  } else if (bytes.front() == '\x80') {
    result.tensors_ = read_legacy(bytes, shown);
  } else {
    fail("{}: neither a zip nor a pickle stream, so not a PyTorch file", shown);
  }
  return result;
}

}  // namespace cbtm
