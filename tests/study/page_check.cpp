#include "tests/study/page_check.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <regex>
#include <set>

#include "cbtm/base/philox.h"

namespace cbtm::study {
namespace {

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
  return text;
}

/// What a reader takes from "−3.21 %", "16.4K", "1,234" or "1e-05", and half a unit of its last digit.
bool read_number(std::string text, double& value, double& half_unit) {
  for (const auto& [from, to] : {std::pair{"−", "-"}, {"±", ""}, {"+", ""}, {" %", ""}, {",", ""}})
    text = replaced(text, from, to);
  double unit = 1;
  const std::map<char, double> units = {{'K', 1e3}, {'M', 1e6}, {'B', 1e9}, {'T', 1e12}};
  if (!text.empty() && units.contains(text.back())) {
    unit = units.at(text.back());
    text.pop_back();
  }
  size_t used = 0;
  try {
    value = std::stod(text, &used) * unit;
  } catch (const std::exception&) {
    return false;
  }
  if (used != text.size()) return false;
  const size_t exponent = text.find('e');
  const std::string digits = text.substr(0, exponent);
  const size_t point = digits.find('.');
  const double power = exponent == std::string::npos ? 0 : std::stod(text.substr(exponent + 1));
  const double decimals = point == std::string::npos ? 0 : static_cast<double>(digits.size() - point - 1);
  half_unit = 0.5000001 * std::pow(10, power - decimals) * unit;
  return true;
}

/// The number of a pointer, or NaN.
double number_at(const std::string& pointer, const Json& study, const Json& times) {
  const bool of_times = pointer.starts_with("times:");
  const Json::json_pointer place(of_times ? pointer.substr(6) : pointer);
  const Json& json = of_times ? times : study;
  return json.contains(place) && json.at(place).is_number() ? json.at(place).get<double>() : NAN;
}

// The cells' losses, and the statistics of them.

using Losses = std::vector<double>;

struct Made {
  std::vector<double> tokens;
  std::map<std::string, std::map<uint64_t, Losses>> losses;  ///< "system router top_k" -> seed -> losses
  std::vector<std::vector<double>> counts;                   ///< [resamples][documents]
};

std::string key_of(const Json& entry) {
  return entry["system"].get<std::string>() + " " + entry["router"].get<std::string>() + " " + entry["top_k"].dump();
}

/// As System::name() says it.
std::string system_name(const Json& cell) {
  const std::string kind = cell["kind"], k = cell["k"].dump();
  const std::string what = kind == "dense" ? "dense"
                           : kind == "moe" ? "moe-e" + k
                                           : cell["clustering"].get<std::string>() + "-k" + k;
  return (cell["larger"].get<bool>() ? "larger-" : "") + what + "-b" + cell["budget"].dump();
}

Made read_cells(const Json& study) {
  Made made;
  for (const Json& tokens : study["documents"]["tokens"]) made.tokens.push_back(tokens.get<double>());
  std::map<std::string, double> chosen;
  for (const Json& sweep : study["learning_rates"]) chosen[sweep["system"]] = sweep["chosen"];
  for (const Json& cell : study["cells"]) {
    const std::string system = system_name(cell["cell"]);
    if (cell["cell"]["learning_rate"] != chosen.at(system)) continue;
    for (const Json& score : cell["scores"])
      made.losses[system + " " + score["router"].get<std::string>() + " " + score["top_k"].dump()]
                 [cell["cell"]["seed"]] = score["losses"].get<Losses>();
  }
  const uint64_t seed = study["config"]["bootstrap_seed"];
  for (uint64_t r = 0; r < study["config"]["resamples"].get<uint64_t>(); ++r) {
    PhiloxStream random(seed, r);
    made.counts.emplace_back(made.tokens.size(), 0.0);
    for (size_t draw = 0; draw < made.tokens.size(); ++draw)
      made.counts.back()[random.next_below(made.tokens.size())]++;
  }
  return made;
}

double mean_of(const Made& made, const Losses& losses, const std::vector<double>* counts = nullptr) {
  double loss = 0, tokens = 0;
  for (size_t i = 0; i < losses.size(); ++i) {
    const double count = counts == nullptr ? 1 : (*counts)[i];
    loss += count * losses[i];
    tokens += count * made.tokens[i];
  }
  return loss / tokens;
}

void check_near(const Json& found, double expected) {
  REQUIRE(found.is_number());
  CHECK(found.get<double>() == doctest::Approx(expected).epsilon(1e-9).scale(1e-3));
}

/// The difference of two ways of use, as the file has it in percent.
void check_difference(const Made& made, const std::string& a, const std::string& b, const Json& found) {
  CAPTURE(a);
  CAPTURE(b);
  Losses mean(made.tokens.size(), 0.0);
  std::vector<double> seeds;
  std::set<uint64_t> common;
  for (const auto& [seed, losses] : made.losses.at(a))
    if (made.losses.at(b).contains(seed)) common.insert(seed);
  for (const uint64_t seed : common) {
    Losses difference;
    for (size_t i = 0; i < mean.size(); ++i) {
      difference.push_back(made.losses.at(a).at(seed)[i] - made.losses.at(b).at(seed)[i]);
      mean[i] += difference.back() / static_cast<double>(common.size());
    }
    seeds.push_back(mean_of(made, difference));
  }
  std::vector<double> resampled;
  for (const std::vector<double>& counts : made.counts) resampled.push_back(mean_of(made, mean, &counts));
  std::sort(resampled.begin(), resampled.end());
  const size_t cut = resampled.size() * 25 / 1000;
  const auto percent = [](double nats) { return 100 * (std::exp(nats) - 1); };
  check_near(found["percent"], percent(mean_of(made, mean)));
  check_near(found["low"], percent(resampled[cut]));
  check_near(found["high"], percent(resampled[resampled.size() - 1 - cut]));
  REQUIRE(found["by_seed"].size() == seeds.size());
  for (size_t i = 0; i < seeds.size(); ++i) check_near(found["by_seed"][i], percent(seeds[i]));
}

void check_entries(const Made& made, const Json& study) {
  CHECK(study["entries"].size() == made.losses.size());
  for (const Json& entry : study["entries"]) {
    const std::string key = key_of(entry);
    CAPTURE(key);
    REQUIRE(made.losses.contains(key));
    double sum = 0;
    size_t i = 0;
    for (const auto& [seed, losses] : made.losses.at(key)) {
      const double mean = mean_of(made, losses);
      sum += mean / static_cast<double>(made.losses.at(key).size());
      CHECK(entry["seeds"][i] == seed);
      check_near(entry["perplexity"]["by_seed"][i++], std::exp(mean));
    }
    check_near(entry["perplexity"]["mean"], std::exp(sum));
    const std::string dense = "dense-b" + entry["budget"].dump() + "  1";
    if (key == dense || !made.losses.contains(dense))
      CHECK(!entry.contains("against_dense"));
    else
      check_difference(made, key, dense, entry["against_dense"]);
  }
}

/// The slope of the least squares line.
double slope_of(const std::vector<double>& x, const std::vector<double>& y) {
  const auto count = static_cast<double>(x.size());
  double sum_x = 0, sum_y = 0, squares = 0, products = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    sum_x += x[i];
    sum_y += y[i];
    squares += x[i] * x[i];
    products += x[i] * y[i];
  }
  return (count * products - sum_x * sum_y) / (count * squares - sum_x * sum_x);
}

