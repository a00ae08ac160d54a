#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cbtm/ensemble/prompt_scorer.h"
#include "cbtm/ensemble/session.h"
#include "serve/catalog.h"

namespace cbtm {

/// What is new of one text of a job.
struct TextUpdate {
  size_t text = 0;                           ///< its number in the job: prompt * copies + copy
  std::string piece;                         ///< whole characters
  int64_t known_tokens = 0;                  ///< of the prompt, as Generated::known_tokens
  std::vector<int32_t> ids;                  ///< new tokens, with the end token
  std::vector<TokenScore> scores;            ///< of these, if asked for
  std::vector<std::vector<double>> weights;  ///< of these but the end token; empty for one model
  std::optional<PromptScores> prompt;        ///< once, before all else, if asked for
  std::string finish;  ///< "stop" or "length", "abort" if the server ends; "error"; "": it goes on
  std::string error;
};

/// Texts to generate for one request.
struct Job {
  using Clock = std::chrono::steady_clock;

  std::shared_ptr<const Catalog> catalog;
  const ServedModel* model = nullptr;  ///< of the catalog
  std::vector<std::vector<int32_t>> prompts;
  int64_t copies = 1;  ///< texts for each prompt; each draws its own random numbers
  GenerationOptions options;
  std::optional<SequenceMixing> mixing;  ///< of an ensemble
  bool score_prompts = false;
  bool stream = false;  ///< updates after each token, not only at the end
  Clock::time_point arrived = Clock::now();
  /// Called by the engine's thread, for each text at least once with `finish`.
  std::function<void(TextUpdate&&)> on_update;
  /// Set by any thread: nobody wants the rest. No further updates need to come.
  std::atomic<bool> cancelled{false};

  size_t texts() const { return prompts.size() * static_cast<size_t>(copies); }
  const std::vector<int32_t>& prompt(size_t text) const { return prompts[text / static_cast<size_t>(copies)]; }
};

}  // namespace cbtm
