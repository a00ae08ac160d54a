#include "checkpoint/pickle.h"

#include <bit>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

using Kind = PickleValue::Kind;

const std::unordered_map<uint8_t, const char*> kRefusedNames = {{'(', "MARK"},          {'c', "GLOBAL"},
                                                                {'i', "INST"},          {'o', "OBJ"},
                                                                {0x81, "NEWOBJ"},       {0x82, "EXT1"},
                                                                {0x83, "EXT2"},         {0x84, "EXT4"},
                                                                {0x8b, "LONG4"},        {0x92, "NEWOBJ_EX"},
                                                                {0x93, "STACK_GLOBAL"}, {0x95, "FRAME"},
                                                                {0x94, "MEMOIZE"},      {0x8c, "SHORT_BINUNICODE"},
                                                                {'P', "PERSID"},        {'S', "STRING"},
                                                                {'T', "BINSTRING"},     {'U', "SHORT_BINSTRING"},
                                                                {'B', "BINBYTES"},      {'C', "SHORT_BINBYTES"}};

class Reader {
 public:
  Reader(std::string_view bytes, const std::string& where, bool legacy)
      : bytes_(bytes), where_(where), legacy_(legacy) {}

  Pickle run() {
    while (true) {
      const uint8_t operation = byte();
      if (operation == '.') break;
      step(operation);
    }
    pickle_.top = pop();
    pickle_.bytes_used = place_;
    return std::move(pickle_);
  }

 private:
  template <typename... Arguments>
  [[noreturn]] void bad(fmt::format_string<Arguments...> format, Arguments&&... arguments) const {
    fail("{}: damaged or unsafe pickle at byte {}: {}", where_, place_,
         fmt::format(format, std::forward<Arguments>(arguments)...));
  }

