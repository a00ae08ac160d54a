#pragma once

#include <cublasLt.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace cbtm::cuda {

/// Ways to make a product that are no algorithm of cuBLASLt are kept as one whose bits are all 0, for a product whose
/// epilogue is a kernel of its own, or all 1, for a kernel of ours (hopper/product.h).
inline bool is_unfused(const cublasLtMatmulAlgo_t& algorithm) {
  return std::ranges::all_of(algorithm.data, [](uint64_t word) { return word == 0; });
}
inline bool is_hopper(const cublasLtMatmulAlgo_t& algorithm) {
  return std::ranges::all_of(algorithm.data, [](uint64_t word) { return word == ~uint64_t{0}; });
}
inline cublasLtMatmulAlgo_t hopper_algorithm() {
  cublasLtMatmulAlgo_t algorithm;
  std::ranges::fill(algorithm.data, ~uint64_t{0});
  return algorithm;
}

/// What the environment variable CBTM_MATMUL asks for, which tests set: "hopper", that every product which the kernel
/// of hopper/product.h can make is made by it, whatever its size. Throws Error if it is set to anything else.
enum class ForcedWay : uint8_t { none, hopper };
ForcedWay forced_way();

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
