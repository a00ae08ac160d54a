#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "cbtm/base/error.h"
#include "cbtm/device/device.h"
#include "cbtm/device/row_sums.h"
#include "cbtm/model/weight_format.h"

namespace cbtm {

/// Sequences one after another: sequence s holds ids[offsets[s] .. offsets[s+1]).
struct PackedTokens {
  std::span<const int32_t> ids;
  std::span<const int32_t> offsets;  ///< sequence count + 1, from 0 to ids.size()

  int64_t sequences() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t rows() const { return static_cast<int64_t>(ids.size()); }
};

/// What one pass through a model reads into its key-value cache: ids[offsets[i] .. offsets[i+1]), at least one token,
/// after what the sequence handles[i] holds. A sequence is in a pass once.
struct ReadPass {
  std::vector<int64_t> handles;
  std::vector<int32_t> ids;
  std::vector<int32_t> offsets = {0};
  std::vector<uint8_t> wanted;  ///< per sequence: 1 if the logits after its last token are wanted, 2 if after each
  RowSums row_sums = RowSums::any;

  void add(int64_t handle, std::span<const int32_t> tokens, bool logits_wanted) {
    handles.push_back(handle);
    ids.insert(ids.end(), tokens.begin(), tokens.end());
    offsets.push_back(static_cast<int32_t>(ids.size()));
    wanted.push_back(logits_wanted ? 1 : 0);
  }
  /// The same, with the logits after each of these tokens.
  void add_scored(int64_t handle, std::span<const int32_t> tokens) {
    add(handle, tokens, true);
    wanted.back() = 2;
  }
  /// Rows of logits that are wanted.
  int64_t rows_wanted() const {
    int64_t rows = 0;
    for (size_t s = 0; s < wanted.size(); ++s) rows += wanted[s] == 2 ? offsets[s + 1] - offsets[s] : wanted[s];
    return rows;
  }
};

/// The key-value caches of the models that share a memory may not grow as far as they would have to. Nothing has
/// changed; closing sequences helps.
class CacheFull : public Error {
 public:
  using Error::Error;
};

struct ModelMemory;

/// One model ready to run forward: weights on the device (mapped from the file where the file allows it).
/// Not thread-safe. Ids outside the vocabulary, and sequences longer than max_length(), are Errors.
class InferenceModel {
 public:
  /// Loads a checkpoint directory; int8 and int4 weights are made from it while it is read. A model in shared
  /// memory (cbtm/model/model_memory.h) takes turns with the others; its weights come when they are first used.
  static std::unique_ptr<InferenceModel> load(Device& device, const std::filesystem::path& directory,
                                              WeightFormat weights = WeightFormat::f32,
                                              std::shared_ptr<ModelMemory> memory = nullptr);
  virtual ~InferenceModel() = default;

  virtual int64_t vocab_size() const = 0;
  virtual int64_t max_length() const = 0;  ///< tokens of the longest sequence
  /// Generation ends at any of these.
  virtual const std::vector<int64_t>& end_tokens() const = 0;
  /// ModelCheckpoint::identity() of what was loaded.
  virtual const std::string& identity() const = 0;
  /// Bytes of keys and values that a cached token takes.
  virtual int64_t key_value_bytes() const = 0;
  /// Bytes of memory the weights take (mapped ones included).
  virtual int64_t weight_bytes() const = 0;
  // For a model in shared memory. need_now(): its weights are needed now (calling it is optional). need_next(): they
  // are needed after those of the model that is needed now, so that their way to the device can start while it
  // computes.
  virtual void need_now() = 0;
  virtual void need_next() = 0;

  /// out [rows, vocab_size] host float32: logits after every token.
  virtual void logits(const PackedTokens& tokens, std::span<float> out) = 0;
  /// out[r] = log p(targets[r] | the tokens of r's sequence up to r), natural log; 0 where targets[r] is -100.
  virtual void target_log_probabilities(const PackedTokens& tokens, std::span<const int32_t> targets,
                                        std::span<float> out) = 0;

  // Generation with a key-value cache of this model's own.
  virtual int64_t open_sequence() = 0;  ///< a handle
  virtual void close_sequence(int64_t handle) = 0;
  virtual int64_t sequence_length(int64_t handle) const = 0;
  // Sequences of this model whose prompts begin alike share the pages that hold the beginning, if the shared memory
  // has a prompt cache. `unit`: pages are shared up to a multiple of so many tokens.
  /// Tokens of a page; 0 if nothing is shared.
  virtual int64_t shared_page_tokens() const = 0;
  /// Gives a sequence that has read less of its prompt the keys and values of the longest beginning of it that is
  /// known. These tokens count as read.
  virtual void begin_prompt(int64_t handle, std::span<const int32_t> prompt, int64_t unit) = 0;
  /// What the sequence has read begins with these tokens of its prompt: from now on others may begin with them.
  virtual void share_prompt(int64_t handle, std::span<const int32_t> prompt, int64_t unit) = 0;
  /// Makes room in the cache for so many tokens of the sequence altogether. Throws CacheFull.
  virtual void reserve(int64_t handle, int64_t tokens) = 0;
  /// Reads the passes, one after another, and gives the wanted logits, in order: float32 [wanted, vocab_size] on the
  /// device, valid until the next call. In passes with RowSums::decode or prompt a token's keys and values have the
  /// same bits whatever else is read, if a pass with RowSums::prompt holds one sequence or prompts_share_passes(); so
  /// have its logits, if no pass is with RowSums::any. Throws CacheFull.
  virtual ConstTensorView read(std::span<const ReadPass> passes) = 0;
  virtual bool prompts_share_passes() const = 0;
  /// Reads tokens.sequence(i) into handles[i], in one pass, and writes the logits after its last token: [handle count,
  /// vocab_size] host float32.
  void extend(std::span<const int64_t> handles, const PackedTokens& tokens, std::span<float> next_logits,
              RowSums row_sums = RowSums::any);
  virtual Device& device() = 0;
};

}  // namespace cbtm
