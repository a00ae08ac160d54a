#include "tensor_file/pickle.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <span>
#include <unordered_map>
#include <utility>

#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"

namespace cbtm {
namespace {

using Kind = PickleValue::Kind;

/// Values, items, the stack and the memo each: some 10 times what the largest models' files need.
constexpr size_t kValuesMax = 8'000'000;
constexpr int32_t kMark = -1;  ///< on the stack
constexpr int32_t kUnset = -1;
constexpr int32_t kNoLink = -1;

const std::unordered_map<uint8_t, const char*> kRefusedNames = {
    {0x82, "EXT1"}, {0x83, "EXT2"}, {0x84, "EXT4"},       {'P', "PERSID"},  {'S', "STRING"},
    {'I', "INT"},   {'L', "LONG"},  {'F', "FLOAT"},       {'V', "UNICODE"}, {'g', "GET"},
    {'p', "PUT"},   {'2', "DUP"},   {0x97, "NEXT_BUFFER"}};

int64_t links_of(int32_t head, int32_t tail) {
  return static_cast<int64_t>(static_cast<uint64_t>(static_cast<uint32_t>(head)) << 32 | static_cast<uint32_t>(tail));
}
int32_t head_of(int64_t links) { return static_cast<int32_t>(static_cast<uint64_t>(links) >> 32); }
int32_t tail_of(int64_t links) { return static_cast<int32_t>(static_cast<uint64_t>(links) & 0xffffffff); }

bool is_open(Kind kind) { return kind == Kind::list || kind == Kind::dict; }

}  // namespace

std::string_view Pickle::text(const PickleValue& value) const {
  if (value.kind != Kind::text) return {};
  return bytes_.substr(static_cast<size_t>(value.integer), value.count);
}

std::vector<int32_t> Pickle::items(const PickleValue& value) const {
  if (is_open(value.kind)) {
    std::vector<int32_t> out;
    out.reserve(value.count);
    for (int32_t link = value.count == 0 ? kNoLink : head_of(value.integer); link != kNoLink;
         link = links_[static_cast<size_t>(link)].next)
      out.push_back(links_[static_cast<size_t>(link)].value);
    return out;
  }
  if (value.kind < Kind::tuple) return {};
  const auto begin = pool_.begin() + value.integer;
  return {begin, begin + value.count};
}

int32_t Pickle::item(const PickleValue& value, uint32_t index) const {
  CBTM_ASSERT(value.kind >= Kind::tuple && !is_open(value.kind) && index < value.count, "an item that is there");
  return pool_[static_cast<size_t>(value.integer) + index];
}

std::string Pickle::global_name(const PickleValue& value) const {
  if (value.kind != Kind::global) return "";
  return shown_text(text((*this)[item(value, 0)])) + "." + shown_text(text((*this)[item(value, 1)]));
}

std::string Pickle::maker(const PickleValue& value) const {
  if (value.kind == Kind::global) return global_name(value);
  if (value.kind == Kind::opaque && value.count > 0) return global_name((*this)[item(value, 0)]);
  return "an unknown object";
}

class PickleReader {
 public:
  PickleReader(std::string_view bytes, const std::string& where, bool legacy)
      : bytes_(bytes), where_(where), legacy_(legacy) {
    pickle_.bytes_ = bytes;
  }

  Pickle run() {
    while (true) {
      const uint8_t operation = byte();
      if (operation == '.') break;
      step(operation);
    }
    pickle_.top_ = pop();
    pickle_.bytes_used_ = place_;
    return std::move(pickle_);
  }