/// The best k of every budget and seed, by the main entries' perplexities; the line through them, and its slope in
/// every resample.
void check_best_k(const Made& made, const Json& study) {
  std::string learned;
  for (const Json& clustering : study["config"]["clusterings"])
    if (const std::string kind = clustering["kind"]; learned.empty() && (kind == "balanced" || kind == "unbalanced"))
      learned = kind;
  std::vector<double> x, y;
  std::vector<std::map<double, const Losses*>> points;  // of each budget and seed: losses by log2(k)
  for (const Json& best : study["best_k"]) {
    const Json* lowest = nullptr;
    std::vector<const Json*> of_seed(best["by_seed"].size(), nullptr);
    std::vector<std::map<double, const Losses*>> of_budget(of_seed.size());
    for (const Json& entry : study["entries"]) {
      if (!entry["main"].get<bool>() || entry["larger"].get<bool>() || entry["budget"] != best["budget"]) continue;
      if (entry["kind"] == "moe" || (entry["kind"] == "ensemble" && entry["clustering"] != learned)) continue;
      for (size_t i = 0; i < of_seed.size(); ++i)
        of_budget[i][std::log2(entry["k"].get<double>())] = &made.losses.at(key_of(entry)).at(entry["seeds"][i]);
      if (lowest == nullptr || entry["perplexity"]["mean"] < (*lowest)["perplexity"]["mean"]) lowest = &entry;
      for (size_t i = 0; i < of_seed.size(); ++i)
        if (of_seed[i] == nullptr || entry["perplexity"]["by_seed"][i] < (*of_seed[i])["perplexity"]["by_seed"][i])
          of_seed[i] = &entry;
    }
    REQUIRE(lowest != nullptr);
    CHECK((*lowest)["k"] == best["k"]);
    points.insert(points.end(), of_budget.begin(), of_budget.end());
    for (size_t i = 0; i < of_seed.size(); ++i) {
      CHECK((*of_seed[i])["k"] == best["by_seed"][i]);
      x.push_back(std::log2(best["budget"].get<double>()));
      y.push_back(std::log2(best["by_seed"][i].get<double>()));
    }
  }
  if (!study.contains("fit")) return;
  // The least squares line makes the residuals' sum, and their product with x, zero.
  double sum = 0, product = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double residual = y[i] - study["fit"]["intercept"].get<double>() - study["fit"]["slope"].get<double>() * x[i];
    sum += residual;
    product += residual * x[i];
  }
  CHECK(std::abs(sum) < 1e-6);
  CHECK(std::abs(product) < 1e-5);
  std::vector<double> slopes;
  for (const std::vector<double>& counts : made.counts) {
    std::vector<double> resampled;
    for (const std::map<double, const Losses*>& by_k : points) {
      double least = INFINITY, best = NAN;
      for (const auto& [k, losses] : by_k)
        if (const double mean = mean_of(made, *losses, &counts); mean < least) {
          least = mean;
          best = k;
        }
      resampled.push_back(best);
    }
    slopes.push_back(slope_of(x, resampled));
  }
  std::sort(slopes.begin(), slopes.end());
  const size_t cut = slopes.size() * 25 / 1000;
  check_near(study["fit"]["slope_low"], slopes[cut]);
  check_near(study["fit"]["slope_high"], slopes[slopes.size() - 1 - cut]);
}

