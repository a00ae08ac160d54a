#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace cbtm {

/// Places documents in the plane so that near neighbours stay near: t-SNE (van der Maaten and Hinton, JMLR 2008) of
/// `embeddings` [documents, dimensions], started from their two main directions, perplexity 30 (less for few
/// documents). Exact, so quadratic: for a sample of about a thousand. The same embeddings give the same map.
std::vector<std::array<double, 2>> document_map(const std::vector<float>& embeddings, int64_t documents,
                                                int64_t dimensions);

}  // namespace cbtm