  std::string_view take(uint64_t count) {
    if (count > bytes_.size() - place_) bad("it ends in the middle of a value");
    const std::string_view taken = bytes_.substr(place_, count);
    place_ += count;
    return taken;
  }
  uint8_t byte() { return static_cast<uint8_t>(take(1)[0]); }
  template <typename Number>
  Number number() {
    Number value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string line() {
    const size_t end = bytes_.find('\n', place_);
    if (end == std::string_view::npos) bad("a name has no end");
    std::string text(bytes_.substr(place_, end - place_));
    place_ = end + 1;
    return text;
  }

  int32_t make(PickleValue value) {
    pickle_.values.push_back(std::move(value));
    return static_cast<int32_t>(pickle_.values.size()) - 1;
  }
  void push(PickleValue value) { stack_.push_back(make(std::move(value))); }
  int32_t pop() {
    if (stack_.empty() || value(stack_.back()).kind == Kind::mark) bad("it takes a value from an empty stack");
    const int32_t top = stack_.back();
    stack_.pop_back();
    return top;
  }
  PickleValue& value(int32_t number) { return pickle_.values[static_cast<size_t>(number)]; }
  PickleValue& top(Kind kind, const char* what) {
    if (stack_.empty() || value(stack_.back()).kind != kind) bad("{} is not there", what);
    return value(stack_.back());
  }
  /// What lies above the topmost mark; the mark is removed.
  std::vector<int32_t> pop_to_mark() {
    size_t place = stack_.size();
    while (place > 0 && value(stack_[place - 1]).kind != Kind::mark) --place;
    if (place == 0) bad("a mark is missing");
    std::vector<int32_t> items(stack_.begin() + static_cast<int64_t>(place), stack_.end());
    stack_.resize(place - 1);
    return items;
  }
  void push_tuple(size_t count) {
    PickleValue tuple{
        .kind = Kind::tuple, .text = {}, .items = std::vector<int32_t>(count), .shape = {}, .strides = {}};
    for (size_t i = count; i-- > 0;) tuple.items[i] = pop();
    push(std::move(tuple));
  }
  void push_kind(Kind kind) {
    PickleValue fresh;
    fresh.kind = kind;
    push(std::move(fresh));
  }
  void push_integer(int64_t integer) {
    PickleValue fresh;
    fresh.kind = Kind::integer;
    fresh.integer = integer;
    push(std::move(fresh));
  }
  void push_boolean(bool truth) {
    PickleValue fresh;
    fresh.kind = Kind::boolean;
    fresh.integer = truth ? 1 : 0;
    push(std::move(fresh));
  }
  void remember(uint32_t slot) {
    if (stack_.empty()) bad("it remembers a value that is not there");
    memo_[slot] = stack_.back();
  }
  void recall(uint32_t slot) {
    const auto found = memo_.find(slot);
    if (found == memo_.end()) bad("memo slot {} is not set", slot);
    stack_.push_back(found->second);
  }

  void push_long(uint64_t length) {
    const std::string_view digits = take(length);
    // 0x1950a86a20f9469cfc6c, the legacy stream's magic number, needs ten bytes: kept as text, compared as such.
    if (length > 8) {
      PickleValue fresh;
      fresh.kind = Kind::text;
      fresh.text = std::string(digits);
      push(std::move(fresh));
      return;
    }
    uint64_t bits = 0;
    for (size_t i = 0; i < length; ++i) bits |= static_cast<uint64_t>(static_cast<uint8_t>(digits[i])) << (8 * i);
    if (length > 0 && length < 8 && (static_cast<uint8_t>(digits[length - 1]) & 0x80) != 0)
      bits |= ~uint64_t{0} << (8 * length);
    push_integer(static_cast<int64_t>(bits));
  }

  void add_to_dict(PickleValue& dict, const std::vector<int32_t>& items) {
    if (items.size() % 2 != 0) bad("a key without a value");
    dict.items.insert(dict.items.end(), items.begin(), items.end());
  }

  void push_global() {
    PickleValue global;
    global.kind = Kind::global;
    global.text = line() + " ";
    global.text += line();
    static constexpr std::string_view kAllowed[] = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2",
                                                    "torch._utils _rebuild_parameter"};
    static constexpr std::string_view kStorages[] = {"FloatStorage", "HalfStorage", "BFloat16Storage", "DoubleStorage",
                                                     "LongStorage",  "IntStorage",  "ShortStorage",    "CharStorage",
                                                     "ByteStorage",  "BoolStorage"};
    bool allowed = false;
    for (const std::string_view name : kAllowed) allowed |= global.text == name;
    for (const std::string_view name : kStorages) allowed |= global.text == fmt::format("torch {}", name);
    if (!allowed) bad("it names '{}', which no state dict needs; nothing was run", global.text);
    push(std::move(global));
  }

  std::vector<int64_t> integers(int32_t tuple) {
    if (value(tuple).kind != Kind::tuple) bad("a size or stride is not a tuple");
    std::vector<int64_t> out;
    for (const int32_t item : value(tuple).items) {
      if (value(item).kind != Kind::integer) bad("a size or stride is not a whole number");
      out.push_back(value(item).integer);
    }
    return out;
  }

  void reduce() {
    const int32_t arguments = pop();
    const int32_t function = pop();
    if (value(arguments).kind != Kind::tuple || value(function).kind != Kind::global)
      bad("a call without function or arguments");
    const std::string name = value(function).text;
    const std::vector<int32_t> items = value(arguments).items;
    if (name == "collections OrderedDict") {
      if (!items.empty()) bad("OrderedDict with arguments");
      push_kind(Kind::dict);
    } else if (name == "torch._utils _rebuild_parameter") {
      if (items.empty() || value(items[0]).kind != Kind::tensor) bad("_rebuild_parameter without a tensor");
      stack_.push_back(items[0]);
    } else if (name == "torch._utils _rebuild_tensor_v2") {
      if (items.size() < 6 || items.size() > 7) bad("_rebuild_tensor_v2 with {} arguments", items.size());
      if (value(items[0]).kind != Kind::storage || value(items[1]).kind != Kind::integer)
        bad("_rebuild_tensor_v2 without storage or offset");
      PickleValue tensor;
      tensor.kind = Kind::tensor;
      tensor.items = {items[0]};
      tensor.integer = value(items[1]).integer;
      tensor.shape = integers(items[2]);
      tensor.strides = integers(items[3]);
      push(std::move(tensor));
    } else {
      bad("it calls '{}'", name);
    }
  }

