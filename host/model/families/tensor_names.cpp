#include "model/families/tensor_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "cbtm/base/error.h"
#include "cbtm/base/foreign_file.h"

namespace cbtm {
namespace {

/// Every prefix that a model has in these files; `seen` gets the names for a message.
std::set<std::string> find_prefixes(const std::vector<TensorFile>& files, const ModelFamily& family,
                                    const std::string& where, NameList& seen) {
  std::set<std::string> prefixes;
  const auto look_at = [&](std::string_view stored_name) {
    seen.add(stored_name);
    const std::string name = unwrapped_name(stored_name);
    if (!name.ends_with(family.anchor())) return;
    const std::string prefix = name.substr(0, name.size() - family.anchor().size());
    if (prefix.empty() || prefix.ends_with('.')) prefixes.insert(prefix);
  };
  for (const TensorFile& file : files) {
    for (const StoredTensor& tensor : file.tensors()) {
      family.check_name(tensor.name, where);
      look_at(tensor.name);
    }
    for (const auto& [name, reason] : file.unreadable()) look_at(name);
  }
  return prefixes;
}

}  // namespace

void NameList::add(std::string_view name) {
  if (count_++ < kShown) text_ += fmt::format("{}'{}'", count_ == 1 ? "" : ", ", shown_text(name));
}

std::string NameList::text() const {
  return count_ > kShown ? fmt::format("{} and {} more", text_, count_ - kShown) : text_;
}

std::string unwrapped_name(std::string_view name) {
  static constexpr std::string_view kWrappers[] = {"_orig_mod", "module", "_forward_module", "_fsdp_wrapped_module",
                                                   "_checkpoint_wrapped_module"};
  std::string out;
  for (size_t begin = 0; begin < name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    const bool wraps =
        end < name.size() && std::find(std::begin(kWrappers), std::end(kWrappers), part) != std::end(kWrappers);
    if (!wraps) out += name.substr(begin, std::min(end + 1, name.size()) - begin);
    begin = end + 1;
  }
  return out;
}

std::string find_prefix(const std::vector<TensorFile>& files, const ModelFamily& family, const std::string& where) {
  NameList seen;
  const std::set<std::string> prefixes = find_prefixes(files, family, where, seen);
  if (prefixes.empty())
    fail("{}: no tensor's name ends with '{}', so these are not the weights of {} {} model; they hold {}", where,
         family.anchor(), family.title().front() == 'O' ? "an" : "a", family.title(), seen.text());
  for (const std::string_view usual : family.prefixes())
    if (prefixes.contains(std::string(usual))) return std::string(usual);
  if (prefixes.size() > 1)
    fail("{}: holds {} models ('{}' and '{}'); keep the tensors of one", where, prefixes.size(),
         shown_text(*prefixes.begin()), shown_text(*prefixes.rbegin()));
  return *prefixes.begin();
}

std::string output_matrix_name(const ModelFamily& family, const std::string& prefix) {
  for (const std::string_view inner : family.prefixes())
    if (!inner.empty() && prefix.ends_with(inner))
      return prefix.substr(0, prefix.size() - inner.size()) + std::string(family.output_matrix());
  return std::string(family.output_matrix());
}

}  // namespace cbtm
