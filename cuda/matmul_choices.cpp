#include "matmul_choices.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string_view>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/progress.h"

namespace cbtm::cuda {
namespace {

using Words = std::array<uint32_t, sizeof(cublasLtMatmulAlgo_t) / 4>;

std::optional<cublasLtMatmulAlgo_t> parse(const std::string& text) {
  Words words{};
  const char* at = text.c_str();
  for (uint32_t& word : words) {
    char* end = nullptr;
    word = static_cast<uint32_t>(std::strtoul(at, &end, 16));
    if (end == at) return std::nullopt;
    at = end;
  }
  return std::bit_cast<cublasLtMatmulAlgo_t>(words);
}

}  // namespace

ForcedWay forced_way() {
  const char* asked = std::getenv("CBTM_MATMUL");
  if (asked == nullptr || *asked == 0) return ForcedWay::none;
  if (std::string_view(asked) == "hopper") return ForcedWay::hopper;
  if (std::string_view(asked) == "library") return ForcedWay::library;
  throw Error(fmt::format("CBTM_MATMUL={}: hopper or library can be asked for", asked));
}

MatmulChoices::MatmulChoices(std::string path) : path_(std::move(path)) { read(); }

void MatmulChoices::read() {
  if (path_.empty()) return;
  std::ifstream file(path_);
  std::string line;
  while (std::getline(file, line)) {
    const size_t equals = line.find(" = ");
    if (equals == std::string::npos) continue;
    if (const auto algorithm = parse(line.substr(equals + 3))) choices_.emplace(line.substr(0, equals), *algorithm);
  }
}

std::optional<cublasLtMatmulAlgo_t> MatmulChoices::find(const std::string& key) {
  if (!choices_.contains(key)) read();  // another GPU, or another process, may have chosen meanwhile
  const auto found = choices_.find(key);
  if (found == choices_.end()) return std::nullopt;
  return found->second;
}

void MatmulChoices::add(const std::string& key, const cublasLtMatmulAlgo_t& algorithm) {
  read();  // what another process has chosen meanwhile stays
  choices_.insert_or_assign(key, algorithm);
  if (path_.empty()) return;
  std::string text;
  for (const auto& [name, choice] : choices_) {
    text += name + " =";
    for (const uint32_t word : std::bit_cast<Words>(choice)) text += fmt::format(" {:08x}", word);
    text += '\n';
  }
  try {
    write_file_atomically(path_, text);
  } catch (const Error& error) {
    warn(fmt::format("the choice of matrix product algorithms is not kept, a resumed run may round differently: {}",
                     error.what()));
    path_.clear();
  }
}

}  // namespace cbtm::cuda
