#pragma once

#include <cstdint>

namespace cbtm {

/// In which order an operator adds up what makes a row of its output. Where `any` order is allowed, the fastest for the
/// number of rows is taken, so that the last bits of a row may depend on how many rows there are. The other two make
/// generated tokens independent of what else is generated (docs/numerics.md, 'Sessions'):
enum class RowSums : uint8_t {
  any,
  decode,  ///< a row has the same bits whatever rows are beside it; fast for a few dozen rows
  prompt,  ///< fast for hundreds; the same bits for the same rows, and where ModelOperators::prompt_rows_independent()
           ///< for the same row
};

}  // namespace cbtm
