#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace cbtm {

/// Texts drawn by a hash of their bytes, so that a text is in or out wherever it stands: with probability 1 while they
/// fit, then with probability 1/2, 1/4, ...
class TextSample {
 public:
  /// Holds at most about `bytes_max` bytes.
  TextSample(int64_t bytes_max, uint64_t seed) : bytes_max_(bytes_max), seed_(seed) {}

  void add(const std::string& text);
  /// The drawn texts in the order in which they came.
  std::vector<std::string> take();
  /// True if every text that was added is among them.
  bool whole() const { return share_ == 1; }

 private:
  struct Drawn {
    double place;  ///< in [0, 1)
    std::string text;
  };
  void halve();

  int64_t bytes_max_;
  uint64_t seed_;
  double share_ = 1;
  int64_t bytes_ = 0;
  std::vector<Drawn> drawn_;
};

}  // namespace cbtm
