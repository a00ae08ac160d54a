#include "cbtm/route/router_spec.h"

#include <fmt/format.h>

#include <algorithm>

#include "cbtm/base/error.h"
#include "cbtm/base/numbers.h"
#include "cbtm/base/split.h"

namespace cbtm {
namespace {

constexpr struct {
  const char* name;
  RouterKind kind;
} kKinds[] = {{"tfidf", RouterKind::tfidf},
              {"prefix", RouterKind::prefix},
              {"posterior", RouterKind::posterior},
              {"uniform", RouterKind::uniform}};

const RouterKind* find_kind(const std::string& name) {
  for (const auto& kind : kKinds)
    if (name == kind.name) return &kind.kind;
  return nullptr;
}

/// Reads the options of one router.
class OptionReader {
 public:
  explicit OptionReader(RouterSpec& spec) : spec_(spec) {}

  void read(const std::string& option) {
    const size_t equals = option.find('=');
    const std::string key = option.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : option.substr(equals + 1);
    const bool has_value = equals != std::string::npos;
    if (std::find(seen_.begin(), seen_.end(), key) != seen_.end()) refuse(option, "is there twice");
    seen_.push_back(key);
    const bool known = spec_.by_distance()                   ? read_by_distance(option, key, value)
                       : spec_.kind == RouterKind::posterior ? read_posterior(option, key, value, has_value)
                                                             : false;
    if (!known) refuse(option, known_options());
  }

  /// What cannot be together.
  void check() {
    if (spec_.kind != RouterKind::posterior) return;
    if (spec_.top_k && spec_.prior.empty())
      refuse("topk", "needs a prior from a file (prior=FILE): what is cut must be known before a text is read");
    if (spec_.first_from_all && spec_.likelihood == Likelihood::exact)
      refuse("first=all", "is an option of posterior:last; the exact posterior begins with the prior");
    if (spec_.first_from_all && spec_.prior.empty()) refuse("first=all", "does nothing where no expert is cut");
  }

 private:
  bool read_by_distance(const std::string& option, const std::string& key, const std::string& value) {
    if (key == "power" && spec_.kind == RouterKind::tfidf) {
      if (value != "2" && value != "4") refuse(option, "must be power=2 or power=4");
      spec_.distance_power = value == "2" ? 2 : 4;
    } else if (key == "temperature") {
      spec_.temperature = parse_number(value);
      if (!spec_.temperature || !(*spec_.temperature > 0)) refuse(option, "must be a positive number");
    } else if (key == "topk") {
      read_top_k(option, value);
    } else {
      return false;
    }
    return true;
  }

  bool read_posterior(const std::string& option, const std::string& key, const std::string& value, bool has_value) {
    if (!has_value && (key == "exact" || key == "last")) {
      if (likelihood_given_) refuse(option, "is one too many: exact or last");
      likelihood_given_ = true;
      spec_.likelihood = key == "exact" ? Likelihood::exact : Likelihood::last;
    } else if (key == "prior") {
      if (value.empty()) refuse(option, "must be uniform, updating or a file of 'cbtm ensemble prior'");
      spec_.updating = value == "updating";
      if (value != "updating" && value != "uniform") spec_.prior = value;
    } else if (key == "topk") {
      read_top_k(option, value);
    } else if (key == "first") {
      if (value != "kept" && value != "all") refuse(option, "must be first=kept or first=all");
      spec_.first_from_all = value == "all";
    } else {
      return false;
    }
    return true;
  }

  void read_top_k(const std::string& option, const std::string& value) {
    const bool number =
        !value.empty() && value.size() < 10 && value.find_first_not_of("0123456789") == std::string::npos;
    if (value != "all" && (!number || std::stoll(value) < 1)) refuse(option, "must be a number from 1, or all");
    spec_.top_k = value == "all" ? 0 : std::stoll(value);
  }

  std::string known_options() const {
    switch (spec_.kind) {
      case RouterKind::tfidf: return "is unknown; tfidf has power=2|4, temperature=T and topk=N";
      case RouterKind::prefix: return "is unknown; prefix has temperature=T and topk=N";
      case RouterKind::posterior:
        return "is unknown; posterior has exact or last, prior=uniform|updating|FILE, topk=N and first=kept|all";
      case RouterKind::uniform: return "is unknown; uniform has no options";
    }
    return "";
  }

  [[noreturn]] void refuse(const std::string& option, const std::string& what) const {
    fail_usage("--router {}: '{}' {}", spec_.text, option, what);
  }

  RouterSpec& spec_;
  std::vector<std::string> seen_;
  bool likelihood_given_ = false;
};

}  // namespace

const char* router_kind_name(RouterKind kind) {
  for (const auto& one : kKinds)
    if (kind == one.kind) return one.name;
  return "";
}

bool names_router_kind(const std::string& text) {
  return find_kind(text.substr(0, text.find_first_of(":,"))) != nullptr;
}

std::vector<RouterSpec> parse_router_specs(const std::string& text) {
  std::vector<RouterSpec> specs;
  for (const std::string& one : split(text, ',')) {
    const std::vector<std::string> parts = split(one, ':');
    const RouterKind* kind = find_kind(parts.front());
    if (kind == nullptr)
      fail_usage(
          "--router {}: '{}' is no kind of router (tfidf, prefix, posterior or uniform), nor a router's directory",
          text, parts.front());
    RouterSpec spec{.kind = *kind, .text = one};
    OptionReader options(spec);
    for (size_t i = 1; i < parts.size(); ++i) options.read(parts[i]);
    options.check();
    for (const RouterSpec& other : specs)
      if (other.text == one) fail_usage("--router {}: '{}' is there twice", text, one);
    specs.push_back(std::move(spec));
  }
  return specs;
}

}  // namespace cbtm
