#include "model/read_passes.h"

#include "cbtm/base/error.h"

namespace cbtm {

std::vector<OutputRows> output_rows(std::span<const ReadPass> passes, bool rows_independent) {
  std::vector<OutputRows> all, last_rows;
  int64_t first = 0;
  for (const ReadPass& pass : passes)
    for (size_t s = 0; s < pass.wanted.size(); ++s) {
      if (pass.wanted[s] == 0) continue;
      const bool scored = pass.wanted[s] == 2 && pass.row_sums == RowSums::prompt;
      const RowSums row_sums = scored || pass.row_sums == RowSums::any ? pass.row_sums : RowSums::decode;
      const int64_t count = pass.wanted[s] == 2 ? pass.offsets[s + 1] - pass.offsets[s] : 1;
      if (!all.empty() && all.back().row_sums == row_sums && (!scored || rows_independent))
        all.back().count += count;
      else
        all.push_back({first, count, row_sums});
      first += count;
      if (scored) last_rows.push_back({first - 1, 1, RowSums::decode});
    }
  all.insert(all.end(), last_rows.begin(), last_rows.end());
  return all;
}

std::vector<int32_t> wanted_rows(const ReadPass& pass) {
  std::vector<int32_t> rows;
  for (size_t s = 0; s < pass.wanted.size(); ++s)
    for (int32_t row = pass.wanted[s] == 2 ? pass.offsets[s] : pass.offsets[s + 1] - 1;
         pass.wanted[s] != 0 && row < pass.offsets[s + 1]; ++row)
      rows.push_back(row);
  return rows;
}

void InferenceModel::extend(std::span<const int64_t> handles, const PackedTokens& tokens, std::span<float> next_logits,
                            RowSums row_sums) {
  CBTM_ASSERT(next_logits.size() == handles.size() * static_cast<size_t>(vocab_size()), "logits after each sequence");
  const ReadPass pass{.handles = {handles.begin(), handles.end()},
                      .ids = {tokens.ids.begin(), tokens.ids.end()},
                      .offsets = {tokens.offsets.begin(), tokens.offsets.end()},
                      .wanted = std::vector<uint8_t>(handles.size(), 1),
                      .row_sums = row_sums};
  const ConstTensorView logits = read(std::span(&pass, 1));
  device().copy_to_host(next_logits.data(), logits.data, logits.size() * 4);
}

}  // namespace cbtm