  void push_storage() {
    const int32_t id = pop();
    const size_t parts = legacy_ ? 6 : 5;
    if (value(id).kind != Kind::tuple || value(id).items.size() != parts) bad("a persistent id is not a storage's");
    const std::vector<int32_t> items = value(id).items;
    if (value(items[0]).kind != Kind::text || value(items[0]).text != "storage" ||
        value(items[1]).kind != Kind::global || value(items[2]).kind != Kind::text ||
        value(items[4]).kind != Kind::integer || value(items[4]).integer < 0)
      bad("a persistent id is not a storage's");
    if (legacy_ && value(items[5]).kind != Kind::none) bad("a view of a storage, which only very old files hold");
    PickleValue storage;
    storage.kind = Kind::storage;
    storage.items = {items[1]};
    storage.text = value(items[2]).text;
    storage.integer = value(items[4]).integer;
    push(std::move(storage));
  }

  void step(uint8_t operation) {
    switch (operation) {
      case 0x80: {
        const uint8_t protocol = byte();
        if (protocol != 2) bad("pickle protocol {} (PyTorch writes 2)", protocol);
        return;
      }
      case '}': return push_kind(Kind::dict);
      case ')': return push_kind(Kind::tuple);
      case ']': return push_kind(Kind::list);
      case '(': return push_kind_mark();
      case 'q': return remember(byte());
      case 'r': return remember(number<uint32_t>());
      case 'h': return recall(byte());
      case 'j': return recall(number<uint32_t>());
      case 'X': {
        PickleValue text;
        text.kind = Kind::text;
        text.text = std::string(take(number<uint32_t>()));
        return push(std::move(text));
      }
      case 'c': return push_global();
      case 'R': return reduce();
      case 'Q': return push_storage();
      case 'J': return push_integer(number<int32_t>());
      case 'K': return push_integer(byte());
      case 'M': return push_integer(number<uint16_t>());
      case 0x8a: return push_long(byte());
      case 'G': {
        PickleValue real;
        real.kind = Kind::real;
        real.real = std::bit_cast<double>(__builtin_bswap64(number<uint64_t>()));
        return push(std::move(real));
      }
      case 0x88: return push_boolean(true);
      case 0x89: return push_boolean(false);
      case 'N': return push_kind(Kind::none);
      case 't': {
        PickleValue tuple;
        tuple.kind = Kind::tuple;
        tuple.items = pop_to_mark();
        return push(std::move(tuple));
      }
      case 0x85: return push_tuple(1);
      case 0x86: return push_tuple(2);
      case 0x87: return push_tuple(3);
      case 's': {
        const int32_t item = pop();
        const int32_t key = pop();
        return add_to_dict(top(Kind::dict, "a dict"), {key, item});
      }
      case 'u': {
        const std::vector<int32_t> items = pop_to_mark();
        return add_to_dict(top(Kind::dict, "a dict"), items);
      }
      case 'a': {
        const int32_t item = pop();
        top(Kind::list, "a list").items.push_back(item);
        return;
      }
      case 'e': {
        const std::vector<int32_t> items = pop_to_mark();
        std::vector<int32_t>& list = top(Kind::list, "a list").items;
        list.insert(list.end(), items.begin(), items.end());
        return;
      }
      case 'b': {  // sets attributes of an OrderedDict (its _metadata): not needed
        pop();
        top(Kind::dict, "an object to build");
        return;
      }
      default: {
        const auto found = kRefusedNames.find(operation);
        if (found != kRefusedNames.end()) bad("operation {} is not one that state dicts use", found->second);
        bad("operation 0x{:02x} is not one that state dicts use", operation);
      }
    }
  }
  void push_kind_mark() { push_kind(Kind::mark); }

  std::string_view bytes_;
  const std::string& where_;
  bool legacy_;
  size_t place_ = 0;
  std::vector<int32_t> stack_;
  std::unordered_map<uint32_t, int32_t> memo_;
  Pickle pickle_;
};

}  // namespace

Pickle read_pickle(std::string_view bytes, const std::string& where, bool legacy) {
  return Reader(bytes, where, legacy).run();
}

}  // namespace cbtm
