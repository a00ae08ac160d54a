#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace cbtm {

/// Counts of seconds in fixed steps, as Prometheus has them.
class Histogram {
 public:
  void observe(double seconds);
  /// Appends the lines of the text format.
  void write(const std::string& name, const char* help, std::string& text) const;

 private:
  static constexpr std::array<double, 14> kBounds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                     0.25,  0.5,    1,     2.5,  5,     10,   30};
  mutable std::mutex mutex_;
  std::array<int64_t, kBounds.size() + 1> counts_{};
  double sum_ = 0;
};

/// What the server counts. Any thread may change and read it.
struct ServeMetrics {
  std::atomic<int64_t> prompt_tokens{0}, generated_tokens{0}, steps{0}, cancelled{0}, refused{0}, reloads{0};
  std::atomic<double> prompt_seconds{0}, generation_seconds{0};
  std::atomic<int64_t> texts_running{0}, requests_open{0}, requests_waiting{0};
  std::atomic<int64_t> known_prompt_tokens{0}, prompt_cache_evictions{0}, prompt_cache_pages{0}, prompt_cache_bytes{0};
  std::atomic<int64_t> evictions{0}, weight_loads{0}, memory_bytes{0};
  Histogram first_token, between_tokens, request;

  void count_request(const std::string& path, int status);
  /// `weights`: by cluster, of one token.
  void count_experts(const std::vector<double>& weights);
  /// Tokens that each cluster's expert has written, each token shared by its weights.
  std::vector<double> expert_tokens() const;
  /// Everything, in Prometheus' text format.
  std::string text() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, int64_t> requests_;
  std::vector<double> expert_tokens_;
};

}  // namespace cbtm
