#pragma once

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "cbtm/base/json.h"
#include "cbtm/ensemble/evaluate.h"
#include "cbtm/ensemble/expert_set.h"
#include "cbtm/model/families.h"
#include "cbtm/model/parameter_layout.h"

namespace cbtm {

/// Four small experts with a router, and three documents (tests/data/ensemble).
inline const std::filesystem::path kGolden = std::filesystem::path(CBTM_TEST_DATA) / "ensemble";
inline const std::filesystem::path kTokenizer = std::filesystem::path(CBTM_TEST_DATA) / "tokenizer/opt-tiny";

inline ExpertSet golden_experts(WeightFormat weights = WeightFormat::f32) {
  return ExpertSet::open(
      {.experts = kGolden / "experts", .router = kGolden / "router", .tokenizer = kTokenizer, .weights = weights});
}

inline std::vector<EvaluationDocument> golden_documents() {
  std::ifstream file(kGolden / "documents.jsonl");
  std::vector<EvaluationDocument> documents;
  for (std::string line; std::getline(file, line);)
    documents.push_back({std::to_string(documents.size()), Json::parse(line)["ids"].get<std::vector<int32_t>>()});
  REQUIRE(documents.size() == 3);
  return documents;
}

/// What one of the experts takes of a slot, and all four keep outside of slots, in bytes.
struct GoldenBytes {
  explicit GoldenBytes(WeightFormat weights = WeightFormat::f32) {
    const ParameterLayout layout(read_model_spec(kGolden / "experts/000/config.json"));
    const int64_t vectors = (layout.flat_size() - layout.matrix_flat_size()) * 4;
    const std::unique_ptr<Device> device = make_cpu_device();
    slot = InferenceModel::load(*device, kGolden / "experts/000", weights)->weight_bytes() - vectors;
    resident = 4 * vectors;
  }
  /// Memory for so many experts' weights and for so many bytes of caches.
  int64_t memory(int64_t experts, int64_t cache_bytes = 0) const { return experts * slot + resident + cache_bytes; }

  int64_t slot = 0;
  int64_t resident = 0;
};

}  // namespace cbtm
