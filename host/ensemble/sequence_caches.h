#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "cbtm/model/inference.h"

namespace cbtm {

/// The tokens of a sequence that is generated: its prompt, then what was appended.
struct GrowingSequence {
  std::vector<int32_t> ids;
  int64_t prompt_length = 0;
  int64_t length() const { return static_cast<int64_t>(ids.size()); }
};

// A sequence is read in units, so that its bits do not depend on when it is read: pieces of kPromptPiece tokens of the
// prompt, from its beginning, then single tokens. A unit is always read by the same kernels.
constexpr int64_t kPromptPiece = 512;
/// Pieces of so few tokens are read by the kernels of decoding.
constexpr int64_t kDecodedPiece = 8;

/// Where the unit ends that holds `position`.
int64_t unit_end(const GrowingSequence& sequence, int64_t position);
/// Whether the kernels of decoding read the unit that holds `position`.
bool unit_is_decoded(const GrowingSequence& sequence, int64_t position);
/// Sequences whose prompts begin alike share what this model has read, up to a multiple of so many tokens; 0: they do
/// not. Where rows of a pass do not depend on one another that is a page, else a whole unit.
int64_t shared_unit(const InferenceModel& model);
/// Where the last unit begins.
int64_t last_unit(const GrowingSequence& sequence);

/// A part of a sequence that a step reads: whole units.
struct PlannedRead {
  int64_t sequence = 0;
  int64_t begin = 0, end = 0;
  bool to_the_end = false;  ///< then the logits after it are wanted
};

/// One model's caches of the sequences that use it; closed with this object.
class SequenceCaches {
 public:
  explicit SequenceCaches(InferenceModel& model) : model_(&model) {}
  SequenceCaches(SequenceCaches&& other) noexcept : model_(other.model_), cached_(std::move(other.cached_)) {
    other.cached_.clear();
  }
  SequenceCaches& operator=(SequenceCaches&&) = delete;
  ~SequenceCaches();

  /// The sequence is needed in this step: its cache must stay, and something of it will be read. A new cache begins
  /// with what is known of the prompt.
  void touch(int64_t sequence, const GrowingSequence& text, int64_t step);
  /// Tokens of it that have been read.
  int64_t length(int64_t sequence) const;
  int64_t shared_unit() const { return cbtm::shared_unit(*model_); }
  /// Makes room for what is to be read, of sequences that were touched. Throws CacheFull.
  void reserve(const std::vector<PlannedRead>& reads);
  /// Reads. The logits that are wanted: float32 [wanted, vocab_size] on the device, in an order that `rows` receives:
  /// the row of each sequence that is read to its end.
  ConstTensorView read(const std::vector<PlannedRead>& reads, const std::map<int64_t, GrowingSequence>& sequences,
                       std::map<int64_t, int32_t>& rows);
  /// The step that the cache longest out of use was needed in; `none` if there is no cache.
  int64_t oldest_step(int64_t none) const;
  /// Closes the caches that were last needed in this step.
  void drop_step(int64_t step);
  /// Closes the cache of a sequence, if there is one.
  void drop(int64_t sequence);

 private:
  struct Cached {
    int64_t handle = 0;
    int64_t step = 0;
  };
  InferenceModel* model_;
  std::map<int64_t, Cached> cached_;  ///< by sequence
};

}  // namespace cbtm
