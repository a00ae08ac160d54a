#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cbtm/model/inference.h"

namespace cbtm {

/// Rows whose logits are wanted and which the output layer reads together.
struct OutputRows {
  int64_t first, count;  ///< among the wanted rows of all passes
  RowSums row_sums;
};

/// Logits are made by the kernels of decoding, but those within a scored prompt by the kernels of prompts: of one
/// prompt at a time, unless `rows_independent` (ModelOperators::prompt_rows_independent). The token after a prompt is
/// chosen from its last row, which therefore is made again, by decoding. To be read in this order.
std::vector<OutputRows> output_rows(std::span<const ReadPass> passes, bool rows_independent);

/// The rows of a pass whose logits are wanted.
std::vector<int32_t> wanted_rows(const ReadPass& pass);

}  // namespace cbtm
