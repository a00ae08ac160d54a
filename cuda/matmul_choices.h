#pragma once

#include <cublasLt.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace cbtm::cuda {

/// Two ways to make a product are no algorithm of cuBLASLt. They are kept as one whose bits are all 0, for a product
/// with its epilogue in a kernel of its own, or all 1, for our kernel of hopper/product.h.
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

/// What the environment variable CBTM_MATMUL asks for; tests set it. "hopper": every product that the kernel of
/// hopper/product.h can make is made by it, whatever its size. "library": none is. Throws Error for anything else.
enum class ForcedWay : uint8_t { none, hopper, library };
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
