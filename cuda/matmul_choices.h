#pragma once

#include <cublasLt.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace cbtm::cuda {

/// What stands for a product whose epilogue is a kernel of its own.
inline bool is_unfused(const cublasLtMatmulAlgo_t& algorithm) {
  return std::ranges::all_of(algorithm.data, [](uint64_t word) { return word == 0; });
}

/// The algorithms chosen by timing, by a text that names shape, types, alignment and epilogue, kept in a file from run
/// to run: a line "KEY = 16 hexadecimal words of 32 bits". A file that cannot be read or written costs the timing again
/// (and, where two algorithms are close, the same bits as before): a warning says so.
class MatmulChoices {
 public:
  /// An empty path: nothing is read or written.
  explicit MatmulChoices(std::string path);
  std::optional<cublasLtMatmulAlgo_t> find(const std::string& key);
  void add(const std::string& key, const cublasLtMatmulAlgo_t& algorithm);

 private:
  void read();

  std::string path_;
  std::map<std::string, cublasLtMatmulAlgo_t> choices_;
};

}  // namespace cbtm::cuda
