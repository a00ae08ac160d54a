#include "serve/metrics.h"

#include <fmt/format.h>

#include <algorithm>

#include "cbtm/run/run_directory.h"

namespace cbtm {
namespace {

void add(const char* name, const char* type, const char* help, double value, std::string& text) {
  text += fmt::format("# HELP cbtm_{} {}\n# TYPE cbtm_{} {}\ncbtm_{} {}\n", name, help, name, type, name, value);
}

}  // namespace

void Histogram::observe(double seconds) {
  const std::lock_guard lock(mutex_);
  const auto place = std::lower_bound(kBounds.begin(), kBounds.end(), seconds) - kBounds.begin();
  ++counts_[static_cast<size_t>(place)];
  sum_ += seconds;
}

void Histogram::write(const std::string& name, const char* help, std::string& text) const {
  const std::lock_guard lock(mutex_);
  text += fmt::format("# HELP {} {}\n# TYPE {} histogram\n", name, help, name);
  int64_t count = 0;
  for (size_t i = 0; i < kBounds.size(); ++i) {
    count += counts_[i];
    text += fmt::format("{}_bucket{{le=\"{}\"}} {}\n", name, kBounds[i], count);
  }
  count += counts_.back();
  text += fmt::format("{0}_bucket{{le=\"+Inf\"}} {1}\n{0}_sum {2}\n{0}_count {1}\n", name, count, sum_);
}

void ServeMetrics::count_request(const std::string& path, int status) {
  const std::lock_guard lock(mutex_);
  ++requests_[{path, status}];
}

void ServeMetrics::count_experts(const std::vector<double>& weights) {
  const std::lock_guard lock(mutex_);
  expert_tokens_.resize(std::max(expert_tokens_.size(), weights.size()));
  for (size_t cluster = 0; cluster < weights.size(); ++cluster) expert_tokens_[cluster] += weights[cluster];
}

std::vector<double> ServeMetrics::expert_tokens() const {
  const std::lock_guard lock(mutex_);
  return expert_tokens_;
}

std::string ServeMetrics::text() const {
  std::string text;
  const auto counter = [&](const char* name, const char* help, const auto& value) {
    add(name, "counter", help, static_cast<double>(value.load()), text);
  };
  const auto gauge = [&](const char* name, const char* help, const auto& value) {
    add(name, "gauge", help, static_cast<double>(value.load()), text);
  };
  counter("prompt_tokens_total", "Tokens of prompts that were read.", prompt_tokens);
  counter("prompt_seconds_total", "Seconds that texts took to their first token, without waiting.", prompt_seconds);
  counter("tokens_predicted_total", "Tokens that were generated.", generated_tokens);
  counter("tokens_predicted_seconds_total", "Seconds that texts took from their first token to their last.",
          generation_seconds);
  counter("n_decode_total", "Steps of the engine.", steps);
  add("requests_processing", "gauge", "Requests that are generated now.",
      static_cast<double>(std::max<int64_t>(0, requests_open - requests_waiting)), text);
  gauge("requests_deferred", "Requests that wait for a place.", requests_waiting);
  gauge("texts_processing", "Texts that are generated now.", texts_running);
  counter("requests_cancelled_total", "Requests whose client went away before the end.", cancelled);
  counter("requests_refused_total", "Requests that found the queue full.", refused);
  counter("reloads_total", "Times that the experts were opened again.", reloads);
  counter("cache_evictions_total", "Times that a text gave up its cache for others.", evictions);
  counter("weight_loads_total", "Times that a model's weights were brought to the device.", weight_loads);
  counter("prompt_cache_hit_tokens_total", "Tokens of prompts that had been read for earlier texts.",
          known_prompt_tokens);
  gauge("prompt_cache_pages", "Pages of prompts that are kept though no text uses them.", prompt_cache_pages);
  gauge("prompt_cache_bytes", "Bytes of these pages.", prompt_cache_bytes);
  counter("prompt_cache_evictions_total", "Pages of prompts that were kept and given up.", prompt_cache_evictions);
  gauge("memory_bytes", "Bytes of the models' weights and of their caches now.", memory_bytes);
  first_token.write("cbtm_time_to_first_token_seconds", "From the arrival of a request to its first token.", text);
  between_tokens.write("cbtm_time_between_tokens_seconds", "Between two tokens of a text.", text);
  request.write("cbtm_request_seconds", "From the arrival of a request to the end of its answer.", text);
  const std::lock_guard lock(mutex_);
  text += "# HELP cbtm_requests_total Requests by path and status.\n# TYPE cbtm_requests_total counter\n";
  for (const auto& [key, count] : requests_)
    text += fmt::format("cbtm_requests_total{{path=\"{}\",status=\"{}\"}} {}\n", key.first, key.second, count);
  text += "# HELP cbtm_expert_tokens_total Tokens by expert, shared by its weight.\n";
  text += "# TYPE cbtm_expert_tokens_total counter\n";
  for (size_t cluster = 0; cluster < expert_tokens_.size(); ++cluster)
    text += fmt::format("cbtm_expert_tokens_total{{expert=\"{}\"}} {}\n",
                        RunDirectory::cluster_name(static_cast<int64_t>(cluster)), expert_tokens_[cluster]);
  return text;
}

}  // namespace cbtm