void check_rates(const Json& study) {
  for (const Json& sweep : study["learning_rates"]) {
    const std::string system = sweep["system"];
    CAPTURE(system);
    double lowest = INFINITY, chosen = NAN;
    for (size_t i = 0; i < sweep["rates"].size(); ++i) {
      double sum = 0, count = 0;
      for (const Json& cell : study["cells"]) {
        if (system_name(cell["cell"]) != system || cell["cell"]["learning_rate"] != sweep["rates"][i]) continue;
        sum += cell["tune_loss"].get<double>();
        ++count;
      }
      check_near(sweep["tune_perplexities"][i], std::exp(sum / count));
      if (sum / count >= lowest) continue;
      lowest = sum / count;
      chosen = sweep["rates"][i];
    }
    CHECK(sweep["chosen"] == chosen);
  }
}

/// Every verdict follows from its findings' numbers by the rule, and the relation's from its findings.
void check_verdicts(const Json& study) {
  for (const Json& relation : study["relations"]) {
    bool fails = false, all = !relation["findings"].empty();
    for (const Json& finding : relation["findings"]) {
      CAPTURE(finding.dump());
      const double bound = finding["bound"], sign = finding["claim"] == "below" ? 1 : -1;
      std::vector<double> values = {finding["low"], finding["high"]};
      for (const Json& value : finding["by_seed"]) values.push_back(value);
      bool holds = finding["by_seed"].size() > 1, not_at_all = holds;
      for (const double value : values) {
        holds = holds && sign * (value - bound) < 0;
        not_at_all = not_at_all && sign * (value - bound) > 0;
      }
      CHECK(finding["verdict"] == (holds ? "holds" : not_at_all ? "does not hold" : "undecided at this size"));
      fails = fails || not_at_all;
      all = all && holds;
    }
    const bool holds = all && relation["missing"].empty();
    CHECK(relation["verdict"] == (fails ? "does not hold" : holds ? "holds" : "undecided at this size"));
  }
}

}  // namespace

std::vector<std::string> page_number_faults(const std::string& page, const Json& study, const Json& times) {
  std::vector<std::string> faults;
  static const std::regex kNumber("<span data-from=\"([^\"]*)\">([^<]*)</span>");
  for (std::sregex_iterator match(page.begin(), page.end(), kNumber), end; match != end; ++match) {
    const std::string pointer = (*match)[1], text = (*match)[2];
    const double wanted = number_at(pointer, study, times);
    double value = 0, half_unit = 0;
    if (!read_number(text, value, half_unit) || !(std::abs(value - wanted) <= half_unit + 1e-12 * std::abs(wanted)))
      faults.push_back(pointer + " is shown as " + text + ", but is " + std::to_string(wanted));
  }
  // Digits in the cells of tables that are not in such an element.
  static const std::regex kCell("<td[^>]*>(.*?)</td>");
  for (std::sregex_iterator match(page.begin(), page.end(), kCell), end; match != end; ++match) {
    const std::string left =
        std::regex_replace(std::regex_replace((*match)[1].str(), kNumber, ""), std::regex("<[^>]*>"), "");
    const bool words =
        std::any_of(left.begin(), left.end(), [](char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; });
    const bool digits =
        std::any_of(left.begin(), left.end(), [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; });
    if (digits && !words) faults.push_back("a cell holds a number from nowhere: " + left);
  }
  return faults;
}

size_t check_page_numbers(const std::string& page, const Json& study, const Json& times) {
  for (const std::string& fault : page_number_faults(page, study, times)) CHECK_MESSAGE(false, fault);
  size_t count = 0;
  for (size_t at = page.find("data-from="); at != std::string::npos; at = page.find("data-from=", at + 1)) ++count;
  return count;
}

void check_study_numbers(const Json& study) {
  const Made made = read_cells(study);
  check_entries(made, study);
  check_best_k(made, study);
  check_rates(study);
  check_verdicts(study);
}

}  // namespace cbtm::study
