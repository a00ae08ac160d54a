#include "commands/flag_values.h"

#include <algorithm>
#include <optional>

#include "cbtm/base/numbers.h"

namespace cbtm {
namespace {

/// A list, told apart from a single text by its type.
class ListValue : public cxxopts::values::standard_value<std::vector<std::string>> {
 public:
  std::shared_ptr<cxxopts::Value> clone() const override { return std::make_shared<ListValue>(*this); }
  void parse(const std::string& joined) const override {
    std::vector<std::string>& values = *m_store;
    for (size_t begin = 0; begin <= joined.size();) {
      const size_t end = std::min(joined.find(kListDelimiter, begin), joined.size());
      values.push_back(joined.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  bool is_container() const override { return true; }
};

template <typename Number, auto parse_text>
class StrictValue : public cxxopts::values::standard_value<Number> {
 public:
  explicit StrictValue(const char* wanted) : wanted_(wanted) {}
  std::shared_ptr<cxxopts::Value> clone() const override { return std::make_shared<StrictValue>(*this); }
  void parse() const override { parse(this->m_default_value); }
  void parse(const std::string& text) const override {
    const std::optional<Number> value = parse_text(text);
    if (!value) throw WrongNumber{text, wanted_};
    *this->m_store = *value;
  }

 private:
  const char* wanted_;
};

std::shared_ptr<cxxopts::Value> empty_value(FlagKind kind) {
  switch (kind) {
    case FlagKind::text: return cxxopts::value<std::string>();
    case FlagKind::list: return std::make_shared<ListValue>();
    case FlagKind::integer:
      return std::make_shared<StrictValue<int64_t, parse_integer>>("a whole number, for example 20000, 1e6 or 1.5M");
    case FlagKind::seed:
      return std::make_shared<StrictValue<uint64_t, parse_unsigned>>("a whole number from 0 to 18446744073709551615");
    case FlagKind::number:
      return std::make_shared<StrictValue<double, parse_number>>("a number, for example 0.006 or 6e-3");
    case FlagKind::toggle: break;
  }
  return cxxopts::value<bool>()->default_value("false");
}

}  // namespace

std::shared_ptr<cxxopts::Value> value_of(const Flag& flag) {
  std::shared_ptr<cxxopts::Value> value = empty_value(flag.kind);
  return flag.default_value == nullptr ? value : value->default_value(flag.default_value);
}

}  // namespace cbtm