 private:
  template <typename... Arguments>
  [[noreturn]] void bad(fmt::format_string<Arguments...> format, Arguments&&... arguments) const {
    fail("{}: damaged or unsafe pickle at byte {}: {}", where_, place_,
         fmt::format(format, std::forward<Arguments>(arguments)...));
  }
  void within_limit(size_t count) const {
    if (count >= kValuesMax) bad("it holds more than {} values, which no state dict does", kValuesMax);
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

  PickleValue& value(int32_t number) { return pickle_.values_[static_cast<size_t>(number)]; }
  Kind kind(int32_t number) { return value(number).kind; }
  std::string_view text(int32_t number) { return pickle_.text(value(number)); }
  bool is_global(int32_t number, std::string_view module, std::string_view name) {
    const PickleValue& global = value(number);
    return global.kind == Kind::global && text(pickle_.item(global, 0)) == module &&
           text(pickle_.item(global, 1)) == name;
  }

  int32_t make(PickleValue fresh) {
    within_limit(pickle_.values_.size());
    pickle_.values_.push_back(fresh);
    return static_cast<int32_t>(pickle_.values_.size()) - 1;
  }
  void push_number(int32_t number) {
    within_limit(stack_.size());
    stack_.push_back(number);
  }
  void push(Kind kind, int64_t integer = 0, uint32_t count = 0) { push_number(make({kind, count, integer})); }
  /// A value whose items never change.
  void push_with(Kind kind, std::span<const int32_t> items) {
    std::vector<int32_t>& pool = pickle_.pool_;
    within_limit(pool.size() + items.size());
    const auto begin = static_cast<int64_t>(pool.size());
    pool.insert(pool.end(), items.begin(), items.end());
    push(kind, begin, static_cast<uint32_t>(items.size()));
  }
  int32_t make_text(std::string_view taken) {
    if (taken.size() > UINT32_MAX) bad("a text of {} bytes", taken.size());
    return make({Kind::text, static_cast<uint32_t>(taken.size()), taken.data() - bytes_.data()});
  }
  void push_text(uint64_t bytes) { push_number(make_text(take(bytes))); }
  /// What only running something could make; `cause` is what it would be made by.
  void push_opaque(int32_t cause) {
    const PickleValue& from = value(cause);
    if (from.kind == Kind::global) return push_with(Kind::opaque, std::array{cause});
    if (from.kind == Kind::opaque && from.count > 0) return push_with(Kind::opaque, std::array{pickle_.item(from, 0)});
    push_with(Kind::opaque, {});
  }

  int32_t pop() {
    if (stack_.empty() || stack_.back() == kMark) bad("it takes a value from an empty stack");
    const int32_t top = stack_.back();
    stack_.pop_back();
    return top;
  }
  int32_t top() {
    if (stack_.empty() || stack_.back() == kMark) bad("it looks at a value of an empty stack");
    return stack_.back();
  }
  /// What lies above the topmost mark; the mark is removed.
  std::vector<int32_t> pop_to_mark() {
    size_t place = stack_.size();
    while (place > 0 && stack_[place - 1] != kMark) --place;
    if (place == 0) bad("a mark is missing");
    std::vector<int32_t> items(stack_.begin() + static_cast<int64_t>(place), stack_.end());
    stack_.resize(place - 1);
    return items;
  }
  void push_tuple(size_t count) {
    std::array<int32_t, 3> items{};
    for (size_t i = count; i-- > 0;) items[i] = pop();
    push_with(Kind::tuple, std::span(items).first(count));
  }

  void remember(uint32_t slot) {
    // Slots are numbered one after the other by whoever writes pickles.
    if (slot >= kValuesMax || slot > place_) bad("memo slot {} of a stream that has not made as many values", slot);
    if (memo_.size() <= slot) memo_.resize(std::max<size_t>(slot + 1, std::min(2 * memo_.size(), kValuesMax)), kUnset);
    memo_[slot] = top();
  }
  void recall(uint32_t slot) {
    if (slot >= memo_.size() || memo_[slot] == kUnset) bad("memo slot {} is not set", slot);
    push_number(memo_[slot]);
  }

  void push_long(uint64_t length) {
    const std::string_view digits = take(length);
    // 0x1950a86a20f9469cfc6c, the legacy stream's magic number, needs ten bytes: kept as text, compared as such.
    if (length > 8) return push_number(make_text(digits));
    uint64_t bits = 0;
    for (size_t i = 0; i < length; ++i) bits |= static_cast<uint64_t>(static_cast<uint8_t>(digits[i])) << (8 * i);
    if (length > 0 && length < 8 && (static_cast<uint8_t>(digits[length - 1]) & 0x80) != 0)
      bits |= ~uint64_t{0} << (8 * length);
    push(Kind::integer, static_cast<int64_t>(bits));
  }

  /// Adds items to a list or a dict. What is added to an opaque value is forgotten: it cannot be looked into.
  void add(int32_t target, Kind wanted, const char* what, std::span<const int32_t> items) {
    if (kind(target) == Kind::opaque) return;
    if (kind(target) != wanted) bad("{} is not there", what);
    if (wanted == Kind::dict && items.size() % 2 != 0) bad("a key without a value");
    for (const int32_t item : items) {
      within_limit(pickle_.links_.size());
      const auto link = static_cast<int32_t>(pickle_.links_.size());
      pickle_.links_.push_back({item, kNoLink});
      PickleValue& open = value(target);
      if (open.count != 0) pickle_.links_[static_cast<size_t>(tail_of(open.integer))].next = link;
      open.integer = links_of(open.count == 0 ? link : head_of(open.integer), link);
      ++open.count;
    }
  }

  void push_global(int32_t module, int32_t name) {
    if (kind(module) != Kind::text || kind(name) != Kind::text) bad("a name that is no text");
    push_with(Kind::global, std::array{module, name});
  }
  int32_t line() {
    const size_t end = bytes_.find('\n', place_);
    if (end == std::string_view::npos) bad("a name has no end");
    const int32_t text = make_text(bytes_.substr(place_, end - place_));
    place_ = end + 1;
    return text;
  }

  /// The tuple of sizes or strides of a tensor.
  void check_extents(int32_t tuple) {
    constexpr uint32_t kRankMax = 64;  // PyTorch's own limit
    const PickleValue& extents = value(tuple);
    if (extents.kind != Kind::tuple) bad("a size or stride is not a tuple");
    if (extents.count > kRankMax) bad("a tensor of {} dimensions", extents.count);
    for (uint32_t i = 0; i < extents.count; ++i)
      if (kind(pickle_.item(extents, i)) != Kind::integer) bad("a size or stride is not a whole number");
  }

  /// What calling `function` gives, as far as that is known without running it.
  void call(int32_t function, int32_t arguments) {
    if (kind(function) != Kind::global && kind(function) != Kind::opaque) bad("a call without a function");
    if (kind(arguments) == Kind::opaque) return push_opaque(function);
    if (kind(arguments) != Kind::tuple) bad("a call without arguments");
    const PickleValue given = value(arguments);
    const auto argument = [&](uint32_t index) { return pickle_.item(given, index); };
    if (is_global(function, "collections", "OrderedDict") && given.count == 0) return push(Kind::dict);
    if (is_global(function, "collections", "defaultdict") && given.count <= 1) return push(Kind::dict);
    if ((is_global(function, "builtins", "dict") || is_global(function, "__builtin__", "dict")) && given.count == 0)
      return push(Kind::dict);
    if (is_global(function, "torch._utils", "_rebuild_parameter") ||
        is_global(function, "torch._utils", "_rebuild_parameter_with_state")) {
      if (given.count == 0) bad("_rebuild_parameter without a tensor");
      const Kind inner = kind(argument(0));
      if (inner == Kind::tensor) return push_number(argument(0));
      if (inner == Kind::opaque) return push_opaque(argument(0));
      bad("_rebuild_parameter without a tensor");
    }
    const bool second = is_global(function, "torch._utils", "_rebuild_tensor_v2");
    if (second || is_global(function, "torch._utils", "_rebuild_tensor")) {
      if (second ? given.count < 6 || given.count > 7 : given.count != 4)
        bad("_rebuild_tensor with {} arguments", given.count);
      if (kind(argument(0)) == Kind::opaque) return push_opaque(argument(0));
      if (kind(argument(0)) != Kind::storage || kind(argument(1)) != Kind::integer)
        bad("_rebuild_tensor without storage or offset");
      check_extents(argument(2));
      check_extents(argument(3));
      return push_with(Kind::tensor, std::array{argument(0), argument(1), argument(2), argument(3)});
    }
    // The dtypes that have no storage class of their own (float8): the last argument names them.
    if (is_global(function, "torch._utils", "_rebuild_tensor_v3") && given.count >= 7) return push_opaque(argument(6));
    push_opaque(function);
  }

  void push_storage() {
    const int32_t id = pop();
    if (kind(id) == Kind::opaque) return push_opaque(id);
    const PickleValue parts = value(id);
    const auto part = [&](uint32_t index) { return pickle_.item(parts, index); };
    if (parts.kind != Kind::tuple || parts.count != (legacy_ ? 6u : 5u) || text(part(0)) != "storage" ||
        kind(part(1)) != Kind::global || kind(part(2)) != Kind::text || kind(part(4)) != Kind::integer ||
        value(part(4)).integer < 0)
      bad("a persistent id is not a storage's");
    if (legacy_ && kind(part(5)) != Kind::none) bad("a view of a storage, which only very old files hold");
    push_with(Kind::storage, std::array{part(1), part(2), part(4)});
  }

  void step(uint8_t operation) {
    switch (operation) {
      case 0x80: {
        const uint8_t protocol = byte();
        if (protocol < 2 || protocol > 5) bad("pickle protocol {} (PyTorch writes 2)", protocol);
        return;
      }
      case 0x95: take(8); return;  // FRAME: only a hint
      case '}': return push(Kind::dict);
      case ')': return push(Kind::tuple);
      case ']': return push(Kind::list);
      case 0x8f: return push(Kind::opaque);  // EMPTY_SET
      case '(': return push_number(kMark);
      case '0':
        if (stack_.empty()) bad("it takes a value from an empty stack");
        return stack_.pop_back();
      case '1': pop_to_mark(); return;
      case 'q': return remember(byte());
      case 'r': return remember(number<uint32_t>());
      case 0x94: return remember(memo_next_++);
      case 'h': return recall(byte());
      case 'j': return recall(number<uint32_t>());
      case 'X':
      case 'B':
      case 'T': return push_text(number<uint32_t>());
      case 0x8c:
      case 'C':
      case 'U': return push_text(byte());
      case 0x8d:
      case 0x8e:
      case 0x96: return push_text(number<uint64_t>());
      case 'c': {
        const int32_t module = line();
        return push_global(module, line());
      }
      case 0x93: {
        const int32_t name = pop();
        return push_global(pop(), name);
      }
      case 'R':
      case 0x81: {
        const int32_t arguments = pop();
        return call(pop(), arguments);
      }
      case 0x92: {  // NEWOBJ_EX: class, arguments, named arguments
        pop();
        pop();
        return push_opaque(pop());
      }
      case 'i': {
        const int32_t module = line();
        const int32_t name = line();
        pop_to_mark();
        push_global(module, name);
        return push_opaque(pop());
      }
      case 'o': {
        const std::vector<int32_t> items = pop_to_mark();
        if (items.empty()) bad("an object without a class");
        return push_opaque(items.front());
      }
      case 'Q': return push_storage();
      case 'J': return push(Kind::integer, number<int32_t>());
      case 'K': return push(Kind::integer, byte());
      case 'M': return push(Kind::integer, number<uint16_t>());
      case 0x8a: return push_long(byte());
      case 0x8b: {
        const auto length = number<int32_t>();
        if (length < 0) bad("a number of {} bytes", length);
        return push_long(static_cast<uint64_t>(length));
      }
      case 'G': return push(Kind::real, std::bit_cast<int64_t>(__builtin_bswap64(number<uint64_t>())));
      case 0x88: return push(Kind::boolean, 1);
      case 0x89: return push(Kind::boolean, 0);
      case 'N': return push(Kind::none);
      case 't': return push_with(Kind::tuple, pop_to_mark());
      case 0x91: pop_to_mark(); return push(Kind::opaque);  // FROZENSET
      case 0x85: return push_tuple(1);
      case 0x86: return push_tuple(2);
      case 0x87: return push_tuple(3);
      case 's': {
        const int32_t item = pop();
        const int32_t key = pop();
        return add(top(), Kind::dict, "a dict", std::array{key, item});
      }
      case 'u': {
        const std::vector<int32_t> items = pop_to_mark();
        return add(top(), Kind::dict, "a dict", items);
      }
      case 'a': {
        const int32_t item = pop();
        return add(top(), Kind::list, "a list", std::array{item});
      }
      case 'e': {
        const std::vector<int32_t> items = pop_to_mark();
        return add(top(), Kind::list, "a list", items);
      }
      case 0x90: {  // ADDITEMS, to a set
        pop_to_mark();
        if (kind(top()) != Kind::opaque) bad("a set is not there");
        return;
      }
      case 'b': {  // sets attributes (the _metadata of an OrderedDict, those of a tensor): not needed
        pop();
        if (const Kind target = kind(top()); target != Kind::dict && target != Kind::opaque && target != Kind::tensor)
          bad("an object to build is not there");
        return;
      }
      default: {
        const auto found = kRefusedNames.find(operation);
        if (found != kRefusedNames.end()) bad("operation {} is not one that state dicts use", found->second);
        bad("operation 0x{:02x} is not one that state dicts use", operation);
      }
    }
  }

  std::string_view bytes_;
  const std::string& where_;
  bool legacy_;
  size_t place_ = 0;
  std::vector<int32_t> stack_;
  std::vector<int32_t> memo_;
  uint32_t memo_next_ = 0;
  Pickle pickle_;
};

Pickle read_pickle(std::string_view bytes, const std::string& where, bool legacy) {
  return PickleReader(bytes, where, legacy).run();
}

}  // namespace cbtm
